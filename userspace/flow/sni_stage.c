/* SPDX-License-Identifier: MIT */
/*
 * See sni_stage.h. Decides only where a flow goes; must never read from its client, nor let one
 * through of which nobody can tell whether it speaks TLS: a rule with routes is one for TLS.
 *
 * Looking is bounded, whatever a client sends. A hello that is not whole is looked at again when so
 * much has come as may make a difference: SO_RCVLOWAT keeps epoll silent until then (tcp_data_ready
 * since Linux 4.12; setting it tells of what has come meanwhile, tcp_set_rcvlowat since 4.18). It
 * also makes room for that much in the receive buffer, without the lock that SO_RCVBUF puts on it,
 * but leaves the window clamped to it (net/ipv4/tcp.c, 4.18 to 6.12): that is undone.
 */
#include "flow/sni_stage.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "flow/client_hello.h"
#include "flow/sni.h"

_Static_assert(LB_CLIENT_HELLO_WIRE_MAX <= LB_SCRATCH_BYTES, "a hello is read in one piece");

/* Copied from one socket in all looks together; one that comes in usual pieces takes far less. */
#define LOOKED_MAX   (16u * 1024u * 1024u)
#define WINDOW_FREE  (1 << 30)
#define RCVLOWAT_OFF 1

static enum lb_step end(struct lb_session *s, enum lb_reason reason, int error, const char *detail)
{
	s->reason = reason;
	s->pair.error = error;
	s->pair.detail = detail;
	return LB_STEP_CLOSE;
}

static enum lb_step refuse(struct lb_session *s, int err)
{
	const char *detail = "malformed ClientHello";

	if (err == -EPROTO)
		detail = "not TLS, but its rule has sni routes";
	else if (err == -EMSGSIZE)
		detail = "ClientHello too long";
	else if (err == -EAGAIN)
		detail = "closed within its ClientHello";
	return end(s, LB_REASON_TLS_FAILED, 0, detail);
}

/* --- waiting for the rest --------------------------------------------------------------------- */

/*
 * Once for each <bytes>: where memory or the window is short, setting it tells at once of bytes
 * that are too few, and again each time (tcp_epollin_ready).
 */
static void wake_at(struct lb_session *s, uint32_t bytes)
{
	int fd = s->pair.leg[LB_LEG_CLIENT].watch.fd, value = (int)bytes;

	if (s->hello_awaited == bytes)
		return;
	s->hello_awaited = bytes;
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &value, sizeof(value));
}

static void stop_waiting(struct lb_session *s)
{
	const int off = RCVLOWAT_OFF, free_window = WINDOW_FREE;
	int fd = s->pair.leg[LB_LEG_CLIENT].watch.fd;

	lb_timer_stop(s->env->carrier.loop, &s->timer);
	if (!s->hello_awaited)
		return;
	s->hello_awaited = 0;
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &off, sizeof(off));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, &free_window, sizeof(free_window));
}

/* --- the way on ------------------------------------------------------------------------------- */

/* A route that a reload removes stays until nobody counts there any more. */
static enum lb_step take(struct lb_session *s, const struct lb_rule *route)
{
	stop_waiting(s);
	/* The edge that told of the hello told of what is behind it. */
	s->pair.leg[LB_LEG_CLIENT].readable = true;
	if (route) {
		s->route = route;
		if (route->same_host)
			lb_carrier_bypass(&s->pair);
		lb_rule_count_route(route, s->env->counters, 1);
	}
	return LB_STEP_NEXT;
}

void lb_sni_leave(struct lb_session *s)
{
	lb_rule_count_route(s->route, s->env->counters, -1);
	s->route = s->rule;
}

/* <ended>: the client sends nothing more. */
static enum lb_step look(struct lb_session *s, const struct lb_sni *sni, bool ended)
{
	struct lb_leg *leg = &s->pair.leg[LB_LEG_CLIENT];
	uint8_t *data = (uint8_t *)s->env->carrier.scratch;
	struct lb_client_hello hello;
	size_t need = 0;
	ssize_t n;
	int err;

	n = recv(leg->watch.fd, data, LB_CLIENT_HELLO_WIRE_MAX, MSG_PEEK);
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		return end(s, LB_REASON_RESET_BY_CLIENT, errno, NULL);
	err = lb_client_hello_read(data, n > 0 ? (size_t)n : 0, &hello, &need);
	if (!err)
		return take(s, lb_sni_find(sni, &hello));
	s->hello_looked += n > 0 ? (uint32_t)n : 0;
	if (err != -EAGAIN || ended || !n)
		return refuse(s, err);
	if (s->hello_looked > LOOKED_MAX)
		return refuse(s, -EMSGSIZE);
	if (n > 0)
		wake_at(s, (uint32_t)need);
	return LB_STEP_WAIT;
}

/* A reload may change them, not take them all, and takes care that this turn still has these. */
static const struct lb_sni *routes_of(const struct lb_session *s)
{
	return __atomic_load_n(&s->rule->sni, __ATOMIC_ACQUIRE);
}

enum lb_step lb_sni_enter(struct lb_session *s)
{
	const struct lb_sni *sni = routes_of(s);

	if (!sni)
		return LB_STEP_NEXT;
	lb_timer_start(s->env->carrier.loop, &s->timer, lb_session_handshake_left_ms(s));
	return look(s, sni, s->pair.leg[LB_LEG_CLIENT].until_empty);
}

enum lb_step lb_sni_event(struct lb_session *s, unsigned int leg, uint32_t events)
{
	const struct lb_sni *sni = routes_of(s);
	enum lb_step step = lb_session_client_waits(s, events);

	(void)leg;
	if (step == LB_STEP_CLOSE)
		return step;
	return look(s, sni, events & EPOLLRDHUP);
}

enum lb_step lb_sni_timeout(struct lb_session *s)
{
	return end(s, LB_REASON_HANDSHAKE_TIMEOUT, 0, NULL);
}
