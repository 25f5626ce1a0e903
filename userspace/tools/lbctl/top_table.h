/* SPDX-License-Identifier: MIT */
/* Tables of `lbctl top` in as many columns as a terminal has. Pure. */
#ifndef LB_TOOLS_LBCTL_TOP_TABLE_H
#define LB_TOOLS_LBCTL_TOP_TABLE_H

#include "tools/lbctl/table.h"
#include "tools/lbctl/top_rows.h"
#include "tools/lbctl/top_text.h"

#define LB_TOP_CELL_MAX 512

typedef const char *(*lb_top_number_fn)(uint64_t n, char buf[LB_NUMBER_MAX]);

/* "-" for what is not known. */
const char *lb_top_table_known(lb_top_number_fn format, double n, char buf[LB_NUMBER_MAX]);
/* The same of a rate: a digit behind the point where there would be one at most before it. */
const char *lb_top_table_rate(double n, char buf[LB_NUMBER_MAX]);
void lb_top_table_format(enum lb_top_format format, const struct lb_top_cell *cell,
			 char out[LB_TOP_CELL_MAX]);

struct lb_top_layout {
	size_t widths[LB_TOP_COLUMNS_MAX]; /* 0: not shown */
};

/*
 * The columns of the lowest ranks that fit; texts share what is left, none of them more than it can
 * use.
 */
void lb_top_table_lay_out(struct lb_top_layout *l, const struct lb_top_rows *rows, size_t width);
/* A row, or for NULL the heads. */
void lb_top_table_put(struct lb_top_text *text, const struct lb_top_rows *rows,
		      const struct lb_top_layout *l, const struct lb_top_row *row);

#endif
