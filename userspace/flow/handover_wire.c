/* SPDX-License-Identifier: MIT */
/*
 * What a frozen flow is as bytes: decides what is a record and what is not. Both sides are of one
 * host, so numbers stand as they are in memory. Must never believe what it reads: lengths, words
 * and times are judged before anything is made of them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "flow/handover.h"
#include "flow/session.h"

struct wire_addr {
	uint16_t family, port; /* as in a sockaddr */
	uint32_t scope;
	uint8_t bytes[16];
};

struct wire {
	uint8_t magic[8];
	uint32_t version;
	uint32_t size; /* the held bytes included, which follow: direction 0's, direction 1's */
	uint64_t bytes[2];
	uint32_t held[2];
	uint32_t lead_in[2], lead_out[2], throttled[2];
	uint64_t accept_ns, try_ns, connected_ns, start_ns, last_ns, first_ns;
	struct wire_addr client, backend_addr;
	uint8_t eof[2], shut[2], until_empty[2];
	uint8_t client_named, distressed, first_counted, port_ours;
	uint8_t tries, acceleration, why;
	uint8_t pad[67];
	char rule[LB_HANDOVER_RULE_MAX];
	char backend[LB_HANDOVER_BACKEND_MAX];
};
_Static_assert(sizeof(struct wire) == LB_HANDOVER_HEAD_BYTES, "no hidden padding");
_Static_assert(__builtin_offsetof(struct wire, rule) == __builtin_offsetof(struct wire, pad) + 67,
	       "no hidden padding");

static const uint8_t magic[8] = "l4lbflow";

/* --- writing ---------------------------------------------------------------------------------- */

static void write_addr(struct wire_addr *w, const struct lb_addr *a)
{
	w->family = a->sa.sa_family;
	if (w->family == AF_INET6) {
		w->port = a->in6.sin6_port;
		w->scope = a->in6.sin6_scope_id;
		memcpy(w->bytes, &a->in6.sin6_addr, 16);
	} else {
		w->port = a->in4.sin_port;
		memcpy(w->bytes, &a->in4.sin_addr, 4);
	}
}

size_t lb_handover_size(const struct lb_handover *h)
{
	return LB_HANDOVER_HEAD_BYTES + h->dir[0].held_size + h->dir[1].held_size;
}

static void write_sides(struct wire *w, const struct lb_handover *h)
{
	for (unsigned int i = 0; i < 2; i++) {
		w->bytes[i] = h->dir[i].bytes;
		w->held[i] = h->dir[i].held_size;
		w->eof[i] = h->dir[i].eof;
		w->shut[i] = h->dir[i].shut;
		w->lead_in[i] = h->leg[i].lead_in;
		w->lead_out[i] = h->leg[i].lead_out;
		w->throttled[i] = h->leg[i].throttled;
		w->until_empty[i] = h->leg[i].until_empty;
	}
}

void lb_handover_encode(const struct lb_handover *h, uint8_t *buf)
{
	struct wire w = {
		.version = LB_HANDOVER_VERSION,
		.size = (uint32_t)lb_handover_size(h),
		.accept_ns = h->accept_ns,
		.try_ns = h->try_ns,
		.connected_ns = h->connected_ns,
		.start_ns = h->start_ns,
		.last_ns = h->last_ns,
		.first_ns = h->first_ns,
		.client_named = h->client_named,
		.distressed = h->distressed,
		.first_counted = h->first_counted,
		.port_ours = h->port_ours,
		.tries = h->tries,
		.acceleration = h->acceleration,
		.why = h->why,
	};

	memcpy(w.magic, magic, sizeof(magic));
	write_sides(&w, h);
	write_addr(&w.client, &h->client);
	write_addr(&w.backend_addr, &h->backend_addr);
	memcpy(w.rule, h->rule, strlen(h->rule));
	memcpy(w.backend, h->backend, strlen(h->backend));
	memcpy(buf, &w, sizeof(w));
	buf += sizeof(w);
	for (unsigned int d = 0; d < 2; d++) {
		if (h->dir[d].held_size)
			memcpy(buf, h->dir[d].held, h->dir[d].held_size);
		buf += h->dir[d].held_size;
	}
}

/* --- reading ---------------------------------------------------------------------------------- */

static bool is_size(const struct wire *w)
{
	return w->held[0] <= LB_HANDOVER_HELD_MAX && w->held[1] <= LB_HANDOVER_HELD_MAX &&
	       w->size == sizeof(*w) + w->held[0] + w->held[1];
}

int64_t lb_handover_peek(const uint8_t *buf, size_t size)
{
	struct wire w;

	if (size < sizeof(w))
		return 0;
	memcpy(&w, buf, sizeof(w));
	if (memcmp(w.magic, magic, sizeof(magic)) || w.version != LB_HANDOVER_VERSION ||
	    !is_size(&w))
		return -EPROTO;
	return w.size;
}

static bool is_zero(const void *from, const void *end)
{
	for (const uint8_t *b = from; b != end; b++)
		if (*b)
			return false;
	return true;
}

/* One word, and nothing behind its NUL. */
static bool is_word(const char *text, size_t size)
{
	size_t len = strnlen(text, size);

	for (size_t i = 0; i < len; i++)
		if ((uint8_t)text[i] < ' ' || text[i] == 0x7f)
			return false;
	return len && len < size && is_zero(text + len, text + size);
}

static bool read_addr(const struct wire_addr *w, struct lb_addr *ret)
{
	*ret = (struct lb_addr){.sa.sa_family = w->family};
	if (w->family == AF_INET6) {
		ret->in6.sin6_port = w->port;
		ret->in6.sin6_scope_id = w->scope;
		memcpy(&ret->in6.sin6_addr, w->bytes, 16);
		return true;
	}
	ret->in4.sin_port = w->port;
	memcpy(&ret->in4.sin_addr, w->bytes, 4);
	return w->family == AF_INET && !w->scope && is_zero(w->bytes + 4, w->bytes + 16);
}

/* An end is passed on behind everything before it, and with the second one the flow is over. */
static bool are_ends(const struct wire *w)
{
	for (unsigned int d = 0; d < 2; d++)
		if (w->eof[d] > 1 || w->shut[d] > w->eof[d] || w->until_empty[d] > 1 ||
		    (w->shut[d] && w->held[d]))
			return false;
	return !(w->shut[0] && w->shut[1]);
}

static bool are_times(const struct wire *w)
{
	uint64_t now = lb_clock_ns();

	return w->accept_ns && w->accept_ns <= w->try_ns && w->try_ns <= w->connected_ns &&
	       w->connected_ns <= w->start_ns && w->start_ns <= w->last_ns && w->last_ns <= now &&
	       w->first_ns <= now;
}

static bool are_words(const struct wire *w)
{
	return w->client_named <= 1 && w->distressed <= 1 && w->first_counted <= 1 &&
	       w->port_ours <= 1 && w->tries && w->tries <= LB_TRIES_MAX &&
	       w->acceleration <= LB_ACCELERATION_RELAY && w->why < LB_WHY_MAX_ &&
	       is_zero(w->pad, w->pad + sizeof(w->pad)) && is_word(w->rule, sizeof(w->rule)) &&
	       is_word(w->backend, sizeof(w->backend));
}

static void read_sides(struct lb_handover *h, const struct wire *w)
{
	for (unsigned int i = 0; i < 2; i++) {
		h->leg[i] = (struct lb_handover_leg){
			.fd = -1,
			.lead_in = w->lead_in[i],
			.lead_out = w->lead_out[i],
			.throttled = w->throttled[i],
			.until_empty = w->until_empty[i],
		};
		h->dir[i] = (struct lb_handover_direction){
			.bytes = w->bytes[i],
			.eof = w->eof[i],
			.shut = w->shut[i],
		};
	}
}

static void read_head(struct lb_handover *h, const struct wire *w)
{
	read_sides(h, w);
	memcpy(h->rule, w->rule, sizeof(h->rule));
	memcpy(h->backend, w->backend, sizeof(h->backend));
	h->client_named = w->client_named;
	h->distressed = w->distressed;
	h->first_counted = w->first_counted;
	h->port_ours = w->port_ours;
	h->tries = w->tries;
	h->acceleration = w->acceleration;
	h->why = w->why;
	h->accept_ns = w->accept_ns;
	h->try_ns = w->try_ns;
	h->connected_ns = w->connected_ns;
	h->start_ns = w->start_ns;
	h->last_ns = w->last_ns;
	h->first_ns = w->first_ns;
}

static int read_held(struct lb_handover *h, const struct wire *w, const uint8_t *at)
{
	for (unsigned int d = 0; d < 2; d++) {
		if (!w->held[d])
			continue;
		h->dir[d].held = malloc(w->held[d]);
		if (!h->dir[d].held)
			return -ENOMEM;
		memcpy(h->dir[d].held, at, w->held[d]);
		h->dir[d].held_size = w->held[d];
		at += w->held[d];
	}
	return 0;
}

int lb_handover_decode(const uint8_t *buf, size_t size, struct lb_handover **ret)
{
	LB_AUTO(lb_handover_forget) struct lb_handover *h = NULL;
	struct wire w;

	if (size < sizeof(w) || lb_handover_peek(buf, size) != (int64_t)size)
		return -EPROTO;
	memcpy(&w, buf, sizeof(w));
	if (!are_ends(&w) || !are_times(&w) || !are_words(&w))
		return -EPROTO;
	h = calloc(1, sizeof(*h));
	if (!h)
		return -ENOMEM;
	lb_list_init(&h->node);
	read_head(h, &w);
	if (!read_addr(&w.client, &h->client) || !read_addr(&w.backend_addr, &h->backend_addr))
		return -EPROTO;
	if (read_held(h, &w, buf + sizeof(w)))
		return -ENOMEM;
	*ret = LB_TAKE_PTR(h);
	return 0;
}

/* --- letting go ------------------------------------------------------------------------------- */

void lb_handover_forget(struct lb_handover **ph)
{
	struct lb_handover *h = *ph;

	if (!h)
		return;
	*ph = NULL;
	lb_list_remove(&h->node);
	for (unsigned int i = 0; i < 2; i++) {
		lb_cleanup_close(&h->leg[i].fd);
		free(h->dir[i].held);
	}
	free(h);
}

void lb_handover_reset(struct lb_handover **h)
{
	const struct linger reset = {.l_onoff = 1, .l_linger = 0};

	for (unsigned int i = 0; *h && i < 2; i++)
		if ((*h)->leg[i].fd >= 0)
			(void)setsockopt((*h)->leg[i].fd, SOL_SOCKET, SO_LINGER, &reset,
					 sizeof(reset));
	lb_handover_forget(h);
}
