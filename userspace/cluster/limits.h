/* SPDX-License-Identifier: MIT */
/*
 * The limits that this node shares with others (cluster/share), for its threads: those that let
 * clients in ask, the cluster's thread says what others have said and who is there.
 *
 * Any thread, if nothing else is said. What is asked holds a lock for a microsecond; nothing is
 * sent under it. Time is CLOCK_MONOTONIC, and an argument.
 */
#ifndef LB_CLUSTER_LIMITS_H
#define LB_CLUSTER_LIMITS_H

#include "base/list.h"
#include "cluster/share.h"

/* Beyond, clients get what this node may give without asking others. */
#define LB_LIMITS_KEYS_MAX 256u

struct lb_limits;

struct lb_limits_params {
	uint64_t self; /* id of this node */
	uint32_t session;
	uint32_t nodes_min; /* there are, or are to be, so many at least */
	uint32_t nodes_max;
	size_t section_max;
};

/* 0, -EINVAL or -ENOMEM. */
int lb_limits_new(struct lb_limits **ret, const struct lb_limits_params *params, uint64_t now_us);
/* NULL inside is fine. Nobody may use it any more. */
void lb_limits_free(struct lb_limits **l);

/* The number of nodes that share; no lock. */
uint32_t lb_limits_size(const struct lb_limits *l);

struct lb_limits_ask {
	struct lb_share_ask share;
	bool has; /* a token, by the asker's own bucket: what counts while the key is not shared */
};
/*
 * A token of all of <asks>, or of none. <count> when there were, else which one has none, and
 * *until_us is when to ask for it again, at the latest.
 */
size_t lb_limits_take(struct lb_limits *l, const struct lb_limits_ask *asks, size_t count,
		      uint64_t now_us, uint64_t *until_us);

/* --- connections ------------------------------------------------------------------------------ */

/*
 * Who counts connections of a rule. What it gives is called with the lock held: it may take locks
 * of its own for moments, and call nothing here but lb_limits_follow(). So nobody may ask anything
 * here while he holds one of those.
 */
struct lb_limits_holder {
	struct lb_list node;
	char rule[LB_SHARE_RULE_MAX];
	enum lb_share_kind kind;
	/* As lb_share_params.use. */
	void (*use)(struct lb_limits_holder *h, const struct lb_share_label *label, uint32_t max,
		    struct lb_share_use *ret);
	/*
	 * Before that, once a tick: lb_limits_follow() is for those that are near their part, and
	 * with <strangers> for all there are: others have asked for some that may be among them.
	 */
	void (*look)(struct lb_limits_holder *h, struct lb_limits *l, bool strangers,
		     uint64_t now_us);
};

/* It has connections from now on, .. */
void lb_limits_add_holder(struct lb_limits *l, struct lb_limits_holder *h);
/* .. no more; fine when it has none. */
void lb_limits_remove_holder(struct lb_limits *l, struct lb_limits_holder *h);

/* <limit> of one of the nodes there are, while nothing of it is lent. No lock. */
uint32_t lb_limits_own(const struct lb_limits *l, uint32_t limit);
/* True when the key of <ask> is taken up; it is, when it is not and its owner is <near> its own. */
bool lb_limits_follow(struct lb_limits *l, const struct lb_share_ask *ask, bool near,
		      uint64_t now_us);

enum lb_limits_verdict {
	LB_LIMITS_TAKEN,
	LB_LIMITS_NEAR, /* taken; others should hear of it before there are too many */
	LB_LIMITS_REFUSED,
};

/*
 * One more connection. <take> decides, with how many there may be now, and whether <use> will say
 * from then on when that changes; it may be asked twice. Returns what it has said last.
 */
enum lb_limits_verdict
lb_limits_connect(struct lb_limits *l, const struct lb_share_ask *ask, uint64_t now_us,
		  enum lb_limits_verdict (*take)(void *arg, uint32_t max, bool shared), void *arg);

/* --- the cluster's thread --------------------------------------------------------------------- */

/* As in share.h. */
int lb_limits_join(struct lb_limits *l, uint64_t id, uint64_t now_us);
void lb_limits_silent(struct lb_limits *l, uint64_t id);
void lb_limits_leave(struct lb_limits *l, uint64_t id, uint64_t now_us);
void lb_limits_receive(struct lb_limits *l, uint64_t id, const uint8_t *bytes, size_t len,
		       uint64_t now_us);
/* Every LB_SHARE_TICK_MS; <say> is called for LB_SHARE_FANOUT nodes at most. */
void lb_limits_tick(struct lb_limits *l, uint64_t now_us,
		    void (*say)(void *arg, uint64_t id, const uint8_t *bytes, size_t len),
		    void *arg);

/* --- reports ---------------------------------------------------------------------------------- */

struct lb_limits_report {
	struct lb_share_counts counts;
	uint32_t size;
	uint32_t keys; /* that are shared, or have been lately */
	/*
	 * Of any limit, its rate and its burst, so many parts of a million may be too much now, and
	 * so many connections in all.
	 */
	uint64_t excess_ppm, excess;
};

/* The state as it is at one moment. <fn>, if any, for each key. */
void lb_limits_look(struct lb_limits *l, uint64_t now_us, struct lb_limits_report *report,
		    void (*fn)(void *arg, const struct lb_share_view *view), void *arg);

#endif
