/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
#ifndef LB_BPF_GRAFT_ICMP_H
#define LB_BPF_GRAFT_ICMP_H

#include "graft.bpf.h"

static __always_inline int translate_icmp(struct __sk_buff *skb, struct packet *p)
{
	return TC_ACT_UNSPEC;
}

#endif
