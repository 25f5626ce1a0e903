/* SPDX-License-Identifier: MIT */
/*
 * The daemon's log: levelled lines on standard error, one write(2) each, safe from any thread.
 * (The access log is control/access_log.) Low layers return errors, high layers log them once.
 */
#ifndef LB_BASE_LOG_H
#define LB_BASE_LOG_H

#include <stddef.h>

enum lb_log_level {
	LB_LOG_ERROR = 0,
	LB_LOG_WARN,
	LB_LOG_INFO,
	LB_LOG_DEBUG,
};

/* How lines look, of this log and of the access log. */
enum lb_log_format {
	LB_LOG_TEXT = 0,
	LB_LOG_JSON,
};

/* Lines above <level> are dropped. Any thread, any time. Default: LB_LOG_INFO. */
void lb_log_set_level(enum lb_log_level level);
enum lb_log_level lb_log_get_level(void);
/* Any thread, any time. Default: LB_LOG_TEXT. */
void lb_log_set_format(enum lb_log_format format);

/* 0, or -EINVAL and *ret untouched. Accepts error, warn|warning, info, debug|trace, any case. */
int lb_log_level_parse(const char *word, enum lb_log_level *ret);
const char *lb_log_level_name(enum lb_log_level level);

/* UTC of now, "2026-01-31T12:00:00.000Z" and a NUL. Returns its length. */
size_t lb_log_time(char *buf, size_t size);
#define LB_LOG_TIME_MAX 25

/*
 * Writes "<UTC time> <level> <text>" and a newline, which <fmt> need not end in, or
 * {"time":..,"level":..,"message":..}. Control bytes in the text become spaces, or are escaped; a
 * line ends in "..." after 2 KiB. errno is left alone and "%m" works.
 */
void lb_log(enum lb_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define lb_err(...)  lb_log(LB_LOG_ERROR, __VA_ARGS__)
#define lb_warn(...) lb_log(LB_LOG_WARN, __VA_ARGS__)
#define lb_info(...) lb_log(LB_LOG_INFO, __VA_ARGS__)
#define lb_debug(...)                                      \
	do {                                               \
		if (lb_log_get_level() >= LB_LOG_DEBUG)    \
			lb_log(LB_LOG_DEBUG, __VA_ARGS__); \
	} while (0)

/* The last line of level error, without its head; "" when there was none. Any thread. */
#define LB_LOG_LAST_MAX 160
void lb_log_last_error(char ret[LB_LOG_LAST_MAX]);

#endif
