/* SPDX-License-Identifier: MIT */
/*
 * See takeover_offer.h. One at a time:
 *
 *   ALONE --somebody comes--> GREETED --HELLO--> OFFERED --READY--> FROZEN --TAKEN--> LEFT
 *     ^                          |                  |                 |
 *     +--gone, late, or saying something else-------+-----------------+
 *
 * Must never wait for the other one with anything put down for longer than FROZEN_MS.
 */
#include "control/takeover_offer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "control/admin_socket.h"
#include "control/instance.h"
#include "control/service.h"
#include "control/takeover_flows.h"
#include "control/takeover_rates.h"
#include "control/takeover_state.h"
#include "control/takeover_wire.h"

#define HELLO_MS 2000u
/* Until it has read its rules and looked up their names. */
#define READY_MS 120000u
/* Until it has loaded what it needs and serves. */
#define FROZEN_MS 30000u
/* For all descriptors: it does nothing else than to take them. */
#define SEND_MS   2000u
#define KEEPS_MAX 8192u
/* For the answer to a flow; a reload may be under way there. */
#define FLOWS_MS 20000u
#define MOVE_MS  100u

enum state { ALONE, GREETED, OFFERED, FROZEN, LEFT };

struct lb_takeover_offer {
	struct lb_service *service;
	const char *instance;
	struct lb_admin_socket door;
	int peer;
	enum state state;
	uint64_t until_ms;
	struct lb_takeover_hello them;
	struct lb_addr *keeps;
	size_t keeps_count;
	struct lb_takeover_flows *flows;
	struct lb_takeover_message message;
};

static const uint32_t times[] = {[GREETED] = HELLO_MS, [OFFERED] = READY_MS, [FROZEN] = FROZEN_MS};

static void enter(struct lb_takeover_offer *o, enum state state)
{
	o->state = state;
	o->until_ms = state < LEFT ? lb_clock_ms() + times[state] : 0;
}

static void part(struct lb_takeover_offer *o)
{
	if (o->peer >= 0)
		close(o->peer);
	o->peer = -1;
	free(o->keeps);
	o->keeps = NULL;
	o->keeps_count = 0;
}

/* It comes to nothing: everything is as it was. */
static void give_up(struct lb_takeover_offer *o, const char *why)
{
	bool known = o->state > GREETED;

	part(o);
	lb_service_thaw(o->service);
	lb_service_set_takeover_failure(o->service, why);
	o->state = ALONE;
	if (known)
		lb_warn("takeover by process %d has failed: %s; this one serves on", o->them.pid,
			why);
	else
		lb_warn("takeover: %s", why);
}

static void refuse(struct lb_takeover_offer *o, const char *why)
{
	char text[LB_TAKEOVER_TEXT_MAX] = {0};

	(void)snprintf(text, sizeof(text), "%s", why);
	(void)lb_takeover_send(o->peer, LB_TAKEOVER_REFUSE, text, sizeof(text), NULL, 0);
	lb_warn("takeover by process %d is refused: %s", o->them.pid, why);
	lb_service_set_takeover_failure(o->service, why);
	part(o);
	o->state = ALONE;
}

/* --- the offer -------------------------------------------------------------------------------- */

/* Some listeners, on their way. */
struct bunch {
	struct lb_takeover_offer *o;
	struct lb_takeover_address at[LB_TAKEOVER_FDS_MAX];
	int fds[LB_TAKEOVER_FDS_MAX];
	uint32_t count;
	int err;
};

static void send_bunch(struct bunch *b)
{
	if (b->count && !b->err)
		b->err = lb_takeover_send(b->o->peer, LB_TAKEOVER_LISTENERS, b->at,
					  b->count * sizeof(b->at[0]), b->fds, b->count);
	b->count = 0;
}

static void add_listener(void *arg, const struct lb_addr *addr, int fd)
{
	struct bunch *b = arg;

	b->at[b->count].addr = *addr;
	b->fds[b->count++] = fd;
	if (b->count == LB_TAKEOVER_FDS_MAX)
		send_bunch(b);
}

static int send_listeners(struct lb_takeover_offer *o)
{
	struct bunch b = {.o = o};

	lb_service_visit_listeners(o->service, add_listener, &b);
	send_bunch(&b);
	return b.err;
}

static int send_own(struct lb_takeover_offer *o)
{
	int err = 0;

	for (uint32_t what = 1; what < LB_TAKEOVER_WHAT_MAX_ && !err; what++) {
		const struct lb_takeover_own own = {.what = what};
		int fd =
			what == LB_TAKEOVER_DOOR ? o->door.fd : lb_service_own_fd(o->service, what);

		if (fd >= 0)
			err = lb_takeover_send(o->peer, LB_TAKEOVER_OWN, &own, sizeof(own), &fd, 1);
	}
	return err;
}

static int send_offer(struct lb_takeover_offer *o)
{
	struct lb_takeover_hello us;
	int err;

	lb_takeover_make_hello(&us, o->instance);
	err = lb_takeover_send(o->peer, LB_TAKEOVER_WELCOME, &us, sizeof(us), NULL, 0);
	if (!err)
		err = send_listeners(o);
	if (!err)
		err = send_own(o);
	if (!err)
		err = lb_takeover_send(o->peer, LB_TAKEOVER_OFFERED, NULL, 0, NULL, 0);
	return err;
}

static void on_hello(struct lb_takeover_offer *o)
{
	struct lb_takeover_hello us;
	char text[LB_TAKEOVER_TEXT_MAX];
	const char *why;
	int err;

	if (lb_takeover_read_hello(&o->message, &o->them)) {
		give_up(o, "whoever came gave no greeting");
		return;
	}
	lb_takeover_make_hello(&us, o->instance);
	why = lb_takeover_judge(&us, &o->them, text);
	if (!why)
		why = lb_service_refuses_takeover(o->service);
	if (why) {
		refuse(o, why);
		return;
	}
	lb_info("takeover: process %d, version %s, has come for it", o->them.pid, o->them.version);
	enter(o, OFFERED);
	err = send_offer(o);
	if (err)
		give_up(o, strerror(-err));
}

/* --- the commit ------------------------------------------------------------------------------- */

static void on_ready(struct lb_takeover_offer *o)
{
	int err;

	lb_service_freeze(o->service);
	enter(o, FROZEN);
	err = lb_takeover_send(o->peer, LB_TAKEOVER_FROZEN, NULL, 0, NULL, 0);
	if (err)
		give_up(o, strerror(-err));
}

static void on_keeps(struct lb_takeover_offer *o)
{
	size_t count = o->message.bytes / sizeof(struct lb_takeover_address);
	struct lb_addr *grown;

	if (o->keeps_count + count > KEEPS_MAX) {
		give_up(o, "it wants to keep more than it can have got");
		return;
	}
	grown = realloc(o->keeps, (o->keeps_count + count) * sizeof(*grown));
	if (!grown) {
		give_up(o, strerror(ENOMEM));
		return;
	}
	o->keeps = grown;
	memcpy(grown + o->keeps_count, o->message.body, count * sizeof(*grown));
	o->keeps_count += count;
}

static void on_taken(struct lb_takeover_offer *o)
{
	LB_AUTO_CLOSE int state = -1;
	struct lb_takeover_taken taken;
	int err;

	memcpy(&taken, o->message.body, sizeof(taken));
	if (!lb_service_claim_commit(o->service)) {
		give_up(o, "it took too long for `lbctl upgrade`");
		return;
	}
	/* The other one's counters begin with what has been told here last, or more. */
	lb_service_hush(o->service);
	state = lb_takeover_state_write(o->service, false);
	err = state < 0 ? state : 0;
	/* If it is gone by now nothing has happened. */
	if (!err)
		err = lb_takeover_rates_send(o->service, o->peer);
	if (!err)
		err = lb_takeover_send(o->peer, LB_TAKEOVER_YOURS, NULL, 0, &state, 1);
	if (err) {
		lb_service_unclaim_commit(o->service);
		give_up(o, strerror(-err));
		return;
	}
	lb_service_leave(o->service, o->them.pid, &taken, o->keeps, o->keeps_count);
	o->door.shared = taken.has[LB_TAKEOVER_DOOR];
	lb_admin_socket_close(&o->door);
	enter(o, LEFT);
	(void)lb_takeover_patience(o->peer, FLOWS_MS);
	/* Without memory for it they end here. */
	(void)lb_takeover_flows_new(&o->flows, o->service, o->peer);
	lb_info("process %d, version %s, has taken over", o->them.pid, o->them.version);
}

/* --- who comes -------------------------------------------------------------------------------- */

void lb_takeover_offer_cancel(struct lb_takeover_offer *o, const char *why)
{
	if (o && o->state != ALONE && o->state != LEFT)
		give_up(o, why);
}

static bool is_ours(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) && peer.uid == geteuid();
}

static void on_knock(struct lb_takeover_offer *o)
{
	LB_AUTO_CLOSE int fd = accept4(o->door.fd, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0 || !is_ours(fd) || lb_takeover_patience(fd, SEND_MS))
		return;
	/* The first one has it; others learn by the closed connection. */
	if (o->state != ALONE)
		return;
	o->peer = LB_TAKE_FD(fd);
	enter(o, GREETED);
}

static void on_message(struct lb_takeover_offer *o)
{
	if (o->state == GREETED && o->message.kind == LB_TAKEOVER_HELLO)
		on_hello(o);
	else if (o->state == OFFERED && o->message.kind == LB_TAKEOVER_READY)
		on_ready(o);
	else if (o->state == FROZEN && o->message.kind == LB_TAKEOVER_KEEPS)
		on_keeps(o);
	else if (o->state == FROZEN && o->message.kind == LB_TAKEOVER_TAKEN)
		on_taken(o);
	else if (o->state > GREETED && o->message.kind == LB_TAKEOVER_REFUSE)
		give_up(o, lb_takeover_text(&o->message));
	else
		give_up(o, "it says what does not belong there");
}

static void on_peer(struct lb_takeover_offer *o)
{
	int err = lb_takeover_recv(o->peer, &o->message);

	if (err == -ECONNRESET)
		give_up(o, "it is gone");
	else if (err == -EPROTO)
		give_up(o, "it says what nobody understands");
	else if (err && err != -ETIMEDOUT)
		give_up(o, strerror(-err));
	if (err)
		return;
	on_message(o);
	lb_takeover_message_fini(&o->message);
}

void lb_takeover_offer_poll(const struct lb_takeover_offer *o, struct pollfd fds[2])
{
	fds[0] = (struct pollfd){.fd = o ? o->door.fd : -1, .events = POLLIN};
	fds[1] = (struct pollfd){.fd = o && o->state != LEFT ? o->peer : -1, .events = POLLIN};
}

int lb_takeover_offer_patience(const struct lb_takeover_offer *o)
{
	uint64_t now = lb_clock_ms();

	if (!o || o->state == ALONE || o->state == LEFT)
		return -1;
	return o->until_ms > now ? (int)(o->until_ms - now) : 0;
}

bool lb_takeover_offer_look(struct lb_takeover_offer *o, const struct pollfd fds[2])
{
	if (!o)
		return false;
	/* What has come in time is read before it is found to be late. */
	if (fds[1].revents && o->peer >= 0)
		on_peer(o);
	else if (o->state != ALONE && o->state != LEFT && lb_clock_ms() >= o->until_ms)
		give_up(o, "it takes too long");
	if (fds[0].revents && o->door.fd >= 0)
		on_knock(o);
	return o->state == LEFT;
}

void lb_takeover_offer_move(struct lb_takeover_offer *o)
{
	if (o && o->flows)
		lb_takeover_flows_step(o->flows, MOVE_MS);
}

void lb_takeover_offer_tell(struct lb_takeover_offer *o, uint64_t elapsed_ms)
{
	struct lb_takeover_drains drains;
	LB_AUTO_CLOSE int state = -1;

	if (!o || o->state != LEFT || o->peer < 0)
		return;
	drains.flows = lb_service_flows(o->service);
	drains.cut_in_ms = lb_service_cut_in_ms(o->service, elapsed_ms);
	(void)lb_takeover_send(o->peer, LB_TAKEOVER_DRAINS, &drains, sizeof(drains), NULL, 0);
	state = lb_takeover_state_write(o->service, true);
	if (state >= 0)
		(void)lb_takeover_send(o->peer, LB_TAKEOVER_STATE, NULL, 0, &state, 1);
}

pid_t lb_takeover_offer_heir(const struct lb_takeover_offer *o)
{
	return o && o->state == LEFT ? o->them.pid : 0;
}

/* --- birth and death -------------------------------------------------------------------------- */

static int open_door(struct lb_takeover_offer *o, int fd)
{
	char path[LB_ADMIN_PATH_MAX];

	if (!lb_instance_path(o->instance, "takeover.sock", path, sizeof(path)))
		return -ENAMETOOLONG;
	if (fd < 0)
		return lb_admin_socket_open(&o->door, path, SOCK_SEQPACKET);
	if (lb_admin_socket_adopt(&o->door, path, SOCK_SEQPACKET, fd)) {
		close(fd);
		return lb_admin_socket_open(&o->door, path, SOCK_SEQPACKET);
	}
	o->door.shared = false;
	return 0;
}

int lb_takeover_offer_open(struct lb_takeover_offer **ret, struct lb_service *service,
			   const char *instance, int door)
{
	struct lb_takeover_offer *o = calloc(1, sizeof(*o));
	int err;

	if (!o)
		return -ENOMEM;
	o->service = service;
	o->instance = instance;
	o->peer = o->door.fd = -1;
	err = open_door(o, door);
	if (err) {
		lb_info("nobody can take over from this daemon: %s", strerror(-err));
		free(o);
		return 0;
	}
	*ret = o;
	return 0;
}

void lb_takeover_offer_close(struct lb_takeover_offer **po)
{
	struct lb_takeover_offer *o = *po;

	if (!o)
		return;
	*po = NULL;
	lb_takeover_offer_cancel(o, "this one ends");
	lb_takeover_flows_free(&o->flows);
	part(o);
	lb_admin_socket_close(&o->door);
	free(o);
}
