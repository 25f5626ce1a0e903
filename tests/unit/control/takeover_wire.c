/* SPDX-License-Identifier: MIT */
#include "control/takeover_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"

static int ends[2];
static struct lb_takeover_message m;

static int setup(void **state)
{
	return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends);
}

static int teardown(void **state)
{
	lb_takeover_message_fini(&m);
	close(ends[0]);
	return close(ends[1]);
}

static int count_fds(void)
{
	int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void what_is_said_arrives(void **state)
{
	struct lb_takeover_hello us, them;

	lb_takeover_make_hello(&us, "one");
	assert_int_equal(lb_takeover_send(ends[0], LB_TAKEOVER_HELLO, &us, sizeof(us), NULL, 0), 0);
	assert_int_equal(lb_takeover_recv(ends[1], &m), 0);
	assert_int_equal(m.kind, LB_TAKEOVER_HELLO);
	assert_int_equal(lb_takeover_read_hello(&m, &them), 0);
	assert_memory_equal(&us, &them, sizeof(us));
	assert_string_equal(them.instance, "one");
	assert_int_equal(them.pid, getpid());
	assert_int_equal(lb_takeover_recv(ends[1], &m), -ETIMEDOUT);
}

static void descriptors_arrive_in_their_order(void **state)
{
	struct lb_takeover_address at[LB_TAKEOVER_FDS_MAX] = {0};
	int fds[LB_TAKEOVER_FDS_MAX], before = count_fds(), pipes[2];
	char byte = 'x';

	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	for (size_t i = 0; i < LB_ARRAY_SIZE(fds); i++) {
		fds[i] = pipes[i % 2];
		lb_addr_set_port(&at[i].addr, 0);
	}
	assert_int_equal(lb_takeover_send(ends[0], LB_TAKEOVER_LISTENERS, at, sizeof(at), fds, 64),
			 0);
	close(pipes[0]);
	close(pipes[1]);
	assert_int_equal(lb_takeover_recv(ends[1], &m), 0);
	assert_int_equal(m.fds_count, 64);
	assert_int_equal(write(m.fds[1], &byte, 1), 1);
	assert_int_equal(read(m.fds[62], &byte, 1), 1);
	assert_true(fcntl(m.fds[63], F_GETFD) & FD_CLOEXEC);
	lb_takeover_message_fini(&m);
	assert_int_equal(count_fds(), before);
}

/* As it comes, whatever it is. */
static void say(const void *bytes, size_t size, const int *fds, uint32_t count)
{
	char control[CMSG_SPACE(sizeof(int) * 128)] = {0};
	struct iovec part = {(void *)bytes, size};
	struct msghdr msg = {.msg_iov = &part, .msg_iovlen = 1};
	struct cmsghdr *c;

	if (count) {
		msg.msg_control = control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * count);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * count);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
	}
	assert_int_equal(sendmsg(ends[0], &msg, MSG_NOSIGNAL), size);
}

struct raw {
	uint32_t magic;
	uint16_t kind, fds;
	uint32_t bytes, pad;
	unsigned char body[8192];
};

static void what_is_not_as_it_should_be_is_not_believed(void **state)
{
	static const uint32_t magic = 0x6b34626c;
	const struct {
		struct raw raw;
		size_t size;
		uint32_t fds;
	} cases[] = {
		{{0}, 1, 0},
		{{.magic = magic, .kind = LB_TAKEOVER_READY}, 15, 0},
		{{.magic = magic + 1, .kind = LB_TAKEOVER_READY}, 16, 0},
		{{.magic = magic, .kind = 0}, 16, 0},
		{{.magic = magic, .kind = LB_TAKEOVER_KIND_MAX_}, 16, 0},
		{{.magic = magic, .kind = UINT16_MAX}, 16, 0},
		{{.magic = magic, .kind = LB_TAKEOVER_READY, .bytes = 1}, 17, 0},
		{{.magic = magic, .kind = LB_TAKEOVER_READY, .bytes = UINT32_MAX}, 16, 0},
		{{.magic = magic, .kind = LB_TAKEOVER_HELLO, .bytes = 136}, 16, 0},
		{{.magic = magic, .kind = LB_TAKEOVER_HELLO, .bytes = 16}, 32, 0},
		{{.magic = magic, .kind = LB_TAKEOVER_TAKEN, .bytes = 8192}, 16 + 8192, 0},
		{{.magic = magic, .kind = LB_TAKEOVER_KEEPS}, 16, 0},
		{{.magic = magic, .kind = LB_TAKEOVER_KEEPS, .bytes = 29}, 45, 0},
		{{.magic = magic, .kind = LB_TAKEOVER_KEEPS, .bytes = 28, .fds = 1}, 44, 1},
		{{.magic = magic, .kind = LB_TAKEOVER_LISTENERS, .bytes = 28}, 44, 0},
		{{.magic = magic, .kind = LB_TAKEOVER_LISTENERS, .bytes = 28, .fds = 1}, 44, 2},
		{{.magic = magic, .kind = LB_TAKEOVER_LISTENERS, .bytes = 28, .fds = 2}, 44, 2},
		{{.magic = magic, .kind = LB_TAKEOVER_OWN, .bytes = 8}, 24, 0},
		{{.magic = magic, .kind = LB_TAKEOVER_READY, .fds = 1}, 16, 1},
		{{.magic = magic, .kind = LB_TAKEOVER_READY}, 16, 100},
		{{.magic = magic, .kind = LB_TAKEOVER_YOURS}, 16, 0},
	};
	int before = count_fds(), fds[128];

	for (size_t i = 0; i < LB_ARRAY_SIZE(fds); i++)
		fds[i] = STDERR_FILENO;
	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++) {
		say(&cases[i].raw, cases[i].size, fds, cases[i].fds);
		if (lb_takeover_recv(ends[1], &m) != -EPROTO)
			fail_msg("case %zu", i);
		assert_int_equal(m.fds_count, 0);
		assert_int_equal(count_fds(), before);
	}
}

static void the_end_is_told_from_silence(void **state)
{
	assert_int_equal(lb_takeover_recv(ends[1], &m), -ETIMEDOUT);
	close(ends[0]);
	ends[0] = -1;
	assert_int_equal(lb_takeover_recv(ends[1], &m), -ECONNRESET);
	assert_int_equal(lb_takeover_send(ends[1], LB_TAKEOVER_READY, NULL, 0, NULL, 0), -EPIPE);
	ends[0] = dup(ends[1]);
}

static void nobody_sends_what_nobody_would_believe(void **state)
{
	char body[LB_TAKEOVER_BODY_MAX + 1] = {0};

	assert_int_equal(lb_takeover_send(ends[0], LB_TAKEOVER_READY, body, 1, NULL, 0), -EINVAL);
	assert_int_equal(lb_takeover_send(ends[0], LB_TAKEOVER_KEEPS, body, sizeof(body), NULL, 0),
			 -EINVAL);
	assert_int_equal(lb_takeover_send(ends[0], LB_TAKEOVER_YOURS, NULL, 0, NULL, 0), -EINVAL);
}

static void a_text_ends_where_its_message_does(void **state)
{
	char text[LB_TAKEOVER_TEXT_MAX];

	memset(text, 'a', sizeof(text));
	text[3] = '\n';
	assert_int_equal(lb_takeover_send(ends[0], LB_TAKEOVER_REFUSE, text, sizeof(text), NULL, 0),
			 0);
	assert_int_equal(lb_takeover_recv(ends[1], &m), 0);
	assert_int_equal(strlen(lb_takeover_text(&m)), LB_TAKEOVER_TEXT_MAX);
	assert_int_equal(lb_takeover_text(&m)[3], '?');
}

static void a_greeting_without_an_end_or_a_process_is_none(void **state)
{
	struct lb_takeover_hello hello, ret;

	for (int i = 0; i < 3; i++) {
		lb_takeover_make_hello(&hello, NULL);
		if (i == 0)
			hello.pid = 0;
		else
			memset(i == 1 ? hello.version : hello.instance, 'x', LB_TAKEOVER_NAME_MAX);
		memcpy(m.body, &hello, sizeof(hello));
		assert_int_equal(lb_takeover_read_hello(&m, &ret), -EPROTO);
	}
}

static void who_speaks_otherwise_or_is_another_one_is_refused(void **state)
{
	struct lb_takeover_hello us, them;
	char text[LB_TAKEOVER_TEXT_MAX];

	lb_takeover_make_hello(&us, "a");
	lb_takeover_make_hello(&them, "a");
	assert_null(lb_takeover_judge(&us, &them, text));
	them.protocol++;
	assert_non_null(strstr(lb_takeover_judge(&us, &them, text), "restart instead"));
	lb_takeover_make_hello(&them, NULL);
	assert_string_equal(lb_takeover_judge(&us, &them, text), "it is instance 'a', not ''");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(what_is_said_arrives),
		TEST(descriptors_arrive_in_their_order),
		TEST(what_is_not_as_it_should_be_is_not_believed),
		TEST(the_end_is_told_from_silence),
		TEST(nobody_sends_what_nobody_would_believe),
		TEST(a_text_ends_where_its_message_does),
		TEST(a_greeting_without_an_end_or_a_process_is_none),
		TEST(who_speaks_otherwise_or_is_another_one_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
