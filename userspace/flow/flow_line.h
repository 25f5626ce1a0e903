/* SPDX-License-Identifier: MIT */
/* The access log's line of a flow that has ended: as words, or as JSON with the same names. */
#ifndef LB_FLOW_FLOW_LINE_H
#define LB_FLOW_FLOW_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/log.h"
#include "flow/carrier.h"

struct lb_addr;

/* What is written down of it, by whoever kept it. Everything is borrowed. */
struct lb_flow_record {
	const char *rule;
	const struct lb_addr *client;
	const char *certified; /* the name of its certificate; NULL or "": none */
	const char *backend;   /* NULL: none */
	const char *carrier;   /* NULL: it was never carried; <why> then means nothing */
	enum lb_why why;
	enum lb_reason reason;
	int error;          /* positive errno; 0: none */
	const char *detail; /* what TLS said; NULL: nothing */
	uint64_t bytes[2];
	uint64_t duration_ms;
	uint64_t connect_us;
	bool connected; /* <connect_us> means something */
	bool answered;  /* the backend has sent something: <first_byte_us> means something */
	uint64_t first_byte_us; /* from the connect to its first byte */
	unsigned int tries;
	uint64_t unlogged; /* refusals before it that have no line */
};

/*
 * The line without newline, and a NUL. Returns its length, less than <size>. What does not fit is
 * cut off; in LB_FLOW_LINE_MAX everything fits.
 */
size_t lb_flow_line(const struct lb_flow_record *r, enum lb_log_format format, char *line,
		    size_t size);
#define LB_FLOW_LINE_MAX 4096

#endif
