/* SPDX-License-Identifier: MIT */
/*
 * netlink: the network's side of "where are programs attached": interfaces, addresses, filters.
 * It reads the kernel's whole answer every time instead of keeping a copy up to date, so that
 * nothing can be missed for long; and it must never change anything but to add a clsact qdisc.
 */
#include "kernel/netlink.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include <libmnl/libmnl.h>
#include <linux/if_arp.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>

#include "base/cleanup.h"

/* A dump comes in pieces of up to 32 KiB when the reader has room for them. */
#define ANSWER_BYTES 32768
/* A dump that was interrupted by a change is asked for again, this often. */
#define TRIES 5

static void close_socket(struct mnl_socket **s)
{
	if (*s)
		mnl_socket_close(*s);
}

/* One request and its whole answer. 0 or -errno, also what the kernel answered. */
static int ask_once(const struct nlmsghdr *request, mnl_cb_t fn, void *arg)
{
	LB_AUTO(close_socket)
	struct mnl_socket *s = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
	char answer[ANSWER_BYTES];
	ssize_t n;
	int r;

	if (!s || mnl_socket_bind(s, 0, MNL_SOCKET_AUTOPID) ||
	    mnl_socket_sendto(s, request, request->nlmsg_len) < 0)
		return -errno;
	do {
		n = mnl_socket_recvfrom(s, answer, sizeof(answer));
		if (n < 0)
			return -errno;
		r = mnl_cb_run(answer, (size_t)n, request->nlmsg_seq, mnl_socket_get_portid(s), fn,
			       arg);
	} while (r > 0);
	return r ? -errno : 0;
}

/* <restart> forgets what an interrupted dump has brought. */
static int dump(const struct nlmsghdr *request, mnl_cb_t fn, void (*restart)(void *arg), void *arg)
{
	int r = -EINTR;

	for (int i = 0; i < TRIES && r == -EINTR; i++) {
		restart(arg);
		r = ask_once(request, fn, arg);
	}
	return r;
}

static struct nlmsghdr *request(void *buf, uint16_t type, uint16_t flags)
{
	struct nlmsghdr *n = mnl_nlmsg_put_header(buf);

	n->nlmsg_type = type;
	n->nlmsg_flags = NLM_F_REQUEST | flags;
	n->nlmsg_seq = 1;
	return n;
}

/* --- interfaces and addresses ----------------------------------------------------------------- */

struct ifaces {
	struct lb_netlink_iface *all;
	size_t count, max;
};

static void forget_ifaces(void *arg)
{
	struct ifaces *to = arg;

	to->count = 0;
}

static int on_link(const struct nlmsghdr *n, void *arg)
{
	const struct ifinfomsg *m = mnl_nlmsg_get_payload(n);
	struct lb_netlink_iface *i;
	struct ifaces *to = arg;
	struct nlattr *a;

	if (n->nlmsg_type != RTM_NEWLINK || to->count == to->max)
		return MNL_CB_OK;
	i = &to->all[to->count++];
	*i = (struct lb_netlink_iface){
		.ifindex = (uint32_t)m->ifi_index,
		.type = m->ifi_type,
		.loopback = m->ifi_type == ARPHRD_LOOPBACK,
		.framed = m->ifi_type == ARPHRD_LOOPBACK || m->ifi_type == ARPHRD_ETHER,
	};
	mnl_attr_for_each(a, n, sizeof(*m))
	{
		if (mnl_attr_get_type(a) == IFLA_IFNAME)
			strncpy(i->name, mnl_attr_get_str(a), sizeof(i->name) - 1);
		if (mnl_attr_get_type(a) == IFLA_ADDRESS &&
		    mnl_attr_get_payload_len(a) == sizeof(i->mac))
			memcpy(i->mac, mnl_attr_get_payload(a), sizeof(i->mac));
	}
	return MNL_CB_OK;
}

static void keep_what_came(void *arg)
{
}

static int on_address(const struct nlmsghdr *n, void *arg)
{
	const struct ifaddrmsg *m = mnl_nlmsg_get_payload(n);
	const struct ifaces *to = arg;

	if (n->nlmsg_type != RTM_NEWADDR || (m->ifa_family != AF_INET && m->ifa_family != AF_INET6))
		return MNL_CB_OK;
	if (m->ifa_family == AF_INET6 && m->ifa_scope == RT_SCOPE_LINK)
		return MNL_CB_OK;
	for (size_t i = 0; i < to->count; i++)
		if (to->all[i].ifindex == m->ifa_index)
			to->all[i].addressed = true;
	return MNL_CB_OK;
}

int lb_netlink_ifaces(struct lb_netlink_iface *ret, size_t max)
{
	struct ifaces to = {.all = ret, .max = max};
	_Alignas(struct nlmsghdr) char buf[256];
	struct nlmsghdr *n;
	int r;

	n = request(buf, RTM_GETLINK, NLM_F_DUMP);
	mnl_nlmsg_put_extra_header(n, sizeof(struct ifinfomsg));
	mnl_attr_put_u32(n, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
	r = dump(n, on_link, forget_ifaces, &to);
	if (r)
		return r;
	n = request(buf, RTM_GETADDR, NLM_F_DUMP);
	mnl_nlmsg_put_extra_header(n, sizeof(struct ifaddrmsg));
	r = dump(n, on_address, keep_what_came, &to);
	return r ? r : (int)to.count;
}

struct addresses {
	void (*fn)(void *arg, const struct lb_addr *addr);
	void *arg;
};

static int on_own_address(const struct nlmsghdr *n, void *arg)
{
	const struct ifaddrmsg *m = mnl_nlmsg_get_payload(n);
	const struct addresses *to = arg;
	const struct nlattr *a, *found = NULL;
	struct lb_addr addr = {.sa.sa_family = m->ifa_family};

	if (n->nlmsg_type != RTM_NEWADDR || (m->ifa_family != AF_INET && m->ifa_family != AF_INET6))
		return MNL_CB_OK;
	/* At a point-to-point interface IFA_ADDRESS is the other end. */
	mnl_attr_for_each(a, n, sizeof(*m))
	{
		if (mnl_attr_get_type(a) == IFA_LOCAL ||
		    (mnl_attr_get_type(a) == IFA_ADDRESS && !found))
			found = a;
	}
	if (!found)
		return MNL_CB_OK;
	if (m->ifa_family == AF_INET && mnl_attr_get_payload_len(found) == 4)
		memcpy(&addr.in4.sin_addr, mnl_attr_get_payload(found), 4);
	else if (m->ifa_family == AF_INET6 && mnl_attr_get_payload_len(found) == 16)
		memcpy(&addr.in6.sin6_addr, mnl_attr_get_payload(found), 16);
	else
		return MNL_CB_OK;
	to->fn(to->arg, &addr);
	return MNL_CB_OK;
}

int lb_netlink_addresses(void (*fn)(void *arg, const struct lb_addr *addr), void *arg)
{
	struct addresses to = {fn, arg};
	_Alignas(struct nlmsghdr) char buf[256];
	struct nlmsghdr *n = request(buf, RTM_GETADDR, NLM_F_DUMP);

	mnl_nlmsg_put_extra_header(n, sizeof(struct ifaddrmsg));
	return dump(n, on_own_address, keep_what_came, &to);
}

/* --- news ------------------------------------------------------------------------------------- */

int lb_netlink_watch(struct mnl_socket **ret)
{
	LB_AUTO(close_socket)
	struct mnl_socket *s = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (!s || mnl_socket_bind(s,
				  RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR |
					  RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE,
				  MNL_SOCKET_AUTOPID))
		return -errno;
	*ret = LB_TAKE_PTR(s);
	return 0;
}

struct news {
	void (*gone)(void *arg, uint32_t ifindex);
	void *arg;
	int about;
};

static int on_news(const struct nlmsghdr *n, void *arg)
{
	const struct ifinfomsg *m = mnl_nlmsg_get_payload(n);
	struct news *news = arg;

	if (n->nlmsg_type == RTM_NEWROUTE || n->nlmsg_type == RTM_DELROUTE) {
		news->about |= LB_NETLINK_NEWS_ROUTES;
		return MNL_CB_OK;
	}
	news->about |= LB_NETLINK_NEWS_LINKS;
	/* A bridge says DELLINK of a port that leaves it. */
	if (n->nlmsg_type == RTM_DELLINK && m->ifi_family != AF_BRIDGE)
		news->gone(news->arg, (uint32_t)m->ifi_index);
	return MNL_CB_OK;
}

int lb_netlink_news(struct mnl_socket *watch, void (*gone)(void *arg, uint32_t ifindex), void *arg)
{
	struct news news = {gone, arg, 0};
	char some[ANSWER_BYTES];
	bool lost = false;
	ssize_t n;

	for (;;) {
		n = mnl_socket_recvfrom(watch, some, sizeof(some));
		if (n >= 0) {
			mnl_cb_run(some, (size_t)n, 0, 0, on_news, &news);
		} else if (errno == ENOBUFS || errno == ENOSPC) {
			lost = true;
		} else if (errno != EINTR) {
			return lost ? -ENOBUFS : news.about;
		}
	}
}

/* --- filters ---------------------------------------------------------------------------------- */

struct filters {
	void (*fn)(void *arg, const struct lb_netlink_filter *f);
	void *arg;
};

static bool is_kind_bpf(const struct nlattr *kind)
{
	return kind && !strcmp(mnl_attr_get_str(kind), "bpf");
}

/* libbpf names a filter "<program>:[<id>]". */
static void read_program(const struct nlattr *options, char *ret, size_t size)
{
	const struct nlattr *a;

	ret[0] = '\0';
	mnl_attr_for_each_nested(a, options)
	{
		const char *name = mnl_attr_get_str(a);
		size_t len = mnl_attr_get_type(a) == TCA_BPF_NAME ? strcspn(name, ":") : 0;

		if (len && len < size && !strncmp(name + len, ":[", 2)) {
			memcpy(ret, name, len);
			ret[len] = '\0';
		}
	}
}

static int on_filter(const struct nlmsghdr *n, void *arg)
{
	const struct tcmsg *m = mnl_nlmsg_get_payload(n);
	const struct nlattr *kind = NULL, *options = NULL, *a;
	const struct filters *to = arg;
	struct lb_netlink_filter f;

	if (n->nlmsg_type != RTM_NEWTFILTER || !m->tcm_handle)
		return MNL_CB_OK; /* handle 0: the priority itself, before its filters */
	mnl_attr_for_each(a, n, sizeof(*m))
	{
		if (mnl_attr_get_type(a) == TCA_KIND)
			kind = a;
		if (mnl_attr_get_type(a) == TCA_OPTIONS)
			options = a;
	}
	if (!is_kind_bpf(kind) || !options)
		return MNL_CB_OK;
	f = (struct lb_netlink_filter){
		.ifindex = (uint32_t)m->tcm_ifindex,
		.handle = m->tcm_handle,
		.priority = m->tcm_info >> 16,
	};
	read_program(options, f.program, sizeof(f.program));
	to->fn(to->arg, &f);
	return MNL_CB_OK;
}

int lb_netlink_filters(uint32_t ifindex, void (*fn)(void *arg, const struct lb_netlink_filter *f),
		       void *arg)
{
	_Alignas(struct nlmsghdr) char buf[256];
	struct filters to = {fn, arg};
	struct nlmsghdr *n;
	struct tcmsg *m;
	int r;

	n = request(buf, RTM_GETTFILTER, NLM_F_DUMP);
	m = mnl_nlmsg_put_extra_header(n, sizeof(*m));
	m->tcm_ifindex = (int)ifindex;
	m->tcm_parent = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS);
	/* Whoever asks can bear to hear of a filter twice. */
	r = dump(n, on_filter, keep_what_came, &to);
	/* How kernels say that there is no clsact, or no interface. */
	return r == -ENOENT || r == -EINVAL || r == -ENODEV ? 0 : r;
}

/*
 * Not bpf_tc_hook_create(): on a qdisc that is there already, the usual case after the first start,
 * libbpf complains in the log.
 */
int lb_netlink_clsact(uint32_t ifindex)
{
	_Alignas(struct nlmsghdr) char buf[256];
	struct nlmsghdr *n;
	struct tcmsg *m;
	int r;

	n = request(buf, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK);
	m = mnl_nlmsg_put_extra_header(n, sizeof(*m));
	m->tcm_ifindex = (int)ifindex;
	m->tcm_parent = TC_H_CLSACT;
	m->tcm_handle = TC_H_MAKE(TC_H_CLSACT, 0);
	mnl_attr_put_strz(n, TCA_KIND, "clsact");
	r = ask_once(n, NULL, NULL);
	return r == -EEXIST ? 0 : r;
}
