/* SPDX-License-Identifier: MIT */
/*
 * links: decides at which interfaces a program is to be. It reads all of them anew at every news
 * instead of keeping a copy up to date, and it must never take a program away because an address
 * went: addresses come back (DHCP).
 */
#include "kernel/links.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libmnl/libmnl.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "base/log.h"

/* One that was asked for by name. */
struct wish {
	bool told; /* that there is none stands in the log */
	char name[IF_NAMESIZE];
};

struct lb_links {
	struct lb_links_opts opts;
	struct wish *wishes;
	size_t wish_count; /* 0: every interface with an address */
	struct mnl_socket *watch;
	struct lb_netlink_iface *seen; /* LB_LINKS_MAX, scratch */
	/* Written by the follower alone, under the lock; read by it without. */
	pthread_mutex_t lock;
	struct lb_link *links; /* LB_LINKS_MAX */
	size_t count;
};

uint32_t lb_links_handle(const char *pin_name, uint32_t abi)
{
	return (lb_hash_name(pin_name) << 8 & 0x7fffff00u) | (abi & 0xffu);
}

static struct lb_link *find(struct lb_links *l, uint32_t ifindex)
{
	for (size_t i = 0; i < l->count; i++)
		if (l->links[i].ifindex == ifindex)
			return &l->links[i];
	return NULL;
}

static void add(struct lb_links *l, const struct lb_link *link)
{
	struct lb_link *old = find(l, link->ifindex);

	pthread_mutex_lock(&l->lock);
	if (old)
		*old = *link;
	else if (l->count < LB_LINKS_MAX)
		l->links[l->count++] = *link;
	pthread_mutex_unlock(&l->lock);
}

static void drop(struct lb_links *l, struct lb_link *link)
{
	pthread_mutex_lock(&l->lock);
	*link = l->links[--l->count];
	pthread_mutex_unlock(&l->lock);
}

static void on_gone(void *arg, uint32_t ifindex)
{
	struct lb_links *l = arg;
	struct lb_link *link = find(l, ifindex);

	if (!link)
		return;
	if (link->attached)
		lb_info("%s: interface %s is gone", l->opts.what, link->name);
	drop(l, link);
}

/* <ifindex> is among the interfaces just read. */
static bool is_there(const struct lb_links *l, size_t seen, uint32_t ifindex)
{
	for (size_t i = 0; i < seen; i++)
		if (l->seen[i].ifindex == ifindex)
			return true;
	return false;
}

static void drop_gone(struct lb_links *l, size_t seen)
{
	for (size_t i = l->count; i--;)
		if (!is_there(l, seen, l->links[i].ifindex))
			on_gone(l, l->links[i].ifindex);
}

/* --- what is wanted --------------------------------------------------------------------------- */

static bool is_wanted(const struct lb_links *l, const struct lb_netlink_iface *i)
{
	if (!l->wish_count)
		return i->framed && (i->loopback || i->addressed);
	for (size_t w = 0; w < l->wish_count; w++)
		if (!strcmp(l->wishes[w].name, i->name))
			return true;
	return false;
}

static void tell_absent(struct lb_links *l, size_t seen)
{
	for (size_t w = 0; w < l->wish_count; w++) {
		struct wish *wish = &l->wishes[w];
		bool there = false;

		for (size_t i = 0; i < seen; i++)
			there = there || !strcmp(l->seen[i].name, wish->name);
		if (!there && !wish->told)
			lb_warn("%s: there is no interface %s: attached when it comes",
				l->opts.what, wish->name);
		wish->told = wish->told || !there;
	}
}

/* <first>: in lb_links_attach(), whose caller logs the list. 0 or -errno. */
static int attach_one(struct lb_links *l, const struct lb_netlink_iface *i, bool first)
{
	struct lb_link link = {.ifindex = i->ifindex};
	const struct lb_link *old = find(l, i->ifindex);
	bool wanted = is_wanted(l, i), fresh = false;
	int r;

	if (old && old->attached && !strcmp(old->name, i->name))
		return 0;
	/* At the start also where an earlier daemon was. */
	if (!wanted && !first && !old)
		return 0;
	r = l->opts.attach(l->opts.arg, i, wanted, &fresh);
	if (r == LB_LINKS_NOT_THERE)
		return 0;
	if (r == -ENODEV)
		return r; /* it went meanwhile */
	memcpy(link.name, i->name, sizeof(link.name));
	link.attached = !r;
	link.complained = r || (old && old->complained);
	if (r && !(old && old->complained))
		lb_warn("%s: cannot attach to %s: %s", l->opts.what, i->name, l->opts.explain(r));
	else if (!r && !first && fresh)
		lb_info("%s: attached to %s", l->opts.what, i->name);
	add(l, &link);
	return r;
}

/* Makes the links what they should be. 0, or -errno when no interface is attached. */
static int reconcile(struct lb_links *l, bool first)
{
	int seen = lb_netlink_ifaces(l->seen, LB_LINKS_MAX), r = -ENODEV;
	bool any = false;

	if (seen < 0) {
		lb_warn("%s: cannot read the interfaces: %s", l->opts.what, strerror(-seen));
		return seen;
	}
	drop_gone(l, (size_t)seen);
	for (int i = 0; i < seen; i++) {
		int one = attach_one(l, &l->seen[i], first);

		if (one && r == -ENODEV)
			r = one;
	}
	tell_absent(l, (size_t)seen);
	for (size_t i = 0; i < l->count; i++)
		any = any || l->links[i].attached;
	return any ? 0 : r;
}

static int set_wishes(struct lb_links *l, char *const *interfaces, size_t count)
{
	struct wish *wishes = calloc(count ? count : 1, sizeof(*wishes));

	if (!wishes)
		return -ENOMEM;
	/* A name that is too long is cut and then matches no interface. */
	for (size_t i = 0; i < count; i++)
		snprintf(wishes[i].name, sizeof(wishes[i].name), "%.*s", IF_NAMESIZE - 1,
			 strlen(interfaces[i]) < IF_NAMESIZE ? interfaces[i] : "?");
	free(l->wishes);
	l->wishes = wishes;
	l->wish_count = count;
	return 0;
}

/* --- the interface ---------------------------------------------------------------------------- */

int lb_links_attach(struct lb_links *l, char *const *interfaces, size_t count)
{
	int r = set_wishes(l, interfaces, count);

	return r ? r : reconcile(l, true);
}

static void doubt_all(struct lb_links *l)
{
	for (size_t i = 0; i < l->count; i++)
		l->links[i].attached = false;
}

int lb_links_attach_again(struct lb_links *l)
{
	doubt_all(l);
	return reconcile(l, false);
}

int lb_links_fd(const struct lb_links *l)
{
	return mnl_socket_get_fd(l->watch);
}

int lb_links_follow(struct lb_links *l)
{
	int news = lb_netlink_news(l->watch, on_gone, l);

	/* Anything may have happened: an interface may even be another one of the same index. Going
	 * over to our own program again changes nothing. */
	if (news == -ENOBUFS)
		doubt_all(l);
	if (news < 0 || news & LB_NETLINK_NEWS_LINKS)
		reconcile(l, false);
	return news;
}

bool lb_links_is_attached(struct lb_links *l, uint32_t ifindex)
{
	const struct lb_link *link;
	bool attached;

	pthread_mutex_lock(&l->lock);
	link = find(l, ifindex);
	attached = link && link->attached;
	pthread_mutex_unlock(&l->lock);
	return attached;
}

const char *lb_links_attached(struct lb_links *l, char *buf, size_t size)
{
	size_t used = 0;

	buf[0] = '\0';
	pthread_mutex_lock(&l->lock);
	for (size_t i = 0; i < l->count && used < size; i++)
		if (l->links[i].attached)
			used += (size_t)snprintf(buf + used, size - used, "%s%s", used ? ", " : "",
						 l->links[i].name);
	pthread_mutex_unlock(&l->lock);
	return buf;
}

/* --- life ------------------------------------------------------------------------------------- */

int lb_links_open(struct lb_links **ret, const struct lb_links_opts *opts)
{
	struct lb_links *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return -ENOMEM;
	l->opts = *opts;
	pthread_mutex_init(&l->lock, NULL);
	l->seen = calloc(LB_LINKS_MAX, sizeof(*l->seen));
	l->links = calloc(LB_LINKS_MAX, sizeof(*l->links));
	r = l->seen && l->links ? lb_netlink_watch(&l->watch) : -ENOMEM;
	if (r) {
		lb_links_close(&l, true);
		return r;
	}
	*ret = l;
	return 0;
}

void lb_links_close(struct lb_links **pl, bool keep)
{
	struct lb_links *l = *pl;

	if (!l)
		return;
	*pl = NULL;
	for (size_t i = 0; i < l->count && !keep; i++)
		if (l->links[i].attached)
			l->opts.detach(l->opts.arg, &l->links[i]);
	if (l->watch)
		mnl_socket_close(l->watch);
	pthread_mutex_destroy(&l->lock);
	free(l->wishes);
	free(l->links);
	free(l->seen);
	free(l);
}
