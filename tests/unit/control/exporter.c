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

#define PATIENCE_SECONDS 10

#define PAGE "# TYPE l4lb_active_connections gauge\nl4lb_active_connections 7\n"

struct scene {
	struct lb_exporter *exporter;
	int render_result;
	bool ready;
	char reply[8192];
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
	return lb_exporter_open(&s.exporter, &addr, render_page, is_ready, &s);
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

	assert_int_equal(
		lb_exporter_open(&second, lb_exporter_addr(s->exporter), render_page, is_ready, s),
		-EADDRINUSE);
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
	assert_int_equal(lb_exporter_open(&s->exporter, &addr, render_page, is_ready, s), 0);
	assert_int_equal(status_of(request(s, "GET", "/metrics")), 200);
}

static void ipv6_is_served(void **state)
{
	struct lb_addr addr = loopback("[::1]:1");
	struct scene s = {0};
	int err = lb_exporter_open(&s.exporter, &addr, render_page, is_ready, &s);

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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
