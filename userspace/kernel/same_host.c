/* SPDX-License-Identifier: MIT */
/*
 * same_host: decides whether same_host_bypass is in service, and which endpoints it is for. It must
 * never leave a half: the program that picks sockets is attached last.
 */
#include "kernel/same_host.h"

#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "base/cleanup.h"
#include "kernel/libbpf_log.h"
#include "kernel/load.h"
#include "kernel/pin.h"
#include "kernel/probe.h"
#include "same_host.skel.h"
#include "same_host_msg.skel.h"

#define MOUNTS "/proc/self/mounts"

struct lb_same_host {
	struct same_host *picks; /* owns the tables both programs use */
	struct same_host_msg *moves;
	struct bpf_link *link;
	struct lb_pin pin;
	int cpus;
	struct lb_addr *endpoints;
	size_t count, max;
};

static int refuse(struct lb_same_host_report *report, int err, const char *what)
{
	if (!report->detail[0])
		snprintf(report->detail, sizeof(report->detail), "%s: %s", what,
			 *lb_libbpf_log_cause() ? lb_libbpf_log_cause() : strerror(-err));
	return err;
}

/* --- coming up -------------------------------------------------------------------------------- */

/*
 * The same floor as sockmap's: below it the kernel charges redirected bytes to the wrong socket
 * (6.12.8, 6.1.123), so no limit would hold.
 */
static int step_probe(struct lb_same_host_report *report)
{
	struct lb_probe probe;

	lb_probe_run(&probe);
	return lb_probe_judge(&probe, report->detail, sizeof(report->detail)) == LB_WHY_NONE
		       ? 0
		       : -EOPNOTSUPP;
}

int lb_same_host_find_cgroup(FILE *mounts, char *ret, size_t size)
{
	char text[4096];
	struct mntent m;

	while (getmntent_r(mounts, &m, text, sizeof(text))) {
		if (strcmp(m.mnt_type, "cgroup2") != 0 || strlen(m.mnt_dir) >= size)
			continue;
		memcpy(ret, m.mnt_dir, strlen(m.mnt_dir) + 1);
		return 0;
	}
	return -ENOENT;
}

static int step_cgroup(int *ret, struct lb_same_host_report *report)
{
	LB_AUTO_FCLOSE FILE *mounts = fopen(MOUNTS, "re");
	int fd, r;

	r = mounts ? lb_same_host_find_cgroup(mounts, report->cgroup, sizeof(report->cgroup))
		   : -errno;
	if (r) {
		snprintf(report->detail, sizeof(report->detail), "no cgroup2 file system in %s",
			 MOUNTS);
		return r;
	}
	fd = open(report->cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return refuse(report, -errno, report->cgroup);
	*ret = fd;
	return 0;
}

/* What bpf_get_netns_cookie() says of our own sockets. */
static int own_netns(uint64_t *ret)
{
	LB_AUTO_CLOSE int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(*ret);

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, ret, &len))
		return -errno;
	return 0;
}

static int load_picks(struct lb_same_host *h, const struct lb_same_host_opts *opts)
{
	uint64_t cookie = 0;
	int r;

	h->picks = same_host__open();
	if (!h->picks)
		return -errno;
	r = own_netns(&cookie);
	if (r)
		return r;
	h->picks->rodata->netns_cookie = cookie;
	r = bpf_map__set_max_entries(h->picks->maps.lb_same_socks, opts->sockets);
	if (!r)
		r = bpf_map__set_max_entries(h->picks->maps.lb_same_peers, opts->sockets);
	if (!r)
		r = bpf_map__set_max_entries(h->picks->maps.lb_same_scope, opts->endpoints);
	return r ? r : same_host__load(h->picks);
}

static int load_moves(struct lb_same_host *h)
{
	int r;

	h->moves = same_host_msg__open();
	if (!h->moves)
		return -errno;
	r = bpf_map__reuse_fd(h->moves->maps.lb_same_socks,
			      bpf_map__fd(h->picks->maps.lb_same_socks));
	if (!r)
		r = bpf_map__reuse_fd(h->moves->maps.lb_same_peers,
				      bpf_map__fd(h->picks->maps.lb_same_peers));
	if (!r)
		r = bpf_map__reuse_fd(h->moves->maps.lb_same_count,
				      bpf_map__fd(h->picks->maps.lb_same_count));
	return r ? r : same_host_msg__load(h->moves);
}

static int step_load(struct lb_same_host *h, const struct lb_same_host_opts *opts,
		     struct lb_same_host_report *report)
{
	int r;

	lb_libbpf_log_start();
	r = load_picks(h, opts);
	if (r)
		return refuse(report, r, "same_host");
	r = load_moves(h);
	if (r)
		return refuse(report, r, "same_host_msg");
	/* A socket keeps the program it found when it was put in: this one must be there first. */
	r = bpf_prog_attach(bpf_program__fd(h->moves->progs.same_host_msg),
			    bpf_map__fd(h->picks->maps.lb_same_socks), BPF_SK_MSG_VERDICT, 0);
	return r ? refuse(report, r, "same_host_msg") : 0;
}

static int step_pin(struct lb_same_host *h, const char *instance,
		    struct lb_same_host_report *report)
{
	const struct bpf_program *const progs[] = {h->picks->progs.same_host,
						   h->moves->progs.same_host_msg};
	const struct bpf_map *const maps[] = {
		h->picks->maps.lb_same_socks, h->picks->maps.lb_same_peers,
		h->picks->maps.lb_same_scope, h->picks->maps.lb_same_count,
		h->moves->maps.lb_same_run,
	};
	struct lb_load_object objects[LB_LOAD_OBJECTS_MAX];
	char name[LB_PIN_NAME_MAX];
	size_t n = 0;
	int r;

	_Static_assert(LB_ARRAY_SIZE(progs) + LB_ARRAY_SIZE(maps) <= LB_LOAD_OBJECTS_MAX,
		       "all of them fit");
	for (size_t i = 0; i < LB_ARRAY_SIZE(progs); i++)
		objects[n++] = (struct lb_load_object){bpf_program__name(progs[i]),
						       bpf_program__fd(progs[i])};
	for (size_t i = 0; i < LB_ARRAY_SIZE(maps); i++)
		objects[n++] =
			(struct lb_load_object){bpf_map__name(maps[i]), bpf_map__fd(maps[i])};
	r = lb_pin_name(instance, name);
	if (!r)
		r = lb_pin_open(&h->pin, LB_PIN_ROOT, name, objects, n, report->pin_note,
				sizeof(report->pin_note));
	return r ? refuse(report, r, report->pin_note) : 0;
}

static int step_attach(struct lb_same_host *h, int cgroup_fd, struct lb_same_host_report *report)
{
	/* A link never displaces the programs of others: BPF_F_ALLOW_MULTI is its nature. */
	h->link = bpf_program__attach_cgroup(h->picks->progs.same_host, cgroup_fd);
	return h->link ? 0 : refuse(report, -errno, report->cgroup);
}

int lb_same_host_open(struct lb_same_host **ret, const struct lb_same_host_opts *opts,
		      struct lb_same_host_report *report)
{
	LB_AUTO_CLOSE int cgroup_fd = -1;
	struct lb_same_host *h;
	int r;

	*report = (struct lb_same_host_report){};
	r = step_probe(report);
	if (!r)
		r = step_cgroup(&cgroup_fd, report);
	if (r)
		return r;
	h = calloc(1, sizeof(*h));
	if (!h)
		return refuse(report, -ENOMEM, "same_host");
	h->cpus = libbpf_num_possible_cpus();
	h->max = opts->endpoints;
	r = h->cpus < 0 ? refuse(report, h->cpus, "same_host") : step_load(h, opts, report);
	if (!r)
		r = step_pin(h, opts->instance, report);
	if (!r)
		r = step_attach(h, cgroup_fd, report);
	if (r) {
		lb_same_host_close(h);
		return r;
	}
	*ret = h;
	return 0;
}

void lb_same_host_leave(struct lb_same_host *h)
{
	if (!h)
		return;
	bpf_link__destroy(h->link);
	h->link = NULL;
	lb_pin_leave(&h->pin);
}

int lb_same_host_take(struct lb_same_host *h, const char *instance)
{
	struct lb_same_host_report report = {};
	LB_AUTO_CLOSE int cgroup_fd = -1;
	int r;

	if (!h || h->link)
		return 0;
	r = step_cgroup(&cgroup_fd, &report);
	if (!r)
		r = step_pin(h, instance, &report);
	return r ? r : step_attach(h, cgroup_fd, &report);
}

void lb_same_host_close(struct lb_same_host *h)
{
	if (!h)
		return;
	bpf_link__destroy(h->link);
	lb_pin_close(&h->pin);
	same_host_msg__destroy(h->moves);
	same_host__destroy(h->picks);
	free(h->endpoints);
	free(h);
}

/* --- endpoints -------------------------------------------------------------------------------- */

static struct lb_same_host_endpoint endpoint_of(const struct lb_addr *addr)
{
	struct lb_same_host_endpoint e = {.port = lb_addr_port(addr)};

	if (addr->sa.sa_family == AF_INET) {
		e.addr[2] = htonl(0xffff);
		e.addr[3] = addr->in4.sin_addr.s_addr;
	} else {
		memcpy(e.addr, &addr->in6.sin6_addr, sizeof(e.addr));
	}
	return e;
}

int lb_same_host_add(struct lb_same_host *h, const struct lb_addr *endpoint)
{
	struct lb_same_host_endpoint key = endpoint_of(endpoint);
	struct lb_addr *grown;
	uint32_t value = 0;
	int r;

	if (h->count == h->max)
		return -ENOSPC;
	grown = realloc(h->endpoints, (h->count + 1) * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	h->endpoints = grown;
	r = bpf_map_update_elem(bpf_map__fd(h->picks->maps.lb_same_scope), &key, &value, BPF_ANY);
	if (r)
		return r;
	h->endpoints[h->count] = *endpoint;
	lb_addr_unmap(&h->endpoints[h->count++]);
	return 0;
}

static bool overlap(const struct lb_addr *a, const struct lb_addr *b)
{
	if (a->sa.sa_family != b->sa.sa_family || lb_addr_port(a) != lb_addr_port(b))
		return false;
	return lb_addr_is_any(a) || lb_addr_is_any(b) || lb_addr_equal(a, b);
}

bool lb_same_host_covers(const struct lb_same_host *h, const struct lb_addr *endpoint)
{
	struct lb_addr plain = *endpoint;

	lb_addr_unmap(&plain);
	for (size_t i = 0; i < h->count; i++)
		if (overlap(&h->endpoints[i], &plain))
			return true;
	return false;
}

/* --- counters --------------------------------------------------------------------------------- */

uint64_t lb_same_host_count(const struct lb_same_host *h, enum lb_same_host_counter which)
{
	LB_AUTO_FREE uint64_t *values = calloc((size_t)h->cpus, sizeof(*values));
	uint32_t key = which;
	uint64_t sum = 0;

	if (!values || bpf_map_lookup_elem(bpf_map__fd(h->picks->maps.lb_same_count), &key, values))
		return 0;
	for (int i = 0; i < h->cpus; i++)
		sum += values[i];
	return sum;
}

const char *lb_same_host_counter_word(enum lb_same_host_counter which)
{
	static const char *const words[] = {
#define LB_SAME_HOST_COUNTER(symbol, word, help) [LB_SAME_HOST_##symbol] = #word,
#include <lb/same_host_counters.def>
#undef LB_SAME_HOST_COUNTER
	};

	return words[which];
}
