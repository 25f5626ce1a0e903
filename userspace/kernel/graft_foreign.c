/* SPDX-License-Identifier: MIT */
/*
 * graft_foreign: decides when the tables of another version have done their duty. Its program runs
 * on beside ours for the flows it has; all this version understands of them is how many packets
 * were forwarded (graft_counters.def) and under which names and handles they are found. It must
 * never remove them while packets still go through.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "kernel/graft_handle.h"

#define CHECK_MS 60000u
#define QUIET_MS (15u * 60u * 1000u)

/* A counter that this version can read; -1 otherwise. */
static int open_count(int dir_fd)
{
	LB_AUTO_CLOSE int fd = lb_pin_get(dir_fd, lb_graft_map_name(LB_GRAFT_MAP_COUNT));
	struct bpf_map_info info = {};
	__u32 len = sizeof(info);

	if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &len) ||
	    info.type != BPF_MAP_TYPE_PERCPU_ARRAY || info.value_size != sizeof(uint64_t))
		return -1;
	return LB_TAKE_FD(fd);
}

static void add(struct lb_graft_table *t, const char *name, uint32_t abi)
{
	struct lb_graft_foreign f = {.abi = abi, .since_ms = lb_clock_ms()};
	char note[192];

	if (t->foreign_count == LB_GRAFT_FOREIGN_MAX ||
	    lb_pin_dir_open(t->pin.dir_fd, name, false, &f.dir_fd, note, sizeof(note)))
		return;
	f.count_fd = open_count(f.dir_fd);
	if (f.count_fd >= 0)
		lb_graft_count_sum(f.count_fd, 0, t->counts, &f.forwarded);
	t->foreign[t->foreign_count++] = f;
}

static int find_all(struct lb_graft_table *t)
{
	LB_AUTO_CLOSE int fd = openat(t->pin.dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *d;

	if (!dir)
		return -errno;
	(void)LB_TAKE_FD(fd);
	while ((d = readdir(dir))) {
		uint32_t abi = lb_graft_pin_abi_of(d->d_name);

		if (abi && abi != LB_GRAFT_ABI)
			add(t, d->d_name, abi);
	}
	closedir(dir);
	return 0;
}

static int start_timer(struct lb_graft_table *t)
{
	static const struct itimerspec each = {
		.it_interval.tv_sec = CHECK_MS / 1000,
		.it_value.tv_sec = CHECK_MS / 1000,
	};

	t->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (t->timer_fd < 0 || timerfd_settime(t->timer_fd, 0, &each, NULL))
		return -errno;
	return lb_graft_attach_watch(t, t->timer_fd);
}

void lb_graft_foreign_open(struct lb_graft_table *t)
{
	int r;

	if (t->pin.dir_fd < 0)
		return;
	r = find_all(t);
	if (!r && t->foreign_count)
		r = start_timer(t);
	if (r)
		lb_warn("graft: tables of other versions stay until --unload: %s", strerror(-r));
}

/* Its filters first: nobody may look for a graft in tables that are half gone. */
static int remove_one(const struct lb_graft_table *t, const struct lb_graft_foreign *f)
{
	struct lb_graft_pin_names names;
	char name[16], note[192];
	int r;

	r = lb_graft_attach_sweep(lb_links_handle(t->pin.name, f->abi), ~0u, NULL);
	if (!r)
		r = lb_graft_pin_names(f->dir_fd, &names, note, sizeof(note));
	if (r)
		return r;
	for (size_t i = 0; i < names.count; i++)
		unlinkat(f->dir_fd, names.name[i], 0);
	lb_graft_pin_abi_name(f->abi, name);
	return unlinkat(t->pin.dir_fd, name, AT_REMOVEDIR) ? -errno : 0;
}

static void let_go(struct lb_graft_foreign *f)
{
	lb_cleanup_close(&f->count_fd);
	close(f->dir_fd);
}

static bool is_done(const struct lb_graft_table *t, struct lb_graft_foreign *f, uint64_t now_ms)
{
	uint64_t forwarded;

	if (f->count_fd < 0 || lb_graft_count_sum(f->count_fd, 0, t->counts, &forwarded))
		return false;
	if (forwarded != f->forwarded) {
		f->forwarded = forwarded;
		f->since_ms = now_ms;
	}
	return now_ms - f->since_ms >= QUIET_MS;
}

void lb_graft_foreign_check(struct lb_graft_table *t, uint64_t now_ms)
{
	uint64_t ticks;

	/* Only so that it is not readable any more. */
	while (t->timer_fd >= 0 && read(t->timer_fd, &ticks, sizeof(ticks)) > 0)
		;
	if (!t->foreign_count || now_ms - t->foreign_checked_ms < CHECK_MS)
		return;
	t->foreign_checked_ms = now_ms;
	for (size_t i = t->foreign_count; i--;) {
		struct lb_graft_foreign *f = &t->foreign[i];
		bool done;
		int r;

		pthread_mutex_lock(&t->counts_lock);
		done = is_done(t, f, now_ms);
		pthread_mutex_unlock(&t->counts_lock);
		if (!done)
			continue;
		r = remove_one(t, f);
		if (r)
			lb_warn("graft: cannot remove the tables of version %u: %s", f->abi,
				strerror(-r));
		else
			lb_info("graft: the tables of version %u had no packet for %u minutes: "
				"removed",
				f->abi, QUIET_MS / 60000u);
		/* After a failure it is left to the next start, or to --unload. */
		let_go(f);
		*f = t->foreign[--t->foreign_count];
	}
}

void lb_graft_foreign_close(struct lb_graft_table *t, bool keep)
{
	for (size_t i = 0; i < t->foreign_count; i++) {
		if (!keep)
			remove_one(t, &t->foreign[i]);
		let_go(&t->foreign[i]);
	}
	t->foreign_count = 0;
	lb_cleanup_close(&t->timer_fd);
	t->timer_fd = -1;
}
