/* SPDX-License-Identifier: MIT */
/*
 * Decides what an HTTP client of the metrics address gets to see. libmicrohttpd speaks the
 * protocol; the listening socket is made here, because the library does not say why it could not.
 * Must never show anything but the metrics and, if it is wanted, the dashboard; nor the latter to a
 * page of somebody else; nor let a client hold more than a connection slot.
 */
#include "control/exporter.h"

#include <errno.h>
#include <microhttpd.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/page.h"

#define CONNECTIONS_MAX 16u
#define IDLE_SECONDS    10u
#define BACKLOG         16

#define TYPE_PLAIN   "text/plain; charset=utf-8"
#define TYPE_METRICS "text/plain; version=0.0.4; charset=utf-8"
#define TYPE_PAGE    "text/html; charset=utf-8"
#define TYPE_JSON    "application/json"

/* How long lb_exporter_pause() waits for those that ask, and how often it looks. */
#define PAUSE_LOOKS     2000
#define PAUSE_LOOKS_MIN 10
#define PAUSE_LOOK_NS   2000000L

struct lb_exporter {
	struct MHD_Daemon *daemon; /* NULL: it did not start again */
	int fd;                    /* the library's; paused: ours */
	uint32_t asking;           /* atomic: connections from which a request is expected .. */
	bool paused;               /* .. atomic: and none is taken any more from others */
	struct lb_addr addr;
	lb_exporter_render_fn render;
	lb_exporter_ready_fn ready;
	lb_exporter_overview_fn overview;
	void *arg;
	char policy[LB_PAGE_POLICY_MAX];
};

/*
 * Of all answers when there is a dashboard: it is for itself alone, and is what it says it is. No
 * header allows another origin anything.
 */
static enum MHD_Result add_headers(struct MHD_Response *response, const struct lb_exporter *e)
{
	const char *const headers[][2] = {
		{MHD_HTTP_HEADER_CONTENT_SECURITY_POLICY, e->policy},
		{MHD_HTTP_HEADER_CACHE_CONTROL, "no-store"},
		{"X-Content-Type-Options", "nosniff"},
		{"Referrer-Policy", "no-referrer"},
		{"Cross-Origin-Resource-Policy", "same-origin"},
		{"Cross-Origin-Opener-Policy", "same-origin"},
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(headers); i++)
		if (MHD_add_response_header(response, headers[i][0], headers[i][1]) != MHD_YES)
			return MHD_NO;
	return MHD_YES;
}

/* Takes over <body>, from malloc; NULL stands for no memory and breaks the connection off. */
static enum MHD_Result answer(struct MHD_Connection *c, const struct lb_exporter *e,
			      unsigned status, const char *type, char *body, size_t len)
{
	struct MHD_Response *response;
	enum MHD_Result result;

	if (!body)
		return MHD_NO;
	response = MHD_create_response_from_buffer(len, body, MHD_RESPMEM_MUST_FREE);
	if (!response) {
		free(body);
		return MHD_NO;
	}
	result = MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	if (result == MHD_YES && status == MHD_HTTP_METHOD_NOT_ALLOWED)
		result = MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
	if (result == MHD_YES && e->overview)
		result = add_headers(response, e);
	if (result == MHD_YES)
		result = MHD_queue_response(c, status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result answer_text(struct MHD_Connection *c, const struct lb_exporter *e,
				   unsigned status, const char *text)
{
	return answer(c, e, status, TYPE_PLAIN, strdup(text), strlen(text));
}

static enum MHD_Result answer_metrics(struct MHD_Connection *c, const struct lb_exporter *e)
{
	char *body = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&body, &len);
	int err;

	if (!out)
		return MHD_NO;
	err = e->render(out, e->arg);
	/* What does not fit into memory shows here at the latest; half a page would be a lie. */
	if (fclose(out) && !err)
		err = -errno;
	if (err) {
		free(body);
		return answer_text(c, e, MHD_HTTP_INTERNAL_SERVER_ERROR,
				   "The metrics could not be written.\n");
	}
	return answer(c, e, MHD_HTTP_OK, TYPE_METRICS, body, len);
}

static enum MHD_Result answer_ready(struct MHD_Connection *c, const struct lb_exporter *e)
{
	if (e->ready(e->arg))
		return answer_text(c, e, MHD_HTTP_OK, "ready\n");
	return answer_text(c, e, MHD_HTTP_SERVICE_UNAVAILABLE, "not ready\n");
}

static enum MHD_Result answer_overview(struct MHD_Connection *c, const struct lb_exporter *e)
{
	char *body = NULL;
	size_t len = 0;

	if (e->overview(&body, &len, e->arg))
		return answer_text(c, e, MHD_HTTP_INTERNAL_SERVER_ERROR,
				   "The overview could not be written.\n");
	return answer(c, e, MHD_HTTP_OK, TYPE_JSON, body, len);
}

static enum MHD_Result answer_page(struct MHD_Connection *c, const struct lb_exporter *e)
{
	size_t len;
	const char *html = lb_page_html(&len);
	char *body = malloc(len);

	if (body)
		memcpy(body, html, len);
	return answer(c, e, MHD_HTTP_OK, TYPE_PAGE, body, len);
}

/* Whoever asks for a dashboard by a name that may be anybody's gets none. */
static enum MHD_Result answer_dashboard(struct MHD_Connection *c, const struct lb_exporter *e,
					const char *url)
{
	const char *host = MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_HOST);

	if (!lb_page_host_is_fine(host))
		return answer_text(c, e, MHD_HTTP_FORBIDDEN,
				   "Ask for it by its address, or as localhost.\n");
	return strcmp(url, "/") ? answer_overview(c, e) : answer_page(c, e);
}

/* --- connections ------------------------------------------------------------------------------ */

/* Its own memory: a request is expected, or under way. NULL: nobody waits for its end. */
static bool *asks_of(struct MHD_Connection *c)
{
	return MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

static void set_asks(struct lb_exporter *e, bool *asks, bool to)
{
	if (*asks == to)
		return;
	*asks = to;
	__atomic_fetch_add(&e->asking, to ? 1 : -1, __ATOMIC_SEQ_CST);
}

/* False: it is too late, and nothing was asked before. */
static bool expect(struct lb_exporter *e, struct MHD_Connection *c)
{
	bool *asks = asks_of(c);
	bool fresh = asks && *asks;

	if (asks)
		set_asks(e, asks, true);
	if (fresh || !__atomic_load_n(&e->paused, __ATOMIC_SEQ_CST))
		return true;
	if (asks)
		set_asks(e, asks, false);
	return false;
}

static void on_connection(void *cls, struct MHD_Connection *c, void **context,
			  enum MHD_ConnectionNotificationCode code)
{
	bool *asks = *context;

	if (code == MHD_CONNECTION_NOTIFY_STARTED) {
		asks = calloc(1, sizeof(*asks));
		if (asks)
			set_asks(cls, asks, true);
		*context = asks;
		return;
	}
	if (asks)
		set_asks(cls, asks, false);
	free(asks);
	*context = NULL;
}

static void on_completed(void *cls, struct MHD_Connection *c, void **request,
			 enum MHD_RequestTerminationCode code)
{
	bool *asks = asks_of(c);

	if (asks)
		set_asks(cls, asks, false);
}

/* --- requests --------------------------------------------------------------------------------- */

static enum MHD_Result on_request(void *cls, struct MHD_Connection *c, const char *url,
				  const char *method, const char *version, const char *upload,
				  size_t *upload_len, void **request)
{
	struct lb_exporter *e = cls;

	/* Whoever is told nothing on a connection that was answered before asks anew (RFC 9110,
	 * 9.2.2), and then the other one. */
	if (!*request && !expect(e, c))
		return MHD_NO;
	/* Answered before the body is read, which therefore is not. */
	if (strcmp(method, MHD_HTTP_METHOD_GET) && strcmp(method, MHD_HTTP_METHOD_HEAD))
		return answer_text(c, e, MHD_HTTP_METHOD_NOT_ALLOWED, "Only GET and HEAD.\n");
	/* The first call is for the headers alone, and answering it would end the connection. */
	if (!*request) {
		*request = cls;
		return MHD_YES;
	}
	if (*upload_len) {
		*upload_len = 0; /* a GET with a body: skip it */
		return MHD_YES;
	}
	if (!strcmp(url, "/metrics"))
		return answer_metrics(c, e);
	if (!strcmp(url, "/healthz"))
		return answer_text(c, e, MHD_HTTP_OK, "ok\n");
	if (!strcmp(url, "/readyz"))
		return answer_ready(c, e);
	if (e->overview && (!strcmp(url, "/") || !strcmp(url, "/overview.json")))
		return answer_dashboard(c, e, url);
	if (!strcmp(url, "/"))
		return answer_text(c, e, MHD_HTTP_OK, "layer4-lb: the metrics are at /metrics\n");
	return answer_text(c, e, MHD_HTTP_NOT_FOUND, "Not found; the metrics are at /metrics\n");
}

/* A listening socket or -errno. <addr> gets the port that the kernel chose. */
static int listen_on(struct lb_addr *addr)
{
	LB_AUTO_CLOSE int fd = -1;
	socklen_t len = sizeof(*addr);
	int one = 1;

	fd = socket(addr->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* Connections of an earlier run in TIME_WAIT must not keep us from the address. */
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    bind(fd, &addr->sa, lb_addr_len(addr)) || listen(fd, BACKLOG) ||
	    getsockname(fd, &addr->sa, &len))
		return -errno;
	return LB_TAKE_FD(fd);
}

/* Signals are for the main thread. NULL: no memory, descriptors or threads. */
static struct MHD_Daemon *start_daemon(struct lb_exporter *e, int fd)
{
	struct MHD_Daemon *daemon;
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	/* Without MHD_USE_ERROR_LOG: the library must not write to our standard error. */
	daemon = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL | MHD_USE_ITC, 0,
				  NULL, NULL, on_request, e, MHD_OPTION_LISTEN_SOCKET, fd,
				  MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX,
				  MHD_OPTION_NOTIFY_CONNECTION, on_connection, e,
				  MHD_OPTION_NOTIFY_COMPLETED, on_completed, e,
				  MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS, MHD_OPTION_END);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return daemon;
}

/* 0 or -errno. */
static int prepare_page(struct lb_exporter *e)
{
	size_t len;
	const char *html = lb_page_html(&len);

	return e->overview ? lb_page_policy(html, len, e->policy) : 0;
}

int lb_exporter_open(struct lb_exporter **ret, const struct lb_exporter_opts *opts)
{
	LB_AUTO_FREE struct lb_exporter *e = calloc(1, sizeof(*e));
	int fd, err;

	if (!e)
		return -ENOMEM;
	e->addr = *opts->addr;
	e->render = opts->render;
	e->ready = opts->ready;
	e->overview = opts->overview;
	e->arg = opts->arg;
	err = prepare_page(e);
	if (err)
		return err;
	fd = opts->fd >= 0 ? opts->fd : listen_on(&e->addr);
	if (fd < 0)
		return fd;
	/*
	 * On some of its failures the library has closed <fd>, on others not. Closing it again
	 * could hit a stranger's descriptor, so the lesser evil is to leave it open.
	 */
	e->daemon = start_daemon(e, fd);
	if (!e->daemon)
		return -ENOMEM;
	e->fd = fd;
	*ret = LB_TAKE_PTR(e);
	return 0;
}

const struct lb_addr *lb_exporter_addr(const struct lb_exporter *e)
{
	return &e->addr;
}

int lb_exporter_fd(const struct lb_exporter *e)
{
	return e->fd;
}

void lb_exporter_pause(struct lb_exporter *e)
{
	const struct timespec look = {.tv_nsec = PAUSE_LOOK_NS};

	if (!e->daemon || e->paused)
		return;
	(void)MHD_quiesce_daemon(e->daemon);
	__atomic_store_n(&e->paused, true, __ATOMIC_SEQ_CST);
	/* One that it was just accepting is known by and by. */
	for (int i = 0; i < PAUSE_LOOKS; i++) {
		nanosleep(&look, NULL);
		if (i >= PAUSE_LOOKS_MIN && !__atomic_load_n(&e->asking, __ATOMIC_SEQ_CST))
			return;
	}
}

void lb_exporter_resume(struct lb_exporter *e)
{
	if (!e->paused)
		return;
	MHD_stop_daemon(e->daemon);
	e->paused = false;
	e->daemon = start_daemon(e, e->fd);
	if (e->daemon)
		return;
	/* It may be closed: see lb_exporter_open(). */
	e->fd = -1;
	lb_warn("the metrics address is not in service any more: out of memory");
}

void lb_exporter_leave(struct lb_exporter *e)
{
	if (!e->paused)
		return;
	close(e->fd);
	e->fd = -1;
}

void lb_exporter_close(struct lb_exporter **e)
{
	if (!*e)
		return;
	if ((*e)->daemon)
		MHD_stop_daemon((*e)->daemon);
	/* A quiet library leaves it to us. */
	if ((*e)->paused && (*e)->fd >= 0)
		close((*e)->fd);
	free(*e);
	*e = NULL;
}
