/* SPDX-License-Identifier: MIT */
/* See listening.h. Must never take "cannot tell" for "nobody". */
#include "kernel/listening.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>

#include "base/cleanup.h"

#define STATE_LISTEN 10 /* include/net/tcp_states.h */

struct search {
	const struct lb_addr *addr;
	bool found;
};

static void close_socket(struct mnl_socket **s)
{
	if (*s)
		mnl_socket_close(*s);
}

static int on_socket(const struct nlmsghdr *n, void *arg)
{
	const struct inet_diag_msg *m = mnl_nlmsg_get_payload(n);
	struct search *s = arg;
	struct lb_addr at = {.sa.sa_family = m->idiag_family};

	if (m->idiag_family != s->addr->sa.sa_family)
		return MNL_CB_OK;
	if (m->idiag_family == AF_INET6)
		memcpy(&at.in6.sin6_addr, m->id.idiag_src, 16);
	else
		memcpy(&at.in4.sin_addr, m->id.idiag_src, 4);
	lb_addr_set_port(&at, ntohs(m->id.idiag_sport));
	if (lb_addr_port(&at) == lb_addr_port(s->addr) &&
	    (lb_addr_is_any(&at) || lb_addr_is_any(s->addr) || lb_addr_equal(&at, s->addr)))
		s->found = true;
	return MNL_CB_OK;
}

static int ask(struct mnl_socket *socket, struct search *s)
{
	char buf[8192] __attribute__((aligned(8)));
	struct nlmsghdr *n = mnl_nlmsg_put_header(buf);
	struct inet_diag_req_v2 *req = mnl_nlmsg_put_extra_header(n, sizeof(*req));
	int r = MNL_CB_OK;

	n->nlmsg_type = SOCK_DIAG_BY_FAMILY;
	n->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	req->sdiag_family = (uint8_t)s->addr->sa.sa_family;
	req->sdiag_protocol = IPPROTO_TCP;
	req->idiag_states = 1u << STATE_LISTEN;
	req->id.idiag_sport = htons(lb_addr_port(s->addr));
	if (mnl_socket_sendto(socket, n, n->nlmsg_len) < 0)
		return -errno;
	while (r == MNL_CB_OK) {
		ssize_t len = mnl_socket_recvfrom(socket, buf, sizeof(buf));

		if (len < 0)
			return -errno;
		r = mnl_cb_run(buf, (size_t)len, 0, mnl_socket_get_portid(socket), on_socket, s);
	}
	return r < 0 ? -errno : 0;
}

int lb_listening_look(const struct lb_addr *addr, bool *ret)
{
	LB_AUTO(close_socket)
	struct mnl_socket *socket = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
	struct search s = {.addr = addr};
	int r;

	if (!socket || mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID))
		return -errno;
	r = ask(socket, &s);
	if (!r)
		*ret = s.found;
	return r;
}
