/* SPDX-License-Identifier: MIT */
/* What `lbctl top` shows, as lines: for a terminal of any size, or as text. Pure. */
#ifndef LB_TOOLS_LBCTL_TOP_FRAME_H
#define LB_TOOLS_LBCTL_TOP_FRAME_H

#include "tools/lbctl/top_model.h"

enum lb_top_look {
	LB_TOP_PLAIN,
	LB_TOP_BOLD,
	LB_TOP_HEAD,     /* of a table */
	LB_TOP_SELECTED, /* the row one would enter */
	LB_TOP_ALARM,
};

struct lb_top_line {
	char *text; /* owned */
	enum lb_top_look look;
};

struct lb_top_frame {
	struct lb_top_line *lines; /* owned */
	size_t count;
	size_t width, height; /* it has no more lines than that */
	bool failed;          /* no memory */
};

/*
 * <trouble>: what there is to be said of the daemon, NULL when nothing. t->page and the place's
 * first row follow the size. 0 or -ENOMEM; *frame is to be freed either way.
 */
int lb_top_frame_draw(struct lb_top_frame *frame, struct lb_top *t, const char *trouble,
		      size_t width, size_t height);
/* All tables one below the other, <rows> of each at most. */
int lb_top_frame_draw_all(struct lb_top_frame *frame, struct lb_top *t, size_t width, size_t rows);
void lb_top_frame_fini(struct lb_top_frame *frame);

#endif
