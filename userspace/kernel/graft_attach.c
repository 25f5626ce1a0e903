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

uint32_t lb_graft_attach_handle(const char *pin_name, uint32_t abi)
{
	uint32_t hash = 2166136261u; /* FNV-1a */

	for (const unsigned char *p = (const unsigned char *)pin_name; *p; p++)
		hash = (hash ^ *p) * 16777619u;
	return (hash << 8 & 0x7fffff00u) | (abi & 0xffu);
}

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

static void on_filter(void *arg, const struct lb_graft_filter *f)
{
	struct search *s = arg;

	if (f->priority == LB_GRAFT_PRIORITY && f->handle == s->handle)
		s->found = f->ours ? HOLDER_US : HOLDER_OTHER;
}

/* Who holds our place at <ifindex>. 0 or -errno. */
static int look(const struct lb_graft_table *t, uint32_t ifindex, enum holder *ret)
{
	struct search s = {.handle = t->handle};
	int r = lb_graft_netlink_filters(ifindex, on_filter, &s);

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
	int r = lb_graft_netlink_clsact(ifindex);

	return r ? r : bpf_tc_attach(&hook, &opts);
}

static int take_away(uint32_t ifindex, uint32_t handle)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = handle, .priority = LB_GRAFT_PRIORITY);

	return bpf_tc_detach(&hook, &opts);
}

/* --- links ------------------------------------------------------------------------------------ */

static struct lb_graft_link *find(struct lb_graft_table *t, uint32_t ifindex)
{
	for (size_t i = 0; i < t->link_count; i++)
		if (t->links[i].ifindex == ifindex)
			return &t->links[i];
	return NULL;
}

static void add(struct lb_graft_table *t, const struct lb_graft_link *link)
{
	struct lb_graft_link *old = find(t, link->ifindex);

	pthread_mutex_lock(&t->links_lock);
	if (old)
		*old = *link;
	else if (t->link_count < LB_GRAFT_IFACES_MAX)
		t->links[t->link_count++] = *link;
	pthread_mutex_unlock(&t->links_lock);
}

static void drop(struct lb_graft_table *t, struct lb_graft_link *link)
{
	pthread_mutex_lock(&t->links_lock);
	*link = t->links[--t->link_count];
	pthread_mutex_unlock(&t->links_lock);
}

static void on_gone(void *arg, uint32_t ifindex)
{
	struct lb_graft_table *t = arg;
	struct lb_graft_link *link = find(t, ifindex);

	if (!link)
		return;
	if (link->attached)
		lb_info("graft: interface %s is gone", link->name);
	drop(t, link);
}

/* <ifindex> is among the interfaces just read. */
static bool is_there(const struct lb_graft_table *t, size_t seen, uint32_t ifindex)
{
	for (size_t i = 0; i < seen; i++)
		if (t->seen[i].ifindex == ifindex)
			return true;
	return false;
}

static void drop_gone(struct lb_graft_table *t, size_t seen)
{
	for (size_t i = t->link_count; i--;)
		if (!is_there(t, seen, t->links[i].ifindex))
			on_gone(t, t->links[i].ifindex);
}

/* --- what is wanted --------------------------------------------------------------------------- */

static bool is_wanted(const struct lb_graft_table *t, const struct lb_graft_iface *i)
{
	if (!t->wish_count)
		return i->framed && (i->loopback || i->addressed);
	for (size_t w = 0; w < t->wish_count; w++)
		if (!strcmp(t->wishes[w].name, i->name))
			return true;
	return false;
}

static void tell_absent(struct lb_graft_table *t, size_t seen)
{
	for (size_t w = 0; w < t->wish_count; w++) {
		struct lb_graft_wish *wish = &t->wishes[w];
		bool there = false;

		for (size_t i = 0; i < seen; i++)
			there = there || !strcmp(t->seen[i].name, wish->name);
		if (!there && !wish->told)
			lb_warn("graft: there is no interface %s: attached when it comes",
				wish->name);
		wish->told = wish->told || !there;
	}
}

static int try_attach(struct lb_graft_table *t, const struct lb_graft_iface *i, enum holder holder)
{
	if (!i->framed)
		return -EPROTONOSUPPORT;
	if (holder == HOLDER_OTHER)
		return -EEXIST;
	return put(t, i->ifindex, holder == HOLDER_US);
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

/* <first>: in lb_graft_table_attach(), whose caller logs the list. 0 or -errno. */
static int attach_one(struct lb_graft_table *t, const struct lb_graft_iface *i, bool first)
{
	struct lb_graft_link link = {.ifindex = i->ifindex};
	const struct lb_graft_link *old = find(t, i->ifindex);
	enum holder holder = HOLDER_NONE;
	bool wanted = is_wanted(t, i);
	int r = 0;

	if (old && old->attached && !strcmp(old->name, i->name))
		return 0;
	/* At the start also where an earlier daemon was: grafts may depend on it. */
	if (wanted || first || old)
		r = look(t, i->ifindex, &holder);
	if (!wanted && holder != HOLDER_US)
		return 0;
	if (!r)
		r = try_attach(t, i, holder);
	if (r == -ENODEV)
		return r; /* it went meanwhile */
	memcpy(link.name, i->name, sizeof(link.name));
	link.attached = !r;
	link.complained = r || (old && old->complained);
	if (r && !(old && old->complained))
		lb_warn("graft: cannot attach to %s: %s", i->name, explain(r));
	else if (!r && !first && holder == HOLDER_NONE)
		lb_info("graft: attached to %s", i->name);
	add(t, &link);
	return r;
}

/* Makes the links what they should be. 0, or -errno when no interface is attached. */
static int reconcile(struct lb_graft_table *t, bool first)
{
	int seen = lb_graft_netlink_ifaces(t->seen, LB_GRAFT_IFACES_MAX), r = -ENODEV;
	bool any = false;

	if (seen < 0) {
		lb_warn("graft: cannot read the interfaces: %s", strerror(-seen));
		return seen;
	}
	drop_gone(t, (size_t)seen);
	for (int i = 0; i < seen; i++) {
		int one = attach_one(t, &t->seen[i], first);

		if (one && r == -ENODEV)
			r = one;
	}
	tell_absent(t, (size_t)seen);
	for (size_t i = 0; i < t->link_count; i++)
		any = any || t->links[i].attached;
	return any ? 0 : r;
}

static int set_wishes(struct lb_graft_table *t, char *const *interfaces, size_t count)
{
	struct lb_graft_wish *wishes = calloc(count ? count : 1, sizeof(*wishes));

	if (!wishes)
		return -ENOMEM;
	/* A name that is too long is cut and then matches no interface. */
	for (size_t i = 0; i < count; i++)
		snprintf(wishes[i].name, sizeof(wishes[i].name), "%.*s", IF_NAMESIZE - 1,
			 strlen(interfaces[i]) < IF_NAMESIZE ? interfaces[i] : "?");
	free(t->wishes);
	t->wishes = wishes;
	t->wish_count = count;
	return 0;
}

/* --- the interface ---------------------------------------------------------------------------- */

int lb_graft_table_attach(struct lb_graft_table *t, char *const *interfaces, size_t count)
{
	int r = set_wishes(t, interfaces, count);

	return r ? r : reconcile(t, true);
}

int lb_graft_table_netlink_fd(struct lb_graft_table *t)
{
	return t->poll_fd;
}

bool lb_graft_table_follow(struct lb_graft_table *t)
{
	int news;

	news = lb_graft_netlink_news(t->watch, on_gone, t);
	/* Anything may have happened: an interface may even be another one of the same index. Going
	 * over to our own program again changes nothing. */
	if (news == -ENOBUFS)
		for (size_t i = 0; i < t->link_count; i++)
			t->links[i].attached = false;
	if (news < 0 || news & LB_GRAFT_NEWS_LINKS)
		reconcile(t, false);
	lb_graft_foreign_check(t, lb_clock_ms());
	return news;
}

const char *lb_graft_table_attached(struct lb_graft_table *t, char *buf, size_t size)
{
	size_t used = 0;

	buf[0] = '\0';
	pthread_mutex_lock(&t->links_lock);
	for (size_t i = 0; i < t->link_count && used < size; i++)
		if (t->links[i].attached)
			used += (size_t)snprintf(buf + used, size - used, "%s%s", used ? ", " : "",
						 t->links[i].name);
	pthread_mutex_unlock(&t->links_lock);
	return buf;
}

static bool is_attached(struct lb_graft_table *t, uint32_t ifindex)
{
	const struct lb_graft_link *link;
	bool attached;

	pthread_mutex_lock(&t->links_lock);
	link = find(t, ifindex);
	attached = link && link->attached;
	pthread_mutex_unlock(&t->links_lock);
	return attached;
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
	if (!is_attached(t, hop.ifindex))
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
	int r;

	t->handle = lb_graft_attach_handle(t->pin.name, LB_GRAFT_ABI);
	t->seen = calloc(LB_GRAFT_IFACES_MAX, sizeof(*t->seen));
	t->links = calloc(LB_GRAFT_IFACES_MAX, sizeof(*t->links));
	if (!t->seen || !t->links)
		return -ENOMEM;
	t->poll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (t->poll_fd < 0)
		return -errno;
	r = lb_graft_netlink_watch(&t->watch);
	if (!r)
		r = lb_graft_route_open(&t->route);
	return r ? r : lb_graft_attach_watch(t, mnl_socket_get_fd(t->watch));
}

void lb_graft_attach_close(struct lb_graft_table *t, bool keep)
{
	for (size_t i = 0; i < t->link_count && !keep; i++)
		if (t->links[i].attached)
			take_away(t->links[i].ifindex, t->handle);
	if (t->watch)
		mnl_socket_close(t->watch);
	if (t->route)
		mnl_socket_close(t->route);
	lb_cleanup_close(&t->poll_fd);
	free(t->wishes);
	free(t->links);
	free(t->seen);
}

/* --- sweeping --------------------------------------------------------------------------------- */

struct sweep {
	uint32_t handle, mask;
	uint32_t found[16];
	size_t count;
};

static void on_swept(void *arg, const struct lb_graft_filter *f)
{
	struct sweep *s = arg;

	if (f->ours && f->priority == LB_GRAFT_PRIORITY && (f->handle & s->mask) == s->handle &&
	    s->count < LB_ARRAY_SIZE(s->found))
		s->found[s->count++] = f->handle;
}

static int sweep_one(const struct lb_graft_iface *i, struct sweep *s,
		     void (*told)(const char *ifname, uint32_t handle))
{
	int r, one;

	s->count = 0;
	r = lb_graft_netlink_filters(i->ifindex, on_swept, s);
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
	LB_AUTO_FREE struct lb_graft_iface *all = calloc(LB_GRAFT_IFACES_MAX, sizeof(*all));
	struct sweep s = {.handle = handle & mask, .mask = mask};
	int seen, one, r = 0;

	if (!all)
		return -ENOMEM;
	seen = lb_graft_netlink_ifaces(all, LB_GRAFT_IFACES_MAX);
	if (seen < 0)
		return seen;
	for (int i = 0; i < seen; i++) {
		one = sweep_one(&all[i], &s, told);
		if (one && !r)
			r = one;
	}
	return r;
}
