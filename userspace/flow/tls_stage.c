/* SPDX-License-Identifier: MIT */
/*
 * See tls_stage.h; which handshakes go on in a turn of the loop: handshake_row.h.
 *
 * Must never let a client reach a backend before its handshake is over, nor send a backend
 * anything before it has been verified.
 */
#include "flow/tls_stage.h"

#include <errno.h>

#include <openssl/err.h>

#include "backend/backend_tls.h"
#include "backend/ktls.h"
#include "base/clock.h"
#include "flow/tls.h"
#include "flow/tls_relay.h"

enum shaken {
	SHAKEN,
	WAITS, /* for the peer */
	QUEUED,
	FAILED,
};

/* --- one step of a handshake ------------------------------------------------------------------ */

static void leave_row(struct lb_session *s)
{
	if (s->handshake_queued)
		s->env->handshakes.waiting--;
	s->handshake_queued = false;
}

/* <again>: it is <s>'s turn in the row. */
static bool may_step(struct lb_session *s, bool again)
{
	struct lb_handshake_row *row = &s->env->handshakes;

	if (lb_handshake_row_may_step(row, lb_loop_now_ns(s->env->carrier.loop), again)) {
		leave_row(s);
		return true;
	}
	if (!s->handshake_queued)
		row->waiting++;
	s->handshake_queued = true;
	lb_session_again(s);
	return false;
}

static enum shaken shake(struct lb_session *s, struct lb_leg *leg, bool again)
{
	uint64_t begin_ns;
	int r, error;

	if (!may_step(s, again))
		return QUEUED;
	ERR_clear_error();
	begin_ns = lb_clock_ns();
	errno = 0;
	r = SSL_do_handshake(leg->ssl);
	lb_handshake_row_stepped(&s->env->handshakes, lb_clock_ns() - begin_ns);
	if (r == 1)
		return SHAKEN;
	error = SSL_get_error(leg->ssl, r);
	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
		return WAITS;
	s->pair.error = error == SSL_ERROR_SYSCALL ? errno : 0;
	s->pair.detail = lb_tls_context_error(leg->ssl);
	/* The alert that says why must arrive: this leg is not reset. */
	leg->alerted = true;
	return FAILED;
}

static void count(struct lb_session *s, unsigned int leg, enum lb_handshake how)
{
	lb_count(&s->env->counters[s->rule->index].handshakes[leg][how], 1);
}

static void offer_ktls(const struct lb_session *s, const struct lb_leg *leg, enum lb_ktls_use use)
{
	if (use == LB_KTLS_AUTO &&
	    __atomic_load_n(&s->env->limits->ktls, __ATOMIC_RELAXED) == LB_KTLS_IN_SERVICE)
		lb_ktls_offer(leg->ssl, leg->watch.fd);
}

static void note_shaken(struct lb_session *s, unsigned int i)
{
	struct lb_leg *leg = &s->pair.leg[i];

	leg->ktls = lb_ktls_sends(leg->ssl);
	if (leg->ktls)
		lb_count(&s->env->counters[s->rule->index].ktls[i], 1);
	count(s, i, SSL_session_reused(leg->ssl) ? LB_HANDSHAKE_RESUMED : LB_HANDSHAKE_FULL);
	lb_tls_context_watch(leg->ssl, &leg->heard);
	lb_timer_stop(s->env->carrier.loop, &s->timer);
	/* OpenSSL may have read payload already, of which no event tells. */
	leg->readable = true;
}

void lb_tls_stage_leave(struct lb_session *s)
{
	leave_row(s);
	lb_tls_relay_leave(&s->pair.leg[LB_LEG_CLIENT]);
	lb_tls_relay_leave(&s->pair.leg[LB_LEG_BACKEND]);
	lb_tls_free(&s->tls);
	lb_backend_tls_free(&s->backend_tls);
}

/* --- in --------------------------------------------------------------------------------------- */

static enum lb_step in_step(struct lb_session *s, bool again)
{
	struct lb_leg *leg = &s->pair.leg[LB_LEG_CLIENT];

	switch (shake(s, leg, again)) {
	case SHAKEN:
		note_shaken(s, LB_LEG_CLIENT);
		(void)lb_tls_context_peer_name(leg->ssl, s->certified, sizeof(s->certified));
		/* It has done its part: a long flow must not keep old certificates. */
		lb_tls_free(&s->tls);
		return LB_STEP_NEXT;
	case FAILED:
		count(s, LB_LEG_CLIENT, LB_HANDSHAKE_FAILED);
		s->reason = s->pair.error == ECONNRESET ? LB_REASON_RESET_BY_CLIENT
							: LB_REASON_TLS_FAILED;
		return LB_STEP_CLOSE;
	default:
		return LB_STEP_WAIT;
	}
}

enum lb_step lb_tls_in_enter(struct lb_session *s)
{
	struct lb_leg *leg = &s->pair.leg[LB_LEG_CLIENT];
	/* A reload may put another one in its place: it lets every worker end its turn before the
	 * old one is let go. */
	struct lb_tls *tls = __atomic_load_n(&s->rule->tls, __ATOMIC_ACQUIRE);

	if (!tls)
		return LB_STEP_NEXT;
	s->tls = lb_tls_hold(tls);
	leg->ssl = lb_tls_accept(tls, leg->watch.fd);
	if (!leg->ssl) {
		s->reason = LB_REASON_FULL;
		return LB_STEP_CLOSE;
	}
	offer_ktls(s, leg, s->rule->config->tls.ktls);
	lb_timer_start(s->env->carrier.loop, &s->timer, lb_session_handshake_left_ms(s));
	/* Whatever came behind a PROXY header makes no event any more. */
	return leg->readable ? in_step(s, false) : LB_STEP_WAIT;
}

enum lb_step lb_tls_in_event(struct lb_session *s, unsigned int leg, uint32_t events)
{
	/* Bytes before an end are heard first: they may be an alert. */
	if (events & EPOLLERR)
		return lb_session_client_waits(s, events);
	return in_step(s, !events);
}

enum lb_step lb_tls_in_timeout(struct lb_session *s)
{
	count(s, LB_LEG_CLIENT, LB_HANDSHAKE_FAILED);
	s->reason = LB_REASON_HANDSHAKE_TIMEOUT;
	return LB_STEP_CLOSE;
}

/* --- out -------------------------------------------------------------------------------------- */

static enum lb_step out_failed(struct lb_session *s)
{
	leave_row(s);
	lb_loop_again_cancel(s->env->carrier.loop, &s->pair.again);
	count(s, LB_LEG_BACKEND, LB_HANDSHAKE_FAILED);
	s->reason = LB_REASON_BACKEND_TLS_FAILED;
	return LB_STEP_RETRY;
}

static enum lb_step out_step(struct lb_session *s, bool again)
{
	struct lb_leg *leg = &s->pair.leg[LB_LEG_BACKEND];

	switch (shake(s, leg, again)) {
	case SHAKEN:
		note_shaken(s, LB_LEG_BACKEND);
		s->pair.detail = NULL;
		s->pair.error = 0;
		return LB_STEP_NEXT;
	case FAILED:
		return out_failed(s);
	default:
		return LB_STEP_WAIT;
	}
}

enum lb_step lb_tls_out_enter(struct lb_session *s)
{
	struct lb_leg *leg = &s->pair.leg[LB_LEG_BACKEND];
	struct lb_backend_tls *tls = __atomic_load_n(&s->rule->backend_tls, __ATOMIC_ACQUIRE);

	if (!tls)
		return LB_STEP_NEXT;
	/* Anew for each backend that is tried: whom to believe may have changed meanwhile. */
	lb_backend_tls_free(&s->backend_tls);
	s->backend_tls = lb_backend_tls_hold(tls);
	leg->ssl = lb_backend_tls_open(tls, leg->watch.fd, s->backend);
	if (!leg->ssl) {
		s->reason = LB_REASON_FULL;
		return LB_STEP_CLOSE;
	}
	offer_ktls(s, leg, s->rule->config->backend_tls.ktls);
	lb_timer_start(s->env->carrier.loop, &s->timer, s->rule->config->timeouts.connect_ms);
	return out_step(s, false);
}

enum lb_step lb_tls_out_event(struct lb_session *s, unsigned int leg, uint32_t events)
{
	if (events && leg == LB_LEG_CLIENT)
		return lb_session_client_waits(s, events);
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLPRI))
		s->pair.leg[LB_LEG_BACKEND].until_empty = true;
	return out_step(s, !events);
}

enum lb_step lb_tls_out_timeout(struct lb_session *s)
{
	s->pair.detail = "timeout";
	return out_failed(s);
}
