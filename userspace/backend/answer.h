/* SPDX-License-Identifier: MIT */
/*
 * Judges what a backend answers to a health check, as it arrives, in pieces of any size. Knows no
 * descriptor and no clock. Any thread.
 *
 *   http       the status of the first response that is not interim (1xx); HTTP/1.0 and 1.1. It is
 *              judged as soon as it stands there: headers and body are nobody's business.
 *   tcp        with `expect`: the answer must begin with it. Without: nothing is waited for.
 */
#ifndef LB_BACKEND_ANSWER_H
#define LB_BACKEND_ANSWER_H

#include <stddef.h>
#include <stdint.h>

#include "config/config.h"

enum lb_verdict { LB_VERDICT_MORE, LB_VERDICT_GOOD, LB_VERDICT_BAD };

struct lb_answer {
	const struct lb_health_check_config *config;
	uint32_t bytes;  /* so far */
	uint32_t at;     /* in the status line, or in `expect` */
	uint32_t line;   /* http, in the headers of an interim response: bytes of this line */
	bool in_headers; /* .. */
	uint16_t status; /* http */
	char cause[64];  /* after LB_VERDICT_BAD: what was wrong, in a few words */
};

/* <config> must outlive the answer. */
void lb_answer_init(struct lb_answer *a, const struct lb_health_check_config *config);
/* Not to be called again after GOOD or BAD. With <n> 0: whether anything is waited for at all. */
enum lb_verdict lb_answer_feed(struct lb_answer *a, const char *bytes, size_t n);
/* The backend has closed: BAD, with the cause. */
enum lb_verdict lb_answer_end(struct lb_answer *a);

#endif
