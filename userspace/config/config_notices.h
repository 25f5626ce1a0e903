/* SPDX-License-Identifier: MIT */
/*
 * What loading a configuration has to tell its author: errors, and warnings about a file that
 * loads.
 */
#ifndef LB_CONFIG_CONFIG_NOTICES_H
#define LB_CONFIG_CONFIG_NOTICES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum lb_config_severity {
	LB_CONFIG_ERROR = 0,      /* the file was not loaded */
	LB_CONFIG_REFUSES_TO_RUN, /* it loads, but without this key somebody would be unprotected */
	LB_CONFIG_WARNING,
};

struct lb_config_notice {
	enum lb_config_severity severity;
	uint32_t line;   /* from 1; 0: not about a place in the file */
	uint32_t column; /* from 1, in characters */
	char *key;       /* "rules[0].tls"; NULL: about the file as a whole */
	char *text;      /* one printable line */
};

/* Start from zeros: `struct lb_config_notices n = { 0 };`. One thread at a time. */
struct lb_config_notices {
	struct lb_config_notice *items;
	size_t count;
	size_t errors;      /* found; at most LB_CONFIG_ERRORS_KEPT of them are in <items> */
	bool out_of_memory; /* at least one could not be kept */
};

/* Errors beyond this number are counted, but not kept: nobody reads the thousandth. */
#define LB_CONFIG_ERRORS_KEPT 50

/*
 * Copies <key> (may be NULL) and the text; control characters become '?'. Running out of memory is
 * remembered in <out_of_memory> so that callers need to look only once, at the end.
 */
void lb_config_notices_add(struct lb_config_notices *n, enum lb_config_severity severity,
			   uint32_t line, uint32_t column, const char *key, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));

/* Into the order of the file; what is about no place in it comes first. */
void lb_config_notices_sort(struct lb_config_notices *n);

/* Does any of them keep the daemon from running? */
bool lb_config_notices_refuse(const struct lb_config_notices *n);

/*
 * Writes one notice without a newline: "lb.yaml:3:5: rules[0].listen: ..", with "warning: " before
 * the key when it is no error. <path> NULL: starts at the line number. Truncates like snprintf(3)
 * and returns its value.
 */
int lb_config_notice_format(const struct lb_config_notice *notice, const char *path, char *buf,
			    size_t size);
/* All of them, a line each, and how many errors were left out. */
void lb_config_notices_print(const struct lb_config_notices *n, const char *path, FILE *out);

/* Releases what it holds; the structure may be used again. */
void lb_config_notices_fini(struct lb_config_notices *n);

#endif
