/* SPDX-License-Identifier: MIT */
/*
 * table: the sockmap, the cookie index, the gates and the buckets as the flows see them. It must
 * never put a socket where another still is.
 */
#include "kernel/kernel.h"

#include <errno.h>

#include <bpf/bpf.h>

#include "kernel/handle.h"

uint32_t lb_kernel_pairs(const struct lb_kernel *k)
{
	return k->load.pairs;
}

struct lb_gate *lb_table_gate(struct lb_kernel *k, uint32_t index)
{
	return &k->load.gates[index];
}

struct lb_bucket *lb_table_buckets(struct lb_kernel *k)
{
	return k->load.buckets;
}

int lb_table_insert(struct lb_kernel *k, uint32_t index, int fd, uint64_t cookie)
{
	uint64_t value = (uint64_t)fd;
	int r;

	if (index >= k->load.pairs * 2)
		return -ENOSPC;
	/* The index first: a socket the program cannot name would be passed for ever. */
	r = bpf_map_update_elem(k->load.cookies_fd, &cookie, &index, BPF_NOEXIST);
	if (r)
		return r == -E2BIG ? -ENOSPC : r;
	r = bpf_map_update_elem(k->load.socks_fd, &index, &value, BPF_NOEXIST);
	if (r)
		lb_table_forget(k, cookie);
	return r;
}

void lb_table_remove(struct lb_kernel *k, uint32_t index)
{
	bpf_map_delete_elem(k->load.socks_fd, &index);
}

void lb_table_forget(struct lb_kernel *k, uint64_t cookie)
{
	bpf_map_delete_elem(k->load.cookies_fd, &cookie);
}
