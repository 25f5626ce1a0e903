/* SPDX-License-Identifier: MIT */
/* struct lb_admit, for the admit files of this folder (and their tests) only. */
#ifndef LB_KERNEL_ADMIT_HANDLE_H
#define LB_KERNEL_ADMIT_HANDLE_H

#include <pthread.h>
#include <sys/types.h>

#include "kernel/admit.h"
#include "kernel/links.h"

struct tc_admit;
struct xdp_admit;
struct xdp_program;

#define LB_ADMIT_TC_PROGRAM  "tc_admit"
#define LB_ADMIT_XDP_PROGRAM "xdp_admit"
#define LB_ADMIT_META        "lb_admit_meta"
/* Before graft's (graft_handle.h): who is refused is refused whatever else his packet may be. */
#define LB_ADMIT_PRIORITY 0xefffu

enum lb_admit_at { LB_ADMIT_AT_XDP_NATIVE, LB_ADMIT_AT_XDP_GENERIC, LB_ADMIT_AT_TC };

struct lb_admit_place {
	uint32_t ifindex;
	enum lb_admit_at at;
	char name[IF_NAMESIZE];
	char reason[96];
};

struct lb_admit {
	enum lb_admit_mode mode;
	uint32_t handle;     /* of our filters, and of the instance in the meta map */
	struct tc_admit *tc; /* owns the tables */
	struct lb_admit_rule *rules;
	struct lb_admit_meta *meta;
	struct lb_admit_counts *counts; /* one per possible CPU, under <lock> */
	uint32_t listeners;             /* atomic */
	uint32_t refused;               /* atomic: entries of lb_refused */

	/* admit_attach.c */
	struct lb_links *links;
	struct xdp_admit *xdp;
	struct lb_netlink_iface *seen;   /* LB_LINKS_MAX, scratch */
	int cards_fd;                    /* lb_admit_cards; -1: XDP is not loaded */
	struct xdp_program *xdp_program; /* NULL: none yet */
	bool started;                    /* the privileges for XDP may be gone */
	bool beside;                     /* what is attached already is to stay */
	bool left;                       /* .. is another daemon's */
	pthread_mutex_t lock;
	struct lb_admit_place *places; /* LB_LINKS_MAX; written by the follower under <lock> */
	size_t places_count;
	int janitor_fd; /* closed: it does its work; -1: there is none */
	pid_t janitor;
};

/* --- admit_attach.c --------------------------------------------------------------------------- */

/* 0 or -errno; to be closed in either case. The tables are loaded. */
int lb_admit_attach_open(struct lb_admit *a);
void lb_admit_attach_close(struct lb_admit *a);
/* The program at XDP is loaded: its own table can be used. */
void lb_admit_attach_loaded(struct lb_admit *a);
/* Frames that come in over <ifindex> for <mac> are for this host. */
void lb_admit_set_card(struct lb_admit *a, uint32_t ifindex, const uint8_t mac[6]);

/* --- admit_sweep.c ---------------------------------------------------------------------------- */

/*
 * Takes away programs at every interface of this network namespace that belong to <instance> (a
 * handle), or, with <dead_too>, whose daemon's lease is over. <told> (may be NULL) hears of each.
 * 0 or the first -errno. Needs CAP_SYS_ADMIN.
 */
int lb_admit_sweep(uint32_t instance, bool dead_too,
		   void (*told)(const char *interface, const char *program));

/*
 * Starts the helper for program <id> at <places>: it does nothing until the descriptor that is
 * returned is closed, by whatever end of this process. The descriptor or -errno.
 */
int lb_admit_janitor_start(uint32_t id, const struct lb_admit_place *places, size_t count,
			   pid_t *ret);
/* Closes <fd> and waits for the end of the work, some seconds at most. */
void lb_admit_janitor_finish(int fd, pid_t pid);

#endif
