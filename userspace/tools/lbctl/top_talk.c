/* SPDX-License-Identifier: MIT */
/* See top_talk.h. */
#include "tools/lbctl/top_talk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"

#define AGAIN_MS    1000u
#define PATIENCE_MS 10000u /* beyond what a request takes by itself */
#define REPLY_MAX   (64u << 20)
/* The first look is short: nobody likes to wait for the first rates. */
#define FIRST_MS 500u

void lb_top_talk_init(struct lb_top_talk *k, const char *path)
{
	*k = (struct lb_top_talk){.path = path, .fd = -1, .first_ms = FIRST_MS};
}

static void hang_up(struct lb_top_talk *k)
{
	if (k->fd >= 0)
		close(k->fd);
	k->fd = -1;
	k->len = 0;
	k->state = LB_TOP_TALK_GONE;
}

void lb_top_talk_fini(struct lb_top_talk *k)
{
	hang_up(k);
	free(k->bytes);
	k->bytes = NULL;
	k->room = 0;
}

/* What is shown stays; it says why nothing new comes. */
static void give_up(struct lb_top_talk *k, struct lb_top *t, uint64_t now_ms, const char *why)
{
	hang_up(k);
	lb_top_forget(t);
	k->due_ms = now_ms + AGAIN_MS;
	(void)snprintf(k->trouble, sizeof(k->trouble), "the daemon is gone (%s)", why);
}

/* --- asking ----------------------------------------------------------------------------------- */

static bool ask(struct lb_top_talk *k, struct lb_ask *a)
{
	if (a->failed)
		return false;
	a->text[a->len++] = '\n';
	/* The socket is empty: there is room for a line, or nobody to take it. */
	return send(k->fd, a->text, a->len, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)a->len;
}

static void ask_overview(struct lb_top_talk *k, struct lb_top *t, uint64_t now_ms)
{
	struct lb_ask a = {0};

	lb_ask_add(&a, "overview");
	k->state = LB_TOP_TALK_OVERVIEW;
	k->due_ms = now_ms + PATIENCE_MS;
	if (!ask(k, &a))
		give_up(k, t, now_ms, "it hung up");
}

static void ask_flows(struct lb_top_talk *k, struct lb_top *t, uint64_t now_ms)
{
	bool first = !k->looks && k->first_ms < t->interval_ms;
	uint32_t over_ms = first ? k->first_ms : t->interval_ms;
	struct lb_ask a;

	lb_top_ask_flows(t, &a, over_ms);
	k->state = LB_TOP_TALK_FLOWS;
	k->due_ms = now_ms + over_ms + PATIENCE_MS;
	if (!ask(k, &a))
		give_up(k, t, now_ms, "it hung up");
}

static void connect_now(struct lb_top_talk *k, struct lb_top *t, uint64_t now_ms)
{
	int fd = lb_ask_connect_now(k->path);

	if (fd < 0) {
		give_up(k, t, now_ms, strerror(-fd));
		return;
	}
	k->fd = fd;
	k->looks = 0;
	ask_overview(k, t, now_ms);
}

/* --- replies ---------------------------------------------------------------------------------- */

static bool make_room(struct lb_top_talk *k)
{
	size_t room = k->room ? k->room * 2 : 65536;
	char *grown;

	if (k->len < k->room)
		return true;
	grown = room <= REPLY_MAX ? realloc(k->bytes, room) : NULL;
	if (!grown)
		return false;
	k->bytes = grown;
	k->room = room;
	return true;
}

/* 1: a whole line; 0: not yet; -errno: there will be none. */
static int read_line(struct lb_top_talk *k)
{
	while (make_room(k)) {
		ssize_t n = recv(k->fd, k->bytes + k->len, k->room - k->len, MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		if (!n)
			return -EPIPE;
		k->len += (size_t)n;
		/* The last byte a daemon sends before it is asked again. */
		if (k->bytes[k->len - 1] == '\n')
			return 1;
	}
	return -EMSGSIZE;
}

static void note_refusal(struct lb_top_talk *k, const json_t *reply)
{
	const char *error = json_string_value(json_object_get(reply, "error"));

	k->refused = error != NULL;
	(void)snprintf(k->trouble, sizeof(k->trouble), "the daemon says: %s",
		       error ? error : "nothing that would be a reply");
}

/* True when the reply, which is taken over, was one. */
static bool take(struct lb_top_talk *k, struct lb_top *t, json_t *reply)
{
	int err;

	if (!json_is_true(json_object_get(reply, "ok"))) {
		note_refusal(k, reply);
		json_decref(reply);
		return false;
	}
	err = k->state == LB_TOP_TALK_OVERVIEW ? lb_top_take_overview(t, reply)
					       : lb_top_take_flows(t, reply);
	if (err)
		(void)snprintf(k->trouble, sizeof(k->trouble), "what the daemon says is no reply");
	return !err;
}

/* Nothing moves on the screen any more: what just came is not looked at. */
static bool go_to_rest(struct lb_top_talk *k)
{
	k->len = 0;
	k->resting = true;
	k->due_ms = UINT64_MAX;
	*k->trouble = '\0';
	return true;
}

static bool on_reply(struct lb_top_talk *k, struct lb_top *t, uint64_t now_ms)
{
	json_t *reply = json_loadb(k->bytes, k->len, 0, NULL);
	bool drawn = k->state == LB_TOP_TALK_OVERVIEW;

	k->len = 0;
	if (!take(k, t, reply)) {
		hang_up(k);
		k->due_ms = now_ms + AGAIN_MS;
		return true;
	}
	*k->trouble = '\0';
	k->refused = false;
	if (!drawn) {
		k->looks++;
		ask_overview(k, t, now_ms);
	} else {
		ask_flows(k, t, now_ms);
	}
	return drawn;
}

/* One who says nothing for a minute is hung up on: that is no news. */
static bool rest(struct lb_top_talk *k, struct lb_top *t, uint64_t now_ms)
{
	if (t->paused) {
		if (k->fd >= 0 && read_line(k)) {
			hang_up(k);
			lb_top_forget(t);
		}
		return false;
	}
	k->resting = false;
	if (k->fd < 0)
		connect_now(k, t, now_ms);
	else
		ask_overview(k, t, now_ms);
	return k->state == LB_TOP_TALK_GONE;
}

bool lb_top_talk_step(struct lb_top_talk *k, struct lb_top *t, uint64_t now_ms)
{
	int got;

	if (k->resting)
		return rest(k, t, now_ms);
	if (k->state == LB_TOP_TALK_GONE) {
		if (now_ms < k->due_ms)
			return false;
		connect_now(k, t, now_ms);
		return k->state == LB_TOP_TALK_GONE;
	}
	got = read_line(k);
	if (got > 0)
		return t->paused ? go_to_rest(k) : on_reply(k, t, now_ms);
	if (got || now_ms >= k->due_ms) {
		give_up(k, t, now_ms, got ? "it hung up" : "it does not answer");
		return true;
	}
	return false;
}

int lb_top_talk_timeout_ms(const struct lb_top_talk *k, uint64_t now_ms)
{
	if (k->due_ms == UINT64_MAX)
		return -1;
	if (k->due_ms <= now_ms)
		return 0;
	return k->due_ms - now_ms < 60000 ? (int)(k->due_ms - now_ms) : 60000;
}
