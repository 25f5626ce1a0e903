/* SPDX-License-Identifier: MIT */
/*
 * admit_sweep: takes admission away where its daemon is gone: at a start, at `--unload`, and, for
 * XDP, when the daemon ends, however it does. It must never touch the programs of a daemon that
 * lives, nor anybody else's.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <xdp/libxdp.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "kernel/admit_handle.h"
#include "kernel/libbpf_log.h"
#include "kernel/pin.h"

#define MAPS_MAX         16u
#define FILTERS_MAX      16u
#define FINISH_MS        5000u
#define FINISH_STEP_MS   2u
#define PROGRAMS_AT_ONCE 16u /* libxdp's dispatcher takes ten */

struct sweep {
	uint32_t instance;
	bool dead_too;
	void (*told)(const char *interface, const char *program);
};

/* --- whose ------------------------------------------------------------------------------------ */

static bool read_meta(uint32_t map_id, struct lb_admit_meta *ret)
{
	LB_AUTO_CLOSE int fd = bpf_map_get_fd_by_id(map_id);
	struct bpf_map_info info = {};
	__u32 len = sizeof(info), zero = 0;

	return fd >= 0 && !bpf_obj_get_info_by_fd(fd, &info, &len) &&
	       !strcmp(info.name, LB_ADMIT_META) && info.value_size == sizeof(*ret) &&
	       !bpf_map_lookup_elem(fd, &zero, ret);
}

/* True when program <id> is one that may be taken away. */
static bool is_ours(const struct sweep *s, uint32_t id)
{
	LB_AUTO_CLOSE int fd = bpf_prog_get_fd_by_id(id);
	uint32_t maps[MAPS_MAX];
	struct bpf_prog_info info = {.nr_map_ids = MAPS_MAX, .map_ids = (uintptr_t)maps};
	struct lb_admit_meta meta;
	__u32 len = sizeof(info);

	if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &len))
		return false;
	for (uint32_t i = 0; i < info.nr_map_ids && i < MAPS_MAX; i++)
		if (read_meta(maps[i], &meta))
			return meta.instance == s->instance ||
			       (s->dead_too && meta.lease_ns < lb_clock_ns());
	return false;
}

/* --- XDP -------------------------------------------------------------------------------------- */

/* Detaches those programs of <ifindex> that <judge> names. How many, or -errno. */
static int detach_xdp(uint32_t ifindex, bool (*judge)(const void *arg, uint32_t id),
		      const void *arg)
{
	struct xdp_multiprog *all = xdp_multiprog__get_from_ifindex((int)ifindex);
	struct xdp_program *found[PROGRAMS_AT_ONCE], *p = NULL;
	size_t count = 0;
	int r = (int)libxdp_get_error(all);

	if (r || !all)
		return r == -ENOENT ? 0 : r;
	if (xdp_multiprog__is_legacy(all)) {
		p = xdp_multiprog__main_prog(all);
		if (p && judge(arg, xdp_program__id(p)))
			found[count++] = p;
	} else {
		while (count < PROGRAMS_AT_ONCE && (p = xdp_multiprog__next_prog(p, all)))
			if (judge(arg, xdp_program__id(p)))
				found[count++] = p;
	}
	for (size_t i = 0; i < count && !r; i++)
		r = xdp_program__detach(found[i], (int)ifindex, xdp_multiprog__attach_mode(all), 0);
	xdp_multiprog__close(all);
	return r ? r : (int)count;
}

static bool is_swept(const void *arg, uint32_t id)
{
	return is_ours(arg, id);
}

/* --- TC --------------------------------------------------------------------------------------- */

struct filters {
	uint32_t handle[FILTERS_MAX];
	size_t count;
};

static void on_filter(void *arg, const struct lb_netlink_filter *f)
{
	struct filters *to = arg;

	if (!strcmp(f->program, LB_ADMIT_TC_PROGRAM) && f->priority == LB_ADMIT_PRIORITY &&
	    to->count < FILTERS_MAX)
		to->handle[to->count++] = f->handle;
}

/* How many, or -errno. */
static int sweep_tc(const struct sweep *s, uint32_t ifindex)
{
	struct filters all = {};
	int r = lb_netlink_filters(ifindex, on_filter, &all), n = 0;

	for (size_t i = 0; i < all.count && !r; i++) {
		LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex,
			    .attach_point = BPF_TC_INGRESS);
		LIBBPF_OPTS(bpf_tc_opts, query, .handle = all.handle[i],
			    .priority = LB_ADMIT_PRIORITY);
		LIBBPF_OPTS(bpf_tc_opts, opts, .handle = all.handle[i],
			    .priority = LB_ADMIT_PRIORITY);

		if (bpf_tc_query(&hook, &query) || !is_ours(s, query.prog_id))
			continue;
		r = bpf_tc_detach(&hook, &opts);
		n += !r;
	}
	return r ? r : n;
}

static int sweep_one(const struct sweep *s, const struct lb_netlink_iface *i)
{
	int xdp = detach_xdp(i->ifindex, is_swept, s), tc = sweep_tc(s, i->ifindex);

	if (xdp > 0 && s->told)
		s->told(i->name, LB_ADMIT_XDP_PROGRAM);
	if (tc > 0 && s->told)
		s->told(i->name, LB_ADMIT_TC_PROGRAM);
	return xdp < 0 ? xdp : tc < 0 ? tc : 0;
}

int lb_admit_sweep(uint32_t instance, bool dead_too,
		   void (*told)(const char *interface, const char *program))
{
	LB_AUTO_FREE struct lb_netlink_iface *all = calloc(LB_LINKS_MAX, sizeof(*all));
	const struct sweep s = {instance, dead_too, told};
	int seen, r = 0;

	if (!all)
		return -ENOMEM;
	seen = lb_netlink_ifaces(all, LB_LINKS_MAX);
	if (seen < 0)
		return seen;
	lb_libbpf_log_quiet(true);
	for (int i = 0; i < seen; i++) {
		int one = sweep_one(&s, &all[i]);

		r = r ? r : one;
	}
	lb_libbpf_log_quiet(false);
	return r;
}

static void tell(const char *interface, const char *program)
{
	printf("removed %s from %s\n", program, interface);
}

int lb_admit_unload(const char *instance)
{
	char name[LB_PIN_NAME_MAX];

	if (lb_pin_name(instance, name))
		return -EINVAL;
	return lb_admit_sweep(lb_links_handle(name, LB_ADMIT_ABI), false, tell);
}

/* --- the janitor ------------------------------------------------------------------------------ */

static bool is_the_one(const void *arg, uint32_t id)
{
	return id == *(const uint32_t *)arg;
}

/* <what>: "ID:IFINDEX,IFINDEX..", from lb_admit_janitor_start(). */
int lb_admit_janitor(const char *what)
{
	uint32_t id, ifindex;
	bool bad = false;
	char none, *at;

	/* Only what cannot be ignored may keep it from its work. */
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_IGN);
	prctl(PR_SET_NAME, "lb-janitor");
	id = (uint32_t)strtoul(what, &at, 10);
	while (read(STDIN_FILENO, &none, sizeof(none)) < 0 && errno == EINTR)
		;
	lb_libbpf_log_quiet(true);
	while (*at == ':' || *at == ',') {
		ifindex = (uint32_t)strtoul(at + 1, &at, 10);
		bad = detach_xdp(ifindex, is_the_one, &id) < 0 || bad;
	}
	return bad;
}

static int spawn(const char *what, int fd, pid_t *ret)
{
	char program[] = "layer4-lb", option[] = "--janitor";
	char *const args[] = {program, option, (char *)what, NULL};
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	int r;

	posix_spawn_file_actions_init(&files);
	posix_spawnattr_init(&attr);
	r = posix_spawn_file_actions_adddup2(&files, fd, STDIN_FILENO);
	for (int out = STDOUT_FILENO; out <= STDERR_FILENO && !r; out++)
		r = posix_spawn_file_actions_addopen(&files, out, "/dev/null", O_WRONLY, 0);
	if (!r)
		r = posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID);
	if (!r)
		r = posix_spawn(ret, "/proc/self/exe", &files, &attr, args, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	return -r;
}

int lb_admit_janitor_start(uint32_t id, const struct lb_admit_place *places, size_t count,
			   pid_t *ret)
{
	size_t size = 16 + count * 12;
	LB_AUTO_FREE char *what = malloc(size);
	int ends[2], used, r;

	if (!what)
		return -ENOMEM;
	used = snprintf(what, size, "%u", id);
	for (size_t i = 0; i < count; i++)
		used += snprintf(what + used, size - (size_t)used, "%c%u", i ? ',' : ':',
				 places[i].ifindex);
	if (pipe2(ends, O_CLOEXEC))
		return -errno;
	r = spawn(what, ends[0], ret);
	close(ends[0]);
	if (!r)
		return ends[1];
	close(ends[1]);
	return r;
}

void lb_admit_janitor_finish(int fd, pid_t pid)
{
	close(fd);
	for (uint32_t ms = 0; ms < FINISH_MS; ms += FINISH_STEP_MS) {
		if (waitpid(pid, NULL, WNOHANG))
			return;
		usleep(FINISH_STEP_MS * 1000u);
	}
}
