/* SPDX-License-Identifier: MIT */
/*
 * See client_hello.h. Comes from anybody: must never look at a byte whose length has not been
 * checked, nor let a name through that two readers could understand in two ways.
 */
#include "flow/client_hello.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#define RECORD_HEAD      5u
#define RECORD_MAX       16384u
#define RECORD_HANDSHAKE 22
#define MESSAGE_HEAD     4u
#define MESSAGE_HELLO    1
#define VERSION_MAJOR    3 /* of SSL 3.0 and all TLS */
#define RANDOM_BYTES     32u
#define SESSION_ID_MAX   32u

#define EXTENSION_SERVER_NAME 0
#define EXTENSION_ALPN        16
#define NAME_HOST             0

/* --- bytes ------------------------------------------------------------------------------------ */

struct span {
	const uint8_t *at;
	size_t left;
};

/* The next <n> bytes. */
static bool take(struct span *from, size_t n, struct span *ret)
{
	if (from->left < n)
		return false;
	*ret = (struct span){from->at, n};
	from->at += n;
	from->left -= n;
	return true;
}

static bool take_number(struct span *from, size_t bytes, uint32_t *ret)
{
	struct span digits;

	if (!take(from, bytes, &digits))
		return false;
	*ret = 0;
	for (size_t i = 0; i < bytes; i++)
		*ret = *ret << 8 | digits.at[i];
	return true;
}

/* What stands behind its own length, a number of so many bytes. */
static bool take_vector(struct span *from, size_t bytes_of_length, struct span *ret)
{
	uint32_t n;

	return take_number(from, bytes_of_length, &n) && take(from, n, ret);
}

/* --- the message ------------------------------------------------------------------------------ */

/* The root's dot says nothing. What could steer a log, or end a string, is no name. */
static bool read_host(struct span text, char *name)
{
	if (text.left && text.at[text.left - 1] == '.')
		text.left--;
	if (!text.left || text.left > LB_CLIENT_HELLO_NAME_MAX || *name)
		return false;
	for (size_t i = 0; i < text.left; i++)
		if (text.at[i] <= 0x20 || text.at[i] >= 0x7f)
			return false;
	for (size_t i = 0; i < text.left; i++)
		name[i] = (char)tolower(text.at[i]);
	name[text.left] = '\0';
	return true;
}

static bool read_server_name(struct span body, struct lb_client_hello *ret)
{
	struct span list, name;
	uint32_t type;

	if (!take_vector(&body, 2, &list) || body.left || !list.left)
		return false;
	while (list.left) {
		if (!take_number(&list, 1, &type) || !take_vector(&list, 2, &name))
			return false;
		if (type == NAME_HOST && !read_host(name, ret->name))
			return false;
	}
	return true;
}

static bool read_alpn(struct span body, struct lb_client_hello *ret)
{
	struct span list, protocol;

	if (!take_vector(&body, 2, &list) || body.left || !list.left)
		return false;
	ret->alpn = list.at;
	ret->alpn_len = list.left;
	while (list.left)
		if (!take_vector(&list, 1, &protocol) || !protocol.left)
			return false;
	return true;
}

/* One that comes twice could be read by us and the backend in two ways. */
static bool read_extensions(struct span all, struct lb_client_hello *ret)
{
	bool named = false, offered = false;
	struct span body;
	uint32_t type;

	while (all.left) {
		if (!take_number(&all, 2, &type) || !take_vector(&all, 2, &body))
			return false;
		if (type == EXTENSION_SERVER_NAME) {
			if (named || !read_server_name(body, ret))
				return false;
			named = true;
		} else if (type == EXTENSION_ALPN) {
			if (offered || !read_alpn(body, ret))
				return false;
			offered = true;
		}
	}
	return true;
}

static bool read_message(struct span body, struct lb_client_hello *ret)
{
	struct span random, session, suites, methods, extensions;
	uint32_t version;

	if (!take_number(&body, 2, &version) || version >> 8 != VERSION_MAJOR ||
	    !take(&body, RANDOM_BYTES, &random) || !take_vector(&body, 1, &session) ||
	    session.left > SESSION_ID_MAX || !take_vector(&body, 2, &suites) || !suites.left ||
	    suites.left % 2 || !take_vector(&body, 1, &methods) || !methods.left)
		return false;
	/* Before TLS 1.2 there need be none. */
	if (!body.left)
		return true;
	return take_vector(&body, 2, &extensions) && !body.left && read_extensions(extensions, ret);
}

/* --- records ---------------------------------------------------------------------------------- */

/* How far it has come. */
struct reading {
	uint8_t *data; /* begins with what the records hold: <used> bytes of it .. */
	size_t used;
	size_t at, len; /* .. and the next record is here, if it is */
	size_t message; /* how long it is, with its head; 0: not known yet */
};

/* What may be said of its first bytes. 0 or an error. */
static int judge_record(const struct reading *r, size_t have)
{
	const uint8_t *head = r->data + r->at;
	size_t size;

	if (have > 0 && head[0] != RECORD_HANDSHAKE)
		return r->used ? -EBADMSG : -EPROTO;
	if (have > 1 && head[1] != VERSION_MAJOR)
		return r->used ? -EBADMSG : -EPROTO;
	if (have < RECORD_HEAD)
		return 0;
	size = (size_t)head[3] << 8 | head[4];
	return size && size <= RECORD_MAX ? 0 : -EBADMSG;
}

static int judge_message(struct reading *r)
{
	const uint8_t *head = r->data;

	if (r->used > 0 && head[0] != MESSAGE_HELLO)
		return -EPROTO;
	if (r->used < MESSAGE_HEAD)
		return 0;
	r->message = MESSAGE_HEAD + ((size_t)head[1] << 16 | (size_t)head[2] << 8 | head[3]);
	return r->message <= LB_CLIENT_HELLO_MAX ? 0 : -EMSGSIZE;
}

static bool is_whole(const struct reading *r)
{
	return r->message && r->used >= r->message;
}

/* What is missing is in this record, of which <left> bytes have not come, or behind a new head. */
static size_t need_of(const struct reading *r, size_t left)
{
	size_t missing = (r->message ? r->message : MESSAGE_HEAD) - r->used;

	return missing <= left ? r->len + missing : r->len + left + RECORD_HEAD + 1;
}

/*
 * The records' content comes together at the beginning of the buffer. 0: the message is whole;
 * -EAGAIN with *need, or why not.
 */
static int gather(struct reading *r, size_t *need)
{
	while (!is_whole(r)) {
		size_t have = r->len - r->at, size, here;
		int err = judge_record(r, have);

		if (err)
			return err;
		if (have <= RECORD_HEAD) {
			*need = r->at + RECORD_HEAD + 1;
			return -EAGAIN;
		}
		size = (size_t)r->data[r->at + 3] << 8 | r->data[r->at + 4];
		have -= RECORD_HEAD;
		here = have < size ? have : size;
		memmove(r->data + r->used, r->data + r->at + RECORD_HEAD, here);
		r->used += here;
		r->at += RECORD_HEAD + here;
		err = judge_message(r);
		if (err)
			return err;
		if (here < size && !is_whole(r)) {
			*need = need_of(r, size - here);
			return -EAGAIN;
		}
	}
	return 0;
}

int lb_client_hello_read(uint8_t *data, size_t len, struct lb_client_hello *ret, size_t *need)
{
	struct reading r = {.data = data, .len = len};
	struct lb_client_hello hello = {0};
	size_t more = 0;
	int err;

	if (r.len > LB_CLIENT_HELLO_WIRE_MAX)
		r.len = LB_CLIENT_HELLO_WIRE_MAX;
	err = gather(&r, &more);
	if (err == -EAGAIN && more > LB_CLIENT_HELLO_WIRE_MAX)
		return -EMSGSIZE;
	if (err == -EAGAIN)
		*need = more;
	if (err)
		return err;
	if (!read_message((struct span){data + MESSAGE_HEAD, r.message - MESSAGE_HEAD}, &hello))
		return -EBADMSG;
	*ret = hello;
	return 0;
}

bool lb_client_hello_offers(const struct lb_client_hello *hello, const char *protocol)
{
	struct span list = {hello->alpn, hello->alpn_len}, one;
	size_t len = strlen(protocol);

	while (take_vector(&list, 1, &one))
		if (one.left == len && !memcmp(one.at, protocol, len))
			return true;
	return false;
}
