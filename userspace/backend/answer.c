/* SPDX-License-Identifier: MIT */
/* See answer.h. Must never look at more than HEAD_MAX bytes, nor believe a status it half saw. */
#include "backend/answer.h"

#include <stdio.h>
#include <string.h>

/* Interim responses and their headers are read over; so much of it. */
#define HEAD_MAX 16384u
/* "HTTP/1.1 200": a digit where there is '#', 0 or 1 where there is '?'. */
static const char status_line[] = "HTTP/1.? ###";
#define STATUS_AT   9u
#define STATUS_ENDS (sizeof(status_line) - 1)

void lb_answer_init(struct lb_answer *a, const struct lb_health_check_config *config)
{
	*a = (struct lb_answer){.config = config};
}

static enum lb_verdict bad(struct lb_answer *a, const char *cause)
{
	snprintf(a->cause, sizeof(a->cause), "%s", cause);
	return LB_VERDICT_BAD;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool fits(char want, char c)
{
	if (want == '#')
		return is_digit(c);
	return want == '?' ? c == '0' || c == '1' : c == want;
}

static enum lb_verdict judge_status(struct lb_answer *a)
{
	const struct lb_health_check_config *config = a->config;
	bool good = !config->expect_status_count && a->status >= 200 && a->status < 400;

	for (size_t i = 0; i < config->expect_status_count; i++)
		good = good || (a->status >= config->expect_status[i].from &&
				a->status <= config->expect_status[i].to);
	if (good)
		return LB_VERDICT_GOOD;
	snprintf(a->cause, sizeof(a->cause), "status %u", a->status);
	return LB_VERDICT_BAD;
}

/* 101 is final: the protocol has been switched. */
static bool is_interim(uint16_t status)
{
	return status >= 100 && status < 200 && status != 101;
}

static enum lb_verdict feed_status_line(struct lb_answer *a, char c)
{
	if (a->at < STATUS_ENDS) {
		if (!fits(status_line[a->at], c))
			return bad(a, "the answer is not HTTP/1");
		if (a->at >= STATUS_AT)
			a->status = (uint16_t)(a->status * 10 + (c - '0'));
		a->at++;
		return LB_VERDICT_MORE;
	}
	if (c != ' ' && c != '\r' && c != '\n')
		return bad(a, "the answer is not HTTP/1");
	if (!is_interim(a->status))
		return judge_status(a);
	a->in_headers = true;
	a->line = c != '\n';
	a->at = a->status = 0;
	return LB_VERDICT_MORE;
}

/* An empty line ends an interim response; the next one begins. */
static void feed_headers(struct lb_answer *a, char c)
{
	if (c == '\n') {
		a->in_headers = a->line != 0;
		a->line = 0;
	} else if (c != '\r') {
		a->line++;
	}
}

static enum lb_verdict feed_http(struct lb_answer *a, const char *bytes, size_t n)
{
	enum lb_verdict verdict = LB_VERDICT_MORE;

	for (size_t i = 0; i < n && verdict == LB_VERDICT_MORE; i++) {
		if (a->bytes++ >= HEAD_MAX)
			return bad(a, "no status in 16 KiB");
		if (a->in_headers)
			feed_headers(a, bytes[i]);
		else
			verdict = feed_status_line(a, bytes[i]);
	}
	return verdict;
}

static enum lb_verdict feed_expect(struct lb_answer *a, const char *bytes, size_t n)
{
	const char *expect = a->config->expect;
	size_t left = expect ? strlen(expect) - a->at : 0;

	if (n > left)
		n = left;
	if (n && memcmp(expect + a->at, bytes, n) != 0)
		return bad(a, "the answer is another one than `expect`");
	a->at += (uint32_t)n;
	return n == left ? LB_VERDICT_GOOD : LB_VERDICT_MORE;
}

enum lb_verdict lb_answer_feed(struct lb_answer *a, const char *bytes, size_t n)
{
	if (a->config->protocol == LB_HEALTH_CHECK_HTTP)
		return feed_http(a, bytes, n);
	return feed_expect(a, bytes, n);
}

enum lb_verdict lb_answer_end(struct lb_answer *a)
{
	return bad(a, a->bytes || a->at ? "closed in the middle of the answer"
					: "closed without an answer");
}
