/* SPDX-License-Identifier: MIT */
/*
 * Decides how a line of the daemon's log looks: "2026-01-31T12:00:00.000Z warn  text", or the same
 * as JSON. One write(2) per line, so lines of different threads never mix. Must never allocate,
 * fail or disturb errno: it is called from error paths.
 */
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/json.h"

/* At most PIPE_BUF, below which a pipe keeps concurrent writes apart. Longer lines end in "...". */
#define LINE_BYTES 2048
/* The same, once it is escaped. */
#define JSON_BYTES 4096

static _Atomic(enum lb_log_level) max_level = LB_LOG_INFO;
static _Atomic(enum lb_log_format) format = LB_LOG_TEXT;

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

void lb_log_set_format(enum lb_log_format f)
{
	atomic_store_explicit(&format, f, memory_order_relaxed);
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

size_t lb_log_time(char *buf, size_t size)
{
	struct timespec ts;
	struct tm tm;
	size_t len;

	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	len = strftime(buf, size, "%Y-%m-%dT%H:%M:%S", &tm);
	return len +
	       (size_t)snprintf(buf + len, size - len, ".%03uZ", (unsigned)(ts.tv_nsec / 1000000));
}

/* Returns the length written; <size> is known to be enough. */
static size_t format_head(char *buf, size_t size, enum lb_log_level level)
{
	size_t len = lb_log_time(buf, size);

	return len + (size_t)snprintf(buf + len, size - len, " %-5s ", names[level]);
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

/* Nobody can be told when the log itself cannot be written. */
static void put(const char *line, size_t len)
{
	while (write(STDERR_FILENO, line, len) < 0 && errno == EINTR)
		;
}

/* <text> ends with a NUL. */
static void put_json(enum lb_log_level level, const char *text)
{
	char line[JSON_BYTES], time[LB_LOG_TIME_MAX];
	size_t len;

	(void)lb_log_time(time, sizeof(time));
	len = (size_t)snprintf(line, sizeof(line),
			       "{\"time\":\"%s\",\"level\":\"%s\",\"message\":", time,
			       names[level]);
	len += lb_json_string(line + len, sizeof(line) - len - 2, text);
	line[len++] = '}';
	line[len++] = '\n';
	put(line, len);
}

static pthread_mutex_t last_lock = PTHREAD_MUTEX_INITIALIZER;
static char last[LB_LOG_LAST_MAX];

static void remember(const char *text, size_t len)
{
	if (len >= sizeof(last))
		len = sizeof(last) - 1;
	pthread_mutex_lock(&last_lock);
	memcpy(last, text, len);
	last[len] = '\0';
	pthread_mutex_unlock(&last_lock);
}

void lb_log_last_error(char ret[LB_LOG_LAST_MAX])
{
	pthread_mutex_lock(&last_lock);
	memcpy(ret, last, sizeof(last));
	pthread_mutex_unlock(&last_lock);
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
	if (level == LB_LOG_ERROR)
		remember(line + head, len);
	if (atomic_load_explicit(&format, memory_order_relaxed) == LB_LOG_JSON) {
		line[head + len] = '\0';
		put_json(level, line + head);
		goto out;
	}
	blank_controls(line + head, len);
	line[head + len] = '\n';
	put(line, head + len + 1);
out:
	errno = saved_errno;
}
