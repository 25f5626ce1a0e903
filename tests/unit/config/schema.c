/* SPDX-License-Identifier: MIT */
#include "config/schema.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "config/config.h"
#include "support.h"

typedef void (*visit_fn)(const struct lb_schema_block *block, const struct lb_schema_key *key);

static void for_each_key(const struct lb_schema_block *block, visit_fn visit)
{
	for (size_t i = 0; i < block->count; i++) {
		visit(block, &block->keys[i]);
		if (block->keys[i].type == LB_SCHEMA_BLOCK)
			for_each_key(block->keys[i].block, visit);
	}
}

static void check_row(const struct lb_schema_block *block, const struct lb_schema_key *key)
{
	bool ranged = key->type >= LB_SCHEMA_NUMBER && key->type <= LB_SCHEMA_BYTES;
	bool text = key->type == LB_SCHEMA_STRING || key->type == LB_SCHEMA_TEXT;

	if (!key->name[0] ||
	    strspn(key->name, "abcdefghijklmnopqrstuvwxyz0123456789_") != strlen(key->name))
		fail_msg("%s is not in snake_case", key->name);
	if (!key->help || !key->help[0] || key->help[strlen(key->help) - 1] != '.')
		fail_msg("the help of %s is no sentence", key->name);
	if ((ranged || text) && key->max <= key->min)
		fail_msg("%s has no range", key->name);
	if ((key->type == LB_SCHEMA_WORD) != (key->words != NULL))
		fail_msg("%s and its words do not fit", key->name);
	if ((key->type == LB_SCHEMA_BLOCK) != (key->block != NULL))
		fail_msg("%s and its block do not fit", key->name);
	if (key->list && (!key->items_max || !key->item_size || key->def))
		fail_msg("%s is no good list", key->name);
	if (lb_schema_find(block, key->name) != key)
		fail_msg("%s is in its block twice", key->name);
}

static void every_row_is_complete(void **state)
{
	for_each_key(&lb_schema_root, check_row);
}

/* A default that does not parse would silently be zero. */
static void check_default(const struct lb_schema_block *block, const struct lb_schema_key *key)
{
	unsigned char field[128] __attribute__((aligned(16))) = {0};

	if (!key->def)
		return;
	if (lb_schema_value_parse(key, key->def, true, field))
		fail_msg("the default of %s does not fit its own row", key->name);
	lb_schema_value_free(key, field);
}

static void every_default_fits_its_own_row(void **state)
{
	for_each_key(&lb_schema_root, check_default);
}

/* What cannot be left out must not be a trap: a zero that no one may write needs a reason. */
static void check_zero(const struct lb_schema_block *block, const struct lb_schema_key *key)
{
	bool ranged = key->type >= LB_SCHEMA_NUMBER && key->type <= LB_SCHEMA_BYTES;

	if (ranged && !key->def && key->min && !key->required && !key->otherwise)
		fail_msg("%s is 0 when left out, which its range forbids", key->name);
}

static void no_key_is_out_of_range_when_left_out(void **state)
{
	for_each_key(&lb_schema_root, check_zero);
}

static void nearest_key_forgives_slips_only(void **state)
{
	const struct lb_schema_block *rule = lb_schema_find(&lb_schema_root, "rules")->block;
	const struct lb_schema_block *backend = lb_schema_find(rule, "backends")->block;

	assert_string_equal(lb_schema_nearest(rule, "helth_check"), "health_check");
	assert_string_equal(lb_schema_nearest(rule, "backend"), "backends");
	assert_string_equal(lb_schema_nearest(rule, "listne"), "listen");
	assert_string_equal(lb_schema_nearest(rule, "allowlist"), "allow_list");
	assert_string_equal(lb_schema_nearest(rule, "Name"), "name");
	assert_string_equal(lb_schema_nearest(backend, "wieght"), "weight");
	assert_string_equal(lb_schema_nearest(backend, "adr"), "addr");
	assert_null(lb_schema_nearest(backend, "x"));
	assert_null(lb_schema_nearest(rule, "upstream"));
	assert_null(lb_schema_nearest(rule, ""));
	assert_null(lb_schema_nearest(rule, "backendsbackendsbackendsbackendsbackendsbackends"));
}

static void a_key_is_found_where_it_belongs(void **state)
{
	char path[64];

	assert_true(lb_schema_locate("connect_ms", path, sizeof(path)));
	assert_string_equal(path, "rules[].timeouts");
	assert_true(lb_schema_locate("metrics", path, sizeof(path)));
	assert_string_equal(path, "admin");
	assert_true(lb_schema_locate("workers", path, sizeof(path)));
	assert_string_equal(path, "");
	assert_false(lb_schema_locate("upstream", path, sizeof(path)));
	assert_string_equal(path, "");
}

static void expectations_read_like_sentences(void **state)
{
	const struct lb_schema_block *rule = lb_schema_find(&lb_schema_root, "rules")->block;
	const struct lb_schema_block *access = lb_schema_find(&lb_schema_root, "access_log")->block;
	char buf[192];

	assert_string_equal(
		lb_schema_value_expected(lb_schema_find(rule, "retries"), buf, sizeof(buf)),
		"a number from 0 to 255");
	assert_string_equal(
		lb_schema_value_expected(lb_schema_find(rule, "acceleration"), buf, sizeof(buf)),
		"auto, graft, sockmap or relay");
	assert_string_equal(
		lb_schema_value_expected(lb_schema_find(access, "path"), buf, sizeof(buf)),
		"printable text of 1 to 4095 bytes, or off");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_row_is_complete),
		cmocka_unit_test(every_default_fits_its_own_row),
		cmocka_unit_test(no_key_is_out_of_range_when_left_out),
		cmocka_unit_test(nearest_key_forgives_slips_only),
		cmocka_unit_test(a_key_is_found_where_it_belongs),
		cmocka_unit_test(expectations_read_like_sentences),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
