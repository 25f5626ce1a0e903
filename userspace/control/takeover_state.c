/* SPDX-License-Identifier: MIT */
/*
 * See takeover_state.h. Everything is found by its name: rules, backends, the words of the .def
 * files. Must never let a counter fall: what comes later is never less than what came before.
 */
#include "control/takeover_state.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "control/service_parts.h"
#include "control/takeover_backends.h"
#include "control/takeover_wire.h"
#include "flow/account.h"

#define SEALS     (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)
#define NAME_MAX_ 512u
#define KEY_MAX   640u

static void release(json_t **j)
{
	json_decref(*j);
}

/* --- counters --------------------------------------------------------------------------------- */

static const char *carrier_word(uint32_t i)
{
	static const char *const words[LB_CARRIER_MAX_] = {
		[LB_CARRIER_RELAY] = "relay",
		[LB_CARRIER_SOCKMAP] = "sockmap",
		[LB_CARRIER_GRAFT] = "graft",
	};

	return words[i];
}

static const char *why_word(uint32_t i)
{
	return lb_why_word((enum lb_why)i);
}

static const char *reason_word(uint32_t i)
{
	return lb_reason_word((enum lb_reason)i);
}

#define FIELD(type, name, word)                                                   \
	{                                                                         \
#name, offsetof(struct type, name),                               \
			sizeof(((struct type *)0)->name) / sizeof(uint64_t), word \
	}

struct field {
	const char *name;
	size_t at;
	uint32_t count;
	const char *(*word)(uint32_t i); /* NULL: by their order */
};

#define RULE(name, word) FIELD(lb_counters, name, word)
static const struct field rule_fields[] = {
	RULE(connections, NULL),
	RULE(active, NULL),
	RULE(bytes, NULL),
	RULE(carrier_bytes, carrier_word),
	RULE(flows, carrier_word),
	RULE(whys, why_word),
	RULE(ends, reason_word),
	RULE(promotions, carrier_word),
	RULE(connect_failures, NULL),
	RULE(unlogged, NULL),
	RULE(handshakes, NULL),
	RULE(ktls, NULL),
	RULE(durations, NULL),
	RULE(duration_sum_ms, NULL),
	RULE(connects, NULL),
	RULE(connect_sum_us, NULL),
	RULE(first_bytes, NULL),
	RULE(first_byte_sum_us, NULL),
	RULE(bandwidth_waits, NULL),
	RULE(bandwidth_wait_ns, NULL),
};

#define BACKEND(name) FIELD(lb_backend_counts, name, NULL)
static const struct field backend_fields[] = {
	BACKEND(connections),
	BACKEND(connect_failures),
	BACKEND(checks),
	BACKEND(check_failures),
	BACKEND(bytes),
	BACKEND(connects),
	BACKEND(connect_sum_us),
	BACKEND(first_bytes),
	BACKEND(first_byte_sum_us),
};

/* Those that are not 0. */
static json_t *write_words(const struct field *f, const uint64_t *values)
{
	json_t *j = json_object();

	for (uint32_t i = 0; i < f->count; i++)
		if (values[i])
			json_object_set_new(j, f->word(i), json_integer((json_int_t)values[i]));
	return j;
}

static json_t *write_fields(const struct field *fields, size_t count, const void *from)
{
	json_t *j = json_object();

	for (const struct field *f = fields; f < fields + count; f++) {
		const uint64_t *values = (const uint64_t *)((const char *)from + f->at);
		json_t *list = f->word ? write_words(f, values) : json_array();

		for (uint32_t n = 0; !f->word && n < f->count; n++)
			json_array_append_new(list, json_integer((json_int_t)values[n]));
		json_object_set_new(j, f->name, list);
	}
	return j;
}

static uint64_t number(const json_t *j)
{
	json_int_t n = json_integer_value(j);

	return n > 0 ? (uint64_t)n : 0;
}

/* One of <f>, or 0. Lists of another length are of other bounds. */
static uint64_t read_value(const json_t *j, const struct field *f, uint32_t i)
{
	const json_t *list = json_object_get(j, f->name);

	if (f->word)
		return number(json_object_get(list, f->word(i)));
	return json_array_size(list) == f->count ? number(json_array_get(list, i)) : 0;
}

/* What has been counted since <was>; NULL: since ever. */
static void read_fields(const struct field *fields, size_t count, const json_t *is,
			const json_t *was, void *to)
{
	for (const struct field *f = fields; f < fields + count; f++) {
		uint64_t *values = (uint64_t *)((char *)to + f->at);

		for (uint32_t i = 0; i < f->count; i++) {
			uint64_t now = read_value(is, f, i), before = read_value(was, f, i);

			values[i] = now > before ? now - before : 0;
		}
	}
}

/* --- backends --------------------------------------------------------------------------------- */

/* A backend may be listed twice. */
static void key_of(const json_t *used, const char *addr, char key[KEY_MAX])
{
	size_t len = (size_t)snprintf(key, KEY_MAX, "%.*s", (int)NAME_MAX_, addr);

	while (json_object_get(used, key) && len + 1 < KEY_MAX) {
		key[len++] = '#';
		key[len] = '\0';
	}
}

static json_t *write_backends(const struct lb_pool_row *rows, uint32_t count)
{
	json_t *j = json_object();

	for (uint32_t i = 0; i < count; i++) {
		char key[KEY_MAX];

		key_of(j, rows[i].entry->config.addr, key);
		json_object_set_new(j, key,
				    write_fields(backend_fields, LB_ARRAY_SIZE(backend_fields),
						 &rows[i].counts));
	}
	return j;
}

/* Adds what has been counted since <was>, NULL: since ever. 0 or -ENOMEM. */
static int read_backends(const json_t *is, const json_t *was, struct lb_pool *pool)
{
	LB_AUTO(release) json_t *used = json_object();
	struct lb_pool_row *rows = NULL;
	uint32_t count = 0;
	int err = lb_pool_rows(pool, &rows, &count);

	for (uint32_t i = 0; i < count && !err; i++) {
		struct lb_backend_counts more;
		char key[KEY_MAX];

		key_of(used, rows[i].entry->config.addr, key);
		json_object_set_new(used, key, json_true());
		read_fields(backend_fields, LB_ARRAY_SIZE(backend_fields), json_object_get(is, key),
			    json_object_get(was, key), &more);
		lb_pool_add_counts(rows[i].entry, &more);
	}
	lb_pool_rows_free(&rows, count);
	return err;
}

/* --- rules ------------------------------------------------------------------------------------ */

static const char *name_of(const struct lb_rule *rule, char name[NAME_MAX_])
{
	(void)snprintf(name, NAME_MAX_, "%s%s%s", rule->of ? rule->of->config->name : "",
		       rule->of ? "/" : "", rule->config->name);
	return name;
}

static json_t *write_rule(const struct lb_rule *rule, struct lb_counters *c)
{
	struct lb_pool_row *rows = NULL;
	json_t *j = json_object();
	uint32_t count = 0;

	json_object_set_new(j, "counters",
			    write_fields(rule_fields, LB_ARRAY_SIZE(rule_fields), c));
	if (!lb_pool_rows(rule->pool, &rows, &count))
		json_object_set_new(j, "backends", write_backends(rows, count));
	lb_pool_rows_free(&rows, count);
	return j;
}

/* Of those in the configuration; held. */
static json_t *write_rules(struct lb_service *s)
{
	LB_AUTO_FREE struct lb_counters *sums = calloc(s->rules_count + 1, sizeof(*sums));
	json_t *j = json_object();
	char name[NAME_MAX_];

	if (!sums || lb_service_collect(s, sums))
		return j;
	for (size_t i = 0; i < s->rules_count; i++)
		if (s->rules[i].config && !lb_service_is_gone(s, i))
			json_object_set_new(j, name_of(&s->rules[i], name),
					    write_rule(&s->rules[i], &sums[i]));
	return j;
}

/* Held. */
static int read_rules(struct lb_service *s, const json_t *is, const json_t *was)
{
	char name[NAME_MAX_];
	int err = 0;

	if (!s->before_counters)
		s->before_counters = calloc(LB_RULES_MAX, sizeof(*s->before_counters));
	if (!s->before_counters)
		return -ENOMEM;
	for (size_t i = 0; i < s->rules_count && !err; i++) {
		const struct lb_rule *rule = &s->rules[i];
		const json_t *j;

		if (!rule->config || lb_service_is_gone(s, i))
			continue;
		j = json_object_get(is, name_of(rule, name));
		if (!j)
			continue;
		read_fields(rule_fields, LB_ARRAY_SIZE(rule_fields), json_object_get(j, "counters"),
			    NULL, &s->before_counters[i]);
		err = read_backends(json_object_get(j, "backends"),
				    json_object_get(json_object_get(was, name), "backends"),
				    rule->pool);
	}
	return err;
}

/* --- reloads ---------------------------------------------------------------------------------- */

static json_t *write_reloads(const struct lb_reload_report *r)
{
	return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I}", "generation", (json_int_t)r->generation,
			 "begun", (json_int_t)r->begun, "applied", (json_int_t)r->applied,
			 "refused", (json_int_t)r->refused, "last_s", (json_int_t)r->last_s,
			 "results", (json_int_t)(r->results & INT64_MAX));
}

/* The file has been read once more. */
static void read_reloads(const json_t *j, struct lb_reload_report *r)
{
	if (!json_is_object(j))
		return;
	r->generation = number(json_object_get(j, "generation")) + 1;
	r->begun = number(json_object_get(j, "begun"));
	r->applied = number(json_object_get(j, "applied"));
	r->refused = number(json_object_get(j, "refused"));
	r->last_s = number(json_object_get(j, "last_s"));
	r->results = number(json_object_get(j, "results"));
}

/* --- memory ----------------------------------------------------------------------------------- */

static int put(const json_t *root)
{
	LB_AUTO_CLOSE int fd = memfd_create("l4lb-takeover", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return -errno;
	if (json_dumpfd(root, fd, JSON_COMPACT))
		return -ENOMEM;
	if (fcntl(fd, F_ADD_SEALS, SEALS))
		return -errno;
	return LB_TAKE_FD(fd);
}

/* NULL: it is not what it should be. */
static json_t *get(int fd)
{
	struct stat st;
	json_t *root;
	void *text;

	/* Nobody can change it, or take a part of it away, while it is read. */
	if ((fcntl(fd, F_GET_SEALS) & SEALS) != SEALS || fstat(fd, &st) || st.st_size <= 0 ||
	    st.st_size > LB_TAKEOVER_STATE_MAX)
		return NULL;
	text = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (text == MAP_FAILED)
		return NULL;
	root = json_loadb(text, (size_t)st.st_size, 0, NULL);
	munmap(text, (size_t)st.st_size);
	return root;
}

int lb_takeover_state_write(struct lb_service *s, bool counters)
{
	LB_AUTO(release) json_t *root = json_object();

	if (!root)
		return -ENOMEM;
	lb_service_hold(s);
	json_object_set_new(root, "rules", write_rules(s));
	if (!counters)
		json_object_set_new(root, "reloads", write_reloads(&s->reloads));
	lb_service_let_go(s);
	if (!counters)
		json_object_set_new(root, "watched", lb_takeover_backends_write(s->backends));
	return put(root);
}

int lb_takeover_state_read(struct lb_service *s, int fd, bool counters)
{
	LB_AUTO(release) json_t *root = get(fd);
	json_t *rules = json_object_get(root, "rules");
	int err;

	if (!json_is_object(rules))
		return -EPROTO;
	lb_service_hold(s);
	err = read_rules(s, rules, s->before_rules);
	if (!counters)
		read_reloads(json_object_get(root, "reloads"), &s->reloads);
	json_decref(s->before_rules);
	s->before_rules = json_incref(rules);
	lb_service_let_go(s);
	if (!counters)
		lb_takeover_backends_read(s->backends, json_object_get(root, "watched"));
	return err;
}

void lb_takeover_state_end(struct lb_service *s)
{
	lb_service_hold(s);
	for (size_t i = 0; s->before_counters && i < s->rules_count; i++)
		s->before_counters[i].active = 0;
	json_decref(s->before_rules);
	s->before_rules = NULL;
	lb_service_let_go(s);
}

void lb_takeover_state_fini(struct lb_service *s)
{
	json_decref(s->before_rules);
	free(s->before_counters);
}
