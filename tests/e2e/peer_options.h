/* SPDX-License-Identifier: MIT */
/*
 * What the test peer can be told: one table of key=value options, filling the one plan. It must
 * accept nothing it does not understand: a misspelt scenario would pass as another one.
 */
#ifndef PEER_OPTIONS_H
#define PEER_OPTIONS_H

#include <stdio.h>

#include "peer_flow.h"

static struct peer_plan plan = {
	.host = "127.0.0.1",
	.seed = 1,
	.count = 1,
	.recv = PEER_UNKNOWN,
	.chunk = 65536,
	.rst_after = PEER_UNKNOWN,
	.deadline_ms = 30000,
	.quiet_ms = 30000,
	.backlog = 4096,
};

static const char *const orders[] = {"both", "send", "recv", "pingpong", NULL};
static const char *const ends[] = {"fin", "close", "rst", "keep", NULL};
static const char *const txs[] = {"send", "sendfile", "splice", NULL};
static const char *const rxs[] = {"recv", "splice", "peek", "lowat", "never", NULL};
static const char *const expects[] = {"fin", "rst", "any", NULL};

static const struct option {
	const char *key;
	uint64_t *number;
	const char **text;
	unsigned *choice;
	const char *const *words;
	const char *help;
} options[] = {
	{"host", .text = &plan.host, .help = "address to listen on or connect to"},
	{"port", .number = &plan.port, .help = "port"},
	{"from", .text = &plan.from, .help = "client: source address"},
	{"count", .number = &plan.count, .help = "connections in all; server, 0: until SIGTERM"},
	{"parallel", .number = &plan.parallel, .help = "client: at once (default: all)"},
	{"seed", .number = &plan.seed, .help = "connection i sends stream seed + i"},
	{"send", .number = &plan.send, .help = "bytes to send"},
	{"recv", .number = &plan.recv, .help = "bytes that must arrive (default: any number)"},
	{"chunk", .number = &plan.chunk, .help = "bytes per call; a ping-pong message"},
	{"pause_every", .number = &plan.pause_every, .help = "sender rests every so many bytes"},
	{"pause_ms", .number = &plan.pause_ms, .help = "so long"},
	{"stall_every", .number = &plan.stall_every, .help = "receiver rests every so many bytes"},
	{"stall_ms", .number = &plan.stall_ms, .help = "so long"},
	{"rst_after", .number = &plan.rst_after, .help = "reset after so many received bytes"},
	{"go", .number = &plan.go, .help = "1: no byte before SIGUSR1"},
	{"patient", .number = &plan.patient, .help = "1: end only when recv bytes arrived"},
	{"end_delay_ms", .number = &plan.end_delay_ms, .help = "and so much later"},
	{"hold", .number = &plan.hold, .help = "1: after sending wait until stdin closes"},
	{"deadline_ms", .number = &plan.deadline_ms, .help = "nothing lasts longer"},
	{"quiet_ms", .number = &plan.quiet_ms, .help = "no single wait lasts longer"},
	{"accept_delay_ms", .number = &plan.accept_delay_ms, .help = "server: before the first"},
	{"backlog", .number = &plan.backlog, .help = "server: accept queue"},
	{"rcvbuf", .number = &plan.rcvbuf, .help = "SO_RCVBUF"},
	{"sndbuf", .number = &plan.sndbuf, .help = "SO_SNDBUF"},
	{"pace", .number = &plan.pace, .help = "SO_MAX_PACING_RATE"},
	{"mptcp", .number = &plan.mptcp, .help = "1: IPPROTO_MPTCP"},
	{"order", .choice = &plan.order, .words = orders, .help = "which direction goes first"},
	{"end", .choice = &plan.end, .words = ends, .help = "what follows the last sent byte"},
	{"tx", .choice = &plan.tx, .words = txs, .help = "how to send"},
	{"rx", .choice = &plan.rx, .words = rxs, .help = "how to receive"},
	{"expect", .choice = &plan.expect, .words = expects, .help = "how connections must end"},
};

static void usage(void)
{
	size_t i, k;

	fprintf(stderr, "usage: peer server|client key=value..\n");
	for (i = 0; i < sizeof(options) / sizeof(*options); i++) {
		fprintf(stderr, "  %-16s %s", options[i].key, options[i].help);
		for (k = 0; options[i].words && options[i].words[k]; k++)
			fprintf(stderr, "%s%s", k ? "|" : ": ", options[i].words[k]);
		fputc('\n', stderr);
	}
	exit(2);
}

static bool option_set(const char *key, size_t key_len, char *value)
{
	size_t i, k;

	for (i = 0; i < sizeof(options) / sizeof(*options); i++) {
		const struct option *o = &options[i];
		char *rest;

		if (strlen(o->key) != key_len || memcmp(o->key, key, key_len))
			continue;
		if (o->text) {
			*o->text = value;
			return true;
		}
		if (o->number) {
			*o->number = strtoull(value, &rest, 0);
			return *value && !*rest;
		}
		for (k = 0; o->words[k]; k++) {
			if (!strcmp(o->words[k], value)) {
				*o->choice = (unsigned)k;
				return true;
			}
		}
		return false;
	}
	return false;
}

static void options_parse(int argc, char **argv)
{
	int i;

	if (argc < 2 || (strcmp(argv[1], "server") && strcmp(argv[1], "client")))
		usage();
	plan.server = !strcmp(argv[1], "server");
	for (i = 2; i < argc; i++) {
		char *eq = strchr(argv[i], '=');

		if (!eq || !option_set(argv[i], (size_t)(eq - argv[i]), eq + 1)) {
			fprintf(stderr, "peer: not understood: %s\n", argv[i]);
			usage();
		}
	}
	/* close(2) under another thread's poll would neither end it nor send anything. */
	if (plan.end == END_CLOSE && plan.order != ORDER_SEND)
		usage();
	if (!plan.chunk || (!plan.server && !plan.count))
		usage();
	if (!plan.parallel || plan.parallel > plan.count)
		plan.parallel = plan.count;
}

#endif
