/* SPDX-License-Identifier: MIT */
/*
 * The conversation of `lbctl top` with a daemon. Never waits: whoever polls calls it when there is
 * something to read or its time has come.
 *
 *   GONE --connects--> OVERVIEW --> FLOWS (over the interval) --> OVERVIEW --> FLOWS ..
 *     ^                   |
 *     +--- it hangs up, is silent, or says what is no reply: again in a second
 *
 * Flows are asked for over the interval and an overview follows at once, so that both are about the
 * same time.
 */
#ifndef LB_TOOLS_LBCTL_TOP_TALK_H
#define LB_TOOLS_LBCTL_TOP_TALK_H

#include "tools/lbctl/top_model.h"

enum lb_top_talk_state { LB_TOP_TALK_GONE, LB_TOP_TALK_OVERVIEW, LB_TOP_TALK_FLOWS };

struct lb_top_talk {
	const char *path; /* borrowed */
	int fd;
	enum lb_top_talk_state state;
	uint64_t due_ms; /* GONE: when it tries again; else when it loses patience */
	char *bytes;     /* of the reply so far; owned */
	size_t len, room;
	unsigned int looks; /* at flows, since it is connected */
	uint32_t first_ms;  /* so long is the first one at most */
	bool resting;       /* paused: nothing is asked for */
	bool refused;       /* the trouble is what the daemon said */
	char trouble[256];  /* "": there is none */
};

void lb_top_talk_init(struct lb_top_talk *k, const char *path);
void lb_top_talk_fini(struct lb_top_talk *k);
/* Does what can be done at <now_ms>. True: there is something new to show. */
bool lb_top_talk_step(struct lb_top_talk *k, struct lb_top *t, uint64_t now_ms);
/* How long poll() may wait for <fd> (-1: there is none). */
int lb_top_talk_timeout_ms(const struct lb_top_talk *k, uint64_t now_ms);

#endif
