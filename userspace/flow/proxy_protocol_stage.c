/* SPDX-License-Identifier: MIT */
/*
 * See proxy_protocol_stage.h. A header is looked at in the socket and taken out of it when it is
 * whole: not a byte of what follows is read here, so whoever carries the flow finds it as if there
 * had been no header. Both headers are in front of the payload, in nobody's byte counters; the
 * graft carrier must know how long they are (lb_leg.lead_in, .lead_out).
 *
 * Must never believe a peer that is not trusted, nor serve one whose header is not whole.
 */
#include "flow/proxy_protocol_stage.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include <openssl/ssl.h>

#include "flow/proxy_protocol.h"

_Static_assert(LB_PROXY_PROTOCOL_IN_MAX <= LB_SCRATCH_BYTES, "a header is read in one piece");

static enum lb_step end(struct lb_session *s, enum lb_reason reason, int error)
{
	s->reason = reason;
	s->pair.error = error;
	return LB_STEP_CLOSE;
}

/* --- in --------------------------------------------------------------------------------------- */

static struct lb_prefix prefix_of(const struct lb_addr *addr)
{
	struct lb_addr peer = *addr;
	struct lb_prefix p = {0};

	lb_addr_unmap(&peer);
	p.family = (uint8_t)peer.sa.sa_family;
	p.bits = p.family == AF_INET6 ? 128 : 32;
	if (p.family == AF_INET6)
		p.in6 = peer.in6.sin6_addr;
	else
		p.in4 = peer.in4.sin_addr;
	return p;
}

static bool is_trusted(const struct lb_session *s)
{
	const struct lb_rule_config *config = s->rule->config;
	const struct lb_prefix peer = prefix_of(&s->client);

	for (size_t i = 0; i < config->accept_proxy_protocol_count; i++)
		if (lb_prefix_contains(&config->accept_proxy_protocol[i], &peer))
			return true;
	return false;
}

/* Takes the <len> bytes of the header out of the socket. */
static bool take(struct lb_session *s, uint32_t len)
{
	struct lb_leg *leg = &s->pair.leg[LB_LEG_CLIENT];

	while (leg->lead_in < len) {
		ssize_t n = recv(leg->watch.fd, s->env->carrier.scratch, len - leg->lead_in, 0);

		if (n <= 0)
			return false;
		leg->lead_in += (uint32_t)n;
	}
	return true;
}

/* <ended>: the client sends nothing more. */
static enum lb_step look(struct lb_session *s, bool ended)
{
	struct lb_leg *leg = &s->pair.leg[LB_LEG_CLIENT];
	struct lb_proxy_header header;
	ssize_t n;
	int len;

	n = recv(leg->watch.fd, s->env->carrier.scratch, LB_PROXY_PROTOCOL_IN_MAX, MSG_PEEK);
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		return end(s, LB_REASON_RESET_BY_CLIENT, errno);
	len = n > 0 ? lb_proxy_protocol_read((const uint8_t *)s->env->carrier.scratch, (size_t)n,
					     &header)
		    : 0;
	if (!len && !ended && n)
		return LB_STEP_WAIT;
	if (len <= 0 || !take(s, (uint32_t)len))
		return end(s, LB_REASON_PROXY_HEADER, 0);
	lb_timer_stop(s->env->carrier.loop, &s->timer);
	if (header.source.sa.sa_family) {
		s->client = header.source;
		s->destination = header.destination;
		s->client_named = true;
	}
	/* The edge that told of the header told of what is behind it. */
	leg->readable = true;
	return LB_STEP_NEXT;
}

enum lb_step lb_proxy_protocol_in_enter(struct lb_session *s)
{
	const struct lb_rule_config *config = s->rule->config;

	if (!config->accept_proxy_protocol_count)
		return LB_STEP_NEXT;
	if (!is_trusted(s))
		return end(s, LB_REASON_PROXY_UNTRUSTED, 0);
	lb_timer_start(s->env->carrier.loop, &s->timer, config->timeouts.handshake_ms);
	return look(s, false);
}

enum lb_step lb_proxy_protocol_in_event(struct lb_session *s, unsigned int leg, uint32_t events)
{
	enum lb_step step = lb_session_client_waits(s, events);

	return step == LB_STEP_CLOSE ? step : look(s, events & EPOLLRDHUP);
}

enum lb_step lb_proxy_protocol_in_timeout(struct lb_session *s)
{
	return end(s, LB_REASON_HANDSHAKE_TIMEOUT, 0);
}

/* --- out -------------------------------------------------------------------------------------- */

/* Where the client wanted to go: what a header named, else our end of its connection. */
static struct lb_addr destination_of(const struct lb_session *s)
{
	struct lb_addr own = s->destination;
	socklen_t len = sizeof(own);

	if (own.sa.sa_family)
		return own;
	if (getsockname(s->pair.leg[LB_LEG_CLIENT].watch.fd, &own.sa, &len))
		memset(&own, 0, sizeof(own));
	lb_addr_unmap(&own);
	return own;
}

static struct lb_proxy_tls tls_of(const struct lb_session *s)
{
	const SSL *ssl = s->pair.leg[LB_LEG_CLIENT].ssl;
	struct lb_proxy_tls tls = {.name = *s->certified ? s->certified : NULL};
	unsigned int len = 0;

	tls.version = SSL_get_version(ssl);
	tls.cipher = SSL_get_cipher_name(ssl);
	tls.authority = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
	SSL_get0_alpn_selected(ssl, &tls.alpn, &len);
	tls.alpn_len = (uint8_t)len;
	return tls;
}

/* The same bytes each time it is asked for: what has gone is a number. */
static size_t write_header(const struct lb_session *s, uint8_t buf[LB_PROXY_PROTOCOL_OUT_MAX])
{
	struct lb_proxy_header header = {.source = s->client, .destination = destination_of(s)};
	struct lb_proxy_tls tls;

	if (s->pair.leg[LB_LEG_CLIENT].ssl) {
		tls = tls_of(s);
		header.tls = &tls;
	}

	lb_addr_unmap(&header.source);
	return lb_proxy_protocol_write(s->rule->config->proxy_protocol, &header, buf);
}

/* A fresh connection takes a header at once, but when TCP is short of memory. */
static enum lb_step say(struct lb_session *s)
{
	struct lb_leg *leg = &s->pair.leg[LB_LEG_BACKEND];
	uint8_t buf[LB_PROXY_PROTOCOL_OUT_MAX];
	size_t len = write_header(s, buf);

	while (leg->lead_out < len) {
		ssize_t n =
			send(leg->watch.fd, buf + leg->lead_out, len - leg->lead_out, MSG_NOSIGNAL);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return LB_STEP_WAIT;
		if (n < 0)
			return end(s, LB_REASON_RESET_BY_BACKEND, errno);
		leg->lead_out += (uint32_t)n;
	}
	lb_timer_stop(s->env->carrier.loop, &s->timer);
	return LB_STEP_NEXT;
}

enum lb_step lb_proxy_protocol_out_enter(struct lb_session *s)
{
	const struct lb_rule_config *config = s->rule->config;

	if (config->proxy_protocol == LB_PROXY_PROTOCOL_OFF)
		return LB_STEP_NEXT;
	lb_timer_start(s->env->carrier.loop, &s->timer, config->timeouts.connect_ms);
	return say(s);
}

enum lb_step lb_proxy_protocol_out_event(struct lb_session *s, unsigned int leg, uint32_t events)
{
	struct lb_leg *backend = &s->pair.leg[LB_LEG_BACKEND];

	if (leg == LB_LEG_CLIENT)
		return lb_session_client_waits(s, events);
	if (events & (EPOLLIN | EPOLLRDHUP))
		backend->readable = true;
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLPRI))
		backend->until_empty = true;
	/* An error is what send(2) says then. */
	return say(s);
}

enum lb_step lb_proxy_protocol_out_timeout(struct lb_session *s)
{
	return end(s, LB_REASON_CONNECT_TIMEOUT, 0);
}
