/* SPDX-License-Identifier: MIT */
/* The tables of `lbctl top`: which columns, what stands in them, in which order. Pure. */
#ifndef LB_TOOLS_LBCTL_TOP_ROWS_H
#define LB_TOOLS_LBCTL_TOP_ROWS_H

#include "tools/lbctl/top_model.h"

#define LB_TOP_COLUMNS_MAX 12

enum lb_top_format {
	LB_TOP_TEXT,
	LB_TOP_COUNT,
	LB_TOP_RATE,
	LB_TOP_MS,
	LB_TOP_PERCENT,
	LB_TOP_COUNTS, /* of both sides: a/b */
	LB_TOP_TIMES,  /* the same, microseconds */
};

struct lb_top_cell {
	const char *text; /* borrowed of the samples */
	double n, m;      /* LB_TOP_UNKNOWN: not known */
};

struct lb_top_column {
	const char *head;
	enum lb_top_format format;
	uint8_t width; /* of a text: at least, and more when there is room */
	uint8_t rank;  /* 0: always shown; else the larger goes the sooner when there is no room */
};

struct lb_top_row {
	const json_t *json; /* borrowed of the samples */
	char key[LB_TOP_KEY_BYTES];
	struct lb_top_cell cells[LB_TOP_COLUMNS_MAX];
};

struct lb_top_rows {
	const struct lb_top_column *columns;
	size_t columns_count;
	struct lb_top_row *rows; /* owned, in order */
	size_t count;
};

size_t lb_top_columns(enum lb_top_view view, const struct lb_top_column **ret);
uint8_t lb_top_sort_by_default(enum lb_top_view view);
/* The column after, or before, <sort>, round and round. */
uint8_t lb_top_next_sort(enum lb_top_view view, uint8_t sort, int by);

/* What the place one is at shows; not of LB_TOP_FLOW. Until the next sample. 0 or -ENOMEM. */
int lb_top_rows_of(const struct lb_top *t, struct lb_top_rows *ret);
void lb_top_rows_fini(struct lb_top_rows *rows);
/* The row that is selected, by its key wherever it went; the first when it is gone. */
size_t lb_top_selected(const struct lb_top *t, const struct lb_top_rows *rows);
/* The flow of LB_TOP_FLOW, borrowed; NULL: it is not in the last sample. */
const json_t *lb_top_flow(const struct lb_top *t);

/* Returns <key>, of LB_TOP_KEY_BYTES. */
const char *lb_top_row_key(enum lb_top_view view, const json_t *row, char *key);

/* Arrays of rows that no reply has as such; NULL: no memory. */
json_t *lb_top_clients_of(const json_t *flows);
json_t *lb_top_refusals_of(const json_t *overview);
/* Refusals of all words together, per second; of a rule or of the total. */
double lb_top_refused_rate(const struct lb_top *t, const char *name, const json_t *row);

#endif
