/* SPDX-License-Identifier: MIT */
/*
 * What the kernel can do for us, and the handle through which it does it. userspace/kernel/ is the
 * only folder that includes libbpf or a skeleton; nothing of either shows in this header.
 *
 * Life: lb_kernel_open() once in the main thread, before privileges are dropped (probe -> kernel
 * floor -> load -> self-test -> pin); lb_kernel_close() once, after every worker has ended.
 * The functions of the hot path below may be called from any worker, each on its own indexes.
 */
#ifndef LB_KERNEL_KERNEL_H
#define LB_KERNEL_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <lb/bucket.h>
#include <lb/event.h>
#include <lb/flow.h>

struct lb_kernel;

enum lb_why {
#define LB_WHY(symbol, word, help) LB_WHY_##symbol,
#include <lb/whys.def>
#undef LB_WHY
	LB_WHY_MAX_
};
const char *lb_why_word(enum lb_why why);
const char *lb_why_help(enum lb_why why);

struct lb_kernel_opts {
	const char *instance; /* NULL: the default; else letters, digits, '-' and '_' */
	uint32_t pairs;       /* flows the tables must hold; clamped to LB_SOCKMAP_PAIRS_MAX */
	uint32_t workers;     /* rings to make, 1..LB_WORKERS_MAX */
	uint32_t buckets;     /* of bandwidth limits; clamped to LB_BUCKETS_MAX */
};

struct lb_kernel_report {
	enum lb_why why;    /* LB_WHY_NONE: sockmap is in service */
	char detail[256];   /* one human sentence: the missing capability, the verifier's line .. */
	char pins[128];     /* directory of the pins, "" when there are none */
	char pin_note[192]; /* why there are no pins, "" otherwise */
	bool selftest_ran;
	double selftest_ms;
};

/*
 * 0 with *ret set when sockmap is in service. Otherwise -errno, *ret untouched and report->why and
 * ->detail say why; nothing stays loaded or pinned. The report is always filled in. Pins that
 * cannot be made (no BPF file system) are no error: report->pin_note says so. Planted pins are:
 * a symlink, a foreign owner or a group/other-accessible directory is refused (-EPERM,
 * LB_WHY_PINS). Pins of an earlier run of the same instance are replaced: the caller makes sure
 * that no other daemon of this instance runs.
 */
int lb_kernel_open(struct lb_kernel **ret, const struct lb_kernel_opts *opts,
		   struct lb_kernel_report *report);
/* Unpins, unloads. NULL is fine. */
void lb_kernel_close(struct lb_kernel *k);

/*
 * Another daemon of this instance has taken over, and pins its own; what is loaded stays for the
 * flows it has. And the way back, which replaces those pins. NULL is fine.
 */
void lb_kernel_leave_pins(struct lb_kernel *k);
void lb_kernel_take_pins(struct lb_kernel *k, const char *instance);

/*
 * Removes the pins that sockmap has left when its daemon died, and with them its programs and
 * tables: no daemon of <instance> may run. <told> (may be NULL) hears of each. 0, nothing there
 * included, or -errno with a <note>.
 */
int lb_kernel_unload(const char *instance, void (*told)(const char *dir, const char *pin),
		     char *note, size_t size);

/* Number of pairs the tables hold. */
uint32_t lb_kernel_pairs(const struct lb_kernel *k);

/* --- table: the sockmap, the cookie index and the gates ------------------------------------- */

/* The gate whose source is leg <index>; shared memory, valid until lb_kernel_close(). */
struct lb_gate *lb_table_gate(struct lb_kernel *k, uint32_t index);

/*
 * Names leg <index>'s socket in the cookie index, then puts it into the sockmap: from then on
 * its received bytes are judged by the program. The gate must have been zeroed. <cookie> is the
 * socket's SO_COOKIE. 0 or -errno: -EOPNOTSUPP not ESTABLISHED (or MPTCP), -EBUSY/-EINVAL socket
 * owned by something else, -EEXIST the slot or the cookie is still in use, -ENOSPC full or <index>
 * out of range. On failure nothing of this leg is left behind. The way back is close(2) of the
 * socket, which empties the slot before it returns, followed by lb_table_forget().
 */
int lb_table_insert(struct lb_kernel *k, uint32_t index, int fd, uint64_t cookie);
/*
 * Takes the living socket of leg <index> out of the sockmap. What is queued for it there vanishes,
 * and the connection can wedge: only at a moment made for it (flow/sockmap_leave.c).
 */
void lb_table_remove(struct lb_kernel *k, uint32_t index);
/* Drops the cookie index entry after the socket was closed, or taken out. */
void lb_table_forget(struct lb_kernel *k, uint64_t cookie);

/* As many as were asked for, all zero; shared memory, valid until lb_kernel_close(). */
struct lb_bucket *lb_table_buckets(struct lb_kernel *k);

/* --- ring: one per worker --------------------------------------------------------------------- */

/* Pollable descriptor (EPOLLIN while records wait), owned by <k>. */
int lb_ring_fd(struct lb_kernel *k, uint32_t worker);
/*
 * Hands every pending record to <fn>. Returns true when records were lost since the last call: the
 * caller must then inspect all its gates. Only from the worker's own thread.
 */
bool lb_ring_consume(struct lb_kernel *k, uint32_t worker,
		     void (*fn)(void *arg, const struct lb_event *e), void *arg);

/* --- reports ---------------------------------------------------------------------------------- */

/*
 * `--selftest`: prints what this kernel can do, and proof, to stdout. Touches no pins, so it may
 * run beside a daemon. Returns an exit code: 0 sockmap can be in service, 3 it cannot.
 */
int lb_kernel_print_selftest(void);

/*
 * Makes effective what it keeps below and is permitted: a file's capabilities may be permitted only
 * (capabilities(7)), so that a container that was given fewer can start it at all. Main thread,
 * before anything else.
 */
void lb_kernel_raise_privileges(void);
/*
 * Keeps CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_NET_BIND_SERVICE of those we have, drops all
 * others from every set including bounding, and sets no_new_privs. Call in the main thread before
 * other threads exist (capabilities are per thread). 0 or -errno.
 */
int lb_kernel_drop_privileges(void);

#endif
