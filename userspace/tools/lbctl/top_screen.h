/* SPDX-License-Identifier: MIT */
/* The terminal of `lbctl top`: the only file that knows ncurses. */
#ifndef LB_TOOLS_LBCTL_TOP_SCREEN_H
#define LB_TOOLS_LBCTL_TOP_SCREEN_H

#include "tools/lbctl/top_frame.h"

/* 0, or -EINVAL when $TERM is of no terminal that is known. */
int lb_top_screen_open(void);
/* The terminal is as it was. Fine when it was not opened. */
void lb_top_screen_close(void);
/* After SIGWINCH. */
void lb_top_screen_resize(void);
void lb_top_screen_size(size_t *width, size_t *height);
void lb_top_screen_draw(const struct lb_top_frame *frame);
/* The next key that was pressed, as lb_top_press() takes it; LB_TOP_KEY_NONE: there is none. */
bool lb_top_screen_key(unsigned int *key);

#endif
