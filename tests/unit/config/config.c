/* SPDX-License-Identifier: MIT */
#include "config/config.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "config/yaml.h"
#include "support.h"

#define RULE "rules: [{name: a, listen: \":80\", backends: [\"10.0.0.1:80\"]}]\n"

/* A file of its own with <size> bytes of <text>; <path> is filled in. Removed by the caller. */
static void write_file(char path[32], const char *text, size_t size)
{
	int fd;

	strcpy(path, "/tmp/lb-config-XXXXXX");
	fd = mkostemp(path, O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, size), size);
	close(fd);
}

/* Loads <path>, which must fail with <error> and say <words>. */
static void check_load_fails(const char *path, int error, const char *words)
{
	struct lb_config *config = (struct lb_config *)&config;
	struct lb_config_notices notices = {0};
	LB_AUTO_FREE char *lines = NULL;

	assert_int_equal(lb_config_load(&config, path, &notices), error);
	assert_ptr_equal(config, &config);
	lines = listed(&notices);
	if (!strstr(lines, words))
		fail_msg("\"%s\" does not say \"%s\"", lines, words);
	lb_config_notices_fini(&notices);
}

static void defaults_are_those_of_the_contract(void **state)
{
	struct lb_config_notices notices = {0};
	LB_AUTO(lb_config_free) struct lb_config *config = loaded(RULE, &notices);
	const struct lb_rule_config *rule = &config->rules[0];
	char addr[LB_ADDR_STR_MAX];

	assert_int_equal(notices.count, 0);
	assert_null(config->path);
	assert_int_equal(config->log_level, LB_LOG_INFO);
	assert_int_equal(config->workers, 0);
	assert_int_equal(config->acceleration, LB_ACCELERATION_AUTO);
	assert_null(config->access_log.path);
	assert_true(config->metrics_enabled);
	assert_string_equal(lb_addr_format(&config->metrics_addr, addr), "127.0.0.1:9091");
	assert_string_equal(config->admin.socket, "/run/layer4-lb/admin.sock");
	assert_false(config->cluster.enabled);

	assert_int_equal(config->rules_count, 1);
	assert_string_equal(lb_addr_format(&rule->listen, addr), "0.0.0.0:80");
	assert_int_equal(rule->balance, LB_BALANCE_WEIGHTED_ROUND_ROBIN);
	assert_int_equal(rule->acceleration, LB_ACCELERATION_AUTO);
	assert_int_equal(rule->timeouts.connect_ms, 5000);
	assert_int_equal(rule->timeouts.idle_ms, 600000);
	assert_int_equal(rule->timeouts.handshake_ms, 10000);
	assert_int_equal(rule->timeouts.max_lifetime_ms, 0);
	assert_int_equal(rule->timeouts.drain_ms, 30000);
	assert_int_equal(rule->retries, 2);
	assert_false(rule->tls.enabled);
	assert_true(rule->tls.session_tickets);
	assert_int_equal(rule->rate_limit.ipv6_prefix, 64);
	assert_int_equal(rule->backends[0].weight, 1);
	assert_false(rule->backends[0].drain);
}

static void backends_are_taken_apart(void **state)
{
	struct lb_config_notices notices = {0};
	LB_AUTO(lb_config_free)
	struct lb_config *config = loaded(
		"rules:\n"
		"  - name: a\n"
		"    listen: \":80\"\n"
		"    backends: [\"app.internal:81\", {addr: \"[2001:db8::1]:82\", weight: 9}]\n",
		&notices);
	const struct lb_backend_config *b = config->rules[0].backends;

	assert_int_equal(config->rules[0].backends_count, 2);
	assert_string_equal(b[0].addr, "app.internal:81");
	assert_string_equal(b[0].host, "app.internal");
	assert_int_equal(b[0].port, 81);
	assert_string_equal(b[1].addr, "[2001:db8::1]:82");
	assert_string_equal(b[1].host, "2001:db8::1");
	assert_int_equal(b[1].port, 82);
	assert_int_equal(b[1].weight, 9);
}

static void num_acceptors_counts_when_workers_is_absent(void **state)
{
	static const struct {
		const char *env;
		const char *text;
		uint32_t workers;
	} cases[] = {
		{"3", RULE, 3},
		{"", RULE, 0},
		{"0", RULE, 0},
		{NULL, RULE, 0},
		{"3", "workers: 5\n" RULE, 5},
		{"3", "workers: 0\n" RULE, 0},
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++) {
		LB_AUTO(lb_config_free) struct lb_config *config = NULL;
		struct lb_config_notices notices = {0};
		char path[32];

		write_file(path, cases[i].text, strlen(cases[i].text));
		if (cases[i].env)
			setenv("NUM_ACCEPTORS", cases[i].env, 1);
		else
			unsetenv("NUM_ACCEPTORS");
		assert_int_equal(lb_config_load(&config, path, &notices), 0);
		assert_int_equal(config->workers, cases[i].workers);
		assert_string_equal(config->path, path);
		lb_config_notices_fini(&notices);
		unlink(path);
	}
	unsetenv("NUM_ACCEPTORS");
}

static void a_bad_num_acceptors_is_an_error(void **state)
{
	static const char *const cases[] = {"many", "257", "-1", "4 ", "\x1b"};
	char path[32];

	write_file(path, RULE, strlen(RULE));
	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++) {
		setenv("NUM_ACCEPTORS", cases[i], 1);
		check_load_fails(
			path, -EINVAL,
			"NUM_ACCEPTORS: expected a number from 0 to 256 in the environment");
	}
	unsetenv("NUM_ACCEPTORS");
	unlink(path);
}

static void parsing_memory_does_not_look_at_the_environment(void **state)
{
	struct lb_config_notices notices = {0};
	LB_AUTO(lb_config_free) struct lb_config *config = NULL;

	setenv("NUM_ACCEPTORS", "7", 1);
	config = loaded(RULE, &notices);
	assert_int_equal(config->workers, 0);
	unsetenv("NUM_ACCEPTORS");
}

static void what_cannot_be_read_is_named(void **state)
{
	char *big = calloc(1, LB_YAML_BYTES_MAX + 1);
	char path[32];

	check_load_fails("/nonexistent/lb.yaml", -ENOENT, "1:1: cannot be read: No such file");
	check_load_fails("/tmp", -EISDIR, "1:1: cannot be read: Is a directory");
	check_load_fails("/dev/null", -EINVAL, "1:1: the file is empty");
	check_load_fails("/dev/zero", -EFBIG, "too large");

	assert_non_null(big);
	memset(big, '#', LB_YAML_BYTES_MAX + 1);
	write_file(path, big, LB_YAML_BYTES_MAX + 1);
	check_load_fails(path, -EFBIG, "1:1: too large: more than 8388608 bytes");
	unlink(path);
	free(big);
}

static void a_pipe_is_as_good_as_a_file(void **state)
{
	LB_AUTO(lb_config_free) struct lb_config *config = NULL;
	struct lb_config_notices notices = {0};
	char path[32];
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_int_equal(write(fds[1], RULE, strlen(RULE)), strlen(RULE));
	close(fds[1]);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fds[0]);
	assert_int_equal(lb_config_load(&config, path, &notices), 0);
	assert_int_equal(config->rules_count, 1);
	close(fds[0]);
}

/* Its other end is nobody's: whoever waited for it would hang here. */
static void a_list_is_no_pipe(void **state)
{
	char path[32], text[256];
	char fifo[40];

	write_file(path, "", 0);
	snprintf(fifo, sizeof(fifo), "%s.fifo", path);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	snprintf(text, sizeof(text),
		 "rules: [{name: a, listen: \":80\", backends: [\"10.0.0.1:80\"], "
		 "deny_list_file: %s}]\n",
		 fifo);
	unlink(path);
	write_file(path, text, strlen(text));
	check_load_fails(path, -EINVAL, "not a regular file");
	unlink(path);
	unlink(fifo);
}

/* The search for circles is recursive; a chain through all rules is as deep as it gets. */
static void the_longest_chain_of_rules_is_followed(void **state)
{
	enum { RULES = 4096 };
	LB_AUTO(lb_config_free) struct lb_config *config = NULL;
	struct lb_config_notices notices = {0};
	LB_AUTO_FREE char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	assert_non_null(out);
	fputs("rules:\n", out);
	for (unsigned i = 0; i < RULES; i++)
		fprintf(out, "- {name: r%u, listen: \":%u\", backends: [\"127.0.0.1:%u\"]}\n", i,
			10000 + i, 10000 + (i + 1) % RULES);
	assert_int_equal(fclose(out), 0);
	config = loaded(text, &notices);
	assert_int_equal(notices.count, 1);
	assert_string_equal(notices.items[0].key, "rules[4095].backends[0]");
	lb_config_notices_fini(&notices);
}

static void a_refused_text_leaves_the_output_alone(void **state)
{
	struct lb_config *config = (struct lb_config *)&config;
	struct lb_config_notices notices = {0};

	assert_int_equal(lb_config_parse(&config, "rules: 1", 8, &notices), -EINVAL);
	assert_ptr_equal(config, &config);
	assert_true(lb_config_notices_refuse(&notices));
	lb_config_notices_fini(&notices);
}

static void freeing_nothing_is_fine_and_freeing_clears(void **state)
{
	struct lb_config_notices notices = {0};
	struct lb_config *config = NULL;

	lb_config_free(&config);
	config = loaded(RULE, &notices);
	lb_config_free(&config);
	assert_null(config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults_are_those_of_the_contract),
		cmocka_unit_test(backends_are_taken_apart),
		cmocka_unit_test(num_acceptors_counts_when_workers_is_absent),
		cmocka_unit_test(a_bad_num_acceptors_is_an_error),
		cmocka_unit_test(parsing_memory_does_not_look_at_the_environment),
		cmocka_unit_test(what_cannot_be_read_is_named),
		cmocka_unit_test(a_pipe_is_as_good_as_a_file),
		cmocka_unit_test(a_list_is_no_pipe),
		cmocka_unit_test(the_longest_chain_of_rules_is_followed),
		cmocka_unit_test(a_refused_text_leaves_the_output_alone),
		cmocka_unit_test(freeing_nothing_is_fine_and_freeing_clears),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
