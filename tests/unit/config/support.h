/* SPDX-License-Identifier: MIT */
/* What the tests of the configuration share. Include after <cmocka.h>. */
#ifndef LB_TESTS_UNIT_CONFIG_SUPPORT_H
#define LB_TESTS_UNIT_CONFIG_SUPPORT_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"

/* The canonical form as a string, to be freed. */
static inline char *printed(const struct lb_config *config)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	assert_non_null(out);
	lb_config_print(config, out);
	assert_int_equal(fclose(out), 0);
	return text;
}

/* One line per notice, "line:column: ..", to be freed. */
static inline char *listed(const struct lb_config_notices *notices)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	assert_non_null(out);
	lb_config_notices_print(notices, NULL, out);
	assert_int_equal(fclose(out), 0);
	return text;
}

/* Fails the test, and says why, when <text> does not load. Free with lb_config_free(). */
static inline struct lb_config *loaded(const char *text, struct lb_config_notices *notices)
{
	struct lb_config *config = NULL;

	if (lb_config_parse(&config, text, strlen(text), notices)) {
		lb_config_notices_print(notices, "test", stderr);
		fail_msg("does not load:\n%s", text);
	}
	return config;
}

/* The whole file with a NUL behind it, to be freed; NULL when it cannot be read. */
static inline char *slurp(const char *path, size_t *size)
{
	FILE *in = fopen(path, "re");
	char *text = NULL;
	FILE *out;
	int c;

	if (!in)
		return NULL;
	out = open_memstream(&text, size);
	assert_non_null(out);
	while ((c = fgetc(in)) != EOF)
		fputc(c, out);
	fclose(in);
	assert_int_equal(fclose(out), 0);
	return text;
}

#endif
