/* SPDX-License-Identifier: MIT */
/*
 * Decides when queued lines reach the output and which are lost when it does not take them. A ring
 * per worker (one producer, one consumer, no locks); the writer thread copies what all rings hold
 * into one batch of whole lines and writes that. Must never make a worker wait, and makes it pay a
 * system call only to end the writer's sleep.
 */
#include "control/access_log.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "control/access_log_output.h"

#define RING_BYTES  (256u * 1024u)
#define BATCH_BYTES RING_BYTES /* so that a ring always fits into an empty batch */

#define LINGER_MS  50 /* while there is traffic the writer looks this often by itself */
#define RETRY_MS   1000
#define GIVE_UP_MS 3000 /* after the stop */

/*
 * Values of wake_at: how full a ring must be for its worker to wake the writer.
 *
 *	WAKE_NEVER   the writer is at work, or waits for the output and nothing else can help
 *	WAKE_HALF    it lingers: it comes by itself, in time unless there is very much to write
 *	WAKE_ANY     it sleeps until somebody has a line
 */
#define WAKE_ANY   ((size_t)1)
#define WAKE_HALF  ((size_t)RING_BYTES / 2)
#define WAKE_NEVER SIZE_MAX

/* <head> and <tail> count bytes from the start and never wrap; both always lie between lines. */
struct ring {
	_Atomic size_t head __attribute__((aligned(64))); /* the worker's side */
	_Atomic uint64_t dropped;
	size_t tail_seen;                                 /* what the worker last knew of <tail> */
	_Atomic size_t tail __attribute__((aligned(64))); /* the writer's side */
	char data[RING_BYTES];
};

struct lb_access_log {
	_Atomic size_t wake_at;
	atomic_bool stop;
	atomic_int new_fd; /* from reopen, for the writer to take; -1: none */
	int wake_fd;
	char *path;
	bool is_file; /* which may be moved away */
	pthread_t thread;
	bool started;

	_Atomic uint64_t unsendable; /* lines that no output of its kind takes */

	/* The writer's own. */
	struct lb_access_log_output output;
	bool idle;        /* the last round found nothing */
	int failing;      /* errno that was reported and not yet recovered from; 0: all is well */
	size_t done, len; /* of the batch, which starts with a line and ends with one */
	char batch[BATCH_BYTES];

	unsigned workers;
	struct ring rings[];
};

/* --- the worker's side ------------------------------------------------------------------------ */

static bool has_room(const struct ring *ring, size_t head, size_t bytes)
{
	return bytes <= RING_BYTES - (head - ring->tail_seen);
}

static void copy_in(struct ring *ring, size_t head, const char *from, size_t len)
{
	size_t at = head % RING_BYTES, first = RING_BYTES - at;

	if (first > len)
		first = len;
	memcpy(ring->data + at, from, first);
	memcpy(ring->data, from + first, len - first);
}

/*
 * The worker stores <head> and then looks at <wake_at>; the writer stores <wake_at> and then looks
 * at every <head>. All four are sequentially consistent, so at least one of them sees the other.
 */
static void wake_writer(struct lb_access_log *log, struct ring *ring, size_t head)
{
	size_t wake_at = atomic_load(&log->wake_at);

	if (head - ring->tail_seen < wake_at)
		return;
	ring->tail_seen = atomic_load_explicit(&ring->tail, memory_order_acquire);
	if (head - ring->tail_seen < wake_at)
		return;
	/* One of the workers that come here at once makes the call. */
	if (atomic_exchange(&log->wake_at, WAKE_NEVER) != WAKE_NEVER)
		eventfd_write(log->wake_fd, 1);
}

void lb_access_log_write(struct lb_access_log *log, unsigned worker, const char *line, size_t len)
{
	struct ring *ring;
	size_t head;

	if (!log)
		return;
	ring = &log->rings[worker];
	head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	if (len < RING_BYTES && !has_room(ring, head, len + 1))
		ring->tail_seen = atomic_load_explicit(&ring->tail, memory_order_acquire);
	if (len >= RING_BYTES || !has_room(ring, head, len + 1)) {
		atomic_fetch_add_explicit(&ring->dropped, 1, memory_order_relaxed);
		return;
	}
	copy_in(ring, head, line, len);
	ring->data[(head + len) % RING_BYTES] = '\n';
	head += len + 1;
	atomic_store(&ring->head, head);
	wake_writer(log, ring, head);
}

uint64_t lb_access_log_dropped(const struct lb_access_log *log)
{
	uint64_t sum = 0;

	if (log)
		sum = atomic_load_explicit(&log->unsendable, memory_order_relaxed);
	for (unsigned i = 0; log && i < log->workers; i++)
		sum += atomic_load_explicit(&log->rings[i].dropped, memory_order_relaxed);
	return sum;
}

/* --- the writer: rings to batch --------------------------------------------------------------- */

static size_t ring_used(const struct ring *ring)
{
	return atomic_load(&ring->head) - atomic_load_explicit(&ring->tail, memory_order_relaxed);
}

/* Moves <len> bytes, whole lines, to the end of the batch and gives the room back to the worker. */
static void take(struct lb_access_log *log, struct ring *ring, size_t len)
{
	size_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
	size_t at = tail % RING_BYTES, first = RING_BYTES - at;

	if (!len)
		return;
	if (first > len)
		first = len;
	memcpy(log->batch + log->len, ring->data + at, first);
	memcpy(log->batch + log->len + first, ring->data, len - first);
	log->len += len;
	log->idle = false;
	atomic_store_explicit(&ring->tail, tail + len, memory_order_release);
}

/* --- the writer: batch to output -------------------------------------------------------------- */

/* The batch's first line will never go: it is lost. */
static void drop_first(struct lb_access_log *log)
{
	const char *text = log->batch + log->done, *end = memchr(text, '\n', log->len - log->done);

	log->done = end ? (size_t)(end + 1 - log->batch) : log->len;
	atomic_fetch_add_explicit(&log->unsendable, 1, memory_order_relaxed);
}

/* Writes out the batch. 0, -EAGAIN: the output is full, or -errno; what was not written stays. */
static int flush(struct lb_access_log *log)
{
	while (log->done < log->len) {
		ssize_t written = lb_access_log_output_write(&log->output, log->batch + log->done,
							     log->len - log->done);

		if (written == -EMSGSIZE)
			drop_first(log);
		else if (written < 0)
			return (int)written;
		else
			log->done += (size_t)written;
	}
	log->done = log->len = 0;
	return 0;
}

/* One round: everything that is queued. 0 or what flush() says. */
static int write_out(struct lb_access_log *log)
{
	int err = flush(log);

	log->idle = true;
	for (unsigned i = 0; i < log->workers && !err; i++) {
		struct ring *ring = &log->rings[i];
		size_t used = ring_used(ring);

		if (used > BATCH_BYTES - log->len)
			err = flush(log);
		if (!err)
			take(log, ring, used);
	}
	return err ? err : flush(log);
}

static void take_new_output(struct lb_access_log *log)
{
	int fd = atomic_exchange(&log->new_fd, -1);

	if (fd < 0)
		return;
	lb_access_log_output_close(&log->output);
	lb_access_log_output_set(&log->output, fd);
	/* I1: the old file was full in the middle of a line; the new one begins with that line. */
	while (log->done && log->batch[log->done - 1] != '\n')
		log->done--;
}

/* --- the writer: its life --------------------------------------------------------------------- */

/* Says it when the output breaks and when it works again, not in between. */
static void report(struct lb_access_log *log, int err)
{
	if (err && err != -EAGAIN && err != -log->failing) {
		log->failing = errno = -err;
		lb_warn("access log %s: %m; lines are kept while there is room", log->path);
	} else if (!err && log->failing) {
		log->failing = 0;
		lb_info("access log %s: written again, %" PRIu64 " lines lost so far", log->path,
			lb_access_log_dropped(log));
	}
}

static bool any_queued(const struct lb_access_log *log)
{
	for (unsigned i = 0; i < log->workers; i++) {
		if (ring_used(&log->rings[i]))
			return true;
	}
	return false;
}

/* Until there is reason for another round after one that ended with <err>. */
static void wait_for_reason(struct lb_access_log *log, int err)
{
	struct pollfd fds[2] = {{.fd = log->wake_fd, .events = POLLIN},
				{.fd = -1, .events = POLLOUT}};
	size_t wake_at = WAKE_NEVER;
	int timeout = RETRY_MS;
	eventfd_t ignored;

	if (err == -EAGAIN) {
		fds[1].fd = log->output.fd;
	} else if (!err) {
		wake_at = log->idle ? WAKE_ANY : WAKE_HALF;
		timeout = log->idle ? -1 : LINGER_MS;
	}
	atomic_store(&log->wake_at, wake_at);
	if (wake_at == WAKE_ANY && any_queued(log))
		timeout = 0;
	poll(fds, 2, timeout);
	atomic_store(&log->wake_at, WAKE_NEVER);
	if (fds[0].revents)
		eventfd_read(log->wake_fd, &ignored);
}

/* Lines that nobody will write any more. */
static size_t count_left(const struct lb_access_log *log)
{
	size_t lines = 0;

	for (size_t i = log->done; i < log->len; i++)
		lines += log->batch[i] == '\n';
	for (unsigned i = 0; i < log->workers; i++) {
		const struct ring *ring = &log->rings[i];

		for (size_t at = atomic_load(&ring->tail); at != atomic_load(&ring->head); at++)
			lines += ring->data[at % RING_BYTES] == '\n';
	}
	return lines;
}

static void *writer_main(void *arg)
{
	struct lb_access_log *log = arg;
	uint64_t give_up_ms = 0;
	int err;

	for (;;) {
		/* Read before the round: what was queued before the stop is in this round. */
		bool stop = atomic_load(&log->stop);

		take_new_output(log);
		err = write_out(log);
		report(log, err);
		if (stop) {
			if (!give_up_ms)
				give_up_ms = lb_clock_ms() + GIVE_UP_MS;
			/* A slow reader gets time. What is broken will not heal now. */
			if (err != -EAGAIN || lb_clock_ms() >= give_up_ms)
				break;
		}
		wait_for_reason(log, err);
	}
	if (err)
		lb_warn("access log %s: ended with %zu lines not written", log->path,
			count_left(log));
	return NULL;
}

/* Signals are for the main thread; a pipe without reader then answers EPIPE and no SIGPIPE. */
static int start_writer(struct lb_access_log *log)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&log->thread, NULL, writer_main, log);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err)
		return -err;
	pthread_setname_np(log->thread, "lb-access-log");
	return 0;
}

/* --- open, reopen, close ---------------------------------------------------------------------- */

static void free_log(struct lb_access_log **log)
{
	int new_fd;

	if (!*log)
		return;
	new_fd = atomic_load(&(*log)->new_fd);
	if (new_fd >= 0)
		close(new_fd);
	if ((*log)->wake_fd >= 0)
		close((*log)->wake_fd);
	lb_access_log_output_close(&(*log)->output);
	free((*log)->path);
	free(*log);
	*log = NULL;
}

/* Everything but the thread. NULL: no memory. The rings' bytes stay untouched, thus unbacked. */
static struct lb_access_log *alloc_log(const char *path, unsigned workers)
{
	size_t size = sizeof(struct lb_access_log) + workers * sizeof(struct ring);
	struct lb_access_log *log = aligned_alloc(_Alignof(struct lb_access_log), size);

	if (!log)
		return NULL;
	memset(log, 0, offsetof(struct lb_access_log, batch));
	log->output.fd = log->wake_fd = -1;
	atomic_init(&log->new_fd, -1);
	atomic_init(&log->wake_at, WAKE_NEVER);
	log->workers = workers;
	for (unsigned i = 0; i < workers; i++)
		memset(&log->rings[i], 0, offsetof(struct ring, data));
	log->path = strdup(path);
	if (!log->path)
		free_log(&log);
	return log;
}

static int open_output(struct lb_access_log *log, const struct lb_access_log_opts *opts)
{
	int fd;

	if (!strcmp(opts->path, LB_ACCESS_LOG_SYSLOG)) {
		lb_access_log_output_set_syslog(
			&log->output, opts->socket ? opts->socket : LB_SYSLOG_PATH, opts->facility);
		return 0;
	}
	fd = lb_access_log_output_open(opts->path);
	if (fd < 0)
		return fd;
	lb_access_log_output_set(&log->output, fd);
	log->is_file = lb_access_log_output_is_file(opts->path);
	return 0;
}

int lb_access_log_open(struct lb_access_log **ret, const struct lb_access_log_opts *opts)
{
	LB_AUTO(free_log) struct lb_access_log *log = alloc_log(opts->path, opts->workers);
	int err;

	if (!log)
		return -ENOMEM;
	err = open_output(log, opts);
	if (err)
		return err;
	log->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (log->wake_fd < 0)
		return -errno;
	*ret = LB_TAKE_PTR(log);
	return 0;
}

int lb_access_log_start(struct lb_access_log *log)
{
	int err;

	if (!log)
		return 0;
	err = start_writer(log);
	log->started = !err;
	return err;
}

int lb_access_log_reopen(struct lb_access_log *log)
{
	int fd, untaken;

	if (!log || !log->is_file)
		return -ENOTSUP;
	fd = lb_access_log_output_open(log->path);
	if (fd < 0)
		return fd;
	untaken = atomic_exchange(&log->new_fd, fd);
	if (untaken >= 0)
		close(untaken);
	eventfd_write(log->wake_fd, 1);
	return 0;
}

void lb_access_log_close(struct lb_access_log **log)
{
	if (!*log)
		return;
	if ((*log)->started) {
		atomic_store(&(*log)->stop, true);
		eventfd_write((*log)->wake_fd, 1);
		pthread_join((*log)->thread, NULL);
	}
	free_log(log);
}
