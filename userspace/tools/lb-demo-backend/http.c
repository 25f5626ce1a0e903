/* SPDX-License-Identifier: MIT */
/*
 * HTTP: every answer says which backend gave it. libmicrohttpd parses, keeps alive and pipelines in
 * a thread of its own; this file decides what the paths answer. The library polls: in its epoll
 * mode (seen with 0.9.75) it forgets a FIN that comes together with the last bytes of a request,
 * and a client that half-closes would wait for ever.
 *
 * Two threads: the library's calls everything from "what the library calls" on up, the loop's owns
 * the timers of slow answers. They share the list of suspended requests, under http->lock.
 */
#include <errno.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "tools/common/pattern.h"
#include "tools/common/tool.h"
#include "tools/lb-demo-backend/demo.h"

#define HEADERS_MAX     8192u
#define CONN_MEMORY     (3 * HEADERS_MAX) /* headers, their table, the head of the answer */
#define CONNECTIONS_MAX 19000u            /* below the usual hard limit of descriptors */
#define STREAM_MAX      (1ull << 30)
#define STREAM_BLOCK    (64u * 1024u)
#define SLOW_MS_MAX     600000u
#define TEXT_MAX        768

struct lb_demo_http {
	struct lb_loop *loop;
	const char *name;
	struct MHD_Daemon *daemon;
	unsigned long long requests;
	pthread_mutex_t lock;
	struct lb_list slow; /* under lock: suspended requests */
	bool stopping;       /* under lock: nothing is suspended any more */
};

struct connection {
	unsigned long long requests;
};

/* A connection's request from its head to the last byte of its answer. */
struct request {
	struct lb_demo_http *http;
	struct MHD_Connection *conn;
	struct lb_list node;   /* of http->slow while suspended */
	struct lb_timer timer; /* the loop's thread */
	uint64_t slow_ms;
	unsigned long long of_connection, of_backend; /* which request it is, from 1 */
	unsigned long long body_bytes;
	bool too_long;
	bool waited;
};

/* --- slow answers ----------------------------------------------------------------------------- */

/* Under lock, from either thread. */
static void resume(struct request *rq)
{
	lb_list_remove(&rq->node);
	rq->waited = true;
	MHD_resume_connection(rq->conn);
}

/* The loop's thread. */
static void on_slow_over(struct lb_timer *t)
{
	struct request *rq = lb_container_of(t, struct request, timer);
	struct lb_demo_http *h = rq->http;

	pthread_mutex_lock(&h->lock);
	resume(rq);
	pthread_mutex_unlock(&h->lock);
}

/* The loop's thread. A suspended request lives at least until it is resumed. */
static void start_timer(void *arg)
{
	struct request *rq = arg;

	lb_timer_start(rq->http->loop, &rq->timer, rq->slow_ms);
}

/* The library's thread: the answer is asked for again when the request has been resumed. */
static enum MHD_Result wait_first(struct request *rq, uint64_t ms)
{
	struct lb_demo_http *h = rq->http;

	rq->slow_ms = ms;
	pthread_mutex_lock(&h->lock);
	lb_list_append(&h->slow, &rq->node);
	MHD_suspend_connection(rq->conn);
	if (h->stopping || lb_loop_post(h->loop, start_timer, rq) < 0)
		resume(rq);
	pthread_mutex_unlock(&h->lock);
	return MHD_YES;
}

/* --- answers ---------------------------------------------------------------------------------- */

static enum MHD_Result send_response(struct request *rq, unsigned int status,
				     struct MHD_Response *response, bool close)
{
	enum MHD_Result ok;

	if (!response)
		return MHD_NO;
	ok = MHD_add_response_header(response, "X-Backend", rq->http->name);
	if (ok == MHD_YES && close)
		ok = MHD_add_response_header(response, "Connection", "close");
	if (ok == MHD_YES)
		ok = MHD_queue_response(rq->conn, status, response);
	MHD_destroy_response(response);
	return ok;
}

static enum MHD_Result send_text(struct request *rq, unsigned int status, const char *text,
				 bool close)
{
	struct MHD_Response *response;

	/* The library's signature lacks a const; with MUST_COPY it only reads. */
	response = MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text,
						   MHD_RESPMEM_MUST_COPY);
	if (response)
		(void)MHD_add_response_header(response, "Content-Type", "text/plain");
	return send_response(rq, status, response, close);
}

/* The line that shows where a request ended up, and over how warm a connection. */
static enum MHD_Result send_greeting(struct request *rq, unsigned int status, const char *method,
				     bool close)
{
	const union MHD_ConnectionInfo *info;
	char peer[LB_ADDR_STR_MAX] = "?", text[TEXT_MAX];
	size_t n;

	info = MHD_get_connection_info(rq->conn, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
	if (info && info->client_addr)
		lb_addr_format((const struct lb_addr *)(const void *)info->client_addr, peer);
	n = (size_t)snprintf(
		text, sizeof(text),
		"%s: hello %s, request %llu of this connection, %llu of this backend\n",
		rq->http->name, peer, rq->of_connection, rq->of_backend);
	if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0 && n < sizeof(text))
		snprintf(text + n, sizeof(text) - n, "received %llu bytes\n", rq->body_bytes);
	return send_text(rq, status, text, close);
}

static ssize_t read_pattern(void *cls, uint64_t pos, char *buf, size_t max)
{
	size_t n = max < LB_PATTERN_WINDOW ? max : LB_PATTERN_WINDOW;

	memcpy(buf, lb_pattern_at(pos), n);
	return (ssize_t)n;
}

static enum MHD_Result send_bytes(struct request *rq, uint64_t bytes)
{
	struct MHD_Response *response;

	/* The library asks for a block when the socket has taken the one before. */
	response = MHD_create_response_from_callback(bytes, STREAM_BLOCK, read_pattern, NULL, NULL);
	if (response)
		(void)MHD_add_response_header(response, "Content-Type", "application/octet-stream");
	return send_response(rq, MHD_HTTP_OK, response, false);
}

static enum MHD_Result answer(struct request *rq, const char *url, const char *method)
{
	uint64_t n;

	if (strncmp(url, "/bytes/", 7) == 0 &&
	    lb_tool_parse_number(url + 7, 0, STREAM_MAX, &n) == 0)
		return send_bytes(rq, n);
	if (strncmp(url, "/status/", 8) == 0 && lb_tool_parse_number(url + 8, 200, 599, &n) == 0)
		return send_greeting(rq, (unsigned int)n, method, false);
	if (strncmp(url, "/slow/", 6) == 0 &&
	    lb_tool_parse_number(url + 6, 0, SLOW_MS_MAX, &n) == 0) {
		if (!rq->waited)
			return wait_first(rq, n);
		return send_greeting(rq, MHD_HTTP_OK, method, false);
	}
	if (strcmp(url, "/health") == 0)
		return send_text(rq, MHD_HTTP_OK, "ok\n", false);
	if (strcmp(url, "/close") == 0)
		return send_greeting(rq, MHD_HTTP_OK, method, true);
	if (strcmp(url, "/") == 0)
		return send_greeting(rq, MHD_HTTP_OK, method, false);
	return send_text(rq, MHD_HTTP_NOT_FOUND,
			 "try /  /health  /bytes/N  /slow/MS  /status/NNN  /close\n", false);
}

/* --- what the library calls ------------------------------------------------------------------- */

static void on_connection(void *cls, struct MHD_Connection *conn, void **context,
			  enum MHD_ConnectionNotificationCode what)
{
	if (what == MHD_CONNECTION_NOTIFY_STARTED) {
		*context = calloc(1, sizeof(struct connection));
		return;
	}
	free(*context);
	*context = NULL;
}

/* NULL when there was no memory for it. */
static struct connection *connection_of(struct MHD_Connection *conn)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return info ? info->socket_context : NULL;
}

static struct request *request_new(struct lb_demo_http *h, struct MHD_Connection *conn)
{
	const union MHD_ConnectionInfo *head =
		MHD_get_connection_info(conn, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
	struct connection *c = connection_of(conn);
	struct request *rq = c ? calloc(1, sizeof(*rq)) : NULL;

	if (!rq)
		return NULL;
	rq->http = h;
	rq->conn = conn;
	rq->of_connection = ++c->requests;
	rq->of_backend = ++h->requests;
	rq->too_long = head && head->header_size > HEADERS_MAX;
	lb_list_init(&rq->node);
	lb_timer_init(&rq->timer, on_slow_over);
	return rq;
}

/* Called at the head, for each piece of the body, at its end, and again after a suspension. */
static enum MHD_Result on_request(void *cls, struct MHD_Connection *conn, const char *url,
				  const char *method, const char *version, const char *body,
				  size_t *body_size, void **context)
{
	struct lb_demo_http *h = cls;
	struct request *rq = *context;

	if (!rq) {
		rq = request_new(h, conn);
		if (!rq)
			return MHD_NO;
		*context = rq;
		if (rq->too_long)
			return send_text(rq, MHD_HTTP_REQUEST_HEADER_FIELDS_TOO_LARGE,
					 "more than 8192 bytes of headers\n", true);
		return MHD_YES;
	}
	if (*body_size) {
		rq->body_bytes += *body_size;
		*body_size = 0;
		return MHD_YES;
	}
	return answer(rq, url, method);
}

static void on_completed(void *cls, struct MHD_Connection *conn, void **context,
			 enum MHD_RequestTerminationCode code)
{
	free(*context);
	*context = NULL;
}

/* --- life ------------------------------------------------------------------------------------- */

static struct MHD_Daemon *start(struct lb_demo_http *h, int fd)
{
	return MHD_start_daemon(
		MHD_USE_POLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request,
		h, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		(size_t)CONN_MEMORY, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX,
		MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_NOTIFY_CONNECTION,
		on_connection, NULL, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
}

int lb_demo_http_new(struct lb_demo_http **ret, struct lb_loop *loop, const struct lb_addr *addr,
		     const char *name)
{
	LB_AUTO_FREE struct lb_demo_http *h = calloc(1, sizeof(*h));
	int fd;

	if (!h)
		return -ENOMEM;
	h->loop = loop;
	h->name = name;
	lb_list_init(&h->slow);
	pthread_mutex_init(&h->lock, NULL);
	fd = lb_tool_listen(addr);
	if (fd < 0)
		return fd;
	/* From here on the daemon's descriptor. */
	h->daemon = start(h, fd);
	if (!h->daemon)
		return -ENOMEM;
	*ret = LB_TAKE_PTR(h);
	return 0;
}

void lb_demo_http_free(struct lb_demo_http *h)
{
	if (!h)
		return;
	/* The library aborts the process when it is stopped with a suspended connection. */
	pthread_mutex_lock(&h->lock);
	h->stopping = true;
	while (!lb_list_empty(&h->slow)) {
		struct request *rq = lb_container_of(h->slow.next, struct request, node);

		lb_timer_stop(h->loop, &rq->timer);
		resume(rq);
	}
	pthread_mutex_unlock(&h->lock);
	MHD_stop_daemon(h->daemon);
	pthread_mutex_destroy(&h->lock);
	free(h);
}
