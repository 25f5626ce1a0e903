/* SPDX-License-Identifier: MIT */
/* What a service is made of: for service.c, which builds it, and service_report.c, which reads. */
#ifndef LB_CONTROL_SERVICE_PARTS_H
#define LB_CONTROL_SERVICE_PARTS_H

#include "control/service.h"

struct lb_access_log;
struct lb_admin;
struct lb_admission_service;
struct lb_backends;
struct lb_buckets;
struct lb_exporter;
struct lb_grafts;
struct lb_instance;
struct lb_ports_shelf;
struct lb_worker;

struct lb_service {
	const struct lb_config *config;
	struct lb_instance *instance;
	struct lb_kernel *kernel;
	struct lb_kernel_report kernel_report;
	struct lb_graft_table *graft_table;
	struct lb_graft_table_report graft_report;
	struct lb_grafts *grafts;
	struct lb_ports_shelf *ports;
	struct lb_backends *backends;
	struct lb_buckets *buckets;     /* NULL: no rule limits the bandwidth */
	struct lb_same_host *same_host; /* NULL: not in service */
	struct lb_flow_limits limits;
	struct lb_rule *rules;
	size_t rules_count;
	struct lb_worker **workers;
	uint32_t workers_count;
	struct lb_access_log *access_log;
	struct lb_exporter *exporter;
	struct lb_admission_service *admission; /* NULL: the kernel does not help with it */
	struct lb_flow_env **envs;              /* of the workers */
	struct lb_admin *admin;
	uint64_t start_ms;
	bool draining; /* atomic */
	bool *cut;     /* by rule: its flows have been cut */
	bool up;       /* atomic: it has come up */
};

#endif
