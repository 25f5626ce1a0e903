/* SPDX-License-Identifier: MIT */
/*
 * graft_attach: decides at which interfaces the program looks at packets, and keeps it there while
 * interfaces come and go. It must never touch a filter that is not ours, and never leave an
 * interface without the program while one takes over from another.
 *
 * An interface that lost its last address stays attached: addresses come back (DHCP), and the
 * program lets everything pass that is not a graft. The clsact qdisc is never removed: between
 * "nobody else has a filter in it" and its removal somebody could attach one, and lose it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <bpf/libbpf.h>
#include <libmnl/libmnl.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "kernel/graft_handle.h"

/* --- one filter ------------------------------------------------------------------------------- */

enum holder {
	HOLDER_NONE,
	HOLDER_US, /* this daemon or an earlier one */
	HOLDER_OTHER,
};

struct search {
	uint32_t handle;
	enum holder found;
};

static bool is_ours(const struct lb_netlink_filter *f)
{
	return !strcmp(f->program, LB_GRAFT_PROGRAM);
}

static void on_filter(void *arg, const struct lb_netlink_filter *f)
{
	struct search *s = arg;

	if (f->priority == LB_GRAFT_PRIORITY && f->handle == s->handle)
		s->found = is_ours(f) ? HOLDER_US : HOLDER_OTHER;
}

/* Who holds our place at <ifindex>. 0 or -errno. */
static int look(const struct lb_graft_table *t, uint32_t ifindex, enum holder *ret)
{
	struct search s = {.handle = t->handle};
	int r = lb_netlink_filters(ifindex, on_filter, &s);

	if (!r)
		*ret = s.found;
	return r;
}

/* With a filter of ours there, the kernel goes over from its program to this one in one step. */
static int put(const struct lb_graft_table *t, uint32_t ifindex, bool replace)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .prog_fd = t->load.prog_fd, .handle = t->handle,
		    .priority = LB_GRAFT_PRIORITY, .flags = replace ? BPF_TC_F_REPLACE : 0);
	int r = lb_netlink_clsact(ifindex);

	return r ? r : bpf_tc_attach(&hook, &opts);
}

static int take_away(uint32_t ifindex, uint32_t handle)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = handle, .priority = LB_GRAFT_PRIORITY);

	return bpf_tc_detach(&hook, &opts);
}

/* --- links ------------------------------------------------------------------------------------ */

static int try_attach(const struct lb_graft_table *t, const struct lb_netlink_iface *i,
		      enum holder holder)
{
	if (!i->framed)
		return -EPROTONOSUPPORT;
	if (holder == HOLDER_OTHER)
		return -EEXIST;
	return put(t, i->ifindex, holder == HOLDER_US);
}

/* Also where an earlier daemon was, wanted or not: grafts may depend on it. */
static int attach(void *arg, const struct lb_netlink_iface *i, bool wanted, bool *fresh)
{
	const struct lb_graft_table *t = arg;
	enum holder holder = HOLDER_NONE;
	int r = look(t, i->ifindex, &holder);

	if (!wanted && holder != HOLDER_US)
		return LB_LINKS_NOT_THERE;
	*fresh = holder == HOLDER_NONE;
	return r ? r : try_attach(t, i, holder);
}

static void detach(void *arg, const struct lb_link *link)
{
	const struct lb_graft_table *t = arg;

	take_away(link->ifindex, t->handle);
}

static const char *explain(int err)
{
	switch (err) {
	case -EPROTONOSUPPORT:
		return "its packets have no Ethernet header";
	case -EEXIST:
		return "a filter of somebody else has our priority and handle";
	default:
		return strerror(-err);
	}
}

/* --- the interface ---------------------------------------------------------------------------- */

int lb_graft_table_attach(struct lb_graft_table *t, char *const *interfaces, size_t count)
{
	return lb_links_attach(t->links, interfaces, count);
}

int lb_graft_table_netlink_fd(struct lb_graft_table *t)
{
	return t->poll_fd;
}

bool lb_graft_table_follow(struct lb_graft_table *t)
{
	int news = lb_links_follow(t->links);

	lb_graft_foreign_check(t, lb_clock_ms());
	return news;
}

const char *lb_graft_table_attached(struct lb_graft_table *t, char *buf, size_t size)
{
	return lb_links_attached(t->links, buf, size);
}

int lb_graft_table_route(struct lb_graft_table *t, const struct lb_graft_tuple *tuple,
			 struct lb_graft_route *ret)
{
	struct lb_graft_hop hop;
	int r;

	pthread_mutex_lock(&t->route_lock);
	r = lb_graft_route_get(t->route, tuple, &hop);
	pthread_mutex_unlock(&t->route_lock);
	if (r)
		return r;
	/* A local peer's own packets come in over loopback. */
	if (!lb_links_is_attached(t->links, hop.ifindex))
		return -EOPNOTSUPP;
	ret->ifindex = hop.local ? 0 : hop.ifindex;
	return 0;
}

/* --- life ------------------------------------------------------------------------------------- */

int lb_graft_attach_watch(const struct lb_graft_table *t, int fd)
{
	struct epoll_event e = {.events = EPOLLIN};

	return epoll_ctl(t->poll_fd, EPOLL_CTL_ADD, fd, &e) ? -errno : 0;
}

int lb_graft_attach_open(struct lb_graft_table *t)
{
	const struct lb_links_opts opts = {
		.what = "graft",
		.arg = t,
		.attach = attach,
		.detach = detach,
		.explain = explain,
	};
	int r;

	t->handle = lb_links_handle(t->pin.name, LB_GRAFT_ABI);
	t->poll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (t->poll_fd < 0)
		return -errno;
	r = lb_links_open(&t->links, &opts);
	if (!r)
		r = lb_graft_route_open(&t->route);
	return r ? r : lb_graft_attach_watch(t, lb_links_fd(t->links));
}

void lb_graft_attach_close(struct lb_graft_table *t, bool keep)
{
	lb_links_close(&t->links, keep);
	if (t->route)
		mnl_socket_close(t->route);
	lb_cleanup_close(&t->poll_fd);
}

/* --- sweeping --------------------------------------------------------------------------------- */

struct sweep {
	uint32_t handle, mask;
	uint32_t found[16];
	size_t count;
};

static void on_swept(void *arg, const struct lb_netlink_filter *f)
{
	struct sweep *s = arg;

	if (is_ours(f) && f->priority == LB_GRAFT_PRIORITY && (f->handle & s->mask) == s->handle &&
	    s->count < LB_ARRAY_SIZE(s->found))
		s->found[s->count++] = f->handle;
}

static int sweep_one(const struct lb_netlink_iface *i, struct sweep *s,
		     void (*told)(const char *ifname, uint32_t handle))
{
	int r, one;

	s->count = 0;
	r = lb_netlink_filters(i->ifindex, on_swept, s);
	for (size_t f = 0; f < s->count; f++) {
		one = take_away(i->ifindex, s->found[f]);
		if (!one && told)
			told(i->name, s->found[f]);
		if (one && !r)
			r = one;
	}
	return r;
}

int lb_graft_attach_sweep(uint32_t handle, uint32_t mask,
			  void (*told)(const char *ifname, uint32_t handle))
{
	LB_AUTO_FREE struct lb_netlink_iface *all = calloc(LB_LINKS_MAX, sizeof(*all));
	struct sweep s = {.handle = handle & mask, .mask = mask};
	int seen, one, r = 0;

	if (!all)
		return -ENOMEM;
	seen = lb_netlink_ifaces(all, LB_LINKS_MAX);
	if (seen < 0)
		return seen;
	for (int i = 0; i < seen; i++) {
		one = sweep_one(&all[i], &s, told);
		if (one && !r)
			r = one;
	}
	return r;
}
