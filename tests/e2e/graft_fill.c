/* SPDX-License-Identifier: MIT */
/*
 * `graft_fill INSTANCE RULE COUNT`: leaves the tables of an instance as a daemon leaves them that
 * was killed with COUNT idle grafts of rule RULE: for tests that need more flows than this machine
 * has patience for. Their clients are in 198.18.0.0/15, their backends 10.81.1.2:7980 and the
 * ports that follow.
 *
 * Must be what flow/graft.c leaves, as far as the keeper and the program look. Run it in the
 * namespace where the daemon will run, while none does. Exit codes: 0, 2 usage, 3 system error.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "flow/graft_keeper.h"
#include "kernel/graft_table.h"

#define CLIENTS      0xc6120000u /* 198.18.0.0 */
#define FRONT        0x0a510001u /* 10.81.0.1 */
#define OWN          0x0a510101u /* 10.81.1.1 */
#define BACKEND      0x0a510102u /* 10.81.1.2 */
#define FRONT_PORT   6980
#define BACKEND_PORT 7980
#define PORT_MIN     10240
#define PORTS        19760

/* Our own ports are not enough for one backend: <PORTS> grafts go to each. */
static __be16 backend_port(uint32_t i)
{
	return htons((uint16_t)(BACKEND_PORT + i / PORTS));
}

static void fill(struct lb_graft *g, uint32_t i, uint32_t rule_hash)
{
	uint64_t now = lb_clock_ns();
	__be16 port = htons((uint16_t)(PORT_MIN + i % PORTS));

	g->leg[LB_LEG_CLIENT].saddr[0] = htonl(OWN);
	g->leg[LB_LEG_CLIENT].sport = port;
	g->leg[LB_LEG_CLIENT].daddr[0] = htonl(BACKEND);
	g->leg[LB_LEG_CLIENT].dport = backend_port(i);
	g->leg[LB_LEG_BACKEND].saddr[0] = htonl(FRONT);
	g->leg[LB_LEG_BACKEND].sport = htons(FRONT_PORT);
	g->leg[LB_LEG_BACKEND].daddr[0] = htonl(CLIENTS + i);
	g->leg[LB_LEG_BACKEND].dport = htons(40000);
	for (unsigned int leg = 0; leg < 2; leg++)
		g->leg[leg].first_ns = g->leg[leg].last_ns = g->leg[leg].data_ns = now;
	g->accept_ns = now;
	g->rule_hash = rule_hash;
	g->tries = 1;
	g->counted = LB_GRAFT_KEPT;
	g->stage = LB_GRAFT_FULL;
}

static int add(struct lb_graft_table *table, uint32_t pair, uint32_t rule_hash)
{
	const struct lb_graft_tuple from_client = {
		.saddr = {htonl(CLIENTS + pair)},
		.daddr = {htonl(FRONT)},
		.sport = htons(40000),
		.dport = htons(FRONT_PORT),
	};
	const struct lb_graft_tuple from_backend = {
		.saddr = {htonl(BACKEND)},
		.daddr = {htonl(OWN)},
		.sport = backend_port(pair),
		.dport = htons((uint16_t)(PORT_MIN + pair % PORTS)),
	};
	int err;

	fill(lb_graft_table_pair(table, pair), pair, rule_hash);
	err = lb_graft_table_add(table, &from_client, pair * 2);
	return err ? err : lb_graft_table_add(table, &from_backend, pair * 2 + 1);
}

int main(int argc, char **argv)
{
	struct lb_graft_table_opts opts = {.create = true};
	struct lb_graft_table_report report;
	struct lb_graft_table *table;
	int err;

	if (argc != 4) {
		fputs("usage: graft_fill INSTANCE RULE COUNT\n", stderr);
		return 2;
	}
	opts.instance = argv[1];
	opts.pairs = (uint32_t)strtoul(argv[3], NULL, 10);
	if (lb_graft_table_open(&table, &opts, &report)) {
		fprintf(stderr, "graft_fill: %s\n", report.detail);
		return 3;
	}
	err = lb_graft_table_attach(table, NULL, 0);
	for (uint32_t i = 0; i < opts.pairs && !err; i++)
		err = add(table, i, lb_graft_keeper_hash(argv[2]));
	if (err)
		fprintf(stderr, "graft_fill: %s\n", strerror(-err));
	lb_graft_table_close(table, !err);
	return err ? 3 : 0;
}
