/* SPDX-License-Identifier: MIT */
/*
 * Decides how a line of the daemon's log looks: "2026-01-31T12:00:00.000Z warn  text". One write(2)
 * per line, so lines of different threads never mix. Must never allocate, fail or disturb errno:
 * it is called from error paths.
 */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"

/* At most PIPE_BUF, below which a pipe keeps concurrent writes apart. Longer lines end in "...". */
#define LINE_BYTES 2048

static _Atomic(enum lb_log_level) max_level = LB_LOG_INFO;

static const char *const names[] = {
	[LB_LOG_ERROR] = "error",
	[LB_LOG_WARN] = "warn",
	[LB_LOG_INFO] = "info",
	[LB_LOG_DEBUG] = "debug",
};

static const struct {
	const char *word;
	enum lb_log_level level;
} words[] = {
	{"error", LB_LOG_ERROR}, {"warn", LB_LOG_WARN},   {"warning", LB_LOG_WARN},
	{"info", LB_LOG_INFO},   {"debug", LB_LOG_DEBUG}, {"trace", LB_LOG_DEBUG},
};

void lb_log_set_level(enum lb_log_level level)
{
	atomic_store_explicit(&max_level, level, memory_order_relaxed);
}

enum lb_log_level lb_log_get_level(void)
{
	return atomic_load_explicit(&max_level, memory_order_relaxed);
}

int lb_log_level_parse(const char *word, enum lb_log_level *ret)
{
	for (size_t i = 0; i < LB_ARRAY_SIZE(words); i++) {
		if (!strcasecmp(word, words[i].word)) {
			*ret = words[i].level;
			return 0;
		}
	}
	return -EINVAL;
}

const char *lb_log_level_name(enum lb_log_level level)
{
	return names[level];
}

/* Returns the length written; <size> is known to be enough. */
static size_t format_head(char *buf, size_t size, enum lb_log_level level)
{
	struct timespec ts;
	struct tm tm;
	size_t len;

	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	len = strftime(buf, size, "%Y-%m-%dT%H:%M:%S", &tm);
	return len + (size_t)snprintf(buf + len, size - len, ".%03uZ %-5s ",
				      (unsigned)(ts.tv_nsec / 1000000), names[level]);
}

/*
 * Texts quote what peers and files said. A control byte in them must neither start a line that we
 * did not write nor talk to the reader's terminal.
 */
static void blank_controls(char *text, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c < 0x20 || c == 0x7f)
			text[i] = ' ';
	}
}

void lb_log(enum lb_log_level level, const char *fmt, ...)
{
	char line[LINE_BYTES];
	int saved_errno = errno, written;
	size_t head, len, room;
	va_list args;

	if (level > lb_log_get_level())
		return;

	head = format_head(line, sizeof(line), level);
	room = sizeof(line) - head;
	errno = saved_errno; /* for %m */
	va_start(args, fmt);
	written = vsnprintf(line + head, room, fmt, args);
	va_end(args);
	if (written < 0)
		goto out;

	len = (size_t)written;
	if (len >= room) {
		len = room - 1;
		memcpy(line + head + len - 3, "...", 3);
	}
	while (len && line[head + len - 1] == '\n')
		len--;
	blank_controls(line + head, len);
	line[head + len] = '\n';

	/* Nobody can be told when the log itself cannot be written. */
	while (write(STDERR_FILENO, line, head + len + 1) < 0 && errno == EINTR)
		;
out:
	errno = saved_errno;
}
