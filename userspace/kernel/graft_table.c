/* SPDX-License-Identifier: MIT */
/*
 * graft_table: decides whether grafts are in service, in this order: what stands where our pins
 * belong, rights, load, pins; and the tables as the flows see them. It must never break a graft of
 * an earlier daemon on the way, whatever fails.
 */
#include "kernel/graft_table.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "base/cleanup.h"
#include "kernel/graft_handle.h"
#include "kernel/probe.h"

/* --- open and close --------------------------------------------------------------------------- */

static int refuse(struct lb_graft_table_report *report, enum lb_why why, int err)
{
	report->why = why;
	if (!report->detail[0])
		snprintf(report->detail, sizeof(report->detail), "%s", strerror(-err));
	return err;
}

static int refuse_pins(struct lb_graft_table_report *report, const struct lb_graft_pin *pin,
		       const char *note, int err)
{
	snprintf(report->detail, sizeof(report->detail), LB_PIN_ROOT "/%.80s: %.140s", pin->name,
		 note);
	return refuse(report, err == -EPERM ? LB_WHY_PINS : LB_WHY_LOAD, err);
}

static int step_probe(struct lb_graft_table_report *report)
{
	enum lb_why why = lb_probe_for_load(report->detail, sizeof(report->detail));

	if (why == LB_WHY_NONE)
		return 0;
	return refuse(report, why, why == LB_WHY_NO_CAP ? -EPERM : -EOPNOTSUPP);
}

static int on_record(void *ctx, void *data, size_t size)
{
	struct lb_graft_table *t = ctx;

	if (size == sizeof(struct lb_graft_event))
		t->fn(t->arg, data);
	return 0;
}

static int make_readers(struct lb_graft_table *t)
{
	int cpus = libbpf_num_possible_cpus();

	if (cpus < 0)
		return cpus;
	t->counts = calloc((size_t)cpus, sizeof(*t->counts));
	if (!t->counts)
		return -ENOMEM;
	t->records = ring_buffer__new(t->load.fds[LB_GRAFT_MAP_RING], on_record, t, NULL);
	return t->records ? 0 : -errno;
}

static int step_load(struct lb_graft_table *t, uint32_t pairs, const struct lb_graft_look *look,
		     struct lb_graft_table_report *report)
{
	int r;

	r = lb_graft_load_open(&t->load, look->adoptable ? look->pairs : pairs,
			       look->adoptable ? look->fds : NULL, report->detail,
			       sizeof(report->detail));
	if (r == -ESTALE)
		return refuse(report, LB_WHY_PINS, -EPERM);
	if (!r)
		r = make_readers(t);
	return r ? refuse(report, LB_WHY_LOAD, r) : 0;
}

static int step_pin(struct lb_graft_table *t, const struct lb_graft_look *look,
		    struct lb_graft_table_report *report)
{
	int r;

	r = lb_graft_pin_commit(&t->pin, look, &t->load, report->pin_note,
				sizeof(report->pin_note));
	if (r)
		return refuse_pins(report, &t->pin, report->pin_note, r);
	if (t->pin.pinned)
		snprintf(report->pins, sizeof(report->pins), LB_PIN_ROOT "/%s", t->pin.name);
	report->adopted = look->adoptable;
	report->foreign_abi = look->foreign_abi;
	return 0;
}

static int nothing_to_adopt(const struct lb_graft_look *look, struct lb_graft_table_report *report)
{
	if (look->foreign_abi)
		snprintf(report->detail, sizeof(report->detail),
			 "the tables that are there are of version %u", look->foreign_abi);
	else
		snprintf(report->detail, sizeof(report->detail), "there are no tables to adopt");
	return refuse(report, LB_WHY_CONFIGURED, -ENOENT);
}

/* The pins come last: with them done nothing can fail any more. */
static int bring_up(struct lb_graft_table *t, const struct lb_graft_table_opts *opts,
		    const struct lb_graft_look *look, struct lb_graft_table_report *report)
{
	int r;

	if (!opts->create && !look->adoptable)
		return nothing_to_adopt(look, report);
	r = step_load(t, opts->pairs, look, report);
	if (r)
		return r;
	r = lb_graft_attach_open(t);
	if (r)
		return refuse(report, LB_WHY_LOAD, r);
	r = step_pin(t, look, report);
	if (!r)
		lb_graft_foreign_open(t);
	return r;
}

static int look_and_bring_up(struct lb_graft_table *t, const struct lb_graft_table_opts *opts,
			     struct lb_graft_table_report *report)
{
	struct lb_graft_look look;
	char note[192];
	int r;

	/* Without the right to look there is nothing to see. */
	if (!opts->create && t->pin.dir_fd < 0)
		return nothing_to_adopt(&(struct lb_graft_look){}, report);
	r = step_probe(report);
	if (r)
		return r;
	r = lb_graft_pin_look(&t->pin, &look, note, sizeof(note));
	if (r)
		return refuse_pins(report, &t->pin, note, r);
	r = bring_up(t, opts, &look, report);
	lb_graft_look_close(&look);
	return r;
}

static struct lb_graft_table *new_table(void)
{
	struct lb_graft_table *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->pin.root_fd = t->pin.dir_fd = t->poll_fd = t->timer_fd = -1;
	pthread_mutex_init(&t->counts_lock, NULL);
	pthread_mutex_init(&t->route_lock, NULL);
	return t;
}

int lb_graft_table_open(struct lb_graft_table **ret, const struct lb_graft_table_opts *opts,
			struct lb_graft_table_report *report)
{
	char name[LB_PIN_NAME_MAX], note[192];
	struct lb_graft_table *t;
	int r;

	*report = (struct lb_graft_table_report){};
	if (!opts->pairs || opts->pairs > LB_GRAFT_PAIRS_MAX)
		return refuse(report, LB_WHY_LOAD, -EINVAL);
	if (lb_pin_name(opts->instance, name)) {
		snprintf(report->detail, sizeof(report->detail),
			 "an instance name has 1 to %d letters, digits, '-' and '_'",
			 LB_PIN_INSTANCE_MAX);
		return refuse(report, LB_WHY_PINS, -EINVAL);
	}
	t = new_table();
	if (!t)
		return refuse(report, LB_WHY_LOAD, -ENOMEM);
	r = lb_graft_pin_open(&t->pin, name, note, sizeof(note));
	if (r)
		refuse_pins(report, &t->pin, note, r);
	else
		r = look_and_bring_up(t, opts, report);
	if (r) {
		lb_graft_table_close(t, false);
		return r;
	}
	*ret = t;
	return 0;
}

void lb_graft_table_close(struct lb_graft_table *t, bool keep)
{
	if (!t)
		return;
	/* Without pins nobody could ever find again what the filters keep alive. */
	keep = keep && t->pin.pinned;
	/* The names first: nobody may adopt what is about to go. */
	lb_graft_foreign_close(t, keep);
	if (!keep)
		lb_graft_pin_remove(&t->pin);
	lb_graft_attach_close(t, keep);
	lb_graft_pin_close(&t->pin);
	ring_buffer__free(t->records);
	lb_graft_load_close(&t->load);
	free(t->counts);
	pthread_mutex_destroy(&t->counts_lock);
	pthread_mutex_destroy(&t->route_lock);
	free(t);
}

int lb_graft_table_reclaim(struct lb_graft_table *t)
{
	char note[192];
	int r = lb_graft_pin_reclaim(&t->pin, &t->load, note, sizeof(note));

	return r ? r : lb_links_attach_again(t->links);
}

/* --- the tables ------------------------------------------------------------------------------- */

uint32_t lb_graft_table_pairs(const struct lb_graft_table *t)
{
	return t->load.pairs;
}

struct lb_graft *lb_graft_table_pair(struct lb_graft_table *t, uint32_t pair)
{
	return &t->load.grafts[pair];
}

union key {
	struct lb_graft_v4 v4;
	struct lb_graft_v6 v6;
};

/* Fills in <key>; returns the descriptor of its table. */
static int key_of(const struct lb_graft_table *t, const struct lb_graft_tuple *tuple,
		  union key *key)
{
	if (!tuple->ipv6) {
		key->v4 = (struct lb_graft_v4){tuple->saddr[0], tuple->daddr[0], tuple->sport,
					       tuple->dport};
		return t->load.fds[LB_GRAFT_MAP_V4];
	}
	memcpy(key->v6.saddr, tuple->saddr, sizeof(key->v6.saddr));
	memcpy(key->v6.daddr, tuple->daddr, sizeof(key->v6.daddr));
	key->v6.sport = tuple->sport;
	key->v6.dport = tuple->dport;
	return t->load.fds[LB_GRAFT_MAP_V6];
}

int lb_graft_table_add(struct lb_graft_table *t, const struct lb_graft_tuple *tuple, uint32_t index)
{
	union key key;
	int fd = key_of(t, tuple, &key), r;

	r = bpf_map_update_elem(fd, &key, &index, BPF_NOEXIST);
	return r == -E2BIG ? -ENOSPC : r;
}

int lb_graft_table_find(struct lb_graft_table *t, const struct lb_graft_tuple *tuple,
			uint32_t *index)
{
	union key key;
	int fd = key_of(t, tuple, &key);

	return bpf_map_lookup_elem(fd, &key, index);
}

void lb_graft_table_remove(struct lb_graft_table *t, const struct lb_graft_tuple *tuple,
			   uint32_t index)
{
	union key key;
	int fd = key_of(t, tuple, &key);
	uint32_t found;

	/* Two steps, and yet safe: a key is added only where there is none, so one that leads to us
	 * changes hands in between only if the program deletes it just now, for a new connection,
	 * and that connection is promoted already. A handshake takes longer. */
	if (!bpf_map_lookup_elem(fd, &key, &found) && found == index)
		bpf_map_delete_elem(fd, &key);
}

int lb_graft_table_ring_fd(struct lb_graft_table *t)
{
	return t->load.fds[LB_GRAFT_MAP_RING];
}

bool lb_graft_table_consume(struct lb_graft_table *t,
			    void (*fn)(void *arg, const struct lb_graft_event *e), void *arg)
{
	uint64_t lost;

	t->fn = fn;
	t->arg = arg;
	ring_buffer__consume(t->records);
	/* After the records: one lost while we read is counted by now, or else finds room. */
	lost = __atomic_load_n(&t->load.meta->lost, __ATOMIC_ACQUIRE);
	if (lost == t->lost_seen)
		return false;
	t->lost_seen = lost;
	return true;
}

int lb_graft_count_sum(int fd, uint32_t key, uint64_t *values, uint64_t *ret)
{
	int cpus = libbpf_num_possible_cpus(), r;
	uint64_t sum = 0;

	r = cpus < 0 ? cpus : bpf_map_lookup_elem(fd, &key, values);
	if (r)
		return r;
	for (int i = 0; i < cpus; i++)
		sum += values[i];
	*ret = sum;
	return 0;
}

uint64_t lb_graft_table_count(struct lb_graft_table *t, enum lb_graft_counter which)
{
	uint64_t sum = 0;

	pthread_mutex_lock(&t->counts_lock);
	lb_graft_count_sum(t->load.fds[LB_GRAFT_MAP_COUNT], which, t->counts, &sum);
	pthread_mutex_unlock(&t->counts_lock);
	return sum;
}
