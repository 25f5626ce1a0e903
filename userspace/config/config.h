/* SPDX-License-Identifier: MIT */
/*
 * The configuration as plain immutable structs: what lb.yaml says, with defaults filled in. Field
 * names are the YAML keys. Read-only after lb_config_load(); any thread may read.
 */
#ifndef LB_CONFIG_CONFIG_H
#define LB_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/addr.h"
#include "base/log.h"

enum lb_acceleration {
	LB_ACCELERATION_AUTO = 0,
	LB_ACCELERATION_GRAFT,
	LB_ACCELERATION_SOCKMAP,
	LB_ACCELERATION_RELAY,
};

enum lb_balance {
	LB_BALANCE_WEIGHTED_ROUND_ROBIN = 0,
	LB_BALANCE_LEAST_CONNECTIONS,
	LB_BALANCE_RANDOM_TWO,
	LB_BALANCE_SOURCE_HASH,
};

struct lb_backend_config {
	char *addr; /* as written: "host:port" */
	char *host; /* host part without brackets */
	uint16_t port;
	bool drain;
	uint32_t weight; /* 1..256 */
	bool backup;
	uint32_t max_connections; /* 0: no limit */
	char *tls_name;
};

struct lb_timeouts_config {
	uint64_t connect_ms;
	uint64_t idle_ms; /* 0: never */
	uint64_t handshake_ms;
	uint64_t max_lifetime_ms; /* 0: never */
	uint64_t drain_ms;
};

struct lb_rule_config {
	char *name;
	struct lb_addr listen;
	struct lb_backend_config *backends;
	size_t backends_count;
	enum lb_balance balance;
	enum lb_acceleration acceleration; /* the rule's own, else the top level's */
	struct lb_timeouts_config timeouts;
	uint32_t retries; /* backends tried in all: 1 + further tries (see schema help) */
	/* further blocks: one struct per YAML block, named after it */
};

struct lb_access_log_config {
	char *path; /* NULL: off; "stdout", "stderr" or a file */
};

struct lb_config {
	char *path;
	struct lb_rule_config *rules;
	size_t rules_count;
	enum lb_log_level log_level;
	uint32_t workers; /* 0: one per core */
	enum lb_acceleration acceleration;
	struct lb_access_log_config access_log;
	bool metrics_enabled;
	struct lb_addr metrics_addr;
	/* further blocks */
};

#endif
