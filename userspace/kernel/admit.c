/* SPDX-License-Identifier: MIT */
/*
 * admit: loads the programs' tables and fills them in. It must never leave a rule whose list is
 * half there: a list is complete before the rule points to it, and what fails is left to the
 * daemon.
 */
#include "kernel/admit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "kernel/admit_handle.h"
#include "kernel/libbpf_log.h"
#include "kernel/load.h"
#include "kernel/mapping.h"
#include "kernel/pin.h"
#include "kernel/probe.h"
#include "tc_admit.skel.h"

/* As in load.c: a log that does not fit fails on kernels before 6.4. */
#define VERIFIER_LOG_BYTES (1024u * 1024u)
#define BATCH              1024u
#define START_NS           60000000000ull

/* --- open and close --------------------------------------------------------------------------- */

static int load(struct lb_admit *a, char *log)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .kernel_log_buf = log,
		    .kernel_log_size = VERIFIER_LOG_BYTES);
	int cpus = libbpf_num_possible_cpus(), r;

	a->tc = tc_admit__open_opts(&opts);
	if (!a->tc)
		return -errno;
	if (cpus < 0)
		return cpus;
	a->counts = calloc((size_t)cpus, sizeof(*a->counts));
	if (!a->counts)
		return -ENOMEM;
	r = tc_admit__load(a->tc);
	if (!r)
		r = lb_mapping_open(bpf_map__fd(a->tc->maps.lb_admit_rules), LB_ADMIT_RULES_MAX,
				    sizeof(*a->rules), (void **)&a->rules);
	if (!r)
		r = lb_mapping_open(bpf_map__fd(a->tc->maps.lb_admit_meta), 1, sizeof(*a->meta),
				    (void **)&a->meta);
	if (r)
		return r;
	a->meta->instance = a->handle;
	a->meta->abi = LB_ADMIT_ABI;
	/* Nobody may take it for dead until it runs; its tables are empty. */
	lb_admit_lease(a, lb_clock_ns() + START_NS);
	return 0;
}

static int refuse(struct lb_admit_report *report, enum lb_why why, int err)
{
	report->why = why;
	if (!report->detail[0])
		snprintf(report->detail, sizeof(report->detail), "%s", strerror(-err));
	return err;
}

static int step_probe(struct lb_admit_report *report)
{
	enum lb_why why = lb_probe_for_load(report->detail, sizeof(report->detail));

	if (why == LB_WHY_NONE)
		return 0;
	return refuse(report, why, why == LB_WHY_NO_CAP ? -EPERM : -EOPNOTSUPP);
}

static int step_load(struct lb_admit *a, struct lb_admit_report *report)
{
	LB_AUTO_FREE char *log = calloc(1, VERIFIER_LOG_BYTES);
	int r;

	if (!log)
		return refuse(report, LB_WHY_LOAD, -ENOMEM);
	lb_libbpf_log_start();
	r = load(a, log);
	if (!r)
		return 0;
	lb_load_last_line(log, report->detail, sizeof(report->detail));
	if (!report->detail[0])
		snprintf(report->detail, sizeof(report->detail), "%s", lb_libbpf_log_cause());
	return refuse(report, LB_WHY_LOAD, r);
}

int lb_admit_open(struct lb_admit **ret, const struct lb_admit_opts *opts,
		  struct lb_admit_report *report)
{
	LB_AUTO(lb_admit_close) struct lb_admit *a = calloc(1, sizeof(*a));
	char name[LB_PIN_NAME_MAX];
	int r;

	*report = (struct lb_admit_report){};
	if (!a)
		return refuse(report, LB_WHY_LOAD, -ENOMEM);
	a->janitor_fd = a->cards_fd = -1;
	pthread_mutex_init(&a->lock, NULL);
	a->mode = opts->mode;
	a->beside = opts->beside;
	r = lb_pin_name(opts->instance, name);
	if (r)
		return refuse(report, LB_WHY_PINS, r);
	a->handle = lb_links_handle(name, LB_ADMIT_ABI);
	r = step_probe(report);
	if (r)
		return r;
	r = step_load(a, report);
	if (r)
		return r;
	r = lb_admit_attach_open(a);
	if (r)
		return refuse(report, LB_WHY_LOAD, r);
	*ret = LB_TAKE_PTR(a);
	return 0;
}

void lb_admit_close(struct lb_admit **pa)
{
	struct lb_admit *a = *pa;

	if (!a)
		return;
	*pa = NULL;
	lb_admit_attach_close(a);
	lb_mapping_close(a->rules, LB_ADMIT_RULES_MAX, sizeof(*a->rules));
	lb_mapping_close(a->meta, 1, sizeof(*a->meta));
	tc_admit__destroy(a->tc);
	pthread_mutex_destroy(&a->lock);
	free(a->counts);
	free(a);
}

void lb_admit_lease(struct lb_admit *a, uint64_t until_ns)
{
	__atomic_store_n(&a->meta->lease_ns, until_ns, __ATOMIC_RELAXED);
}

/* --- access lists ----------------------------------------------------------------------------- */

/* A list of <count> nodes as a map of its own. The descriptor or -errno. */
static int make_list(const char *name, const void *nodes, uint32_t count, uint32_t node_bytes)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_INNER_MAP | BPF_F_MMAPABLE);
	LB_AUTO_CLOSE int fd = -1;
	void *to = NULL;
	int r;

	fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, name, sizeof(uint32_t), node_bytes, count, &opts);
	if (fd < 0)
		return -errno;
	r = lb_mapping_open(fd, count, node_bytes, &to);
	if (!to)
		return r;
	memcpy(to, nodes, (size_t)count * node_bytes);
	lb_mapping_close(to, count, node_bytes);
	return LB_TAKE_FD(fd);
}

/* From the update on the outer table holds the list; the old one goes. */
static int put_list(const struct bpf_map *outer, uint32_t rule, int list)
{
	if (list < 0)
		return list;
	return bpf_map_update_elem(bpf_map__fd(outer), &rule, &list, BPF_ANY) ? -errno : 0;
}

int lb_admit_set_acl(struct lb_admit *a, uint32_t rule, const struct lb_acl_v4_node *v4,
		     uint32_t v4_count, const struct lb_acl_v6_node *v6, uint32_t v6_count)
{
	LB_AUTO_CLOSE int four = -1, six = -1;
	int r;

	if (rule >= LB_ADMIT_RULES_MAX)
		return v4_count ? -ERANGE : 0;
	if (!v4_count) {
		__atomic_store_n(&a->rules[rule].acl, 0, __ATOMIC_RELEASE);
		(void)bpf_map_delete_elem(bpf_map__fd(a->tc->maps.lb_acl_v4), &rule);
		(void)bpf_map_delete_elem(bpf_map__fd(a->tc->maps.lb_acl_v6), &rule);
		return 0;
	}
	four = make_list("lb_acl_v4_list", v4, v4_count, sizeof(*v4));
	six = make_list("lb_acl_v6_list", v6, v6_count, sizeof(*v6));
	r = put_list(a->tc->maps.lb_acl_v4, rule, four);
	if (!r)
		r = put_list(a->tc->maps.lb_acl_v6, rule, six);
	/* After a failure the lists of both families are what the daemon alone knows. */
	__atomic_store_n(&a->rules[rule].acl, !r, __ATOMIC_RELEASE);
	return r;
}

/* --- rates ------------------------------------------------------------------------------------ */

void lb_admit_set_rate_limit(struct lb_admit *a, uint32_t rule, bool on, uint32_t ipv6_prefix)
{
	if (rule >= LB_ADMIT_RULES_MAX)
		return;
	a->rules[rule].ipv6_prefix = (uint8_t)ipv6_prefix;
	__atomic_store_n(&a->rules[rule].rate_limit, on, __ATOMIC_RELEASE);
	if (!on)
		__atomic_store_n(&a->rules[rule].refused_until_ns, 0, __ATOMIC_RELAXED);
}

static void words_of(const struct lb_addr *addr, __be32 ret[4])
{
	struct lb_addr a = *addr;

	lb_addr_unmap(&a);
	if (a.sa.sa_family == AF_INET6) {
		memcpy(ret, &a.in6.sin6_addr, 16);
		return;
	}
	ret[0] = ret[1] = 0;
	ret[2] = htonl(0xffff);
	ret[3] = a.in4.sin_addr.s_addr;
}

static void cut(__be32 words[4], uint32_t bits)
{
	for (uint32_t i = 0; i < 4; i++) {
		uint32_t mine = bits > i * 32 ? bits - i * 32 : 0;

		if (mine < 32)
			words[i] &= mine ? htonl(~0u << (32 - mine)) : 0;
	}
}

void lb_admit_refuse(struct lb_admit *a, uint32_t rule, const struct lb_addr *client,
		     uint64_t until_ns)
{
	struct lb_admit_client key = {.rule = rule};
	int fd;

	if (rule >= LB_ADMIT_RULES_MAX ||
	    !__atomic_load_n(&a->rules[rule].rate_limit, __ATOMIC_ACQUIRE))
		return;
	words_of(client, key.addr);
	if (key.addr[0] || key.addr[1] || key.addr[2] != htonl(0xffff))
		cut(key.addr, a->rules[rule].ipv6_prefix);
	fd = bpf_map__fd(a->tc->maps.lb_refused);
	/* Without a place for it the daemon refuses it once more. */
	if (!bpf_map_update_elem(fd, &key, &until_ns, BPF_NOEXIST))
		__atomic_fetch_add(&a->refused, 1, __ATOMIC_RELAXED);
	else
		(void)bpf_map_update_elem(fd, &key, &until_ns, BPF_EXIST);
}

/* Of lb_refused, as the kernel hands them over. */
struct batch {
	uint32_t at;
	struct lb_admit_client keys[BATCH];
	uint64_t until[BATCH];
};

/* Who is to be forgotten: clients who may come again by then, or all of a rule. */
struct forgotten {
	uint64_t until_ns;
	uint32_t rule;
};
#define NO_RULE UINT32_MAX

/* One batch. True when there are more. */
static bool forget_some(struct lb_admit *a, struct batch *b, bool first,
			const struct forgotten *who)
{
	int fd = bpf_map__fd(a->tc->maps.lb_refused), r;
	uint32_t count = BATCH;

	r = bpf_map_lookup_batch(fd, first ? NULL : &b->at, &b->at, b->keys, b->until, &count,
				 NULL);
	if (r && r != -ENOENT)
		return false;
	for (uint32_t i = 0; i < count; i++)
		/* One that is refused anew just now is refused by the daemon next time. */
		if ((b->until[i] <= who->until_ns || b->keys[i].rule == who->rule) &&
		    !bpf_map_delete_elem(fd, &b->keys[i]))
			__atomic_fetch_sub(&a->refused, 1, __ATOMIC_RELAXED);
	return !r;
}

static void forget(struct lb_admit *a, const struct forgotten *who)
{
	/* Entries come and go meanwhile: never more rounds than there are places. */
	uint32_t rounds = LB_ADMIT_REFUSED_MAX / BATCH * 2;
	LB_AUTO_FREE struct batch *b = malloc(sizeof(*b));
	bool more = true;

	for (uint32_t i = 0; b && more && i < rounds; i++)
		more = forget_some(a, b, !i, who);
}

void lb_admit_forget(struct lb_admit *a, uint64_t now_ns)
{
	if (lb_admit_refused(a) > LB_ADMIT_REFUSED_MAX / 4)
		forget(a, &(struct forgotten){.until_ns = now_ns, .rule = NO_RULE});
}

void lb_admit_pardon(struct lb_admit *a, uint32_t rule)
{
	if (rule >= LB_ADMIT_RULES_MAX)
		return;
	__atomic_store_n(&a->rules[rule].refused_until_ns, 0, __ATOMIC_RELAXED);
	if (lb_admit_refused(a))
		forget(a, &(struct forgotten){.rule = rule});
}

void lb_admit_refuse_rule(struct lb_admit *a, uint32_t rule, uint64_t until_ns)
{
	if (rule < LB_ADMIT_RULES_MAX &&
	    __atomic_load_n(&a->rules[rule].rate_limit, __ATOMIC_ACQUIRE))
		__atomic_store_n(&a->rules[rule].refused_until_ns, until_ns, __ATOMIC_RELAXED);
}

/* --- listeners -------------------------------------------------------------------------------- */

static struct lb_admit_listener listener_of(const struct lb_addr *addr)
{
	struct lb_admit_listener key = {.port = htons(lb_addr_port(addr))};

	words_of(addr, key.addr);
	return key;
}

int lb_admit_listen(struct lb_admit *a, const struct lb_addr *addr, uint32_t rule)
{
	struct lb_admit_listener key = listener_of(addr);
	int fd = bpf_map__fd(a->tc->maps.lb_listeners);

	if (rule >= LB_ADMIT_RULES_MAX)
		return -ERANGE;
	if (!bpf_map_update_elem(fd, &key, &rule, BPF_NOEXIST)) {
		__atomic_fetch_add(&a->listeners, 1, __ATOMIC_RELAXED);
		return 0;
	}
	return bpf_map_update_elem(fd, &key, &rule, BPF_EXIST) ? -errno : 0;
}

void lb_admit_unlisten(struct lb_admit *a, const struct lb_addr *addr)
{
	struct lb_admit_listener key = listener_of(addr);

	if (!bpf_map_delete_elem(bpf_map__fd(a->tc->maps.lb_listeners), &key))
		__atomic_fetch_sub(&a->listeners, 1, __ATOMIC_RELAXED);
}

/* --- reports ---------------------------------------------------------------------------------- */

bool lb_admit_counts(struct lb_admit *a, uint32_t rule, enum lb_admit_hook hook,
		     struct lb_admit_counts *ret)
{
	uint32_t at = rule * LB_ADMIT_HOOK_MAX_ + hook;
	int cpus = libbpf_num_possible_cpus(), r;

	*ret = (struct lb_admit_counts){};
	if (rule >= LB_ADMIT_RULES_MAX || cpus < 0)
		return false;
	pthread_mutex_lock(&a->lock);
	r = bpf_map_lookup_elem(bpf_map__fd(a->tc->maps.lb_admit_count), &at, a->counts);
	for (int i = 0; i < cpus && !r; i++)
		for (int v = 0; v < LB_ADMIT_VERDICT_MAX_; v++)
			ret->n[v] += a->counts[i].n[v];
	pthread_mutex_unlock(&a->lock);
	return !r;
}

uint32_t lb_admit_refused(const struct lb_admit *a)
{
	return __atomic_load_n(&a->refused, __ATOMIC_RELAXED);
}

uint32_t lb_admit_listeners(const struct lb_admit *a)
{
	return __atomic_load_n(&a->listeners, __ATOMIC_RELAXED);
}
