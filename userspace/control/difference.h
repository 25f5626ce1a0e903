/* SPDX-License-Identifier: MIT */
/*
 * What another configuration would change, and whether that can be done to a daemon that runs.
 * Pure: knows configurations only. Any thread.
 */
#ifndef LB_CONTROL_DIFFERENCE_H
#define LB_CONTROL_DIFFERENCE_H

#include "config/config.h"

enum lb_difference_kind {
	LB_DIFFERENCE_CHANGED = 0, /* takes effect at once */
	LB_DIFFERENCE_RESTART,     /* stays as it was until a restart; the rest takes effect */
	LB_DIFFERENCE_REFUSED,     /* of a rule that is served: only a restart can do that */
	LB_DIFFERENCE_ADDED,       /* a rule */
	LB_DIFFERENCE_REMOVED,     /* a rule: its flows have <drain_ms> to end by themselves */
};

struct lb_difference {
	enum lb_difference_kind kind;
	const char *rule; /* NULL: of the file as a whole */
	const char *key;  /* "timeouts.idle_ms"; "" of a rule as a whole */
	const char *was;  /* "" where there was, or is, nothing */
	const char *is;
	uint64_t drain_ms;
};

typedef void (*lb_difference_fn)(void *arg, const struct lb_difference *d);

/*
 * Calls <tell> for each difference. <first>: the configuration the daemon was started with, whose
 * keys that need a restart are still in force; <was>: the one whose other keys are. 0 or -ENOMEM.
 */
int lb_difference_find(const struct lb_config *first, const struct lb_config *was,
		       const struct lb_config *is, lb_difference_fn tell, void *arg);

/* One line without newline, for people. */
void lb_difference_print(const struct lb_difference *d, FILE *out);

/* The rule of this name; NULL: there is none. */
const struct lb_rule_config *lb_difference_rule(const struct lb_config *config, const char *name);
/* Whether both say the same under <key> of a rule, a block's name included. */
bool lb_difference_is_same(const struct lb_rule_config *a, const struct lb_rule_config *b,
			   const char *key);

#endif
