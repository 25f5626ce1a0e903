/* SPDX-License-Identifier: MIT */
/*
 * Decides what a line asks for. One table of verbs, one of words: nothing is understood that does
 * not stand there. Must never take half a word for a whole one.
 */
#include "control/admin_request.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/addr.h"
#include "base/cleanup.h"
#include "config/units.h"

#define WORDS_MAX        16
#define FLOWS_BY_DEFAULT 100u
#define OVER_MAX_MS      10000u
#define TIMEOUT_MAX_MS   25000u
#define WEIGHT_MAX       256u
#define DEADLINE_MAX_MS  (7ull * 24 * 3600 * 1000)

/* What a word may be. Each has a function below, in this order. */
enum word {
	RULE,
	BACKEND,
	CLIENT,
	CARRIER,
	SORT,
	LIMIT,
	OVER_MS,
	DEADLINE_MS,
	WEIGHT,
	FLOW,
	LEVEL,
	DRY_RUN,
	BINARY,
	TIMEOUT_MS,
	WORD_MAX_
};

#define BIT(word) (1u << (word))

static const struct {
	const char *word;
	enum word needed[3];
	unsigned int needed_count;
	unsigned int options; /* bits */
} verbs[] = {
	[LB_ADMIN_STATUS] = {"status"},
	[LB_ADMIN_BACKENDS] = {"backends", .options = BIT(RULE)},
	[LB_ADMIN_FLOWS] = {"flows", .options = BIT(RULE) | BIT(BACKEND) | BIT(CLIENT) |
						BIT(CARRIER) | BIT(SORT) | BIT(LIMIT) |
						BIT(OVER_MS)},
	[LB_ADMIN_DRAIN] = {"drain", {RULE, BACKEND}, 2, BIT(DEADLINE_MS)},
	[LB_ADMIN_UNDRAIN] = {"undrain", {RULE, BACKEND}, 2},
	[LB_ADMIN_WEIGHT] = {"weight", {RULE, BACKEND, WEIGHT}, 3},
	[LB_ADMIN_ENABLE] = {"enable", {RULE, BACKEND}, 2},
	[LB_ADMIN_DISABLE] = {"disable", {RULE, BACKEND}, 2},
	[LB_ADMIN_KILL] = {"kill", {FLOW}, 1},
	[LB_ADMIN_LOG] = {"log", {LEVEL}, 1},
	[LB_ADMIN_RELOAD] = {"reload", .options = BIT(DRY_RUN)},
	[LB_ADMIN_UPGRADE] = {"upgrade", .options = BIT(BINARY) | BIT(TIMEOUT_MS)},
	[LB_ADMIN_METRICS] = {"metrics"},
	[LB_ADMIN_OVERVIEW] = {"overview"},
	[LB_ADMIN_CLUSTER] = {"cluster"},
	[LB_ADMIN_VERSION] = {"version"},
};
_Static_assert(LB_ARRAY_SIZE(verbs) == LB_ADMIN_VERB_MAX_, "every verb has its row");

const char *lb_admin_verb_word(enum lb_admin_verb verb)
{
	return verbs[verb].word;
}

static int refuse(char *why, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int refuse(char *why, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(why, LB_ADMIN_WHY_MAX, fmt, args);
	va_end(args);
	return -EINVAL;
}

/* --- words ------------------------------------------------------------------------------------ */

static int read_rule(struct lb_admin_request *r, const char *text)
{
	r->rule = text;
	return *text ? 0 : -EINVAL;
}

static int read_backend(struct lb_admin_request *r, const char *text)
{
	r->backend = text;
	return *text ? 0 : -EINVAL;
}

static int read_client(struct lb_admin_request *r, const char *text)
{
	struct lb_addr addr;
	char host[INET6_ADDRSTRLEN];
	uint16_t port;

	r->by_client = true;
	if (!lb_prefix_parse(text, &r->client))
		return 0;
	if (lb_addr_parse(text, &addr) || lb_addr_split(text, host, sizeof(host), &port) ||
	    lb_prefix_parse(host, &r->client))
		return -EINVAL;
	r->client_port = port;
	return 0;
}

static int read_carrier(struct lb_admin_request *r, const char *text)
{
	static const struct lb_carrier *const carriers[] = {&lb_relay, &lb_sockmap, &lb_graft};

	r->by_carrier = true;
	for (size_t i = 0; i < LB_ARRAY_SIZE(carriers); i++) {
		if (strcmp(carriers[i]->name, text) != 0)
			continue;
		r->carrier = carriers[i]->id;
		return 0;
	}
	return -EINVAL;
}

static int read_sort(struct lb_admin_request *r, const char *text)
{
	static const char *const words[] = {
		[LB_ADMIN_SORT_AGE] = "age",     [LB_ADMIN_SORT_IDLE] = "idle",
		[LB_ADMIN_SORT_BYTES] = "bytes", [LB_ADMIN_SORT_RATE] = "rate",
		[LB_ADMIN_SORT_RTT] = "rtt",     [LB_ADMIN_SORT_BACKLOG] = "backlog",
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(words); i++) {
		if (strcmp(words[i], text) != 0)
			continue;
		r->sort = (enum lb_admin_sort)i;
		return 0;
	}
	return -EINVAL;
}

static int read_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	uint64_t n;

	if (lb_units_parse_number(text, &n) || n < min || n > max)
		return -EINVAL;
	*ret = n;
	return 0;
}

static int read_limit(struct lb_admin_request *r, const char *text)
{
	uint64_t n;

	if (read_number(text, 1, LB_ADMIN_FLOWS_MAX, &n))
		return -EINVAL;
	r->limit = (uint32_t)n;
	return 0;
}

static int read_over(struct lb_admin_request *r, const char *text)
{
	return read_number(text, 0, OVER_MAX_MS, &r->over_ms);
}

static int read_deadline(struct lb_admin_request *r, const char *text)
{
	if (!strcmp(text, "never")) {
		r->deadline_ms = LB_ADMIN_NEVER;
		return 0;
	}
	return read_number(text, 0, DEADLINE_MAX_MS, &r->deadline_ms);
}

static int read_weight(struct lb_admin_request *r, const char *text)
{
	uint64_t n;

	if (read_number(text, 1, WEIGHT_MAX, &n))
		return -EINVAL;
	r->weight = (uint32_t)n;
	return 0;
}

/* Sixteen hexadecimal digits: nobody is to hit another flow for want of a digit. */
static int read_flow(struct lb_admin_request *r, const char *text)
{
	if (strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)
		return -EINVAL;
	r->flow = strtoull(text, NULL, 16);
	return 0;
}

static int read_level(struct lb_admin_request *r, const char *text)
{
	return lb_log_level_parse(text, &r->level);
}

static int read_dry_run(struct lb_admin_request *r, const char *text)
{
	r->dry_run = !strcmp(text, "yes");
	return r->dry_run || !strcmp(text, "no") ? 0 : -EINVAL;
}

/* Where we are may be another place than where lbctl is. */
static int read_binary(struct lb_admin_request *r, const char *text)
{
	r->binary = text;
	return *text == '/' ? 0 : -EINVAL;
}

static int read_timeout(struct lb_admin_request *r, const char *text)
{
	return read_number(text, 1, TIMEOUT_MAX_MS, &r->timeout_ms);
}

static const struct {
	const char *key;
	int (*read)(struct lb_admin_request *r, const char *text);
	const char *expected;
} words[] = {
	[RULE] = {"rule", read_rule, "a rule's name"},
	[BACKEND] = {"backend", read_backend, "a backend, as in lb.yaml"},
	[CLIENT] = {"client", read_client, "an address, with a port or a prefix length if wanted"},
	[CARRIER] = {"carrier", read_carrier, "relay, sockmap or graft"},
	[SORT] = {"sort", read_sort, "age, idle, bytes, rate, rtt or backlog"},
	[LIMIT] = {"limit", read_limit, "1 to 131072"},
	[OVER_MS] = {"over_ms", read_over, "0 to 10000"},
	[DEADLINE_MS] = {"deadline_ms", read_deadline, "milliseconds, 7 days at most, or never"},
	[WEIGHT] = {"weight", read_weight, "1 to 256"},
	[FLOW] = {"flow", read_flow, "the 16 digits that `flows` shows"},
	[LEVEL] = {"level", read_level, "error, warn, info or debug"},
	[DRY_RUN] = {"dry_run", read_dry_run, "yes or no"},
	[BINARY] = {"binary", read_binary, "an absolute path"},
	[TIMEOUT_MS] = {"timeout_ms", read_timeout, "1 to 25000"},
};
_Static_assert(LB_ARRAY_SIZE(words) == WORD_MAX_, "every word has its row");

static int read_word(struct lb_admin_request *r, enum word which, const char *text, char *why)
{
	if (!words[which].read(r, text))
		return 0;
	return refuse(why, "%s: '%.60s': expected %s", words[which].key, text,
		      words[which].expected);
}

/* "key=value" */
static int read_option(struct lb_admin_request *r, unsigned int *allowed, const char *word,
		       char *why)
{
	const char *value = strchr(word, '=');

	for (size_t i = 0; i < WORD_MAX_ && value; i++) {
		size_t length = strlen(words[i].key);

		if ((size_t)(value - word) != length || strncmp(word, words[i].key, length) != 0)
			continue;
		if (!(*allowed & BIT(i)))
			break;
		*allowed &= ~BIT(i);
		return read_word(r, (enum word)i, value + 1, why);
	}
	return refuse(why, "'%.60s': not an option of %s, or given twice", word,
		      verbs[r->verb].word);
}

/* --- the line --------------------------------------------------------------------------------- */

/* The word at *at, which moves on; quotes and escapes are resolved in place. NULL: bad quotes. */
static char *take_word(char **at)
{
	char *from = *at, *to = *at, *word = *at;
	bool quoted = false;

	for (; *from && (quoted || *from != ' '); from++) {
		if (*from == '"') {
			quoted = !quoted;
			continue;
		}
		if (quoted && *from == '\\') {
			from++;
			if (*from != '"' && *from != '\\')
				return NULL;
		}
		*to++ = *from;
	}
	if (quoted)
		return NULL;
	while (*from == ' ')
		from++;
	*at = from;
	*to = '\0'; /* never beyond a blank or the end, which have been passed */
	return word;
}

/* The first word is always there when this is 0. */
static int split(char *text, char *found[WORDS_MAX], unsigned int *count, char *why)
{
	unsigned int n = 0;

	while (*text == ' ')
		text++;
	for (; *text && n < WORDS_MAX; n++) {
		found[n] = take_word(&text);
		if (!found[n]) {
			(void)refuse(
				why,
				"a quote is not closed, or what follows a \\ is neither \" nor \\");
			return -EINVAL;
		}
	}
	if (n && !*text) {
		*count = n;
		return 0;
	}
	(void)snprintf(why, LB_ADMIN_WHY_MAX, "%s", n ? "too many words" : "an empty request");
	return -EINVAL;
}

static int find_verb(const char *word, enum lb_admin_verb *ret, char *why)
{
	for (size_t i = 0; i < LB_ARRAY_SIZE(verbs); i++) {
		if (strcmp(verbs[i].word, word) != 0)
			continue;
		*ret = (enum lb_admin_verb)i;
		return 0;
	}
	return refuse(why, "'%.60s': no such request", word);
}

static int read_words(struct lb_admin_request *r, char *const *found, unsigned int count, char *why)
{
	unsigned int needed = verbs[r->verb].needed_count, allowed = verbs[r->verb].options;
	int err = 0;

	if (count < needed)
		return refuse(why, "%s needs %s", verbs[r->verb].word,
			      words[verbs[r->verb].needed[count]].expected);
	for (unsigned int i = 0; i < count && !err; i++) {
		if (i < needed)
			err = read_word(r, verbs[r->verb].needed[i], found[i], why);
		else
			err = read_option(r, &allowed, found[i], why);
	}
	return err;
}

int lb_admin_request_parse(struct lb_admin_request *r, const char *line, size_t len,
			   char why[LB_ADMIN_WHY_MAX])
{
	char *found[WORDS_MAX];
	unsigned int count = 0;
	int err;

	*r = (struct lb_admin_request){.limit = FLOWS_BY_DEFAULT,
				       .deadline_ms = LB_ADMIN_AS_CONFIGURED};
	if (len && line[len - 1] == '\r')
		len--;
	if (len > LB_ADMIN_LINE_MAX)
		return refuse(why, "more than %d bytes", LB_ADMIN_LINE_MAX);
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			return refuse(why, "a control character");
	memcpy(r->text, line, len);
	r->text[len] = '\0';
	err = split(r->text, found, &count, why);
	if (!err)
		err = find_verb(found[0], &r->verb, why);
	return err ? err : read_words(r, found + 1, count - 1, why);
}
