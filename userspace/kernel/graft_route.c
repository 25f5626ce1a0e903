/* SPDX-License-Identifier: MIT */
/*
 * graft_route: where the kernel would send a packet of ours now. Asked once per flow that is about
 * to be grafted, hence one socket that stays, one request, one answer. It must never call a route
 * good that bpf_redirect_neigh() would not take.
 */
#include "kernel/graft_route.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <libmnl/libmnl.h>
#include <linux/rtnetlink.h>

#include "base/cleanup.h"

/* The kernel answers before sendto(2) returns; this is for a kernel that does not answer at all. */
#define PATIENCE_MS 200

static void close_socket(struct mnl_socket **s)
{
	if (*s)
		mnl_socket_close(*s);
}

int lb_graft_route_open(struct mnl_socket **ret)
{
	const struct timeval patience = {.tv_usec = PATIENCE_MS * 1000L};
	LB_AUTO(close_socket)
	struct mnl_socket *s = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);

	if (!s || mnl_socket_bind(s, 0, MNL_SOCKET_AUTOPID) ||
	    setsockopt(mnl_socket_get_fd(s), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)))
		return -errno;
	*ret = LB_TAKE_PTR(s);
	return 0;
}

static bool is_link_local(const __be32 a[4])
{
	return (ntohl(a[0]) & 0xffc00000u) == 0xfe800000u;
}

static size_t build(void *buf, unsigned int seq, const struct lb_graft_tuple *t)
{
	size_t len = t->ipv6 ? sizeof(t->saddr) : sizeof(t->saddr[0]);
	struct nlmsghdr *n = mnl_nlmsg_put_header(buf);
	struct rtmsg *m = mnl_nlmsg_put_extra_header(n, sizeof(*m));

	n->nlmsg_type = RTM_GETROUTE;
	n->nlmsg_flags = NLM_F_REQUEST;
	n->nlmsg_seq = seq;
	m->rtm_family = t->ipv6 ? AF_INET6 : AF_INET;
	m->rtm_dst_len = m->rtm_src_len = (unsigned char)(len * 8);
	mnl_attr_put(n, RTA_DST, len, t->saddr);
	mnl_attr_put(n, RTA_SRC, len, t->daddr);
	/* Policy rules may look at them. */
	mnl_attr_put_u8(n, RTA_IP_PROTO, IPPROTO_TCP);
	mnl_attr_put_u16(n, RTA_SPORT, t->dport);
	mnl_attr_put_u16(n, RTA_DPORT, t->sport);
	return n->nlmsg_len;
}

struct found {
	struct lb_graft_hop hop;
	bool encapsulated;
	uint8_t type; /* RTN_* */
};

static int on_route(const struct nlmsghdr *n, void *arg)
{
	const struct rtmsg *m = mnl_nlmsg_get_payload(n);
	const struct nlattr *a;
	struct found *f = arg;

	f->type = m->rtm_type;
	mnl_attr_for_each(a, n, sizeof(*m))
	{
		if (mnl_attr_get_type(a) == RTA_OIF)
			f->hop.ifindex = mnl_attr_get_u32(a);
		if (mnl_attr_get_type(a) == RTA_ENCAP)
			f->encapsulated = true;
	}
	return MNL_CB_OK;
}

static int judge(struct found *f)
{
	switch (f->type) {
	case RTN_LOCAL:
		f->hop.local = true;
		return f->hop.ifindex ? 0 : -EOPNOTSUPP;
	case RTN_UNICAST:
		return f->hop.ifindex && !f->encapsulated ? 0 : -EOPNOTSUPP;
	case RTN_UNREACHABLE:
	case RTN_BLACKHOLE:
	case RTN_PROHIBIT:
	case RTN_THROW:
		return -EHOSTUNREACH;
	default:
		return -EOPNOTSUPP;
	}
}

static unsigned int seq_of(const void *answer)
{
	return ((const struct nlmsghdr *)answer)->nlmsg_seq;
}

static int ask(struct mnl_socket *s, const struct lb_graft_tuple *tuple, struct found *f)
{
	static unsigned int last_seq;
	_Alignas(struct nlmsghdr) char buf[2048];
	unsigned int seq = __atomic_add_fetch(&last_seq, 1, __ATOMIC_RELAXED);
	ssize_t n;

	if (mnl_socket_sendto(s, buf, build(buf, seq, tuple)) < 0)
		return -errno;
	do {
		n = mnl_socket_recvfrom(s, buf, sizeof(buf));
		if (n < 0)
			return -errno;
		/* An earlier answer that came after our patience ended. */
	} while ((size_t)n >= sizeof(struct nlmsghdr) && seq_of(buf) != seq);
	return mnl_cb_run(buf, (size_t)n, seq, mnl_socket_get_portid(s), on_route, f) < 0 ? -errno
											  : 0;
}

int lb_graft_route_get(struct mnl_socket *s, const struct lb_graft_tuple *tuple,
		       struct lb_graft_hop *ret)
{
	struct found f = {};
	int r;

	if (tuple->ipv6 && (is_link_local(tuple->saddr) || is_link_local(tuple->daddr)))
		return -EOPNOTSUPP;
	r = ask(s, tuple, &f);
	/* IPv4 answers with the error a connect(2) would get, one per kind of refusal; -EINVAL also
	 * when our own address is gone. */
	if (r)
		return -EHOSTUNREACH;
	r = judge(&f);
	if (!r)
		*ret = f.hop;
	return r;
}
