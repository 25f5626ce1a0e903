/* SPDX-License-Identifier: MIT */
/*
 * See takeover_flows.h. A flow is frozen only while it is under way. Must never go on with one here
 * that may go on there: who is not answered for when the other one is silent is forgotten, because
 * that one may still take it; when it is gone it has not, and takes none any more.
 */
#include "control/takeover_flows.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "control/service_parts.h"
#include "control/takeover_wire.h"
#include "flow/handover.h"
#include "flow/session.h"
#include "worker.h"

/* Frozen at a time. */
#define BATCH 16u
/* Rules whose flows the other one does not take. */
#define REFUSED_MAX 64u
#define SEALS       (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)

struct lb_takeover_flows {
	struct lb_service *s;
	int fd;
	struct lb_handover_sweep *sweeps; /* by worker */
	uint64_t refused[REFUSED_MAX];    /* ids of rules and routes */
	size_t refused_count;
	bool over; /* the other one is gone, or does not answer */
};

/* --- out -------------------------------------------------------------------------------------- */

static bool is_refused(const struct lb_takeover_flows *f, uint64_t rule_id)
{
	for (size_t i = 0; i < f->refused_count; i++)
		if (f->refused[i] == rule_id)
			return true;
	return f->refused_count == REFUSED_MAX;
}

static bool wants(void *arg, const struct lb_session *s)
{
	return !is_refused(arg, s->route->id);
}

/* A look at one worker's flows. */
struct look {
	struct lb_takeover_flows *f;
	struct lb_list batch;
	bool done;
};

static void freeze_some(struct lb_worker *w, uint32_t index, void *arg)
{
	struct look *l = arg;

	lb_handover_sweep_next(lb_worker_env(w), &l->f->sweeps[index], &l->batch, BATCH, &l->done);
}

static void begin_sweep(struct lb_worker *w, uint32_t index, void *arg)
{
	struct lb_takeover_flows *f = arg;

	f->sweeps[index] = (struct lb_handover_sweep){.wants = wants, .arg = f};
	lb_handover_sweep_begin(lb_worker_env(w), &f->sweeps[index]);
}

static void end_sweep(struct lb_worker *w, uint32_t index, void *arg)
{
	struct lb_takeover_flows *f = arg;

	lb_handover_sweep_end(&f->sweeps[index]);
}

/* Of a record that is too large for a message. -errno on failure. */
static int memory_of(const uint8_t *record, size_t size)
{
	LB_AUTO_CLOSE int fd = memfd_create("l4lb-flow", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || write(fd, record, size) != (ssize_t)size || fcntl(fd, F_ADD_SEALS, SEALS))
		return -EIO;
	return LB_TAKE_FD(fd);
}

static int send_record(const struct lb_takeover_flows *f, const struct lb_handover *h,
		       const uint8_t *record, size_t size)
{
	LB_AUTO_CLOSE int memory = -1;
	int fds[3] = {h->leg[0].fd, h->leg[1].fd, -1};

	if (size <= LB_TAKEOVER_BODY_MAX)
		return lb_takeover_send(f->fd, LB_TAKEOVER_FLOW, record, size, fds, 2);
	memory = fds[2] = memory_of(record, size);
	if (memory < 0)
		return memory;
	return lb_takeover_send(f->fd, LB_TAKEOVER_FLOW, NULL, 0, fds, 3);
}

static int send_flow(const struct lb_takeover_flows *f, const struct lb_handover *h)
{
	size_t size = lb_handover_size(h);
	LB_AUTO_FREE uint8_t *record = malloc(size);

	if (!record)
		return -ENOMEM;
	lb_handover_encode(h, record);
	return send_record(f, h, record, size);
}

static struct lb_handover *first_of(const struct lb_list *batch)
{
	return lb_container_of(batch->next, struct lb_handover, node);
}

struct back {
	struct lb_takeover_flows *f;
	struct lb_handover *h;
};

static void thaw_here(struct lb_worker *w, uint32_t index, void *arg)
{
	struct back *b = arg;
	struct lb_service *s = b->f->s;
	const struct lb_rule *rule = lb_handover_rule(s->rules, s->rules_count, b->h);

	if (!rule || lb_handover_thaw(lb_worker_env(w), rule, &b->h))
		lb_handover_reset(&b->h);
	else if (!is_refused(b->f, rule->id))
		b->f->refused[b->f->refused_count++] = rule->id;
}

/* It goes on here, and others of its rule are not asked for again. */
static void take_back(struct lb_takeover_flows *f, uint32_t worker, struct lb_handover *h)
{
	struct back b = {f, h};

	lb_list_remove(&h->node);
	lb_workers_do(&f->s->workers[worker], 1, thaw_here, &b);
}

static void forget(struct lb_handover *h)
{
	lb_list_remove(&h->node);
	lb_handover_forget(&h);
}

/* One answer: 1 taken, 0 not taken, or -errno. */
static int answer(const struct lb_takeover_flows *f)
{
	struct lb_takeover_message m;
	struct lb_takeover_took took;
	int err = lb_takeover_recv(f->fd, &m);

	if (err)
		return err;
	if (m.kind != LB_TAKEOVER_TOOK) {
		lb_takeover_message_fini(&m);
		return -EPROTO;
	}
	memcpy(&took, m.body, sizeof(took));
	return took.taken != 0;
}

/* As many as are under way, in the order in which they were sent. */
static void settle(struct lb_takeover_flows *f, uint32_t worker, struct lb_list *sent)
{
	int taken = 1;

	while (!lb_list_empty(sent)) {
		if (!f->over)
			taken = answer(f);
		f->over = f->over || taken < 0;
		if (taken == 1 || taken == -ETIMEDOUT)
			forget(first_of(sent));
		else
			take_back(f, worker, first_of(sent));
	}
	if (f->over)
		lb_warn("takeover: no more flows go to the new daemon: %s", strerror(-taken));
}

static void send_batch(struct lb_takeover_flows *f, uint32_t worker, struct lb_list *batch)
{
	struct lb_list sent;

	lb_list_init(&sent);
	while (!lb_list_empty(batch)) {
		struct lb_handover *h = first_of(batch);

		if (f->over || send_flow(f, h)) {
			take_back(f, worker, h);
			continue;
		}
		lb_list_remove(&h->node);
		lb_list_append(&sent, &h->node);
	}
	if (!lb_list_empty(&sent))
		settle(f, worker, &sent);
}

static void move_from(struct lb_takeover_flows *f, uint32_t worker, uint64_t until_ms)
{
	struct lb_worker **w = &f->s->workers[worker];
	struct look l = {.f = f};

	lb_workers_do(w, 1, begin_sweep, f);
	while (!l.done && !f->over && lb_clock_ms() < until_ms) {
		lb_list_init(&l.batch);
		lb_workers_do(w, 1, freeze_some, &l);
		send_batch(f, worker, &l.batch);
	}
	lb_workers_do(w, 1, end_sweep, f);
}

void lb_takeover_flows_step(struct lb_takeover_flows *f, unsigned int ms)
{
	uint64_t until = lb_clock_ms() + ms;

	for (uint32_t i = 0; i < f->s->workers_count && !f->over; i++)
		move_from(f, i, until);
}

int lb_takeover_flows_new(struct lb_takeover_flows **ret, struct lb_service *s, int fd)
{
	struct lb_takeover_flows *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	f->s = s;
	f->fd = fd;
	f->sweeps = calloc(s->workers_count, sizeof(*f->sweeps));
	if (!f->sweeps) {
		free(f);
		return -ENOMEM;
	}
	*ret = f;
	return 0;
}

void lb_takeover_flows_free(struct lb_takeover_flows **pf)
{
	if (!*pf)
		return;
	free((*pf)->sweeps);
	free(*pf);
	*pf = NULL;
}

/* --- in --------------------------------------------------------------------------------------- */

static int decode_memory(int fd, struct lb_handover **ret)
{
	struct stat st;
	void *record;
	int err;

	if ((fcntl(fd, F_GET_SEALS) & SEALS) != SEALS || fstat(fd, &st) || st.st_size <= 0 ||
	    st.st_size > LB_HANDOVER_BYTES_MAX)
		return -EPROTO;
	record = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (record == MAP_FAILED)
		return -errno;
	err = lb_handover_decode(record, (size_t)st.st_size, ret);
	munmap(record, (size_t)st.st_size);
	return err;
}

static int decode(struct lb_takeover_message *m, struct lb_handover **ret)
{
	struct lb_handover *h = NULL;
	int err = m->fds_count == 3 ? decode_memory(m->fds[2], &h)
				    : lb_handover_decode(m->body, m->bytes, &h);

	if (err || !h)
		return err ? err : -EPROTO;
	for (unsigned int i = 0; i < 2; i++)
		h->leg[i].fd = LB_TAKE_FD(m->fds[i]);
	*ret = h;
	return 0;
}

struct guest {
	const struct lb_rule *rule;
	struct lb_handover *h;
	int err;
};

static void thaw_guest(struct lb_worker *w, uint32_t index, void *arg)
{
	struct guest *g = arg;

	g->err = lb_handover_thaw(lb_worker_env(w), g->rule, &g->h);
}

bool lb_takeover_flow_take(struct lb_service *s, struct lb_takeover_message *m)
{
	struct guest g = {.err = -ENOENT};

	if (decode(m, &g.h))
		return false;
	g.rule = lb_handover_rule(s->rules, s->rules_count, g.h);
	if (g.rule && !lb_service_is_gone(s, g.rule->index))
		lb_workers_do(&s->workers[s->guests++ % s->workers_count], 1, thaw_guest, &g);
	if (g.err)
		lb_handover_forget(&g.h);
	return !g.err;
}
