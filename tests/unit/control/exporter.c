/* SPDX-License-Identifier: MIT */
/* Over a loopback connection: the protocol is the library's, the answers are ours. */
#include "control/exporter.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "control/page.h"

#define PATIENCE_SECONDS 10

#define PAGE "# TYPE l4lb_active_connections gauge\nl4lb_active_connections 7\n"

struct scene {
	struct lb_exporter *exporter;
	int render_result;
	bool ready;
	lb_exporter_overview_fn overview;
	char reply[65536];
};

static int render_page(FILE *out, void *arg)
{
	const struct scene *s = arg;

	fputs(PAGE, out);
	return s->render_result;
}

static bool is_ready(void *arg)
{
	const struct scene *s = arg;

	return s->ready;
}

static int open_at(struct scene *s, struct lb_exporter **ret, const struct lb_addr *addr)
{
	const struct lb_exporter_opts opts = {.addr = addr,
					      .fd = -1,
					      .render = render_page,
					      .ready = is_ready,
					      .overview = s->overview,
					      .arg = s};

	return lb_exporter_open(ret, &opts);
}

static struct lb_addr loopback(const char *text)
{
	struct lb_addr addr;

	assert_int_equal(lb_addr_parse(text, &addr), 0);
	lb_addr_set_port(&addr, 0);
	return addr;
}

static int setup_scene(void **state)
{
	static struct scene s;
	struct lb_addr addr = loopback("127.0.0.1:1");

	memset(&s, 0, sizeof(s));
	*state = &s;
	return open_at(&s, &s.exporter, &addr);
}

static int teardown_scene(void **state)
{
	struct scene *s = *state;

	lb_exporter_close(&s->exporter);
	return 0;
}

static int connected(const struct lb_addr *addr)
{
	const struct timeval patience = {.tv_sec = PATIENCE_SECONDS};
	int fd = socket(addr->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
	assert_int_equal(connect(fd, &addr->sa, lb_addr_len(addr)), 0);
	return fd;
}

/* Sends the request and reads the reply until the server closes. */
static const char *ask(struct scene *s, const struct lb_addr *addr, const char *request)
{
	int fd = connected(addr);
	size_t len = 0;
	ssize_t got;

	assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), strlen(request));
	while (len < sizeof(s->reply) - 1 &&
	       (got = recv(fd, s->reply + len, sizeof(s->reply) - 1 - len, 0)) > 0)
		len += (size_t)got;
	s->reply[len] = '\0';
	close(fd);
	return s->reply;
}

static const char *request(struct scene *s, const char *method, const char *path)
{
	char text[256];

	snprintf(text, sizeof(text), "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		 method, path);
	return ask(s, lb_exporter_addr(s->exporter), text);
}

static int status_of(const char *reply)
{
	int status = 0;

	sscanf(reply, "HTTP/1.1 %d", &status);
	return status;
}

static const char *body_of(const char *reply)
{
	const char *end = strstr(reply, "\r\n\r\n");

	return end ? end + 4 : "(no body)";
}

static void metrics_are_what_render_wrote(void **state)
{
	for (int scrape = 0; scrape < 2; scrape++) {
		const char *reply = request(*state, "GET", "/metrics");

		assert_int_equal(status_of(reply), 200);
		assert_non_null(strstr(reply, "Content-Type: text/plain; version=0.0.4"));
		assert_string_equal(body_of(reply), PAGE);
	}
}

static void head_tells_the_length_without_the_page(void **state)
{
	const char *reply = request(*state, "HEAD", "/metrics");
	char length[64];

	snprintf(length, sizeof(length), "Content-Length: %zu\r\n", strlen(PAGE));
	assert_int_equal(status_of(reply), 200);
	assert_non_null(strstr(reply, length));
	assert_string_equal(body_of(reply), "");
}

static void connection_can_be_used_for_more_than_one_scrape(void **state)
{
	struct scene *s = *state;
	const char *reply = ask(s, lb_exporter_addr(s->exporter),
				"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
				"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
	const char *second = strstr(body_of(reply), "HTTP/1.1 200");

	assert_non_null(second);
	assert_string_equal(body_of(second), PAGE);
}

static void root_points_to_the_metrics(void **state)
{
	const char *reply = request(*state, "GET", "/");

	assert_int_equal(status_of(reply), 200);
	assert_non_null(strstr(body_of(reply), "/metrics"));
}

static void questions_are_answered_by_status(void **state)
{
	struct scene *s = *state;

	assert_int_equal(status_of(request(s, "GET", "/healthz")), 200);
	assert_int_equal(status_of(request(s, "GET", "/readyz")), 503);
	s->ready = true;
	assert_int_equal(status_of(request(s, "GET", "/readyz")), 200);
	assert_int_equal(status_of(request(s, "HEAD", "/readyz")), 200);
	/* Whatever becomes of the metrics. */
	s->render_result = -EIO;
	assert_int_equal(status_of(request(s, "GET", "/healthz")), 200);
}

static void other_paths_are_not_found(void **state)
{
	static const char *const paths[] = {"/metrics/", "/metric", "/../etc/passwd", "//metrics"};

	for (size_t i = 0; i < LB_ARRAY_SIZE(paths); i++)
		assert_int_equal(status_of(request(*state, "GET", paths[i])), 404);
}

static void other_methods_are_not_allowed(void **state)
{
	static const char *const methods[] = {"POST", "PUT", "DELETE", "OPTIONS", "get"};

	for (size_t i = 0; i < LB_ARRAY_SIZE(methods); i++) {
		const char *reply = request(*state, methods[i], "/metrics");

		assert_int_equal(status_of(reply), 405);
		assert_non_null(strstr(reply, "Allow: GET, HEAD\r\n"));
	}
}

static void body_of_a_get_is_skipped(void **state)
{
	struct scene *s = *state;
	const char *reply = ask(s, lb_exporter_addr(s->exporter),
				"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
				"Content-Length: 5\r\n\r\nhello");

	assert_int_equal(status_of(reply), 200);
	assert_string_equal(body_of(reply), PAGE);
}

static void failed_render_shows_no_half_page(void **state)
{
	struct scene *s = *state;
	const char *reply;

	s->render_result = -EIO;
	reply = request(s, "GET", "/metrics");
	assert_int_equal(status_of(reply), 500);
	assert_null(strstr(reply, "l4lb_"));
}

static void address_in_use_is_said_so(void **state)
{
	struct scene *s = *state;
	struct lb_exporter *second = (void *)state;

	assert_int_equal(open_at(s, &second, lb_exporter_addr(s->exporter)), -EADDRINUSE);
	assert_ptr_equal(second, state);
}

static void address_is_free_again_after_close(void **state)
{
	struct scene *s = *state;
	struct lb_addr addr = *lb_exporter_addr(s->exporter);

	request(s, "GET", "/metrics"); /* leaves a connection in TIME_WAIT */
	lb_exporter_close(&s->exporter);
	assert_null(s->exporter);
	lb_exporter_close(&s->exporter);
	assert_int_equal(open_at(s, &s->exporter, &addr), 0);
	assert_int_equal(status_of(request(s, "GET", "/metrics")), 200);
}

static void ipv6_is_served(void **state)
{
	struct lb_addr addr = loopback("[::1]:1");
	struct scene s = {0};
	int err = open_at(&s, &s.exporter, &addr);

	if (err == -EADDRNOTAVAIL || err == -EAFNOSUPPORT) {
		print_message("no IPv6 here\n");
		skip();
	}
	assert_int_equal(err, 0);
	assert_string_equal(body_of(request(&s, "GET", "/metrics")), PAGE);
	lb_exporter_close(&s.exporter);
}

/* More clients than slots who say nothing: close does not wait for them, nor do we leak them. */
static void silent_clients_do_not_hold_up_close(void **state)
{
	struct scene *s = *state;
	char byte;
	int fds[24];

	for (size_t i = 0; i < LB_ARRAY_SIZE(fds); i++)
		fds[i] = connected(lb_exporter_addr(s->exporter));
	lb_exporter_close(&s->exporter);
	for (size_t i = 0; i < LB_ARRAY_SIZE(fds); i++) {
		assert_true(recv(fds[i], &byte, 1, 0) == 0 || errno == ECONNRESET);
		close(fds[i]);
	}
}

/* --- the dashboard ---------------------------------------------------------------------------- */

static int write_overview(char **ret, size_t *len, void *arg)
{
	const struct scene *s = arg;

	if (s->render_result)
		return s->render_result;
	*ret = strdup("{\"ok\":true}\n");
	*len = strlen(*ret);
	return 0;
}

static int setup_page(void **state)
{
	static struct scene s;
	struct lb_addr addr = loopback("127.0.0.1:1");

	memset(&s, 0, sizeof(s));
	s.overview = write_overview;
	*state = &s;
	return open_at(&s, &s.exporter, &addr);
}

static const char *request_as(struct scene *s, const char *host, const char *path)
{
	char text[256];

	snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\n%s%s%sConnection: close\r\n\r\n", path,
		 host ? "Host: " : "", host ? host : "", host ? "\r\n" : "");
	return ask(s, lb_exporter_addr(s->exporter), text);
}

static void the_page_is_there_when_it_is_wanted(void **state)
{
	const char *reply = request_as(*state, "127.0.0.1:9091", "/");
	size_t len;

	assert_int_equal(status_of(reply), 200);
	assert_non_null(strstr(reply, "Content-Type: text/html; charset=utf-8"));
	assert_memory_equal(body_of(reply), lb_page_html(&len), 100);
	reply = request_as(*state, "localhost", "/overview.json");
	assert_int_equal(status_of(reply), 200);
	assert_non_null(strstr(reply, "Content-Type: application/json"));
	assert_string_equal(body_of(reply), "{\"ok\":true}\n");
}

static void without_it_there_is_none(void **state)
{
	assert_int_equal(status_of(request_as(*state, "127.0.0.1", "/overview.json")), 404);
	assert_null(strstr(request_as(*state, "127.0.0.1", "/"), "<html"));
}

static void nobody_else_is_told_or_may_frame_it(void **state)
{
	static const char *const paths[] = {"/", "/overview.json", "/metrics", "/nothing"};

	for (size_t i = 0; i < LB_ARRAY_SIZE(paths); i++) {
		const char *reply = request_as(*state, "[::1]:9091", paths[i]);

		assert_non_null(strstr(reply, "Content-Security-Policy: default-src 'none'; "));
		assert_non_null(strstr(reply, "frame-ancestors 'none'"));
		assert_non_null(strstr(reply, "X-Content-Type-Options: nosniff"));
		assert_non_null(strstr(reply, "Cross-Origin-Resource-Policy: same-origin"));
		assert_non_null(strstr(reply, "Cache-Control: no-store"));
		assert_null(strstr(reply, "Access-Control-"));
	}
}

static void a_name_that_may_be_anybodys_gets_nothing(void **state)
{
	static const char *const hosts[] = {"evil.example", "evil.example:9091", "", NULL};

	for (size_t i = 0; i < LB_ARRAY_SIZE(hosts); i++) {
		assert_int_equal(status_of(request_as(*state, hosts[i], "/")) / 100, 4);
		assert_int_equal(status_of(request_as(*state, hosts[i], "/overview.json")) / 100,
				 4);
	}
	/* Prometheus may call us by name: metrics are no page's to read either way. */
	assert_int_equal(status_of(request_as(*state, "lb.example", "/metrics")), 200);
}

static void an_overview_that_failed_is_said_so(void **state)
{
	struct scene *s = *state;

	s->render_result = -ENOMEM;
	assert_int_equal(status_of(request_as(s, "127.0.0.1", "/overview.json")), 500);
}

#define page_test(f)  cmocka_unit_test_setup_teardown(f, setup_page, teardown_scene)
#define scene_test(f) cmocka_unit_test_setup_teardown(f, setup_scene, teardown_scene)

int main(void)
{
	const struct CMUnitTest tests[] = {
		scene_test(metrics_are_what_render_wrote),
		scene_test(head_tells_the_length_without_the_page),
		scene_test(connection_can_be_used_for_more_than_one_scrape),
		scene_test(root_points_to_the_metrics),
		scene_test(questions_are_answered_by_status),
		scene_test(other_paths_are_not_found),
		scene_test(other_methods_are_not_allowed),
		scene_test(body_of_a_get_is_skipped),
		scene_test(failed_render_shows_no_half_page),
		scene_test(address_in_use_is_said_so),
		scene_test(address_is_free_again_after_close),
		cmocka_unit_test(ipv6_is_served),
		scene_test(silent_clients_do_not_hold_up_close),
		page_test(the_page_is_there_when_it_is_wanted),
		scene_test(without_it_there_is_none),
		page_test(nobody_else_is_told_or_may_frame_it),
		page_test(a_name_that_may_be_anybodys_gets_nothing),
		page_test(an_overview_that_failed_is_said_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
