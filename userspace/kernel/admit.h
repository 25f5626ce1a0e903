/* SPDX-License-Identifier: MIT */
/*
 * Admission in the kernel: the tables of include/lb/admit.h and the programs that read them, at XDP
 * or TC ingress of every interface. Without it the daemon refuses the same clients after accept.
 *
 * One thread opens, attaches, follows, changes and closes. lb_admit_refuse() and
 * lb_admit_refuse_rule() may be called by any thread, and so may the reports.
 */
#ifndef LB_KERNEL_ADMIT_H
#define LB_KERNEL_ADMIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <lb/admit.h>

#include "base/addr.h"
#include "kernel/kernel.h"

struct lb_admit;

/* Where SYNs are judged. What cannot be had falls back to TC. */
enum lb_admit_mode {
	LB_ADMIT_MODE_AUTO, /* native XDP where it pays, else TC */
	LB_ADMIT_MODE_NATIVE,
	LB_ADMIT_MODE_GENERIC,
	LB_ADMIT_MODE_TC,
};

struct lb_admit_opts {
	const char *instance; /* NULL: the default */
	enum lb_admit_mode mode;
	bool beside; /* a daemon of this instance lives, whose programs are to stay */
};

struct lb_admit_report {
	enum lb_why why; /* LB_WHY_NONE: in service */
	char detail[256];
};

/*
 * Loads the programs and tables. What a daemon of this instance, or any that is dead, left attached
 * is taken away first. 0, or -errno with *ret untouched and the report saying why.
 */
int lb_admit_open(struct lb_admit **ret, const struct lb_admit_opts *opts,
		  struct lb_admit_report *report);
/* Detaches, unloads. NULL is fine. */
void lb_admit_close(struct lb_admit **a);

/*
 * Another daemon of this instance has attached its own: ours are taken away where they still are,
 * and left alone afterwards. The thread that follows has ended. NULL is fine.
 */
void lb_admit_cede(struct lb_admit *a);
/* It has come to nothing: at TC ours is attached again. The thread that follows. */
void lb_admit_reclaim(struct lb_admit *a);

/*
 * As lb_links_attach() in links.h; each interface's hook is logged with the reason. Main thread,
 * with all privileges, while it is the only one: XDP needs a helper (lb_admit_janitor()).
 */
int lb_admit_attach(struct lb_admit *a, char *const *interfaces, size_t count);
/* Readable when interfaces, addresses or routes have changed: lb_admit_follow(). */
int lb_admit_fd(const struct lb_admit *a);
/* True when addresses may have changed. */
bool lb_admit_follow(struct lb_admit *a);

/* The programs act until <until_ns> (CLOCK_MONOTONIC), then the daemon counts as dead. */
void lb_admit_lease(struct lb_admit *a, uint64_t until_ns);

/*
 * Rule <rule>'s nodes, as flow/acl makes them; <v4_count> 0: it has no lists any more. 0 or -errno:
 * then its lists are not enforced in the kernel. -ERANGE: LB_ADMIT_RULES_MAX.
 */
int lb_admit_set_acl(struct lb_admit *a, uint32_t rule, const struct lb_acl_v4_node *v4,
		     uint32_t v4_count, const struct lb_acl_v6_node *v6, uint32_t v6_count);
/* Whether its clients may be remembered as refused, IPv6 by <ipv6_prefix> bits. */
void lb_admit_set_rate_limit(struct lb_admit *a, uint32_t rule, bool on, uint32_t ipv6_prefix);

/* SYNs for <addr> are for <rule>. 0 or -errno. */
int lb_admit_listen(struct lb_admit *a, const struct lb_addr *addr, uint32_t rule);
void lb_admit_unlisten(struct lb_admit *a, const struct lb_addr *addr);

/* <client> of <rule> has no token until <until_ns>; all of its clients together have none. */
void lb_admit_refuse(struct lb_admit *a, uint32_t rule, const struct lb_addr *client,
		     uint64_t until_ns);
void lb_admit_refuse_rule(struct lb_admit *a, uint32_t rule, uint64_t until_ns);

/* All of <rule>'s clients are forgotten: other rates hold for them. */
void lb_admit_pardon(struct lb_admit *a, uint32_t rule);
/*
 * Takes out the clients who may come again at <now_ns>; to be called now and then. Looks at all
 * when more than a quarter of the places are taken, else at none.
 */
void lb_admit_forget(struct lb_admit *a, uint64_t now_ns);

/* --- reports ---------------------------------------------------------------------------------- */

/* Sums over the CPUs. False: there are none of this rule. */
bool lb_admit_counts(struct lb_admit *a, uint32_t rule, enum lb_admit_hook hook,
		     struct lb_admit_counts *ret);
/* Clients remembered as refused, those who may come again included until they are taken out. */
uint32_t lb_admit_refused(const struct lb_admit *a);
/* Addresses and ports. */
uint32_t lb_admit_listeners(const struct lb_admit *a);

/* Where it is attached: "xdp_native", "xdp_generic", "tc". */
struct lb_admit_link {
	char interface[16];
	const char *hook;
	char reason[96]; /* why not a faster one; "" when it is what was asked for */
};
/* At most <max>; how many. */
size_t lb_admit_links(struct lb_admit *a, struct lb_admit_link *ret, size_t max);

/*
 * The life of the helper, started as `layer4-lb --janitor <what>`: it waits until the daemon is
 * gone, however it ended, and takes its XDP programs away: looking at them needs CAP_SYS_ADMIN,
 * which the daemon gives up (kernel/bpf/syscall.c, bpf_prog_get_fd_by_id). An exit code.
 */
int lb_admit_janitor(const char *what);

/*
 * `--unload`: takes away what dead daemons of <instance> left attached, and says so on stdout. 0 or
 * -errno.
 */
int lb_admit_unload(const char *instance);

#endif
