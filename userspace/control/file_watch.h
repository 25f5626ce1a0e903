/* SPDX-License-Identifier: MIT */
/*
 * Whether a file is another one than before, however that came about: written in place, renamed
 * over, deleted and made anew, or behind a symbolic link, anywhere in its path, that points
 * elsewhere now (so ConfigMaps change). Looks at its state, not at its content. One thread.
 */
#ifndef LB_CONTROL_FILE_WATCH_H
#define LB_CONTROL_FILE_WATCH_H

#include <stdbool.h>

/* Editors take several steps: so long after the last one they are done. */
#define LB_FILE_WATCH_SETTLE_MS 200u

struct lb_file_watch;

/* The file as it is now is the known one. 0 or -errno. */
int lb_file_watch_open(struct lb_file_watch **ret, const char *path);
void lb_file_watch_close(struct lb_file_watch **w);
/*
 * Becomes readable when something may have happened; another one after each lb_file_watch_look().
 */
int lb_file_watch_fd(const struct lb_file_watch *w);
/* Something may have happened: call lb_file_watch_is_new() once things have settled. */
void lb_file_watch_look(struct lb_file_watch *w);
/* True once for each other state of the file; one that is not there, or is empty, is none. */
bool lb_file_watch_is_new(struct lb_file_watch *w);

#endif
