/* SPDX-License-Identifier: MIT */
/* See wire.h. Must never read beyond the datagram, nor take two texts for the same node. */
#include "cluster/wire.h"

#include <errno.h>
#include <string.h>

#include "base/hash.h"

#define HEAD_BYTES    30u
#define SECTION_BYTES 3u

/* The first byte of an update: state, what follows, and bits that must be 0. */
#define FLAG_STATE     0x03u
#define FLAG_IDENTITY  0x04u
#define FLAG_IPV6      0x08u
#define ACCUSERS_SHIFT 4
#define FLAG_UNUSED    0x80u

struct reader {
	const uint8_t *at, *end;
	bool bad; /* it has been asked for more than there is; all it gave since is 0 */
};

static const uint8_t *take(struct reader *r, size_t n)
{
	const uint8_t *at = r->at;

	if (r->bad || (size_t)(r->end - r->at) < n) {
		r->bad = true;
		return NULL;
	}
	r->at += n;
	return at;
}

static uint64_t take_number(struct reader *r, size_t n)
{
	const uint8_t *at = take(r, n);
	uint64_t v = 0;

	for (size_t i = 0; at && i < n; i++)
		v = v << 8 | at[i];
	return v;
}

static void put_number(uint8_t **at, uint64_t v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		(*at)[i] = (uint8_t)(v >> 8 * (n - 1 - i));
	*at += n;
}

static void take_addr(struct reader *r, bool ipv6, struct lb_addr *ret)
{
	const uint8_t *at = take(r, ipv6 ? 16 : 4);

	*ret = (struct lb_addr){.sa.sa_family = ipv6 ? AF_INET6 : AF_INET};
	if (at && ipv6)
		memcpy(&ret->in6.sin6_addr, at, 16);
	else if (at)
		memcpy(&ret->in4.sin_addr, at, 4);
	lb_addr_set_port(ret, (uint16_t)take_number(r, 2));
	if (!lb_addr_port(ret))
		r->bad = true;
}

static void put_addr(uint8_t **at, const struct lb_addr *a)
{
	if (a->sa.sa_family == AF_INET6) {
		memcpy(*at, &a->in6.sin6_addr, 16);
		*at += 16;
	} else {
		memcpy(*at, &a->in4.sin_addr, 4);
		*at += 4;
	}
	put_number(at, lb_addr_port(a), 2);
}

static bool word(const char *text, size_t len, const char *more)
{
	for (size_t i = 0; i < len; i++) {
		char c = text[i];
		bool alnum =
			(c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');

		if (!alnum && (!c || !strchr(more, c)))
			return false;
	}
	return true;
}

static bool name_valid(const char *name, size_t len)
{
	return len && len < LB_WIRE_NAME_MAX && word(name, len, "._-");
}

bool lb_wire_name_valid(const char *name)
{
	return name_valid(name, strnlen(name, LB_WIRE_NAME_MAX));
}

uint64_t lb_wire_id(const char *name)
{
	uint64_t id = lb_hash(name, strlen(name));

	return id ? id : 1;
}

/* --- out -------------------------------------------------------------------------------------- */

void lb_wire_begin(struct lb_wire_out *out, const struct lb_wire_head *head)
{
	uint8_t *at = out->bytes;

	put_number(&at, LB_WIRE_VERSION, 1);
	put_number(&at, head->kind, 1);
	put_number(&at, head->seq, 4);
	put_number(&at, head->sender, 8);
	put_number(&at, head->incarnation, 8);
	put_number(&at, head->target, 8);
	if (head->kind == LB_WIRE_PING_REQ) {
		put_number(&at, head->subject, 8);
		put_number(&at, head->subject_addr.sa.sa_family == AF_INET6 ? 6 : 4, 1);
		put_addr(&at, &head->subject_addr);
	} else if (head->kind == LB_WIRE_SYNC || head->kind == LB_WIRE_SYNC_REPLY) {
		put_number(&at, head->first, 8);
		put_number(&at, head->last, 8);
	}
	out->len = (size_t)(at - out->bytes);
	out->section = 0;
}

void lb_wire_set_last(struct lb_wire_out *out, uint64_t last)
{
	uint8_t *at = out->bytes + HEAD_BYTES + 8;

	put_number(&at, last, 8);
}

static size_t update_bytes(const struct lb_wire_update *u)
{
	size_t n = 17 + 4 * (size_t)u->accusers_count;

	if (u->has_identity)
		n += (u->identity.addr.sa.sa_family == AF_INET6 ? 18 : 6) + 6 +
		     strlen(u->identity.version) + strlen(u->identity.name);
	return n;
}

static void put_text(uint8_t **at, const char *text)
{
	size_t len = strlen(text);

	put_number(at, len, 1);
	memcpy(*at, text, len);
	*at += len;
}

static void put_update(uint8_t **at, const struct lb_wire_update *u)
{
	unsigned int flags = u->state | (unsigned int)u->accusers_count << ACCUSERS_SHIFT;

	if (u->has_identity)
		flags |= FLAG_IDENTITY;
	if (u->has_identity && u->identity.addr.sa.sa_family == AF_INET6)
		flags |= FLAG_IPV6;
	put_number(at, flags, 1);
	put_number(at, u->id, 8);
	put_number(at, u->incarnation, 8);
	for (unsigned int i = 0; i < u->accusers_count; i++)
		put_number(at, u->accusers[i], 4);
	if (!u->has_identity)
		return;
	put_addr(at, &u->identity.addr);
	put_number(at, u->identity.config_hash, 4);
	put_text(at, u->identity.version);
	put_text(at, u->identity.name);
}

bool lb_wire_add_update(struct lb_wire_out *out, const struct lb_wire_update *u)
{
	size_t need = update_bytes(u) + (out->section ? 0 : SECTION_BYTES);
	uint8_t *at = out->bytes + out->len;

	if (need > sizeof(out->bytes) - out->len)
		return false;
	if (!out->section) {
		put_number(&at, LB_WIRE_UPDATES, 1);
		out->section = out->len + 1;
		at += 2;
	}
	put_update(&at, u);
	out->len = (size_t)(at - out->bytes);
	at = out->bytes + out->section;
	put_number(&at, out->len - out->section - 2, 2);
	return true;
}

size_t lb_wire_room(const struct lb_wire_out *out)
{
	size_t left = sizeof(out->bytes) - out->len;

	return left > SECTION_BYTES ? left - SECTION_BYTES : 0;
}

bool lb_wire_add_section(struct lb_wire_out *out, enum lb_wire_section kind, const uint8_t *bytes,
			 size_t len)
{
	uint8_t *at = out->bytes + out->len;

	if (len > lb_wire_room(out))
		return false;
	put_number(&at, kind, 1);
	put_number(&at, len, 2);
	memcpy(at, bytes, len);
	out->len += SECTION_BYTES + len;
	return true;
}

/* --- in --------------------------------------------------------------------------------------- */

static int read_head(struct reader *r, struct lb_wire_head *h)
{
	if (take_number(r, 1) != LB_WIRE_VERSION)
		return -EPROTONOSUPPORT;
	h->kind = (enum lb_wire_kind)take_number(r, 1);
	if (!h->kind || h->kind >= LB_WIRE_KINDS)
		return -EPROTONOSUPPORT;
	h->seq = (uint32_t)take_number(r, 4);
	h->sender = take_number(r, 8);
	h->incarnation = take_number(r, 8);
	h->target = take_number(r, 8);
	if (h->kind == LB_WIRE_PING_REQ) {
		uint64_t family;

		h->subject = take_number(r, 8);
		family = take_number(r, 1);
		if (family != 4 && family != 6)
			return -EBADMSG;
		take_addr(r, family == 6, &h->subject_addr);
	} else if (h->kind == LB_WIRE_SYNC || h->kind == LB_WIRE_SYNC_REPLY) {
		h->first = take_number(r, 8);
		h->last = take_number(r, 8);
		if (h->first > h->last)
			return -EBADMSG;
	}
	return r->bad || !h->sender ? -EBADMSG : 0;
}

static void read_identity(struct reader *r, bool ipv6, struct lb_wire_update *u)
{
	struct lb_wire_identity *d = &u->identity;
	const uint8_t *text;
	size_t len;

	take_addr(r, ipv6, &d->addr);
	d->config_hash = (uint32_t)take_number(r, 4);
	len = take_number(r, 1);
	text = take(r, len);
	if (text && len < sizeof(d->version) && word((const char *)text, len, "._-+~")) {
		memcpy(d->version, text, len);
		d->version[len] = '\0';
	} else {
		r->bad = true;
	}
	len = take_number(r, 1);
	text = take(r, len);
	if (text && name_valid((const char *)text, len)) {
		memcpy(d->name, text, len);
		d->name[len] = '\0';
		r->bad |= u->id != lb_wire_id(d->name);
	} else {
		r->bad = true;
	}
}

static bool read_update(struct reader *r, struct lb_wire_update *u)
{
	unsigned int flags = (unsigned int)take_number(r, 1);

	u->state = (enum lb_member_state)(flags & FLAG_STATE);
	u->accusers_count = (uint8_t)(flags >> ACCUSERS_SHIFT & 7);
	u->has_identity = flags & FLAG_IDENTITY;
	u->id = take_number(r, 8);
	u->incarnation = take_number(r, 8);
	if (flags & FLAG_UNUSED || u->accusers_count > LB_WIRE_ACCUSERS || !u->id)
		return false;
	for (unsigned int i = 0; i < u->accusers_count; i++)
		u->accusers[i] = (uint32_t)take_number(r, 4);
	if (u->has_identity)
		read_identity(r, flags & FLAG_IPV6, u);
	else if (flags & FLAG_IPV6)
		return false;
	return !r->bad;
}

static bool updates_good(const uint8_t *bytes, size_t len)
{
	struct reader r = {bytes, bytes + len, false};
	struct lb_wire_update u;

	while (r.at < r.end)
		if (!read_update(&r, &u))
			return false;
	return true;
}

/* Each section once: what is said twice could be said in two ways. */
static bool read_section(struct reader *r, struct lb_wire_in *in)
{
	uint64_t kind = take_number(r, 1);
	size_t len = take_number(r, 2);
	const uint8_t *bytes = take(r, len);

	if (!bytes)
		return false;
	if (kind == LB_WIRE_UPDATES) {
		if (in->updates || !updates_good(bytes, len))
			return false;
		in->updates = bytes;
		in->updates_len = len;
	} else if (kind == LB_WIRE_SHARES) {
		if (in->shares)
			return false;
		in->shares = bytes;
		in->shares_len = len;
	} else if (kind == LB_WIRE_HEALTH) {
		if (in->health)
			return false;
		in->health = bytes;
		in->health_len = len;
	}
	return true;
}

int lb_wire_open(struct lb_wire_in *ret, const uint8_t *bytes, size_t len)
{
	struct reader r = {bytes, bytes + len, false};
	struct lb_wire_in in = {};
	int err;

	if (len < HEAD_BYTES || len > LB_WIRE_BYTES_MAX)
		return -EBADMSG;
	err = read_head(&r, &in.head);
	if (err)
		return err;
	while (r.at < r.end)
		if (!read_section(&r, &in))
			return -EBADMSG;
	*ret = in;
	return 0;
}

bool lb_wire_next_update(struct lb_wire_in *in, struct lb_wire_update *u)
{
	struct reader r = {.at = in->updates};

	if (!in->updates_len)
		return false;
	r.end = in->updates + in->updates_len;
	if (!read_update(&r, u))
		return false;
	in->updates = r.at;
	in->updates_len = (size_t)(r.end - r.at);
	return true;
}
