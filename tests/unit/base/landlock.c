/* SPDX-License-Identifier: MIT */
#include "base/landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct seen {
	char name[64];
	int fd;    /* of the file, open before */
	int taken; /* what lb_landlock_no_files() said */
	int read, write, list, make, remove;
	ssize_t old;
};

static int error_of(int r)
{
	if (r < 0)
		return errno;
	close(r);
	return 0;
}

static void *look(void *arg)
{
	struct seen *s = arg;
	char c, other[80];

	snprintf(other, sizeof(other), "%s.new", s->name);
	s->taken = lb_landlock_no_files();
	s->read = error_of(open(s->name, O_RDONLY | O_CLOEXEC));
	s->write = error_of(open(s->name, O_WRONLY | O_CLOEXEC));
	s->list = error_of(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	s->make = error_of(open(other, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
	s->remove = unlink(s->name) ? errno : 0;
	s->old = pread(s->fd, &c, 1, 0);
	return NULL;
}

static void no_file_opens_for_that_thread_alone(void **state)
{
	struct seen s = {.name = "/tmp/lb-landlock-XXXXXX"};
	pthread_t thread;

	s.fd = mkstemp(s.name);
	assert_true(s.fd >= 0);
	assert_int_equal(write(s.fd, "x", 1), 1);
	assert_int_equal(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	assert_int_equal(pthread_create(&thread, NULL, look, &s), 0);
	pthread_join(thread, NULL);

	assert_int_equal(error_of(open(s.name, O_RDONLY | O_CLOEXEC)), 0);
	unlink(s.name);
	close(s.fd);
	if (s.taken == -ENOSYS || s.taken == -EOPNOTSUPP || s.taken == -EPERM) {
		print_message("no Landlock here: %s\n", strerror(-s.taken));
		skip();
	}
	assert_int_equal(s.taken, 0);
	assert_int_equal(s.read, EACCES);
	assert_int_equal(s.write, EACCES);
	assert_int_equal(s.list, EACCES);
	assert_int_equal(s.make, EACCES);
	assert_int_equal(s.remove, EACCES);
	assert_int_equal(s.old, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_file_opens_for_that_thread_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
