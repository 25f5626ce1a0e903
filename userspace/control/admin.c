/* SPDX-License-Identifier: MIT */
/*
 * Clients and their lines. A client is in one of three states, and in each it has so much time:
 *
 *   READS --a whole line--> BUSY --the job ends--> WRITES --all of it is sent--> READS ..
 *
 * One request at a time: what comes while it is answered waits in the client's own socket. Must
 * never touch a session, nor wait for a client.
 */
#include "control/admin.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/admin_job.h"
#include "control/admin_socket.h"

#define CLIENTS_MAX 16u
#define READS_MS    60000u /* of silence */
#define BUSY_MS     30000u
#define WRITES_MS   30000u
#define ROUNDS      16
#define LOOK_MS     1000u /* whether a job is back that could not say so */
/* Of all replies that wait for their clients together. */
#define REPLIES_MAX LB_ADMIN_TEXT_MAX

enum state { READS, BUSY, WRITES };

struct lb_admin_client {
	struct lb_list node;
	struct lb_admin *admin;
	struct lb_watch watch;
	struct lb_timer timer;
	struct lb_task again, release;
	enum state state;
	struct lb_admin_job *job; /* BUSY */
	uint64_t since_ms;        /* of the state */
	bool ended;               /* it will not say any more */
	char line[LB_ADMIN_LINE_MAX + 2];
	size_t line_len;
	struct lb_admin_text reply; /* WRITES */
	size_t sent;
};

struct lb_admin {
	struct lb_admin_opts opts;
	char path[LB_ADMIN_PATH_MAX];
	struct lb_admin_socket socket;
	struct lb_loop *loop;
	struct lb_watch watch;
	struct lb_list clients, jobs;
	uint32_t clients_count;
	size_t replies;     /* bytes that wait for clients */
	uint32_t answering; /* atomic: clients that are not in READS */
	pthread_t thread;
	bool runs;
	pthread_mutex_t lock;
	pthread_cond_t back; /* a job is: for lb_admin_close() */
};

static void serve(struct lb_admin_client *c);

/* --- clients ---------------------------------------------------------------------------------- */

static void release(struct lb_task *t)
{
	free(lb_container_of(t, struct lb_admin_client, release));
}

static void drop_reply(struct lb_admin_client *c)
{
	c->admin->replies -= c->reply.len;
	lb_admin_text_fini(&c->reply);
}

static void count_answering(const struct lb_admin_client *c, bool answers)
{
	__atomic_fetch_add(&c->admin->answering, (uint32_t)answers - (c->state != READS),
			   __ATOMIC_RELAXED);
}

static void close_client(struct lb_admin_client *c)
{
	struct lb_admin *a = c->admin;
	int fd = c->watch.fd;

	if (c->job)
		c->job->client = NULL;
	count_answering(c, false);
	drop_reply(c);
	lb_timer_stop(a->loop, &c->timer);
	lb_loop_again_cancel(a->loop, &c->again);
	lb_watch_remove(a->loop, &c->watch, true);
	close(fd);
	lb_list_remove(&c->node);
	a->clients_count--;
	/* Events of this turn may still name it. */
	lb_loop_defer(a->loop, &c->release, release);
}

static void enter(struct lb_admin_client *c, enum state state)
{
	static const struct {
		uint32_t events;
		uint64_t ms;
	} of[] = {[READS] = {EPOLLIN, READS_MS},
		  [BUSY] = {0, LOOK_MS},
		  [WRITES] = {EPOLLOUT, WRITES_MS}};

	count_answering(c, state != READS);
	c->state = state;
	c->since_ms = lb_loop_now_ms(c->admin->loop);
	(void)lb_watch_modify(c->admin->loop, &c->watch, of[state].events);
	lb_timer_start(c->admin->loop, &c->timer, of[state].ms);
}

/* <text> is taken over. */
static void reply(struct lb_admin_client *c, struct lb_admin_text *text)
{
	struct lb_admin *a = c->admin;

	if (text->len > REPLIES_MAX - a->replies)
		lb_admin_text_refuse(text, "others have yet to take their replies: try again");
	c->reply = *text;
	*text = (struct lb_admin_text){0};
	c->sent = 0;
	a->replies += c->reply.len;
	enter(c, WRITES);
}

/* True when the client is gone, or has to wait. */
static bool write_reply(struct lb_admin_client *c)
{
	while (c->sent < c->reply.len) {
		ssize_t n = send(c->watch.fd, c->reply.bytes + c->sent, c->reply.len - c->sent,
				 MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return true;
		if (n < 0) {
			close_client(c);
			return true;
		}
		c->sent += (size_t)n;
	}
	drop_reply(c);
	enter(c, READS);
	return false;
}

/* --- jobs ------------------------------------------------------------------------------------- */

static void job_free(struct lb_admin_job *job)
{
	if (job->drop)
		job->drop(job);
	lb_list_remove(&job->node);
	lb_admin_text_fini(&job->reply);
	free(job);
}

/* Once for each time that it was back, whoever notices. */
static void job_next(struct lb_admin_job *job)
{
	if (__atomic_exchange_n(&job->woken, false, __ATOMIC_ACQ_REL))
		job->next(job);
}

/* Only while it is known: what comes late finds the job gone on, or gone. */
static void on_back(void *arg)
{
	struct lb_admin *a = arg;
	struct lb_list *node = a->jobs.next, *next;

	for (; node != &a->jobs; node = next) {
		next = node->next;
		job_next(lb_container_of(node, struct lb_admin_job, node));
	}
}

void lb_admin_job_leave(struct lb_admin_job *job, void (*next)(struct lb_admin_job *job))
{
	job->next = next;
	__atomic_store_n(&job->away, true, __ATOMIC_RELEASE);
}

void lb_admin_job_stay(struct lb_admin_job *job)
{
	__atomic_store_n(&job->away, false, __ATOMIC_RELEASE);
}

void lb_admin_job_back(struct lb_admin_job *job)
{
	struct lb_admin *a = job->admin;

	pthread_mutex_lock(&a->lock);
	__atomic_store_n(&job->away, false, __ATOMIC_RELEASE);
	__atomic_store_n(&job->woken, true, __ATOMIC_RELEASE);
	/* From here on the job may be gone. Without memory the client's timer finds it. */
	(void)lb_loop_post(a->loop, on_back, a);
	pthread_cond_signal(&a->back);
	pthread_mutex_unlock(&a->lock);
}

void lb_admin_job_end(struct lb_admin_job *job)
{
	struct lb_admin_client *c = job->client;

	if (c) {
		c->job = NULL;
		if (job->reply.failed)
			lb_admin_text_refuse(&job->reply,
					     "the reply is too large: ask for less of it");
		reply(c, &job->reply);
	}
	job_free(job);
}

void lb_admin_job_refuse(struct lb_admin_job *job, const char *why)
{
	lb_admin_text_refuse(&job->reply, why);
	lb_admin_job_end(job);
}

static void answer_line(struct lb_admin_client *c, const char *line, size_t len)
{
	struct lb_admin *a = c->admin;
	struct lb_admin_job *job = calloc(1, sizeof(*job));
	char why[LB_ADMIN_WHY_MAX];

	if (!job) {
		close_client(c);
		return;
	}
	job->admin = a;
	job->opts = &a->opts;
	job->loop = a->loop;
	job->client = c;
	c->job = job;
	lb_list_append(&a->jobs, &job->node);
	enter(c, BUSY);
	if (lb_admin_request_parse(&job->request, line, len, why))
		lb_admin_job_refuse(job, why);
	else
		lb_admin_answer(job);
}

/* --- lines ------------------------------------------------------------------------------------ */

static void refuse_and_end(struct lb_admin_client *c, const char *why)
{
	struct lb_admin_text text = {0};

	lb_admin_text_refuse(&text, why);
	c->ended = true;
	c->line_len = 0;
	reply(c, &text);
}

/* True when a line was taken. */
static bool take_line(struct lb_admin_client *c)
{
	char line[sizeof(c->line)];
	char *end = memchr(c->line, '\n', c->line_len);
	size_t len = end ? (size_t)(end - c->line) : c->line_len;

	if (!end && c->line_len == sizeof(c->line)) {
		refuse_and_end(c, "the line is too long");
		return true;
	}
	if (!end && !(c->ended && len))
		return false;
	memcpy(line, c->line, len);
	c->line_len -= end ? len + 1 : len;
	memmove(c->line, c->line + (end ? len + 1 : len), c->line_len);
	answer_line(c, line, len);
	return true;
}

/* True when something came. */
static bool read_more(struct lb_admin_client *c)
{
	ssize_t n;

	if (c->ended)
		return false;
	do
		n = recv(c->watch.fd, c->line + c->line_len, sizeof(c->line) - c->line_len, 0);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		c->line_len += (size_t)n;
	else if (!n || errno != EAGAIN)
		c->ended = true;
	return n > 0 || c->ended;
}

static void on_again(struct lb_task *t)
{
	serve(lb_container_of(t, struct lb_admin_client, again));
}

/* A few lines; whoever has more to say takes turns with the others. */
static void serve(struct lb_admin_client *c)
{
	const struct lb_list *node = &c->node;

	for (int round = 0; !lb_list_empty(node); round++) {
		if (round == ROUNDS) {
			lb_loop_again(c->admin->loop, &c->again, on_again);
			return;
		}
		if (c->state == BUSY || (c->state == WRITES && write_reply(c)))
			return;
		if (take_line(c))
			continue;
		if (read_more(c))
			continue;
		if (c->ended)
			close_client(c);
		return;
	}
}

static void on_client(struct lb_watch *w, uint32_t events)
{
	struct lb_admin_client *c = lb_container_of(w, struct lb_admin_client, watch);

	/* Both ways closed: nobody is there to read an answer. */
	if (events & (EPOLLHUP | EPOLLERR))
		close_client(c);
	else
		serve(c);
}

static void on_time(struct lb_timer *t)
{
	struct lb_admin_client *c = lb_container_of(t, struct lb_admin_client, timer);
	uint64_t ms = lb_loop_now_ms(c->admin->loop) - c->since_ms;

	if (c->state == BUSY && ms < BUSY_MS) {
		lb_timer_start(c->admin->loop, t, LOOK_MS);
		on_back(c->admin);
		return;
	}
	close_client(c);
}

/* --- accepting -------------------------------------------------------------------------------- */

static void turn_away(int fd)
{
	static const char text[] = "{\"ok\":false,\"error\":\"too many clients\"}\n";

	(void)send(fd, text, sizeof(text) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	close(fd);
}

static void add_client(struct lb_admin *a, int fd)
{
	struct lb_admin_client *c = calloc(1, sizeof(*c));

	if (!c) {
		close(fd);
		return;
	}
	c->admin = a;
	lb_list_init(&c->node);
	lb_timer_init(&c->timer, on_time);
	if (lb_watch_add(a->loop, &c->watch, fd, EPOLLIN, on_client)) {
		close(fd);
		free(c);
		return;
	}
	lb_list_append(&a->clients, &c->node);
	a->clients_count++;
	enter(c, READS);
}

static void on_accept(struct lb_watch *w, uint32_t events)
{
	struct lb_admin *a = lb_container_of(w, struct lb_admin, watch);

	for (uint32_t i = 0; i < CLIENTS_MAX; i++) {
		int fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0)
			return;
		if (a->clients_count >= CLIENTS_MAX)
			turn_away(fd);
		else
			add_client(a, fd);
	}
}

/* --- birth and death -------------------------------------------------------------------------- */

static void *run(void *arg)
{
	struct lb_admin *a = arg;
	int err;

	pthread_setname_np(pthread_self(), "admin");
	err = lb_loop_run(a->loop);
	if (err)
		lb_err("admin socket: the event loop failed: %s", strerror(-err));
	return NULL;
}

static int open_socket(struct lb_admin *a)
{
	int err;

	if (!lb_admin_socket_path(a->opts.socket, a->opts.instance, a->path))
		return -ENAMETOOLONG;
	err = -EINVAL;
	if (a->opts.fd >= 0)
		err = lb_admin_socket_adopt(&a->socket, a->path, SOCK_STREAM, a->opts.fd);
	if (err && a->opts.fd >= 0)
		close(a->opts.fd);
	/* The daemon before us has it elsewhere. */
	if (err)
		err = lb_admin_socket_open(&a->socket, a->path, SOCK_STREAM);
	if (!err)
		err = lb_watch_add(a->loop, &a->watch, a->socket.fd, EPOLLIN, on_accept);
	return err;
}

/* True when there can be no socket for want of rights in /run, and nobody asked for another. */
static bool does_without(const struct lb_admin *a, int err)
{
	return (err == -EACCES || err == -EROFS || err == -ENOENT || err == -EPERM) &&
	       lb_admin_socket_is_default(a->opts.socket);
}

static void tell(const struct lb_admin *a, int err)
{
	if (err == -EADDRINUSE)
		lb_err("admin.socket: another process listens on %s", a->path);
	else if (does_without(a, err))
		lb_warn("no admin socket: %s: %s", a->path, strerror(-err));
	else
		lb_err("admin.socket: %s: %s (`socket: off` does without)", a->path,
		       strerror(-err));
}

int lb_admin_open(struct lb_admin **ret, const struct lb_admin_opts *opts)
{
	LB_AUTO(lb_admin_close) struct lb_admin *a = calloc(1, sizeof(*a));
	int err;

	if (!a)
		return -ENOMEM;
	a->opts = *opts;
	a->socket.fd = a->watch.fd = -1;
	lb_list_init(&a->clients);
	lb_list_init(&a->jobs);
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->back, NULL);
	err = lb_loop_new(&a->loop);
	if (!err)
		err = open_socket(a);
	if (!err)
		err = -pthread_create(&a->thread, NULL, run, a);
	if (err) {
		tell(a, err);
		return does_without(a, err) ? 0 : err;
	}
	a->runs = true;
	*ret = LB_TAKE_PTR(a);
	return 0;
}

int lb_admin_fd(const struct lb_admin *a)
{
	return a->socket.fd;
}

void lb_admin_share(struct lb_admin *a, bool shared)
{
	a->socket.shared = shared;
}

bool lb_admin_is_shared(const struct lb_admin *a)
{
	return a->socket.shared;
}

bool lb_admin_is_answering(const struct lb_admin *a)
{
	return __atomic_load_n(&a->answering, __ATOMIC_RELAXED);
}

static void do_leave(void *arg)
{
	struct lb_admin *a = arg;

	lb_watch_remove(a->loop, &a->watch, false);
	lb_admin_socket_close(&a->socket);
}

void lb_admin_leave(struct lb_admin *a)
{
	/* Without memory it answers some of those that are the other one's. */
	(void)lb_loop_post(a->loop, do_leave, a);
}

/* Others still work for it: workers and health checks run until after lb_admin_close(). */
static void wait_for(struct lb_admin *a, const struct lb_admin_job *job)
{
	pthread_mutex_lock(&a->lock);
	while (__atomic_load_n(&job->away, __ATOMIC_ACQUIRE))
		pthread_cond_wait(&a->back, &a->lock);
	pthread_mutex_unlock(&a->lock);
}

void lb_admin_close(struct lb_admin **pa)
{
	struct lb_admin *a = *pa;

	if (!a)
		return;
	*pa = NULL;
	if (a->runs) {
		lb_loop_stop(a->loop);
		pthread_join(a->thread, NULL);
	}
	while (!lb_list_empty(&a->clients))
		close_client(lb_container_of(a->clients.next, struct lb_admin_client, node));
	while (!lb_list_empty(&a->jobs)) {
		struct lb_admin_job *job = lb_container_of(a->jobs.next, struct lb_admin_job, node);

		wait_for(a, job);
		job_free(job);
	}
	/* Whoever brought the last job back may still be about to let go of the lock. */
	pthread_mutex_lock(&a->lock);
	pthread_mutex_unlock(&a->lock);
	if (a->loop) {
		lb_watch_remove(a->loop, &a->watch, false);
		lb_loop_free(a->loop);
	}
	lb_admin_socket_close(&a->socket);
	pthread_cond_destroy(&a->back);
	pthread_mutex_destroy(&a->lock);
	free(a);
}
