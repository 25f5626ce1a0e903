/* SPDX-License-Identifier: MIT */
/*
 * A service that goes from one daemon to the next: what the one that serves puts down, takes up
 * again, and leaves; and how the next one begins. See service.h.
 *
 * Must never hold what the other one holds too, unless it is shared: then nobody removes it.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "control/admin.h"
#include "control/admission.h"
#include "control/cluster.h"
#include "control/exporter.h"
#include "control/instance.h"
#include "control/service_parts.h"
#include "control/takeover.h"
#include "control/takeover_state.h"
#include "flow/grafts.h"
#include "worker.h"

/* --- the one that serves ---------------------------------------------------------------------- */

const char *lb_service_refuses_takeover(const struct lb_service *s)
{
	if (lb_service_heir(s))
		return "another daemon has just taken over: ask again";
	if (getpid() == 1)
		return "it is process 1: whatever it runs in would end with it";
	if (!s->instance)
		return "it has no lock of its instance that it could hand over";
	if (s->graft_table && !*s->graft_report.pins)
		return "grafted flows cannot go on: their tables have no pins";
	if (lb_service_is_draining(s))
		return "it is going down";
	return NULL;
}

struct visit {
	struct lb_service *s;
	void (*fn)(void *arg, const struct lb_addr *addr, int fd);
	void *arg;
};

static void visit_one(void *arg, const struct lb_rule *rule, int fd)
{
	const struct visit *v = arg;

	v->fn(v->arg, &rule->config->listen, fd);
}

static void visit_worker(struct lb_worker *w, uint32_t index, void *arg)
{
	lb_worker_visit_listeners(w, visit_one, arg);
}

void lb_service_visit_listeners(struct lb_service *s,
				void (*fn)(void *arg, const struct lb_addr *addr, int fd),
				void *arg)
{
	struct visit v = {s, fn, arg};

	/* One after the other: <fn> is not told twice at a time. */
	for (uint32_t i = 0; i < s->workers_count; i++)
		lb_workers_do(&s->workers[i], 1, visit_worker, &v);
}

int lb_service_own_fd(const struct lb_service *s, unsigned int what)
{
	switch (what) {
	case LB_TAKEOVER_LOCK:
		return lb_instance_fd(s->instance);
	case LB_TAKEOVER_ADMIN:
		return s->admin ? lb_admin_fd(s->admin) : -1;
	case LB_TAKEOVER_METRICS:
		return s->exporter ? lb_exporter_fd(s->exporter) : -1;
	default:
		return -1;
	}
}

static void nothing(struct lb_worker *w, uint32_t index, void *arg)
{
}

static void lend(struct lb_worker *w, uint32_t index, void *arg)
{
	lb_worker_lend_grafts(w);
}

static void take(struct lb_worker *w, uint32_t index, void *arg)
{
	lb_worker_take_grafts(w);
}

static void inherit(struct lb_worker *w, uint32_t index, void *arg)
{
	lb_worker_inherit_grafts(w);
}

/* Sessions that become grafts know, then the keeper has none any more; or the other way. */
static void move_grafts(struct lb_service *s, bool away)
{
	if (!s->grafts)
		return;
	lb_grafts_lend(s->grafts, away);
	lb_workers_do(s->workers, s->workers_count, nothing, NULL);
	lb_workers_do(s->workers, 1, away ? lend : take, NULL);
}

void lb_service_freeze(struct lb_service *s)
{
	move_grafts(s, true);
	lb_same_host_leave(s->same_host);
	lb_kernel_leave_pins(s->kernel);
	s->frozen = true;
}

void lb_service_hush(struct lb_service *s)
{
	if (s->exporter)
		lb_exporter_pause(s->exporter);
}

void lb_service_thaw(struct lb_service *s)
{
	int err;

	if (s->exporter)
		lb_exporter_resume(s->exporter);
	if (!s->frozen)
		return;
	s->frozen = false;
	lb_kernel_take_pins(s->kernel, s->name);
	err = lb_same_host_take(s->same_host, s->name);
	if (err)
		lb_warn("same_host_bypass is not in service any more: %s", strerror(-err));
	err = s->graft_table ? lb_graft_table_reclaim(s->graft_table) : 0;
	if (err)
		lb_warn("graft: the program is not attached everywhere: %s", strerror(-err));
	move_grafts(s, false);
	lb_admission_reclaim(s->admission);
}

struct leaving {
	const struct lb_addr *keeps;
	size_t count;
};

static bool is_kept(const struct lb_rule *rule, void *arg)
{
	const struct leaving *l = arg;

	for (size_t i = 0; i < l->count; i++)
		if (lb_addr_equal(&l->keeps[i], &rule->config->listen))
			return true;
	return false;
}

static void leave(struct lb_worker *w, uint32_t index, void *arg)
{
	lb_worker_leave_listeners(w, is_kept, arg);
}

void lb_service_leave(struct lb_service *s, pid_t heir, const struct lb_takeover_taken *taken,
		      const struct lb_addr *keeps, size_t keeps_count)
{
	struct leaving l = {keeps, keeps_count};

	s->left = true;
	__atomic_store_n(&s->heir, heir, __ATOMIC_RELEASE);
	__atomic_store_n(&s->draining, true, __ATOMIC_RELAXED);
	/* First: who comes to ask is to ask the other one. */
	if (s->admin) {
		lb_admin_share(s->admin, taken->has[LB_TAKEOVER_ADMIN]);
		lb_admin_leave(s->admin);
	}
	lb_workers_do(s->workers, s->workers_count, leave, &l);
	lb_cluster_silence(s->cluster);
	if (s->exporter)
		lb_exporter_leave(s->exporter);
	lb_instance_share(s->instance, true);
	/* Should the next daemon die, another one is not to wait for our flows. */
	lb_instance_unlock(&s->instance);
	lb_admission_leave(s->admission);
}

uint64_t lb_service_cut_in_ms(const struct lb_service *s, uint64_t elapsed_ms)
{
	uint64_t most = 0;

	for (size_t r = 0; r < s->rules_count; r++)
		if (s->rules[r].config && s->rules[r].config->timeouts.drain_ms > most)
			most = s->rules[r].config->timeouts.drain_ms;
	return most > elapsed_ms ? most - elapsed_ms : 0;
}

/* --- how it is told --------------------------------------------------------------------------- */

void lb_service_look_at_self(struct lb_service *s, char *const *argv)
{
	ssize_t n = readlink("/proc/self/exe", s->self.binary, sizeof(s->self.binary) - 1);

	s->self.binary[n > 0 ? n : 0] = '\0';
	s->self.argv = argv;
}

const struct lb_service_self *lb_service_self(const struct lb_service *s)
{
	return &s->self;
}

pid_t lb_service_heir(const struct lb_service *s)
{
	return __atomic_load_n(&s->heir, __ATOMIC_ACQUIRE);
}

bool lb_service_claim_commit(struct lb_service *s)
{
	return !__atomic_exchange_n(&s->commit_claimed, true, __ATOMIC_ACQ_REL);
}

void lb_service_unclaim_commit(struct lb_service *s)
{
	__atomic_store_n(&s->commit_claimed, false, __ATOMIC_RELEASE);
}

void lb_service_set_takeover_failure(struct lb_service *s, const char *why)
{
	(void)snprintf(s->failure, sizeof(s->failure), "%s", why);
	__atomic_fetch_add(&s->failures, 1, __ATOMIC_RELEASE);
}

const char *lb_service_takeover_failure(const struct lb_service *s)
{
	return __atomic_load_n(&s->failures, __ATOMIC_ACQUIRE) ? s->failure : "";
}

bool lb_service_is_answering(const struct lb_service *s)
{
	return s->admin && lb_admin_is_answering(s->admin);
}

/* --- the next one ----------------------------------------------------------------------------- */

int lb_service_lock(struct lb_service *s)
{
	LB_AUTO_CLOSE int fd = lb_takeover_take(s->takeover, LB_TAKEOVER_LOCK);
	int err;

	if (!s->takeover)
		return lb_instance_lock(&s->instance, s->name);
	if (fd < 0) {
		lb_err("takeover: the lock of the instance was not handed over");
		return -EPROTO;
	}
	err = lb_instance_adopt(&s->instance, s->name, fd);
	if (!err)
		(void)LB_TAKE_FD(fd);
	return err;
}

int lb_service_commit(struct lb_service *s)
{
	int err = lb_takeover_commit(s->takeover, s);

	if (err)
		return err;
	lb_service_take_state(s, s->takeover, false);
	/* Now that nothing counts less than it did before. */
	if (s->metrics_fd >= 0)
		(void)lb_service_open_exporter(s);
	/* Who has come meanwhile waits in the backlogs. */
	(void)lb_service_accept(s);
	lb_instance_share(s->instance, false);
	if (s->admin)
		lb_admin_share(s->admin, false);
	return 0;
}

void lb_service_take_state(struct lb_service *s, struct lb_takeover *before, bool counters)
{
	LB_AUTO_CLOSE int fd = lb_takeover_take_state(before);
	int err = fd < 0 ? 0 : lb_takeover_state_read(s, fd, counters);

	if (err)
		lb_warn("takeover: what the daemon before knew is not taken over: %s",
			strerror(-err));
}

void lb_service_inherit(struct lb_service *s)
{
	lb_takeover_state_end(s);
	lb_workers_do(s->workers, 1, inherit, NULL);
}
