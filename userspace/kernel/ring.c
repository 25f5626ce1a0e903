/* SPDX-License-Identifier: MIT */
/*
 * ring: one event ring per worker, so that no worker reads (or waits for) another's records. It
 * must never let a full ring go unnoticed: the program counts what it could not write, and the
 * consumer compares that count after it has emptied the ring.
 */
#include "kernel/kernel.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <lb/limits.h>

#include "base/cleanup.h"
#include "kernel/handle.h"

struct lb_ring {
	int map_fd;                  /* pollable by itself: no second epoll in between */
	struct ring_buffer *records; /* libbpf's reader of map_fd */
	uint64_t lost_seen;
	/* The reader's callback is fixed when it is made; these are the caller's, per call. */
	void (*fn)(void *arg, const struct lb_event *e);
	void *arg;
};

static int on_record(void *ctx, void *data, size_t size)
{
	struct lb_ring *ring = ctx;

	if (size == sizeof(struct lb_event))
		ring->fn(ring->arg, data);
	return 0;
}

static int open_one(struct lb_kernel *k, uint32_t worker)
{
	struct lb_ring *ring = &k->rings[worker];
	int fd;

	fd = bpf_map_create(BPF_MAP_TYPE_RINGBUF, "lb_ring", 0, 0, LB_RING_BYTES, NULL);
	if (fd < 0)
		return fd;
	ring->map_fd = fd;
	ring->records = ring_buffer__new(fd, on_record, ring, NULL);
	if (!ring->records)
		return -errno;
	return lb_load_set_ring(&k->load, worker, fd);
}

int lb_ring_open(struct lb_kernel *k)
{
	int r = 0;

	k->rings = calloc(k->load.workers, sizeof(*k->rings));
	if (!k->rings)
		return -ENOMEM;
	for (uint32_t i = 0; i < k->load.workers; i++)
		k->rings[i].map_fd = -1;
	for (uint32_t i = 0; i < k->load.workers && !r; i++)
		r = open_one(k, i);
	if (r)
		lb_ring_close(k);
	return r;
}

void lb_ring_close(struct lb_kernel *k)
{
	if (!k->rings)
		return;
	for (uint32_t i = 0; i < k->load.workers; i++) {
		ring_buffer__free(k->rings[i].records);
		lb_cleanup_close(&k->rings[i].map_fd);
	}
	free(k->rings);
	k->rings = NULL;
}

int lb_ring_fd(struct lb_kernel *k, uint32_t worker)
{
	return k->rings[worker].map_fd;
}

bool lb_ring_consume(struct lb_kernel *k, uint32_t worker,
		     void (*fn)(void *arg, const struct lb_event *e), void *arg)
{
	struct lb_ring *ring = &k->rings[worker];
	uint64_t lost;

	ring->fn = fn;
	ring->arg = arg;
	ring_buffer__consume(ring->records);
	/* After the records: a record lost while we read is counted by now, or else finds room. */
	lost = __atomic_load_n(&k->load.ring_state[worker].lost, __ATOMIC_ACQUIRE);
	if (lost == ring->lost_seen)
		return false;
	ring->lost_seen = lost;
	return true;
}
