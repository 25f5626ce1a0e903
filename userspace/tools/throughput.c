/* SPDX-License-Identifier: MIT */
/*
 * throughput: moves a known pattern through whatever is in between, as fast as that goes, and says
 * how fast it went and whether it came through unharmed. Options only; the roles are in
 * throughput/source.c and throughput/sink.c.
 */
#include "tools/throughput/throughput.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "tools/common/pattern.h"
#include "tools/common/tool.h"

#define CONNECTIONS_MAX    15000u
#define SECONDS_MAX        86400u
#define SECONDS_BY_DEFAULT 10u
#define STALL_S_BY_DEFAULT 30u

static const char usage[] =
	"usage: throughput sink ADDR:PORT [--json]\n"
	"       throughput source ADDR:PORT [options]\n"
	"\n"
	"A sink takes what sources send, until SIGINT or SIGTERM. A source sends to a sink:\n"
	"  --connections N   at once (default 1)\n"
	"  --seconds S       for so long (default 10), or\n"
	"  --bytes SIZE      so many on each connection: 4096, 64KiB, 20MB, 1GiB\n"
	"  --reverse         the sink sends, the source receives\n"
	"  --echo            the other end is an echo service: all must come back\n"
	"  --verify          compare every byte, not only their number\n"
	"  --stall S         give up when no byte moved for so long (default 30)\n"
	"  --json            one JSON object at the end instead of a line every second\n"
	"\n"
	"Exit codes: 0 all bytes moved, 1 bytes wrong or missing, 2 usage, 3 system error.\n";

enum {
	OPT_CONNECTIONS = 256,
	OPT_SECONDS,
	OPT_BYTES,
	OPT_REVERSE,
	OPT_ECHO,
	OPT_STALL,
	OPT_VERIFY,
	OPT_JSON
};

static const struct option source_options[] = {
	{"connections", required_argument, NULL, OPT_CONNECTIONS},
	{"seconds", required_argument, NULL, OPT_SECONDS},
	{"bytes", required_argument, NULL, OPT_BYTES},
	{"reverse", no_argument, NULL, OPT_REVERSE},
	{"echo", no_argument, NULL, OPT_ECHO},
	{"stall", required_argument, NULL, OPT_STALL},
	{"verify", no_argument, NULL, OPT_VERIFY},
	{"json", no_argument, NULL, OPT_JSON},
	{0},
};

static const struct option sink_options[] = {
	{"json", no_argument, NULL, OPT_JSON},
	{0},
};

static int refuse(const char *what)
{
	fprintf(stderr, "throughput: %s; see throughput --help\n", what);
	return -EINVAL;
}

static int take_option(int option, struct lb_throughput_opts *o)
{
	uint64_t n;

	switch (option) {
	case OPT_CONNECTIONS:
		if (lb_tool_parse_number(optarg, 1, CONNECTIONS_MAX, &n) < 0)
			return refuse("--connections: expected 1 to 15000");
		o->connections = (uint32_t)n;
		return 0;
	case OPT_SECONDS:
		if (lb_tool_parse_number(optarg, 1, SECONDS_MAX, &o->seconds) < 0)
			return refuse("--seconds: expected 1 to 86400");
		return 0;
	case OPT_BYTES:
		if (lb_tool_parse_size(optarg, &o->bytes) < 0)
			return refuse("--bytes: expected a size like 4096, 64KiB or 20MB");
		return 0;
	case OPT_STALL:
		if (lb_tool_parse_number(optarg, 1, SECONDS_MAX, &o->stall_s) < 0)
			return refuse("--stall: expected 1 to 86400");
		return 0;
	case OPT_REVERSE:
		o->reverse = true;
		return 0;
	case OPT_ECHO:
		o->echo = true;
		return 0;
	case OPT_VERIFY:
		o->verify = true;
		return 0;
	case OPT_JSON:
		o->json = true;
		return 0;
	}
	return -EINVAL; /* getopt has said why */
}

/* argv[0] is the role. 0 with *o filled in, or -EINVAL with the sentence printed. */
static int parse_options(int argc, char **argv, bool source, struct lb_throughput_opts *o)
{
	int option;

	while ((option = getopt_long(argc, argv, "", source ? source_options : sink_options,
				     NULL)) >= 0) {
		if (take_option(option, o) < 0)
			return -EINVAL;
	}
	if (optind + 1 != argc)
		return refuse("expected one address");
	if (lb_addr_parse(argv[optind], &o->addr) < 0)
		return refuse("expected an address like 127.0.0.1:9200");
	if (o->reverse && o->echo)
		return refuse("--reverse and --echo exclude each other");
	if (o->seconds && o->bytes)
		return refuse("--seconds and --bytes exclude each other");
	if (!o->seconds && !o->bytes)
		o->seconds = SECONDS_BY_DEFAULT;
	return 0;
}

int main(int argc, char **argv)
{
	struct lb_throughput_opts o = {.connections = 1, .stall_s = STALL_S_BY_DEFAULT};
	const char *role = argc > 1 ? argv[1] : "";
	bool source = strcmp(role, "source") == 0;

	if (strcmp(role, "--help") == 0) {
		fputs(usage, stdout);
		return LB_TOOL_OK;
	}
	if (!source && strcmp(role, "sink") != 0) {
		fputs(usage, stderr);
		return LB_TOOL_USAGE;
	}
	if (parse_options(argc - 1, argv + 1, source, &o) < 0)
		return LB_TOOL_USAGE;
	lb_tool_raise_nofile();
	lb_pattern_init();
	return source ? lb_throughput_source(&o) : lb_throughput_sink(&o);
}
