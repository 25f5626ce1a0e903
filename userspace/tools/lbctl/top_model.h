/* SPDX-License-Identifier: MIT */
/*
 * What `lbctl top` knows and where its user is: two samples, the rates between them, a place to
 * look from. Pure: no terminal, no socket, no clock; keys and replies come in, rows come out.
 *
 *   rules --Enter--> the rule's backends --Enter--> the backend's flows --Enter--> one flow
 *   clients --Enter--> the client's flows       carriers --Enter--> the carrier's flows
 *   refusals --Enter--> the rule's backends
 *
 * Every step narrows what is shown, and Backspace takes it back.
 */
#ifndef LB_TOOLS_LBCTL_TOP_MODEL_H
#define LB_TOOLS_LBCTL_TOP_MODEL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/lbctl/ask.h"

enum lb_top_view {
	LB_TOP_RULES,
	LB_TOP_BACKENDS,
	LB_TOP_FLOWS,
	LB_TOP_CLIENTS,
	LB_TOP_CARRIERS,
	LB_TOP_REFUSALS,
	LB_TOP_TABLES_, /* those above */
	LB_TOP_FLOW = LB_TOP_TABLES_,
	LB_TOP_VIEW_MAX_
};

enum lb_top_key {
	LB_TOP_KEY_NONE,
	LB_TOP_KEY_QUIT,
	LB_TOP_KEY_HELP,
	LB_TOP_KEY_PAUSE,
	LB_TOP_KEY_SLOWER,
	LB_TOP_KEY_FASTER,
	LB_TOP_KEY_SORT, /* by the next column */
	LB_TOP_KEY_SORT_BACK,
	LB_TOP_KEY_REVERSE,
	LB_TOP_KEY_UP,
	LB_TOP_KEY_DOWN,
	LB_TOP_KEY_PAGE_UP,
	LB_TOP_KEY_PAGE_DOWN,
	LB_TOP_KEY_HOME,
	LB_TOP_KEY_END,
	LB_TOP_KEY_ENTER,
	LB_TOP_KEY_BACK,
	LB_TOP_KEY_NEXT, /* view */
	LB_TOP_KEY_PREVIOUS,
	LB_TOP_KEY_VIEW, /* + enum lb_top_view */
};

/* Longer than any name the daemon takes: a rule's has 128 bytes, a backend's 253 and a port. */
#define LB_TOP_NAME_MAX 320
/* What tells a row from all others of its table: two names, an address. */
#define LB_TOP_KEY_BYTES 800

/* Where one looks from. An empty name narrows nothing. */
struct lb_top_place {
	enum lb_top_view view;
	char rule[LB_TOP_NAME_MAX], backend[LB_TOP_NAME_MAX], client[LB_TOP_NAME_MAX], carrier[16];
	char flow[20];
	char selected[LB_TOP_KEY_BYTES]; /* the key of a row; "": the first one */
	size_t first;                    /* row on the screen */
};

#define LB_TOP_DEPTH_MAX    6
#define LB_TOP_INTERVAL_MIN 500u
#define LB_TOP_INTERVAL_MAX 10000u
#define LB_TOP_FLOWS_ASKED  1000u

struct lb_top {
	json_t *now, *before; /* overviews; NULL: not yet */
	json_t *rows_before;  /* object: key of a row -> the row, borrowed from <before> */
	json_t *flows;        /* the reply */
	json_t *clients;      /* array, made of <flows> */
	json_t *refusals;     /* array, made of <now> */
	struct lb_top_place places[LB_TOP_DEPTH_MAX];
	size_t depth; /* of the place one is at */
	uint8_t sort[LB_TOP_TABLES_];
	bool upside_down[LB_TOP_TABLES_];
	uint32_t interval_ms;
	bool paused, help, quit;
	size_t page; /* rows on the screen, as last drawn */
};

void lb_top_init(struct lb_top *t);
void lb_top_fini(struct lb_top *t);
struct lb_top_place *lb_top_here(const struct lb_top *t);

/*
 * Replies, taken over. 0; -EINVAL: it is none (refused, or of a daemon that knows no overview);
 * -ENOMEM. A sample of another process, or of an earlier time, begins anew: no rates.
 */
int lb_top_take_overview(struct lb_top *t, json_t *reply);
int lb_top_take_flows(struct lb_top *t, json_t *reply);
/* The daemon has gone: what is shown stays, the next sample has no rates. */
void lb_top_forget(struct lb_top *t);
/* The flows to ask for: those of the place one is at, the fastest over <over_ms>. */
void lb_top_ask_flows(const struct lb_top *t, struct lb_ask *ask, uint32_t over_ms);

void lb_top_press(struct lb_top *t, unsigned int key);

/* --- rates ------------------------------------------------------------------------------------ */

/* What a sample lacks. */
#define LB_TOP_UNKNOWN (-1.0)

double lb_top_number(const json_t *row, const char *key);
/* Per second, of a counter of a row of <now> that is called <name>. */
double lb_top_rate(const struct lb_top *t, const char *name, const json_t *row, const char *key);
/* The same of the member <word> of its object <key>: what is not there has not happened. */
double lb_top_rate_in(const struct lb_top *t, const char *name, const json_t *row, const char *key,
		      const char *word);
/* The sum of two, unknown when one of them is. */
double lb_top_sum(double a, double b);
#define LB_TOP_NAME_OF_TOTAL "t"

#endif
