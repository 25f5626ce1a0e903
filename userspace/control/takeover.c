/* SPDX-License-Identifier: MIT */
/*
 * See takeover.h. Must never serve unless the other one has said that it does not any more: a
 * commit is over when YOURS has come, and not before.
 */
#include "control/takeover.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/listen_fds.h"
#include "base/log.h"
#include "control/instance.h"
#include "control/takeover_flows.h"
#include "control/takeover_rates.h"

/* For what the other one does in one turn of its main thread; a reload may be under way there. */
#define PATIENCE_MS 30000u
/* Sockets of all rules and workers: more are no offer. */
#define LISTENERS_MAX (8192u * 256u)

#define RULES_MAX 8193u

struct lb_takeover {
	int fd;
	struct lb_takeover_hello them;
	int own[LB_TAKEOVER_WHAT_MAX_]; /* owned; -1: none */
	struct lb_takeover_taken taken;
	struct lb_addr *keeps;
	size_t keeps_count;
	bool ours; /* committed */
	int state; /* owned; -1: nothing new */
	struct lb_takeover_drains drains;
	uint64_t told_ms; /* when that was said */
	struct lb_takeover_message message;
};

/* Returns <err>. */
static int complain(int err, const char *what)
{
	const char *why = strerror(-err);

	if (err == -ECONNRESET || err == -EPIPE)
		why = "the daemon that serves has closed the connection";
	else if (err == -ETIMEDOUT)
		why = "the daemon that serves does not answer";
	else if (err == -EPROTO)
		why = "the daemon that serves answers something else";
	lb_err("takeover: %s: %s", what, why);
	return err;
}

/* The next message, which has to be of <kind>. 0, or -errno after a message. */
static int expect(struct lb_takeover *t, enum lb_takeover_kind kind, const char *what)
{
	int err = lb_takeover_recv(t->fd, &t->message);

	if (err)
		return complain(err, what);
	if (t->message.kind == kind)
		return 0;
	if (t->message.kind == LB_TAKEOVER_REFUSE) {
		lb_err("takeover: refused: %s", lb_takeover_text(&t->message));
		return -ECONNREFUSED;
	}
	lb_takeover_message_fini(&t->message);
	return complain(-EPROTO, what);
}

/* --- the offer -------------------------------------------------------------------------------- */

static int dial(struct lb_takeover *t, const char *instance)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct ucred peer;
	socklen_t len = sizeof(peer);

	(void)lb_instance_path(instance, "takeover.sock", addr.sun_path, sizeof(addr.sun_path));
	t->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (t->fd < 0 || lb_takeover_patience(t->fd, PATIENCE_MS) ||
	    connect(t->fd, (const struct sockaddr *)&addr, sizeof(addr)) ||
	    getsockopt(t->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len)) {
		int err = errno;

		lb_err("takeover: no daemon of this instance can be taken over from: %s: %s",
		       addr.sun_path, strerror(err));
		return -err;
	}
	if (peer.uid != geteuid()) {
		lb_err("takeover: %s: a process of user %u answers there", addr.sun_path, peer.uid);
		return -EPERM;
	}
	return 0;
}

static int greet(struct lb_takeover *t, const char *instance)
{
	struct lb_takeover_hello us;
	char why[LB_TAKEOVER_TEXT_MAX];
	int err;

	lb_takeover_make_hello(&us, instance);
	err = lb_takeover_send(t->fd, LB_TAKEOVER_HELLO, &us, sizeof(us), NULL, 0);
	if (err)
		return complain(err, "greeting");
	err = expect(t, LB_TAKEOVER_WELCOME, "greeting");
	if (!err && lb_takeover_read_hello(&t->message, &t->them))
		err = complain(-EPROTO, "greeting");
	if (!err && lb_takeover_judge(&us, &t->them, why)) {
		lb_err("takeover: %s", why);
		err = -EPROTONOSUPPORT;
	}
	return err;
}

static int take_listeners(struct lb_takeover_message *m, struct lb_listen_fds *listeners)
{
	for (uint32_t i = 0; i < m->fds_count; i++) {
		int err = lb_listen_fds_add(listeners, m->fds[i], "of the daemon before");

		if (err)
			return err;
		m->fds[i] = -1;
	}
	return 0;
}

static int take_own(struct lb_takeover *t)
{
	struct lb_takeover_own own;

	memcpy(&own, t->message.body, sizeof(own));
	/* What a later version has besides. */
	if (!own.what || own.what >= LB_TAKEOVER_WHAT_MAX_ || t->own[own.what] >= 0)
		return 0;
	t->own[own.what] = LB_TAKE_FD(t->message.fds[0]);
	return 0;
}

/* True when there is more to come. */
static int take_one(struct lb_takeover *t, struct lb_listen_fds *listeners, bool *more)
{
	int err = lb_takeover_recv(t->fd, &t->message);

	if (err)
		return complain(err, "its offer");
	switch (t->message.kind) {
	case LB_TAKEOVER_LISTENERS:
		err = take_listeners(&t->message, listeners);
		break;
	case LB_TAKEOVER_OWN:
		err = take_own(t);
		break;
	case LB_TAKEOVER_OFFERED:
		*more = false;
		break;
	default:
		err = -EPROTO;
	}
	lb_takeover_message_fini(&t->message);
	return err ? complain(err, "its offer") : 0;
}

static int take_offer(struct lb_takeover *t, struct lb_listen_fds *listeners)
{
	bool more = true;
	int err = 0;

	for (uint32_t i = 0; i < LISTENERS_MAX && more && !err; i++)
		err = take_one(t, listeners, &more);
	return !err && more ? complain(-EPROTO, "its offer") : err;
}

int lb_takeover_begin(struct lb_takeover **ret, const char *instance,
		      struct lb_listen_fds *listeners)
{
	LB_AUTO(lb_takeover_free) struct lb_takeover *t = calloc(1, sizeof(*t));
	int err;

	if (!t)
		return -ENOMEM;
	t->fd = t->state = -1;
	for (int i = 0; i < LB_TAKEOVER_WHAT_MAX_; i++)
		t->own[i] = -1;
	err = dial(t, instance);
	if (!err)
		err = greet(t, instance);
	if (!err)
		err = take_offer(t, listeners);
	if (err)
		return err;
	t->taken.has[LB_TAKEOVER_DOOR] = t->own[LB_TAKEOVER_DOOR] >= 0;
	lb_info("takeover: from process %d, version %s", t->them.pid, t->them.version);
	*ret = LB_TAKE_PTR(t);
	return 0;
}

int lb_takeover_take(struct lb_takeover *t, enum lb_takeover_what what)
{
	return t ? LB_TAKE_FD(t->own[what]) : -1;
}

int lb_takeover_door(struct lb_takeover *t)
{
	return lb_takeover_take(t, LB_TAKEOVER_DOOR);
}

/* --- the commit ------------------------------------------------------------------------------- */

int lb_takeover_freeze(struct lb_takeover *t)
{
	int err = lb_takeover_send(t->fd, LB_TAKEOVER_READY, NULL, 0, NULL, 0);

	if (err)
		return complain(err, "asking it to stand still");
	err = expect(t, LB_TAKEOVER_FROZEN, "waiting for it to stand still");
	if (err)
		return err;
	lb_takeover_message_fini(&t->message);
	return 0;
}

int lb_takeover_keep(struct lb_takeover *t, const struct lb_addr *addr)
{
	struct lb_addr *grown = realloc(t->keeps, (t->keeps_count + 1) * sizeof(*grown));

	if (!grown)
		return -ENOMEM;
	t->keeps = grown;
	t->keeps[t->keeps_count++] = *addr;
	return 0;
}

void lb_takeover_keep_own(struct lb_takeover *t, enum lb_takeover_what what)
{
	t->taken.has[what] = 1;
}

static int send_keeps(struct lb_takeover *t)
{
	enum { AT_ONCE = LB_TAKEOVER_BODY_MAX / sizeof(struct lb_takeover_address) };
	int err = 0;

	for (size_t i = 0; i < t->keeps_count && !err; i += AT_ONCE) {
		size_t n = t->keeps_count - i < AT_ONCE ? t->keeps_count - i : AT_ONCE;

		err = lb_takeover_send(t->fd, LB_TAKEOVER_KEEPS, t->keeps + i,
				       n * sizeof(struct lb_takeover_address), NULL, 0);
	}
	return err;
}

/* Until something else comes, which is in t->message then. */
static int take_rates(struct lb_takeover *t, struct lb_service *s)
{
	int err = 0;

	for (uint32_t i = 0; i < RULES_MAX && !err; i++) {
		err = lb_takeover_recv(t->fd, &t->message);
		if (err)
			return complain(err, "committing");
		if (t->message.kind != LB_TAKEOVER_RATES)
			break;
		lb_takeover_rates_take(s, &t->message);
		lb_takeover_message_fini(&t->message);
	}
	return err;
}

static void take_state(struct lb_takeover *t)
{
	lb_cleanup_close(&t->state);
	t->state = LB_TAKE_FD(t->message.fds[0]);
	lb_takeover_message_fini(&t->message);
}

int lb_takeover_take_state(struct lb_takeover *t)
{
	return LB_TAKE_FD(t->state);
}

int lb_takeover_commit(struct lb_takeover *t, struct lb_service *s)
{
	int err = send_keeps(t);

	if (!err)
		err = lb_takeover_send(t->fd, LB_TAKEOVER_TAKEN, &t->taken, sizeof(t->taken), NULL,
				       0);
	if (err)
		return complain(err, "committing");
	err = take_rates(t, s);
	if (!err && t->message.kind != LB_TAKEOVER_YOURS)
		err = complain(-EPROTO, "committing");
	if (err)
		return err;
	t->ours = true;
	take_state(t);
	t->told_ms = lb_clock_ms();
	return lb_takeover_patience(t->fd, 1);
}

/* --- afterwards ------------------------------------------------------------------------------- */

int lb_takeover_fd(const struct lb_takeover *t)
{
	return t->fd;
}

static void take_flow(struct lb_takeover *t, struct lb_service *s)
{
	const struct lb_takeover_took took = {.taken = lb_takeover_flow_take(s, &t->message)};

	/* If it is gone by now it does not miss the answer. */
	(void)lb_takeover_send(t->fd, LB_TAKEOVER_TOOK, &took, sizeof(took), NULL, 0);
}

static void take_news(struct lb_takeover *t, struct lb_service *s)
{
	if (t->message.kind == LB_TAKEOVER_FLOW)
		take_flow(t, s);
	if (t->message.kind == LB_TAKEOVER_STATE)
		take_state(t);
	if (t->message.kind != LB_TAKEOVER_DRAINS)
		return;
	memcpy(&t->drains, t->message.body, sizeof(t->drains));
	t->told_ms = lb_clock_ms();
}

bool lb_takeover_look(struct lb_takeover *t, struct lb_service *s)
{
	int err = lb_takeover_recv(t->fd, &t->message);

	if (!err)
		take_news(t, s);
	lb_takeover_message_fini(&t->message);
	if (!err || err == -ETIMEDOUT)
		return true;
	close(t->fd);
	t->fd = -1;
	return false;
}

struct lb_takeover_report lb_takeover_report(const struct lb_takeover *t)
{
	struct lb_takeover_report r = {0};

	if (!t || t->fd < 0)
		return r;
	r.pid = t->them.pid;
	memcpy(r.version, t->them.version, sizeof(r.version));
	r.flows = t->drains.flows;
	r.cut_at_ms = t->told_ms + t->drains.cut_in_ms;
	return r;
}

static void tell_why(struct lb_takeover *t)
{
	char text[LB_TAKEOVER_TEXT_MAX] = {0};

	_Static_assert(LB_LOG_LAST_MAX <= LB_TAKEOVER_TEXT_MAX, "it fits");
	lb_log_last_error(text);
	(void)lb_takeover_send(t->fd, LB_TAKEOVER_REFUSE, text, sizeof(text), NULL, 0);
}

void lb_takeover_free(struct lb_takeover **pt)
{
	struct lb_takeover *t = *pt;

	if (!t)
		return;
	*pt = NULL;
	if (!t->ours && t->fd >= 0)
		tell_why(t);
	for (int i = 0; i < LB_TAKEOVER_WHAT_MAX_; i++)
		if (t->own[i] >= 0)
			close(t->own[i]);
	lb_takeover_message_fini(&t->message);
	lb_cleanup_close(&t->state);
	if (t->fd >= 0)
		close(t->fd);
	free(t->keeps);
	free(t);
}
