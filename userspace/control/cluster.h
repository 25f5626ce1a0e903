/* SPDX-License-Identifier: MIT */
/*
 * This node's place in the cluster: a thread of its own, so that nothing thrown at its port delays
 * health checks or flows; the names of its peers, looked up anew each minute; the log of who comes
 * and goes; and the limits that nodes share (cluster/limits.h). Main thread, if nothing else is
 * said.
 */
#ifndef LB_CONTROL_CLUSTER_H
#define LB_CONTROL_CLUSTER_H

#include <stdio.h>

#include "cluster/gossip.h"
#include "cluster/limits.h"
#include "cluster/opinion.h"
#include "config/config.h"

struct lb_cluster;

/*
 * Reads the keys, and binds when <bind>, while that is permitted. 0 with NULL when it is not
 * enabled, or -errno after a message.
 */
int lb_cluster_open(struct lb_cluster **ret, const struct lb_config *config, bool bind);
/* Binds, if that is still to be done. 0, or -errno after a message. NULL is fine, as below. */
int lb_cluster_start(struct lb_cluster *c);
/* Another process goes on under this name: nothing is said any more, and the port is free. */
void lb_cluster_silence(struct lb_cluster *c);
/*
 * After a reload: what others are told of the configuration, and the keys, which may be others in
 * the same file. A file that cannot be read any more is told; the old keys stay.
 */
void lb_cluster_renew(struct lb_cluster *c, const struct lb_config *config);
/* Says good-bye, for LB_CLUSTER_LEAVE_MS at most, and ends. NULL inside is fine. */
void lb_cluster_close(struct lb_cluster **c);

#define LB_CLUSTER_LEAVE_MS 2000u

/* What of <config> all nodes should have in common: all of it but `cluster` and `admin`. */
uint32_t lb_cluster_config_hash(const struct lb_config *config);
/* As metrics and lbctl call it. */
const char *lb_cluster_state_word(enum lb_member_state state);
/* Where its keys are; NULL: there are none. NULL is fine. */
const char *lb_cluster_key_file(const struct lb_cluster *c);
/* Any thread. */
struct lb_gossip *lb_cluster_gossip(const struct lb_cluster *c);
/* NULL for NULL. */
struct lb_limits *lb_cluster_limits(const struct lb_cluster *c);
/* NULL for NULL. */
struct lb_opinions *lb_cluster_opinions(const struct lb_cluster *c);
/* How many nodes there should be at least, by <config>. */
uint32_t lb_cluster_nodes_min(const struct lb_cluster_config *config);
void lb_cluster_print_metrics(const struct lb_cluster *c, FILE *out);

#endif
