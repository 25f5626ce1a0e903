/* SPDX-License-Identifier: MIT */
#include "control/access_log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"

#define RING_BYTES  (256 * 1024)
#define PATIENCE_MS 10000

/* A folder of the test's own, and the names in it. */
struct place {
	char dir[32];
	char file[64], moved[64], fifo[64];
	int fifo_fd; /* its reading end, non-blocking */
};

static int setup_place(void **state)
{
	static struct place p;

	strcpy(p.dir, "/tmp/lb-access-log-XXXXXX");
	if (!mkdtemp(p.dir))
		return -1;
	snprintf(p.file, sizeof(p.file), "%s/log", p.dir);
	snprintf(p.moved, sizeof(p.moved), "%s/log.1", p.dir);
	snprintf(p.fifo, sizeof(p.fifo), "%s/fifo", p.dir);
	if (mkfifo(p.fifo, 0600))
		return -1;
	p.fifo_fd = open(p.fifo, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	lb_log_set_level(LB_LOG_ERROR); /* broken outputs are warned about, rightly */
	*state = &p;
	return p.fifo_fd < 0 ? -1 : 0;
}

static int teardown_place(void **state)
{
	struct place *p = *state;

	if (p->fifo_fd >= 0)
		close(p->fifo_fd);
	unlink(p->file);
	unlink(p->moved);
	unlink(p->fifo);
	return rmdir(p->dir);
}

static int try_open(struct lb_access_log **ret, const char *path, unsigned workers)
{
	const struct lb_access_log_opts opts = {.path = path, .workers = workers};

	return lb_access_log_open(ret, &opts);
}

static struct lb_access_log *opened(const char *path, unsigned workers)
{
	struct lb_access_log *log = NULL;

	assert_int_equal(try_open(&log, path, workers), 0);
	assert_int_equal(lb_access_log_start(log), 0);
	return log;
}

static void write_text(struct lb_access_log *log, unsigned worker, const char *text)
{
	lb_access_log_write(log, worker, text, strlen(text));
}

/* The whole file, to be freed. */
static char *content(const char *path)
{
	FILE *f = fopen(path, "r");
	char *text = NULL;
	size_t size = 0;

	if (!f)
		fail_msg("%s: %s", path, strerror(errno));
	if (getdelim(&text, &size, '\0', f) < 0) {
		free(text);
		text = strdup("");
	}
	fclose(f);
	return text;
}

static void assert_content(const char *path, const char *expected)
{
	char *text = content(path);

	assert_string_equal(text, expected);
	free(text);
}

/* --- lines that tell whether they are whole --------------------------------------------------- */

#define WORKERS    4
#define LINES      20000
#define FILLER_MAX 199

/* "<worker> <number> <filler>", the filler's length and letter following from the number. */
static size_t make_line(char *buf, size_t size, unsigned worker, unsigned number)
{
	int head = snprintf(buf, size, "%u %u ", worker, number);
	size_t filler = number * 7 % (FILLER_MAX + 1);

	memset(buf + head, 'a' + (int)(number % 26), filler);
	return (size_t)head + filler;
}

struct reader {
	char partial[512];
	size_t partial_len;
	unsigned lines, next[WORKERS]; /* the least number that may follow */
};

static void check_line(struct reader *r, const char *line, size_t len)
{
	char expected[512];
	unsigned worker, number;

	assert_int_equal(sscanf(line, "%u %u ", &worker, &number), 2);
	assert_in_range(worker, 0, WORKERS - 1);
	assert_in_range(number, r->next[worker], LINES);
	assert_int_equal(len, make_line(expected, sizeof(expected), worker, number));
	assert_memory_equal(line, expected, len);
	r->next[worker] = number + 1;
	r->lines++;
}

static void check_bytes(struct reader *r, const char *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (bytes[i] == '\n') {
			r->partial[r->partial_len] = '\0';
			check_line(r, r->partial, r->partial_len);
			r->partial_len = 0;
		} else {
			assert_in_range(r->partial_len, 0, sizeof(r->partial) - 2);
			r->partial[r->partial_len++] = bytes[i];
		}
	}
}

static void check_file(struct reader *r, const char *path)
{
	char *text = content(path);

	check_bytes(r, text, strlen(text));
	assert_int_equal(r->partial_len, 0);
	free(text);
}

struct worker {
	struct lb_access_log *log;
	unsigned index;
	pthread_t thread;
};

static void *write_lines(void *arg)
{
	struct worker *w = arg;
	char line[512];

	for (unsigned i = 0; i < LINES; i++)
		lb_access_log_write(w->log, w->index, line,
				    make_line(line, sizeof(line), w->index, i));
	return NULL;
}

static void start_workers(struct worker workers[WORKERS], struct lb_access_log *log)
{
	for (unsigned i = 0; i < WORKERS; i++) {
		workers[i] = (struct worker){.log = log, .index = i};
		assert_int_equal(pthread_create(&workers[i].thread, NULL, write_lines, &workers[i]),
				 0);
	}
}

static void join_workers(struct worker workers[WORKERS])
{
	for (unsigned i = 0; i < WORKERS; i++)
		pthread_join(workers[i].thread, NULL);
}

/* --- the file --------------------------------------------------------------------------------- */

static void what_was_queued_is_in_the_file_after_close(void **state)
{
	struct place *p = *state;
	struct lb_access_log *log = opened(p->file, 2);

	write_text(log, 0, "one");
	write_text(log, 0, "");
	write_text(log, 0, "two");
	lb_access_log_close(&log);
	assert_null(log);
	lb_access_log_close(&log);
	assert_content(p->file, "one\n\ntwo\n");
}

static void file_is_appended_to_and_closed_to_others(void **state)
{
	struct place *p = *state;
	mode_t before = umask(0);
	struct stat st;

	for (int i = 0; i < 2; i++) {
		struct lb_access_log *log = opened(p->file, 1);

		write_text(log, 0, "line");
		lb_access_log_close(&log);
	}
	umask(before);
	assert_content(p->file, "line\nline\n");
	assert_int_equal(stat(p->file, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
}

static void file_that_cannot_be_opened_is_an_error(void **state)
{
	struct place *p = *state;
	struct lb_access_log *log = (void *)state;

	assert_int_equal(try_open(&log, p->dir, 1), -EISDIR);
	assert_int_equal(try_open(&log, "/nonexistent/log", 1), -ENOENT);
	close(p->fifo_fd);
	p->fifo_fd = -1;
	assert_int_equal(try_open(&log, p->fifo, 1), -ENXIO);
	assert_ptr_equal(log, state);
}

static void lines_of_many_workers_are_whole_in_order_and_accounted_for(void **state)
{
	struct place *p = *state;
	struct lb_access_log *log = opened(p->file, WORKERS);
	struct worker workers[WORKERS];
	struct reader r = {0};
	uint64_t dropped;

	start_workers(workers, log);
	join_workers(workers);
	dropped = lb_access_log_dropped(log);
	lb_access_log_close(&log);
	check_file(&r, p->file);
	assert_int_equal(r.lines + dropped, WORKERS * LINES);
}

/* A worker that insists, as ours never does: here every line must arrive. */
static void lines_go_round_the_end_of_the_ring_whole(void **state)
{
	struct place *p = *state;
	struct lb_access_log *log = opened(p->file, 1);
	struct reader r = {0};
	char line[512];

	for (unsigned i = 0; i < LINES; i++) {
		size_t len = make_line(line, sizeof(line), 0, i);
		uint64_t dropped;

		do {
			sched_yield();
			dropped = lb_access_log_dropped(log);
			lb_access_log_write(log, 0, line, len);
		} while (lb_access_log_dropped(log) != dropped);
	}
	lb_access_log_close(&log);
	check_file(&r, p->file);
	assert_int_equal(r.lines, LINES);
}

static void line_larger_than_the_ring_is_dropped_and_counted(void **state)
{
	struct place *p = *state;
	struct lb_access_log *log = opened(p->file, 1);
	char *line = malloc(RING_BYTES), *text;

	assert_non_null(line);
	memset(line, 'x', RING_BYTES);
	lb_access_log_write(log, 0, line, RING_BYTES);
	assert_int_equal(lb_access_log_dropped(log), 1);
	lb_access_log_write(log, 0, line, RING_BYTES - 1);
	assert_int_equal(lb_access_log_dropped(log), 1);
	lb_access_log_close(&log);
	text = content(p->file);
	assert_int_equal(strlen(text), RING_BYTES);
	free(text);
	free(line);
}

static void log_that_is_switched_off_takes_every_call(void **state)
{
	struct lb_access_log *log = NULL;

	write_text(log, 0, "line");
	assert_int_equal(lb_access_log_dropped(log), 0);
	assert_int_equal(lb_access_log_reopen(log), -ENOTSUP);
	lb_access_log_close(&log);
}

/* --- reopen ----------------------------------------------------------------------------------- */

static void reopen_makes_the_file_anew_and_loses_no_line(void **state)
{
	struct place *p = *state;
	struct lb_access_log *log = opened(p->file, WORKERS);
	struct worker workers[WORKERS];
	struct reader r = {0};
	uint64_t dropped;

	start_workers(workers, log);
	assert_int_equal(rename(p->file, p->moved), 0);
	assert_int_equal(lb_access_log_reopen(log), 0);
	join_workers(workers);
	assert_int_equal(lb_access_log_reopen(log),
			 0); /* nothing moved: goes on in the same file */
	dropped = lb_access_log_dropped(log);
	lb_access_log_close(&log);
	check_file(&r, p->moved);
	check_file(&r, p->file);
	assert_int_equal(r.lines + dropped, WORKERS * LINES);
}

static void failed_reopen_keeps_the_old_file(void **state)
{
	struct place *p = *state;
	struct lb_access_log *log = opened(p->file, 1);

	assert_int_equal(rename(p->file, p->moved), 0);
	assert_int_equal(mkdir(p->file, 0700), 0);
	assert_int_equal(lb_access_log_reopen(log), -EISDIR);
	assert_int_equal(rmdir(p->file), 0);
	write_text(log, 0, "line");
	lb_access_log_close(&log);
	assert_content(p->moved, "line\n");
}

/* --- outputs that are slow, stuck or gone ----------------------------------------------------- */

/* What there is to read, waiting for the first byte; 0 at the end. */
static size_t read_some(int fd, char *buf, size_t size)
{
	struct pollfd in = {.fd = fd, .events = POLLIN};
	ssize_t len;

	if (poll(&in, 1, PATIENCE_MS) != 1)
		fail_msg("nothing came");
	len = read(fd, buf, size);
	assert_true(len >= 0);
	return (size_t)len;
}

static void one_line_wakes_the_writer(void **state)
{
	struct place *p = *state;
	struct lb_access_log *log = opened(p->fifo, 2);
	char buf[64];

	for (unsigned i = 0; i < 4; i++) {
		write_text(log, i % 2, "line");
		assert_int_equal(read_some(p->fifo_fd, buf, sizeof(buf)), 5);
		assert_memory_equal(buf, "line\n", 5);
	}
	lb_access_log_close(&log);
}

static void *close_log(void *arg)
{
	lb_access_log_close(arg);
	return NULL;
}

static void stuck_output_costs_lines_but_no_worker_time(void **state)
{
	struct place *p = *state;
	struct lb_access_log *log = opened(p->fifo, WORKERS);
	struct worker workers[WORKERS];
	struct reader r = {0};
	pthread_t closer;
	char buf[65536];
	uint64_t dropped;
	size_t len;

	start_workers(workers, log);
	join_workers(workers); /* nobody reads: this returns because nobody waits */
	dropped = lb_access_log_dropped(log);
	assert_in_range(dropped, 1, WORKERS * LINES);

	/* The reader is back: what was kept is whole, and only what was counted lacks. */
	assert_int_equal(pthread_create(&closer, NULL, close_log, &log), 0);
	while ((len = read_some(p->fifo_fd, buf, sizeof(buf))))
		check_bytes(&r, buf, len);
	pthread_join(closer, NULL);
	assert_int_equal(r.partial_len, 0);
	assert_int_equal(r.lines + dropped, WORKERS * LINES);
}

/* The write that fills a pipe is one of whole lines. */
static void pipe_gets_whole_lines_per_write(void **state)
{
	struct place *p = *state;
	struct lb_access_log *log = opened(p->fifo, WORKERS);
	struct worker workers[WORKERS];
	struct reader r = {0};
	char buf[PIPE_BUF];
	size_t len;

	start_workers(workers, log);
	join_workers(workers);
	lb_access_log_close(&log); /* gives up on us, in the middle of the queue */
	while ((len = read_some(p->fifo_fd, buf, sizeof(buf))))
		check_bytes(&r, buf, len);
	assert_int_equal(r.partial_len, 0);
	assert_in_range(r.lines, 1, WORKERS * LINES - 1);
}

/* Without dying of SIGPIPE, too. */
static void output_whose_reader_is_gone_does_not_hold_up_close(void **state)
{
	struct place *p = *state;
	struct lb_access_log *log = opened(p->fifo, 1);
	uint64_t before_ms;

	close(p->fifo_fd);
	p->fifo_fd = -1;
	write_text(log, 0, "line");
	before_ms = lb_clock_ms();
	lb_access_log_close(&log);
	assert_in_range(lb_clock_ms() - before_ms, 0, 1500);
}

static void full_file_system_does_not_hold_up_close(void **state)
{
	struct lb_access_log *log = opened("/dev/full", 1);
	uint64_t before_ms;

	write_text(log, 0, "line");
	before_ms = lb_clock_ms();
	lb_access_log_close(&log);
	assert_in_range(lb_clock_ms() - before_ms, 0, 1500);
}

static void standard_output_is_used_and_left_open(void **state)
{
	struct place *p = *state;
	int saved = dup(STDOUT_FILENO), fd = open(p->fifo, O_WRONLY);
	struct lb_access_log *log;
	char buf[64];
	size_t len;

	fflush(stdout);
	dup2(fd, STDOUT_FILENO); /* in blocking mode, as it mostly is */
	close(fd);
	log = opened("stdout", 1);
	write_text(log, 0, "line");
	assert_int_equal(lb_access_log_reopen(log), -ENOTSUP);
	lb_access_log_close(&log);
	fd = fcntl(STDOUT_FILENO, F_GETFD);
	dup2(saved, STDOUT_FILENO);
	close(saved);

	assert_true(fd >= 0);
	len = read_some(p->fifo_fd, buf, sizeof(buf));
	assert_int_equal(len, 5);
	assert_memory_equal(buf, "line\n", 5);
}

#define place_test(f) cmocka_unit_test_setup_teardown(f, setup_place, teardown_place)

int main(void)
{
	const struct CMUnitTest tests[] = {
		place_test(what_was_queued_is_in_the_file_after_close),
		place_test(file_is_appended_to_and_closed_to_others),
		place_test(file_that_cannot_be_opened_is_an_error),
		place_test(lines_of_many_workers_are_whole_in_order_and_accounted_for),
		place_test(lines_go_round_the_end_of_the_ring_whole),
		place_test(line_larger_than_the_ring_is_dropped_and_counted),
		cmocka_unit_test(log_that_is_switched_off_takes_every_call),
		place_test(reopen_makes_the_file_anew_and_loses_no_line),
		place_test(failed_reopen_keeps_the_old_file),
		place_test(one_line_wakes_the_writer),
		place_test(stuck_output_costs_lines_but_no_worker_time),
		place_test(pipe_gets_whole_lines_per_write),
		place_test(output_whose_reader_is_gone_does_not_hold_up_close),
		place_test(full_file_system_does_not_hold_up_close),
		place_test(standard_output_is_used_and_left_open),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
