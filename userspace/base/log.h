/* SPDX-License-Identifier: MIT */
/*
 * The daemon's log: levelled lines on standard error, one write(2) each, safe from any thread.
 * (The access log is control/access_log.) Low layers return errors, high layers log them once.
 */
#ifndef LB_BASE_LOG_H
#define LB_BASE_LOG_H

enum lb_log_level {
	LB_LOG_ERROR = 0,
	LB_LOG_WARN,
	LB_LOG_INFO,
	LB_LOG_DEBUG,
};

/* Lines above <level> are dropped. Any thread, any time. Default: LB_LOG_INFO. */
void lb_log_set_level(enum lb_log_level level);
enum lb_log_level lb_log_get_level(void);

/* 0, or -EINVAL and *ret untouched. Accepts error, warn|warning, info, debug|trace, any case. */
int lb_log_level_parse(const char *word, enum lb_log_level *ret);
const char *lb_log_level_name(enum lb_log_level level);

/*
 * Writes "<UTC time> <level> <text>" and a newline, which <fmt> need not end in. Control bytes in
 * the text become spaces; a line ends in "..." after 2 KiB. errno is left alone and "%m" works.
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

#endif
