/* SPDX-License-Identifier: MIT */
/*
 * load: decides how big the tables are and brings the verdict program into the kernel. It must
 * never leave a part of it behind on failure, and never attach before the tables are complete:
 * a socket keeps the program it found when it was inserted.
 */
#include "kernel/load.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <bpf/bpf.h>

#include "base/cleanup.h"
#include "kernel/libbpf_log.h"
#include "kernel/mapping.h"
#include "sk_verdict.skel.h"

/* A log that does not fit is a failure of its own on kernels before 6.4. Untouched pages cost
 * nothing. */
#define VERIFIER_LOG_BYTES (1024u * 1024u)

/* "processed 183 insns (limit 1000000) ..." and the like close every log, good or bad. */
static bool is_statistics(const char *line, size_t len)
{
	static const char *const heads[] = {"processed ", "verification time ", "stack depth "};

	for (size_t i = 0; i < LB_ARRAY_SIZE(heads); i++)
		if (len >= strlen(heads[i]) && !strncmp(line, heads[i], strlen(heads[i])))
			return true;
	return false;
}

void lb_load_last_line(const char *log, char *ret, size_t size)
{
	const char *last = "";
	size_t last_len = 0;

	while (*log) {
		size_t len = strcspn(log, "\n");

		if (len && !is_statistics(log, len)) {
			last = log;
			last_len = len;
		}
		log += len;
		log += *log == '\n';
	}
	snprintf(ret, size, "%.*s", (int)last_len, last);
}

static int set_sizes(struct lb_load *l)
{
	struct {
		struct bpf_map *map;
		uint32_t entries;
	} sizes[] = {
		{l->skel->maps.lb_socks, l->pairs * 2},
		{l->skel->maps.lb_cookies, l->pairs * 2},
		{l->skel->maps.lb_gates, l->pairs * 2},
		{l->skel->maps.lb_rings, l->workers},
		{l->skel->maps.lb_ring_state, l->workers},
		{l->skel->maps.lb_buckets, l->buckets_count},
	};
	int r;

	for (size_t i = 0; i < LB_ARRAY_SIZE(sizes); i++) {
		r = bpf_map__set_max_entries(sizes[i].map, sizes[i].entries);
		if (r)
			return r;
	}
	return 0;
}

static int open_skeleton(struct lb_load *l, char *log)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .kernel_log_buf = log,
		    .kernel_log_size = VERIFIER_LOG_BYTES);

	l->skel = sk_verdict__open_opts(&opts);
	return l->skel ? 0 : -errno;
}

static int load_and_attach(struct lb_load *l, char *log)
{
	int r;

	r = open_skeleton(l, log);
	if (!r)
		r = set_sizes(l);
	if (!r)
		r = sk_verdict__load(l->skel);
	if (r)
		return r;
	l->socks_fd = bpf_map__fd(l->skel->maps.lb_socks);
	l->cookies_fd = bpf_map__fd(l->skel->maps.lb_cookies);
	r = lb_mapping_open(bpf_map__fd(l->skel->maps.lb_gates), l->pairs * 2, sizeof(*l->gates),
			    (void **)&l->gates);
	if (!r)
		r = lb_mapping_open(bpf_map__fd(l->skel->maps.lb_ring_state), l->workers,
				    sizeof(*l->ring_state), (void **)&l->ring_state);
	if (!r)
		r = lb_mapping_open(bpf_map__fd(l->skel->maps.lb_buckets), l->buckets_count,
				    sizeof(*l->buckets), (void **)&l->buckets);
	if (r)
		return r;
	/* libbpf 1.1 knows no link for a sockmap; the map holds the program until it goes. */
	return bpf_prog_attach(bpf_program__fd(l->skel->progs.sk_verdict), l->socks_fd,
			       BPF_SK_SKB_STREAM_VERDICT, 0);
}

static void explain(int err, const char *log, char *detail, size_t size)
{
	lb_load_last_line(log, detail, size);
	if (!detail[0])
		snprintf(detail, size, "%s", lb_libbpf_log_cause());
	if (!detail[0])
		snprintf(detail, size, "cannot load sk_verdict: %s", strerror(-err));
}

int lb_load_open(struct lb_load *ret, uint32_t pairs, uint32_t workers, uint32_t buckets,
		 char *detail, size_t size)
{
	LB_AUTO_FREE char *log = calloc(1, VERIFIER_LOG_BYTES);
	struct lb_load l = {.pairs = pairs, .workers = workers, .buckets_count = buckets};
	int r;

	if (!log) {
		snprintf(detail, size, "no memory");
		return -ENOMEM;
	}
	lb_libbpf_log_start();
	r = load_and_attach(&l, log);
	if (r) {
		explain(r, log, detail, size);
		lb_load_close(&l);
		return r;
	}
	*ret = l;
	return 0;
}

int lb_load_names(struct lb_load *ret)
{
	struct lb_load l = {};

	lb_libbpf_log_start();
	l.skel = sk_verdict__open();
	if (!l.skel)
		return -errno;
	*ret = l;
	return 0;
}

void lb_load_close(struct lb_load *l)
{
	lb_mapping_close(l->gates, l->pairs * 2, sizeof(*l->gates));
	lb_mapping_close(l->ring_state, l->workers, sizeof(*l->ring_state));
	lb_mapping_close(l->buckets, l->buckets_count, sizeof(*l->buckets));
	sk_verdict__destroy(l->skel);
	*l = (struct lb_load){};
}

int lb_load_set_ring(struct lb_load *l, uint32_t worker, int ring_fd)
{
	return bpf_map_update_elem(bpf_map__fd(l->skel->maps.lb_rings), &worker, &ring_fd, BPF_ANY);
}

size_t lb_load_objects(const struct lb_load *l, struct lb_load_object ret[LB_LOAD_OBJECTS_MAX])
{
	const struct bpf_program *prog = l->skel->progs.sk_verdict;
	struct bpf_map *const maps[] = {
		l->skel->maps.lb_socks, l->skel->maps.lb_cookies,    l->skel->maps.lb_gates,
		l->skel->maps.lb_rings, l->skel->maps.lb_ring_state, l->skel->maps.lb_buckets,
	};
	size_t n = 0;

	_Static_assert(LB_ARRAY_SIZE(maps) + 1 <= LB_LOAD_OBJECTS_MAX, "one for the program");
	for (size_t i = 0; i < LB_ARRAY_SIZE(maps); i++)
		ret[n++] = (struct lb_load_object){bpf_map__name(maps[i]), bpf_map__fd(maps[i])};
	ret[n++] = (struct lb_load_object){bpf_program__name(prog), bpf_program__fd(prog)};
	return n;
}
