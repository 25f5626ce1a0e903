/* SPDX-License-Identifier: MIT */
/* One request to a daemon's admin socket and its reply. */
#ifndef LB_TOOLS_LBCTL_ASK_H
#define LB_TOOLS_LBCTL_ASK_H

#include <stdbool.h>
#include <stddef.h>

/* A request under construction. */
struct lb_ask {
	char text[1025]; /* with its newline */
	size_t len;
	bool failed; /* it is longer than the daemon takes */
};

/* The verb, or a word it needs: quoted where it has to be. */
void lb_ask_add(struct lb_ask *a, const char *word);
/* key=value */
void lb_ask_add_option(struct lb_ask *a, const char *key, const char *value);

/* A connection to the socket at <path>: a descriptor, or -errno. */
int lb_ask_connect(const char *path);
/* One that never blocks, nor does this: -EAGAIN when others wait to be let in. */
int lb_ask_connect_now(const char *path);
/*
 * Sends it and waits for the whole line, at most a minute. *reply, to be freed, has no newline. 0
 * or -errno: -EPIPE when the daemon went away in the middle of it.
 */
int lb_ask_send(int fd, struct lb_ask *a, char **reply, size_t *len);

#endif
