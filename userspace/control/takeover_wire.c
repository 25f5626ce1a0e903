/* SPDX-License-Identifier: MIT */
/* See takeover_wire.h. Must never leave a descriptor open that nobody has asked for. */
#include "control/takeover_wire.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAGIC 0x6b34626cu

struct head {
	uint32_t magic;
	uint16_t kind;
	uint16_t fds;
	uint32_t bytes;
	uint32_t pad;
};

/* What belongs to a message of a kind. */
static const struct {
	uint32_t bytes; /* .. a multiple of it when <each> */
	bool each;      /* .. one for each descriptor, or without any */
	uint32_t fds;
} shapes[LB_TAKEOVER_KIND_MAX_] = {
	[LB_TAKEOVER_HELLO] = {sizeof(struct lb_takeover_hello)},
	[LB_TAKEOVER_WELCOME] = {sizeof(struct lb_takeover_hello)},
	[LB_TAKEOVER_REFUSE] = {LB_TAKEOVER_TEXT_MAX},
	[LB_TAKEOVER_LISTENERS] = {sizeof(struct lb_takeover_address), true, 1},
	[LB_TAKEOVER_OWN] = {sizeof(struct lb_takeover_own), false, 1},
	[LB_TAKEOVER_RATES] = {sizeof(struct lb_takeover_rule), false, 1},
	[LB_TAKEOVER_YOURS] = {0, false, 1},
	[LB_TAKEOVER_STATE] = {0, false, 1},
	[LB_TAKEOVER_TOOK] = {sizeof(struct lb_takeover_took)},
	[LB_TAKEOVER_KEEPS] = {sizeof(struct lb_takeover_address), true, 0},
	[LB_TAKEOVER_TAKEN] = {sizeof(struct lb_takeover_taken)},
	[LB_TAKEOVER_DRAINS] = {sizeof(struct lb_takeover_drains)},
};

static bool is_shaped(uint32_t kind, uint32_t bytes, uint32_t fds)
{
	if (!kind || kind >= LB_TAKEOVER_KIND_MAX_)
		return false;
	if (kind == LB_TAKEOVER_FLOW)
		return fds == (bytes ? 2 : 3);
	if (!shapes[kind].each)
		return bytes == shapes[kind].bytes && fds == shapes[kind].fds;
	return bytes && bytes % shapes[kind].bytes == 0 &&
	       fds == bytes / shapes[kind].bytes * shapes[kind].fds;
}

int lb_takeover_patience(int fd, uint32_t ms)
{
	const struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)))
		return -errno;
	return 0;
}

union control {
	char bytes[CMSG_SPACE(sizeof(int) * LB_TAKEOVER_FDS_MAX)];
	struct cmsghdr align;
};

static void attach(struct msghdr *msg, union control *control, const int *fds, uint32_t count)
{
	struct cmsghdr *c;

	memset(control, 0, sizeof(*control));
	msg->msg_control = control;
	msg->msg_controllen = CMSG_SPACE(sizeof(int) * count);
	c = CMSG_FIRSTHDR(msg);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int) * count);
	memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
}

int lb_takeover_send(int fd, enum lb_takeover_kind kind, const void *body, size_t bytes,
		     const int *fds, uint32_t fds_count)
{
	struct head head = {MAGIC, (uint16_t)kind, (uint16_t)fds_count, (uint32_t)bytes, 0};
	struct iovec parts[] = {{&head, sizeof(head)}, {(void *)body, bytes}};
	struct msghdr msg = {.msg_iov = parts, .msg_iovlen = bytes ? 2 : 1};
	union control control;

	if (bytes > LB_TAKEOVER_BODY_MAX || fds_count > LB_TAKEOVER_FDS_MAX ||
	    !is_shaped(kind, (uint32_t)bytes, fds_count))
		return -EINVAL;
	if (fds_count)
		attach(&msg, &control, fds, fds_count);
	while (sendmsg(fd, &msg, MSG_NOSIGNAL) < 0) {
		if (errno != EINTR)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
	}
	return 0;
}

/* All that came, however much of it was announced. */
static void take_fds(struct msghdr *msg, struct lb_takeover_message *m)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t count;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count && m->fds_count < LB_TAKEOVER_FDS_MAX; i++)
			memcpy(&m->fds[m->fds_count++], CMSG_DATA(c) + i * sizeof(int),
			       sizeof(int));
	}
}

int lb_takeover_recv(int fd, struct lb_takeover_message *m)
{
	struct head head = {0};
	struct iovec parts[] = {{&head, sizeof(head)}, {m->body, sizeof(m->body)}};
	union control control;
	struct msghdr msg = {
		.msg_iov = parts,
		.msg_iovlen = 2,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n;

	m->fds_count = 0;
	do
		n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? -ETIMEDOUT : -errno;
	take_fds(&msg, m);
	m->bytes = head.bytes;
	m->kind = (enum lb_takeover_kind)head.kind;
	if (n && !(msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) && (size_t)n >= sizeof(head) &&
	    head.magic == MAGIC && head.bytes == (size_t)n - sizeof(head) &&
	    head.fds == m->fds_count && is_shaped(head.kind, head.bytes, head.fds))
		return 0;
	lb_takeover_message_fini(m);
	return n ? -EPROTO : -ECONNRESET;
}

void lb_takeover_message_fini(struct lb_takeover_message *m)
{
	for (uint32_t i = 0; i < m->fds_count; i++)
		if (m->fds[i] >= 0)
			close(m->fds[i]);
	m->fds_count = 0;
}

const char *lb_takeover_text(struct lb_takeover_message *m)
{
	m->body[m->bytes < sizeof(m->body) ? m->bytes : sizeof(m->body) - 1] = '\0';
	for (unsigned char *c = m->body; *c; c++)
		if (*c < ' ' || *c == 0x7f)
			*c = '?';
	return (const char *)m->body;
}

int lb_takeover_read_hello(const struct lb_takeover_message *m, struct lb_takeover_hello *ret)
{
	struct lb_takeover_hello hello;

	memcpy(&hello, m->body, sizeof(hello));
	if (hello.pid <= 0 || !memchr(hello.version, '\0', sizeof(hello.version)) ||
	    !memchr(hello.instance, '\0', sizeof(hello.instance)))
		return -EPROTO;
	*ret = hello;
	return 0;
}

void lb_takeover_make_hello(struct lb_takeover_hello *ret, const char *instance)
{
	*ret = (struct lb_takeover_hello){.protocol = LB_TAKEOVER_PROTOCOL, .pid = getpid()};
	(void)snprintf(ret->version, sizeof(ret->version), "%s", LB_VERSION);
	(void)snprintf(ret->instance, sizeof(ret->instance), "%s", instance ? instance : "");
}

const char *lb_takeover_judge(const struct lb_takeover_hello *us,
			      const struct lb_takeover_hello *them, char text[LB_TAKEOVER_TEXT_MAX])
{
	if (us->protocol != them->protocol)
		(void)snprintf(text, LB_TAKEOVER_TEXT_MAX,
			       "version %.32s speaks takeover protocol %u, version %.32s protocol "
			       "%u: restart instead",
			       us->version, us->protocol, them->version, them->protocol);
	else if (strcmp(us->instance, them->instance) != 0)
		(void)snprintf(text, LB_TAKEOVER_TEXT_MAX, "it is instance '%.40s', not '%.40s'",
			       us->instance, them->instance);
	else
		return NULL;
	return text;
}
