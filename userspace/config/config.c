/* SPDX-License-Identifier: MIT */
/*
 * Decides in which order a configuration comes to be: bytes -> tree -> structs -> what depends on
 * several keys -> contradictions. Must never hand out a configuration that had an error.
 */
#include "config/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/regular_file.h"
#include "config/config_check.h"
#include "config/config_routes.h"
#include "config/schema.h"
#include "config/yaml.h"

/* --- what is not a constant of the table ------------------------------------------------------ */

static void set_workers(struct lb_config *config, const char *num_acceptors,
			struct lb_config_notices *notices)
{
	const struct lb_schema_key *key = lb_schema_find(&lb_schema_root, "workers");
	char expected[96];

	if (!num_acceptors || !num_acceptors[0])
		return;
	if (lb_schema_value_parse(key, num_acceptors, true, &config->workers))
		lb_config_notices_add(notices, LB_CONFIG_ERROR, 0, 0, "NUM_ACCEPTORS",
				      "expected %s in the environment, found \"%.40s\"",
				      lb_schema_value_expected(key, expected, sizeof(expected)),
				      num_acceptors);
}

/* Defaults that are the value of another key. */
static void fill_in(struct lb_config *config, const struct lb_yaml_node *root,
		    const char *num_acceptors, struct lb_config_notices *notices)
{
	if (!lb_yaml_get(root, "workers"))
		set_workers(config, num_acceptors, notices);
	config->metrics_enabled = config->metrics_addr.sa.sa_family != AF_UNSPEC;

	for (size_t i = 0; i < config->rules_count; i++) {
		const struct lb_yaml_node *node = lb_yaml_at(lb_yaml_get(root, "rules"), i);
		struct lb_rule_config *rule = &config->rules[i];

		if (!lb_yaml_get(node, "acceleration"))
			rule->acceleration = config->acceleration;
		if (rule->rate_limit.enabled && !rule->rate_limit.burst)
			rule->rate_limit.burst = rule->rate_limit.requests_per_second;
		if (rule->rate_limit.enabled && !rule->rate_limit.rule_burst)
			rule->rate_limit.rule_burst = rule->rate_limit.rule_requests_per_second;
	}
}

/* --- bytes -> configuration ------------------------------------------------------------------- */

static int build(struct lb_config *config, const struct lb_yaml_node *root,
		 const char *num_acceptors, lb_config_judge judge,
		 struct lb_config_notices *notices)
{
	int r;

	r = lb_schema_read(&lb_schema_root, root, config, notices);
	if (!r && !notices->errors) {
		fill_in(config, root, num_acceptors, notices);
		r = lb_config_check(config, root, notices);
		if (!r && judge && !notices->errors)
			judge(config, root, notices);
		if (!r && !notices->errors)
			r = lb_config_routes_build(config);
	}
	lb_config_notices_sort(notices);
	if (r || notices->out_of_memory)
		return -ENOMEM;
	return notices->errors ? -EINVAL : 0;
}

static int parse(struct lb_config **ret, const char *data, size_t size, const char *num_acceptors,
		 lb_config_judge judge, struct lb_config_notices *notices)
{
	LB_AUTO(lb_config_free) struct lb_config *config = NULL;
	LB_AUTO(lb_yaml_free) struct lb_yaml *doc = NULL;
	struct lb_yaml_error error = {0};
	int r;

	r = lb_yaml_parse(&doc, data, size, &error);
	if (r == -EINVAL)
		lb_config_notices_add(notices, LB_CONFIG_ERROR, error.line, error.column, NULL,
				      "%s", error.text);
	if (r)
		return r;
	config = calloc(1, sizeof(*config));
	if (!config)
		return -ENOMEM;
	r = build(config, doc->root, num_acceptors, judge, notices);
	if (r)
		return r;
	*ret = LB_TAKE_PTR(config);
	return 0;
}

int lb_config_parse(struct lb_config **ret, const char *data, size_t size,
		    struct lb_config_notices *notices)
{
	return parse(ret, data, size, NULL, NULL, notices);
}

/* --- file -> bytes ---------------------------------------------------------------------------- */

static int read_all(int fd, char *buf, size_t size, size_t *used)
{
	size_t n = 0;

	while (n < size) {
		ssize_t r = read(fd, buf + n, size - n);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0)
			break;
		n += (size_t)r;
	}
	*used = n;
	return 0;
}

/* Pipes are as good as files; the bound holds for what has no size, too. free(3) *ret. */
static int read_file(const char *path, char **ret, size_t *size)
{
	const size_t room = LB_YAML_BYTES_MAX + 1;
	LB_AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	LB_AUTO_FREE char *buf = NULL;
	struct stat st;
	size_t used = 0;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode))
		return -EISDIR;
	buf = malloc(room);
	if (!buf)
		return -ENOMEM;
	r = read_all(fd, buf, room, &used);
	if (r)
		return r;
	if (used == room)
		return -EFBIG;
	*ret = LB_TAKE_PTR(buf);
	*size = used;
	return 0;
}

/* --- lists in files --------------------------------------------------------------------------- */

static void complain_file(struct lb_config_notices *notices, size_t rule, const char *key,
			  const char *path, size_t line, const char *text)
{
	char where[64];

	snprintf(where, sizeof(where), "rules[%zu].%s", rule, key);
	if (line)
		lb_config_notices_add(notices, LB_CONFIG_ERROR, 0, 0, where, "%s:%zu: %s", path,
				      line, text);
	else
		lb_config_notices_add(notices, LB_CONFIG_ERROR, 0, 0, where, "%s: %s", path, text);
}

static void close_file(FILE **f)
{
	if (*f)
		fclose(*f);
}

static int open_list(FILE **ret, const char *path)
{
	LB_AUTO_CLOSE int fd = lb_regular_file_open(path);

	if (fd < 0)
		return fd;
	*ret = fdopen(fd, "r");
	if (!*ret)
		return -errno;
	(void)LB_TAKE_FD(fd);
	return 0;
}

/* 0, also when something was found wrong; -ENOMEM. */
static int read_list(struct lb_prefixes *ret, const char *path, const char *key, size_t rule,
		     struct lb_config_notices *notices)
{
	LB_AUTO(close_file) FILE *in = NULL;
	char text[160];
	size_t line = 0;
	int err;

	if (!path)
		return 0;
	err = open_list(&in, path);
	if (!err)
		err = lb_prefix_file_read(in, ret, &line, text, sizeof(text));
	if (err == -ENOMEM)
		return err;
	if (err == -ENOTSUP)
		complain_file(notices, rule, key, path, 0, "not a regular file");
	else if (err && err != -EINVAL)
		complain_file(notices, rule, key, path, 0, strerrordesc_np(-err));
	else if (err)
		complain_file(notices, rule, key, path, line, text);
	return 0;
}

/* One that lets nobody in must not become one that lets everybody in. */
static int read_lists(struct lb_config *config, struct lb_config_notices *notices)
{
	for (size_t i = 0; i < config->rules_count; i++) {
		struct lb_rule_config *r = &config->rules[i];
		int err = read_list(&r->allow_file, r->allow_list_file, "allow_list_file", i,
				    notices);

		if (!err)
			err = read_list(&r->deny_file, r->deny_list_file, "deny_list_file", i,
					notices);
		if (err)
			return err;
		if (r->allow_list_file && !notices->errors && !r->allow_file.count)
			complain_file(notices, i, "allow_list_file", r->allow_list_file, 0,
				      "has no entry: leave the key out to let everybody in");
	}
	return notices->errors ? -EINVAL : 0;
}

int lb_config_load(struct lb_config **ret, const char *path, struct lb_config_notices *notices)
{
	return lb_config_load_with(ret, path, NULL, notices);
}

int lb_config_load_with(struct lb_config **ret, const char *path, lb_config_judge judge,
			struct lb_config_notices *notices)
{
	LB_AUTO(lb_config_free) struct lb_config *config = NULL;
	LB_AUTO_FREE char *data = NULL;
	size_t size = 0;
	int r;

	r = read_file(path, &data, &size);
	if (r == -EFBIG)
		lb_config_notices_add(notices, LB_CONFIG_ERROR, 1, 1, NULL,
				      "too large: more than %u bytes", LB_YAML_BYTES_MAX);
	else if (r)
		lb_config_notices_add(notices, LB_CONFIG_ERROR, 1, 1, NULL, "cannot be read: %s",
				      strerrordesc_np(-r));
	if (!r)
		r = parse(&config, data, size, getenv("NUM_ACCEPTORS"), judge, notices);
	if (!r)
		r = read_lists(config, notices);
	if (r)
		return r;

	config->path = strdup(path);
	if (!config->path)
		return -ENOMEM;
	*ret = LB_TAKE_PTR(config);
	return 0;
}

/* --- print, free ------------------------------------------------------------------------------ */

void lb_config_print(const struct lb_config *config, FILE *out)
{
	lb_schema_print(&lb_schema_root, config, out);
}

void lb_config_free(struct lb_config **config)
{
	if (!*config)
		return;
	for (size_t i = 0; i < (*config)->rules_count; i++) {
		lb_prefixes_free(&(*config)->rules[i].allow_file);
		lb_prefixes_free(&(*config)->rules[i].deny_file);
	}
	lb_config_routes_free(*config);
	lb_schema_free(&lb_schema_root, *config);
	free((*config)->path);
	free(*config);
	*config = NULL;
}
