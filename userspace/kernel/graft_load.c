/* SPDX-License-Identifier: MIT */
/*
 * graft_load: brings the graft program into the kernel, on tables of its own or on those of an
 * earlier daemon. It must never run the program on a map that is not exactly what it would have
 * made itself, and never leave a part behind on failure.
 */
#include "kernel/graft_load.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include <bpf/bpf.h>

#include "base/cleanup.h"
#include "kernel/libbpf_log.h"
#include "kernel/load.h"
#include "kernel/mapping.h"
#include "tc_graft.skel.h"

/* As in load.c: a log that does not fit fails on kernels before 6.4. */
#define VERIFIER_LOG_BYTES (1024u * 1024u)

static const char *const names[LB_GRAFT_MAP_MAX_] = {
	[LB_GRAFT_MAP_V4] = "lb_graft_v4",       [LB_GRAFT_MAP_V6] = "lb_graft_v6",
	[LB_GRAFT_MAP_GRAFTS] = "lb_grafts",     [LB_GRAFT_MAP_RING] = "lb_graft_ring",
	[LB_GRAFT_MAP_COUNT] = "lb_graft_count", [LB_GRAFT_MAP_META] = "lb_graft_meta",
};

const char *lb_graft_map_name(enum lb_graft_map which)
{
	return names[which];
}

static struct bpf_map *map_of(const struct lb_graft_load *l, enum lb_graft_map which)
{
	struct bpf_map *const maps[LB_GRAFT_MAP_MAX_] = {
		[LB_GRAFT_MAP_V4] = l->skel->maps.lb_graft_v4,
		[LB_GRAFT_MAP_V6] = l->skel->maps.lb_graft_v6,
		[LB_GRAFT_MAP_GRAFTS] = l->skel->maps.lb_grafts,
		[LB_GRAFT_MAP_RING] = l->skel->maps.lb_graft_ring,
		[LB_GRAFT_MAP_COUNT] = l->skel->maps.lb_graft_count,
		[LB_GRAFT_MAP_META] = l->skel->maps.lb_graft_meta,
	};

	return maps[which];
}

static int set_sizes(const struct lb_graft_load *l)
{
	int r;

	r = bpf_map__set_max_entries(map_of(l, LB_GRAFT_MAP_V4), l->pairs * 2);
	if (!r)
		r = bpf_map__set_max_entries(map_of(l, LB_GRAFT_MAP_V6), l->pairs * 2);
	if (!r)
		r = bpf_map__set_max_entries(map_of(l, LB_GRAFT_MAP_GRAFTS), l->pairs);
	return r;
}

/* <map> still has the shape that the object file and set_sizes() gave it. */
static bool fits(const struct bpf_map *map, int fd)
{
	struct bpf_map_info info = {};
	__u32 len = sizeof(info);

	return !bpf_obj_get_info_by_fd(fd, &info, &len) && info.type == bpf_map__type(map) &&
	       info.key_size == bpf_map__key_size(map) &&
	       info.value_size == bpf_map__value_size(map) &&
	       info.max_entries == bpf_map__max_entries(map) &&
	       info.map_flags == bpf_map__map_flags(map);
}

static int reuse(const struct lb_graft_load *l, const int adopted[LB_GRAFT_MAP_MAX_], char *detail,
		 size_t size)
{
	int r;

	for (unsigned int i = 0; i < LB_GRAFT_MAP_MAX_; i++) {
		if (!fits(map_of(l, i), adopted[i])) {
			snprintf(detail, size,
				 "pinned map %s is not one that this version makes for %u grafts",
				 names[i], l->pairs);
			return -ESTALE;
		}
		r = bpf_map__reuse_fd(map_of(l, i), adopted[i]);
		if (r)
			return r;
	}
	return 0;
}

static int describe(struct lb_graft_meta *meta, uint32_t pairs)
{
	if (getrandom(meta->mark, sizeof(meta->mark), 0) != (ssize_t)sizeof(meta->mark))
		return -EIO;
	/* Locally administered, unicast. */
	meta->mark[0] = (meta->mark[0] & 0xfc) | 0x02;
	meta->pairs = pairs;
	meta->abi = LB_GRAFT_ABI;
	return 0;
}

static int map_memory(struct lb_graft_load *l)
{
	int r;

	r = lb_mapping_open(l->fds[LB_GRAFT_MAP_GRAFTS], l->pairs, sizeof(*l->grafts),
			    (void **)&l->grafts);
	if (!r)
		r = lb_mapping_open(l->fds[LB_GRAFT_MAP_META], 1, sizeof(*l->meta),
				    (void **)&l->meta);
	return r;
}

static int load(struct lb_graft_load *l, const int *adopted, char *log, char *detail, size_t size)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .kernel_log_buf = log,
		    .kernel_log_size = VERIFIER_LOG_BYTES);
	int r;

	l->skel = tc_graft__open_opts(&opts);
	if (!l->skel)
		return -errno;
	r = set_sizes(l);
	if (!r && adopted)
		r = reuse(l, adopted, detail, size);
	if (!r)
		r = tc_graft__load(l->skel);
	if (r)
		return r;
	l->prog_fd = bpf_program__fd(l->skel->progs.tc_graft);
	for (unsigned int i = 0; i < LB_GRAFT_MAP_MAX_; i++)
		l->fds[i] = bpf_map__fd(map_of(l, i));
	r = map_memory(l);
	return r || adopted ? r : describe(l->meta, l->pairs);
}

static void explain(int err, const char *log, char *detail, size_t size)
{
	if (!detail[0])
		lb_load_last_line(log, detail, size);
	if (!detail[0])
		snprintf(detail, size, "%s", lb_libbpf_log_cause());
	if (!detail[0])
		snprintf(detail, size, "cannot load tc_graft: %s", strerror(-err));
}

int lb_graft_load_open(struct lb_graft_load *ret, uint32_t pairs,
		       const int adopted[LB_GRAFT_MAP_MAX_], char *detail, size_t size)
{
	LB_AUTO_FREE char *log = calloc(1, VERIFIER_LOG_BYTES);
	struct lb_graft_load l = {.pairs = pairs};
	int r;

	if (!log) {
		snprintf(detail, size, "no memory");
		return -ENOMEM;
	}
	detail[0] = '\0';
	lb_libbpf_log_start();
	r = load(&l, adopted, log, detail, size);
	if (r) {
		explain(r, log, detail, size);
		lb_graft_load_close(&l);
		return r;
	}
	*ret = l;
	return 0;
}

void lb_graft_load_close(struct lb_graft_load *l)
{
	lb_mapping_close(l->grafts, l->pairs, sizeof(*l->grafts));
	lb_mapping_close(l->meta, 1, sizeof(*l->meta));
	tc_graft__destroy(l->skel);
	*l = (struct lb_graft_load){};
}
