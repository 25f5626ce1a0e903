/* SPDX-License-Identifier: MIT */
/*
 * lbctl: asks a running daemon through its admin socket, and shows what it says. Options and exit
 * codes only; the conversation is in lbctl/ask.c, the tables in lbctl/show.c, `top` in lbctl/top.c.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "config/units.h"
#include "tools/lbctl/ask.h"
#include "tools/lbctl/show.h"
#include "tools/lbctl/top.h"

enum exit_code {
	EXIT_FINE = 0,
	EXIT_REFUSED = 1,
	EXIT_USAGE = 2,
	EXIT_UNREACHABLE = 3,
};

enum {
	OPT_SOCKET = 256,
	OPT_INSTANCE,
	OPT_JSON,
	OPT_HELP,
	/* Those that become words of the request. */
	OPT_RULE,
	OPT_BACKEND,
	OPT_CLIENT,
	OPT_CARRIER,
	OPT_SORT,
	OPT_LIMIT,
	OPT_OVER,
	OPT_DEADLINE,
	OPT_DRY_RUN,
	OPT_BINARY,
	OPT_TIMEOUT,
	/* .. and those that do not. */
	OPT_EVERY,
	OPT_ONCE,
	OPT_MAX_
};

#define TOP_EVERY_MS  2000u
#define TOP_EVERY_MIN 500u
#define TOP_EVERY_MAX 10000u

#define BIT(option) (1u << ((option)-OPT_RULE))

static const struct option options[] = {
	{"socket", required_argument, NULL, OPT_SOCKET},
	{"instance", required_argument, NULL, OPT_INSTANCE},
	{"json", no_argument, NULL, OPT_JSON},
	{"help", no_argument, NULL, OPT_HELP},
	{"rule", required_argument, NULL, OPT_RULE},
	{"backend", required_argument, NULL, OPT_BACKEND},
	{"client", required_argument, NULL, OPT_CLIENT},
	{"carrier", required_argument, NULL, OPT_CARRIER},
	{"sort", required_argument, NULL, OPT_SORT},
	{"limit", required_argument, NULL, OPT_LIMIT},
	{"over", required_argument, NULL, OPT_OVER},
	{"deadline", required_argument, NULL, OPT_DEADLINE},
	{"dry-run", no_argument, NULL, OPT_DRY_RUN},
	{"binary", required_argument, NULL, OPT_BINARY},
	{"timeout", required_argument, NULL, OPT_TIMEOUT},
	{"every", required_argument, NULL, OPT_EVERY},
	{"once", no_argument, NULL, OPT_ONCE},
	{NULL, 0, NULL, 0},
};

/* How the request calls them; those whose value is a time are given in milliseconds. */
static const struct {
	const char *key;
	bool time;
} words[] = {
	{"rule"},    {"backend"}, {"client"},           {"carrier"},
	{"sort"},    {"limit"},   {"over_ms", true},    {"deadline_ms", true},
	{"dry_run"}, {"binary"},  {"timeout_ms", true}, {NULL},
	{NULL},
};
_Static_assert(LB_ARRAY_SIZE(words) == OPT_MAX_ - OPT_RULE, "in the order of the options");

static const struct command {
	const char *name, *needs;
	int needed;
	unsigned int options;
	int (*show)(const json_t *reply, FILE *out);
	const char *help;
} commands[] = {
	{"status", "", 0, 0, lb_show_status, "the daemon, its carriers, its rules"},
	{"backends", "", 0, BIT(OPT_RULE), lb_show_backends,
	 "states, flows and drains of all backends"},
	{"flows", "", 0,
	 BIT(OPT_RULE) | BIT(OPT_BACKEND) | BIT(OPT_CLIENT) | BIT(OPT_CARRIER) | BIT(OPT_SORT) |
		 BIT(OPT_LIMIT) | BIT(OPT_OVER),
	 lb_show_flows, "living flows, on every carrier"},
	{"drain", "RULE BACKEND", 2, BIT(OPT_DEADLINE), lb_show_drain,
	 "no new flows; idle ones are closed, at the deadline the rest"},
	{"undrain", "RULE BACKEND", 2, 0, lb_show_nothing, "takes a drain back"},
	{"weight", "RULE BACKEND N", 3, 0, lb_show_weight, "its share, 1 to 256"},
	{"disable", "RULE BACKEND", 2, 0, lb_show_nothing,
	 "no new flows; those it has are left alone"},
	{"enable", "RULE BACKEND", 2, 0, lb_show_nothing, "takes that back"},
	{"kill", "FLOW", 1, 0, lb_show_nothing, "resets both ends of a flow"},
	{"log", "LEVEL", 1, 0, lb_show_log, "error, warn, info or debug, until the next start"},
	{"reload", "", 0, BIT(OPT_DRY_RUN), lb_show_reload,
	 "reads the configuration again: all of it comes into force, or nothing"},
	{"upgrade", "", 0, BIT(OPT_BINARY) | BIT(OPT_TIMEOUT), lb_show_upgrade,
	 "a new daemon takes over; nobody is cut, nobody refused"},
	{"top", "", 0, BIT(OPT_RULE) | BIT(OPT_LIMIT) | BIT(OPT_EVERY) | BIT(OPT_ONCE),
	 lb_show_nothing, "all of it, live: what moves, who is refused, who is slow"},
	{"cluster", "", 0, 0, lb_show_cluster, "the nodes of the cluster, as this one sees them"},
	{"metrics", "", 0, 0, lb_show_metrics, "what Prometheus gets"},
	{"version", "", 0, 0, lb_show_version, "of both"},
};

static const char usage_options[] =
	"\n"
	"  --socket PATH      of the daemon (default: /run/layer4-lb/admin.sock)\n"
	"  --instance NAME    of the daemon that was started with this name\n"
	"  --json             the reply as it comes, one line\n"
	"  --help             print this\n"
	"\n"
	"flows:\n"
	"  --rule NAME        of this rule, as for backends\n"
	"  --backend ADDR     to this backend, as it is called in lb.yaml\n"
	"  --client ADDR      from an address, an address and port, or a prefix\n"
	"  --carrier NAME     on relay, sockmap or graft\n"
	"  --sort KEY         age (default), idle, bytes, rate, rtt, backlog: the largest first\n"
	"  --limit N          so many at most (default 100)\n"
	"  --over TIME        rates over so long, up to 10s; else over each flow's life\n"
	"\n"
	"drain:\n"
	"  --deadline TIME    cut what is left after it, or never (default: timeouts.drain_ms)\n"
	"\n"
	"reload:\n"
	"  --dry-run          only tell what would change\n"
	"\n"
	"upgrade:\n"
	"  --binary PATH      start this one (default: where the daemon was started from)\n"
	"  --timeout TIME     kill it when it has not taken over by then, up to 25s (default)\n"
	"\n"
	"top:\n"
	"  --every TIME       from look to look, 500ms to 10s (default 2s; h shows the keys)\n"
	"  --once             one look as text, without a terminal; also -b\n"
	"  --rule NAME        this rule alone; --limit N: so many rows of each table (10)\n"
	"\n"
	"Exit codes: 0 fine, 1 refused, 2 usage, 3 the daemon cannot be reached.\n";

static void print_usage(FILE *out)
{
	fputs("usage: lbctl [options] COMMAND\n\n", out);
	for (size_t i = 0; i < LB_ARRAY_SIZE(commands); i++) {
		char left[32];

		(void)snprintf(left, sizeof(left), "%s%s%s", commands[i].name,
			       *commands[i].needs ? " " : "", commands[i].needs);
		fprintf(out, "  %-24s %s\n", left, commands[i].help);
	}
	fputs(usage_options, out);
}

struct call {
	const struct command *command;
	const char *socket, *instance;
	bool json, help;
	const char *values[OPT_MAX_ - OPT_RULE];
	struct lb_ask ask;
	struct lb_top_opts top;
};

static int refuse(const char *what, const char *why)
{
	fprintf(stderr, "lbctl: %s%s; see lbctl --help\n", what, why);
	return -EINVAL;
}

static int take_option(struct call *c, int option)
{
	switch (option) {
	case OPT_SOCKET:
		c->socket = optarg;
		return 0;
	case OPT_INSTANCE:
		c->instance = optarg;
		return 0;
	case OPT_JSON:
		c->json = true;
		return 0;
	case OPT_HELP:
		c->help = true;
		return 0;
	case 'b':
		option = OPT_ONCE;
		/* fall through */
	case OPT_ONCE:
	case OPT_DRY_RUN:
		c->values[option - OPT_RULE] = "yes";
		return 0;
	case '?':
		fputs("lbctl --help lists the options\n", stderr);
		return -EINVAL;
	default:
		c->values[option - OPT_RULE] = optarg;
		return 0;
	}
}

/* A time as the request has it. */
static int add_time(struct call *c, const char *key, const char *text)
{
	char ms_text[24];
	uint64_t ms;

	if (!strcmp(text, "never")) {
		lb_ask_add_option(&c->ask, key, text);
		return 0;
	}
	if (lb_units_parse_ms(text, &ms))
		return refuse(text, ": expected a time like 500ms or 30s");
	(void)snprintf(ms_text, sizeof(ms_text), "%llu", (unsigned long long)ms);
	lb_ask_add_option(&c->ask, key, ms_text);
	return 0;
}

static int add_options(struct call *c)
{
	int err = 0;

	for (size_t i = 0; i < LB_ARRAY_SIZE(words) && !err; i++) {
		if (!c->values[i])
			continue;
		if (!(c->command->options & 1u << i))
			return refuse(c->command->name, " does not take such an option");
		if (!words[i].key)
			continue;
		if (words[i].time)
			err = add_time(c, words[i].key, c->values[i]);
		else
			lb_ask_add_option(&c->ask, words[i].key, c->values[i]);
	}
	/* Who has the highest rate now is a question of now. */
	if (!err && c->values[OPT_SORT - OPT_RULE] &&
	    !strcmp(c->values[OPT_SORT - OPT_RULE], "rate") && !c->values[OPT_OVER - OPT_RULE])
		lb_ask_add_option(&c->ask, "over_ms", "1000");
	return err;
}

static int find_command(struct call *c, const char *name)
{
	for (size_t i = 0; i < LB_ARRAY_SIZE(commands); i++)
		if (!strcmp(commands[i].name, name))
			c->command = &commands[i];
	return c->command ? 0 : refuse(name, ": no such command");
}

static bool is_top(const struct call *c)
{
	return !strcmp(c->command->name, "top");
}

static int parse_number(const char *text, size_t most, size_t *ret)
{
	unsigned long n;
	char *end;

	errno = 0;
	n = strtoul(text, &end, 10);
	if (errno || *end || *text < '0' || *text > '9' || !n || n > most)
		return refuse(text, ": expected a number of rows");
	*ret = n;
	return 0;
}

/* With --json it is a request like others, and what it would show comes as it is. */
static int parse_top(struct call *c)
{
	const char *every = c->values[OPT_EVERY - OPT_RULE],
		   *rows = c->values[OPT_LIMIT - OPT_RULE];
	uint64_t ms = TOP_EVERY_MS;

	for (size_t i = 0; i < LB_ARRAY_SIZE(words); i++)
		if (c->values[i] && (c->json || !(c->command->options & 1u << i)))
			return refuse(c->command->name, " does not take such an option");
	if (every && (lb_units_parse_ms(every, &ms) || ms < TOP_EVERY_MIN || ms > TOP_EVERY_MAX))
		return refuse(every, ": expected a time from 500ms to 10s");
	c->top = (struct lb_top_opts){.rule = c->values[0 /* --rule */],
				      .interval_ms = (uint32_t)ms,
				      .once = c->values[OPT_ONCE - OPT_RULE],
				      .rows = 10};
	lb_ask_add(&c->ask, "overview");
	return rows ? parse_number(rows, 1000, &c->top.rows) : 0;
}

static int parse(struct call *c, int argc, char **argv)
{
	int option;

	while ((option = getopt_long(argc, argv, "b", options, NULL)) >= 0)
		if (take_option(c, option))
			return -EINVAL;
	if (c->help)
		return 0;
	if (optind == argc)
		return refuse("expected a command", "");
	if (find_command(c, argv[optind++]))
		return -EINVAL;
	if (argc - optind != c->command->needed)
		return *c->command->needs ? refuse("expected ", c->command->needs)
					  : refuse(c->command->name, " takes nothing more");
	if (is_top(c))
		return parse_top(c);
	lb_ask_add(&c->ask, c->command->name);
	while (optind < argc)
		lb_ask_add(&c->ask, argv[optind++]);
	if (add_options(c))
		return -EINVAL;
	return c->ask.failed ? refuse("that is too long for a request", "") : 0;
}

/* The exit code that a reply stands for, when it is shown. */
static enum exit_code show(const struct call *c, const char *text, size_t len)
{
	/* Left to the end of the process, which is near: to free a large one takes its time. */
	static json_t *reply;
	enum exit_code code = EXIT_FINE;

	reply = json_loadb(text, len, 0, NULL);
	if (!json_is_object(reply)) {
		fputs("lbctl: the daemon's reply is no JSON\n", stderr);
		code = EXIT_UNREACHABLE;
	} else if (!json_is_true(json_object_get(reply, "ok"))) {
		const char *error = json_string_value(json_object_get(reply, "error"));

		fprintf(stderr, "lbctl: %s\n", error ? error : "refused, without a reason");
		code = EXIT_REFUSED;
	} else if (!c->json && c->command->show(reply, stdout)) {
		fputs("lbctl: out of memory\n", stderr);
		code = EXIT_UNREACHABLE;
	}
	if (c->json)
		printf("%s\n", text);
	return code;
}

static enum exit_code run_top(const struct call *c, const char *path)
{
	static const enum exit_code codes[] = {
		[LB_TOP_DONE] = EXIT_FINE,
		[LB_TOP_REFUSED] = EXIT_REFUSED,
		[LB_TOP_UNREACHABLE] = EXIT_UNREACHABLE,
		[LB_TOP_NO_TERMINAL] = EXIT_USAGE,
	};
	struct lb_top_opts opts = c->top;

	opts.path = path;
	return codes[lb_top_run(&opts)];
}

static enum exit_code run(struct call *c)
{
	LB_AUTO_FREE char *reply = NULL;
	LB_AUTO_CLOSE int fd = -1;
	char path[128];
	size_t len;
	int err;

	if (c->socket)
		(void)snprintf(path, sizeof(path), "%s", c->socket);
	else
		(void)snprintf(path, sizeof(path), "/run/layer4-lb%s%s/admin.sock",
			       c->instance ? "-" : "", c->instance ? c->instance : "");
	if (is_top(c) && !c->json)
		return run_top(c, path);
	fd = lb_ask_connect(path);
	err = fd < 0 ? fd : lb_ask_send(fd, &c->ask, &reply, &len);
	if (err) {
		fprintf(stderr, "lbctl: %s: %s\n", path, strerror(-err));
		return EXIT_UNREACHABLE;
	}
	return show(c, reply, len);
}

int main(int argc, char **argv)
{
	struct call c = {0};

	if (parse(&c, argc, argv))
		return EXIT_USAGE;
	if (c.help) {
		print_usage(stdout);
		return EXIT_FINE;
	}
	return run(&c);
}
