/* SPDX-License-Identifier: MIT */
/*
 * A membership on the network: the socket, the seal, the clocks and the timer of cluster/member.
 *
 * The loop's thread, if nothing else is said; before the loop runs, its builder's. What comes is
 * taken LB_GOSSIP_BATCH datagrams at a time. Nothing that is not sealed with one of the keys, or
 * was opened before, is answered or has any effect but on a counter.
 */
#ifndef LB_CLUSTER_GOSSIP_H
#define LB_CLUSTER_GOSSIP_H

#include "cluster/member.h"
#include "cluster/seal.h"
#include "config/config.h"
#include "loop/loop.h"

#define LB_GOSSIP_BATCH       64u
#define LB_GOSSIP_MEMBERS_MAX 4096u
#define LB_GOSSIP_WHY_MAX     256

struct lb_gossip;

struct lb_gossip_opts {
	const struct lb_cluster_config *config; /* borrowed for the call, as all texts */
	const char *name;
	const char *version;
	uint32_t config_hash;
	struct lb_loop *loop;
	/* Something happened to a member; <alive> count now. */
	void (*changed)(void *arg, const struct lb_member_view *m, enum lb_member_event event,
			uint32_t alive);
	/* The clock of the node at <from> is that far ahead, so it is not heard. Once a minute. */
	void (*clock)(void *arg, const struct lb_addr *from, int64_t ahead_ms);
	/* What node <id> says of its shares of limits. */
	void (*shares)(void *arg, uint64_t id, const uint8_t *bytes, size_t len);
	/* .. and of the backends it checks. */
	void (*health)(void *arg, uint64_t id, const uint8_t *bytes, size_t len);
	void *arg;
};

struct lb_gossip_report {
	struct lb_member_counts counts;
	uint64_t opened[LB_SEAL_VERDICTS]; /* without a key: all 0 */
	uint64_t unsent;                   /* the kernel would not take them */
	uint64_t overflowed;               /* came faster than they were taken */
	bool sealed;
	uint32_t states[LB_MEMBER_LEFT + 1]; /* members, this node included */
	uint32_t health;
	uint64_t suspicion_ms; /* of a suspect that two others have confirmed */
};

/* 0, or -errno and the reason in <why>. */
int lb_gossip_open(struct lb_gossip **ret, const struct lb_gossip_opts *opts,
		   char why[LB_GOSSIP_WHY_MAX]);
/* From now on it speaks and listens. 0, or -errno and the reason in <why>. */
int lb_gossip_bind(struct lb_gossip *g, const struct lb_addr *addr, char why[LB_GOSSIP_WHY_MAX]);
/* It does neither any more. The loop's thread, or when the loop does not run any more. */
void lb_gossip_unbind(struct lb_gossip *g);
/* NULL inside is fine. */
void lb_gossip_close(struct lb_gossip **g);

/* Any thread: where to knock; 0 or -ENOMEM. */
int lb_gossip_set_peers(struct lb_gossip *g, const struct lb_addr *peers, size_t count);
/* Any thread. */
void lb_gossip_set_config(struct lb_gossip *g, uint32_t config_hash);
/* Any thread: other keys of the file. 0, or -errno and the reason, and the old ones stay. */
int lb_gossip_read_keys(struct lb_gossip *g, const char *path, char why[LB_GOSSIP_WHY_MAX]);
/*
 * To node <id>, of this one's shares or what its checks were answered. Lost when it is not there.
 * Any thread, but not from <shares> and <health>.
 */
void lb_gossip_say(struct lb_gossip *g, uint64_t id, enum lb_wire_section kind,
		   const uint8_t *bytes, size_t len);
/* Tells that this node leaves .. */
void lb_gossip_leave(struct lb_gossip *g);
/* .. and has told enough of them. */
bool lb_gossip_left(const struct lb_gossip *g);

/* Any thread: the state as it is at one moment. <fn>, if any, for each member, this node first. */
void lb_gossip_look(struct lb_gossip *g, struct lb_gossip_report *report,
		    void (*fn)(void *arg, const struct lb_member_view *m), void *arg);

#endif
