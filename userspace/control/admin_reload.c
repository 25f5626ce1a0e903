/* SPDX-License-Identifier: MIT */
/*
 * `reload`: tells what would change, has the main thread do it, and waits for what came of it. Must
 * never apply anything itself: only the main thread does.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "control/admin_job.h"
#include "control/apply.h"
#include "control/service.h"

#define LOOK_MS 20u
#define MOST_MS 25000u /* the client loses patience soon after */

static const char draining[] = "the daemon is going down";

struct work {
	struct lb_timer timer;
	struct lb_admin_job *job;
	uint64_t awaited; /* the reload that had not begun when it was asked for: so many'th */
	uint64_t begin_ms;
	char *changes;
};

static void drop(struct lb_admin_job *job)
{
	struct work *w = job->work;

	lb_timer_stop(job->loop, &w->timer);
	free(w->changes);
	free(w);
}

static void refuse(struct lb_admin_job *job, const char *what, const char *changes)
{
	LB_AUTO_FREE char *why = NULL;

	if (asprintf(&why, "%s\n%s", what, changes) < 0)
		why = NULL;
	lb_admin_job_refuse(job, why ? why : "out of memory");
}

static void answer(struct lb_admin_job *job, bool applied, uint64_t generation, const char *changes)
{
	json_t *head = json_pack("{s:b,s:I,s:s%}", "applied", applied, "generation",
				 (json_int_t)generation, "changes", changes, strlen(changes));

	if (!head) {
		lb_admin_job_refuse(job, "out of memory");
		return;
	}
	lb_admin_text_begin(&job->reply, head);
	lb_admin_text_end(&job->reply);
	lb_admin_job_end(job);
}

static void on_look(struct lb_timer *t)
{
	struct work *w = lb_container_of(t, struct work, timer);
	struct lb_reload_report now = lb_service_reloads(w->job->opts->service);
	uint64_t ended = now.applied + now.refused;

	if (!w->job->client) {
		lb_admin_job_end(w->job);
		return;
	}
	if (ended >= w->awaited) {
		if (now.results >> (ended - w->awaited) & 1)
			answer(w->job, true, now.generation, w->changes);
		else
			refuse(w->job, "not in force: everything stays as it was", w->changes);
		return;
	}
	if (lb_service_is_draining(w->job->opts->service)) {
		lb_admin_job_refuse(w->job, draining);
		return;
	}
	if (lb_loop_now_ms(w->job->loop) - w->begin_ms > MOST_MS) {
		lb_admin_job_refuse(w->job, "it is still at it: the daemon's log will tell");
		return;
	}
	lb_timer_start(w->job->loop, t, LOOK_MS);
}

/* What would change, or what is wrong, in *ret. 0, or -errno: it would not come into force. */
static int explain(struct lb_admin_job *job, char **ret)
{
	size_t size = 0;
	FILE *out = open_memstream(ret, &size);
	int err;

	if (!out)
		return -ENOMEM;
	err = lb_apply_explain(job->opts->service, lb_service_path(job->opts->service), out);
	return fclose(out) ? -ENOMEM : err;
}

static void ask_main(struct lb_admin_job *job, char **changes)
{
	struct work *w = calloc(1, sizeof(*w));

	if (!w) {
		lb_admin_job_refuse(job, "out of memory");
		return;
	}
	w->job = job;
	w->awaited = lb_service_reloads(job->opts->service).begun + 1;
	w->begin_ms = lb_loop_now_ms(job->loop);
	w->changes = LB_TAKE_PTR(*changes);
	lb_timer_init(&w->timer, on_look);
	job->work = w;
	job->drop = drop;
	if (kill(getpid(), SIGHUP)) {
		lb_admin_job_refuse(job, strerror(errno));
		return;
	}
	lb_timer_start(job->loop, &w->timer, LOOK_MS);
}

void lb_admin_answer_reload(struct lb_admin_job *job)
{
	LB_AUTO_FREE char *changes = NULL;
	int err = explain(job, &changes);

	if (!changes)
		lb_admin_job_refuse(job, "out of memory");
	else if (err)
		refuse(job, "it would not come into force", changes);
	else if (job->request.dry_run)
		answer(job, false, lb_service_reloads(job->opts->service).generation, changes);
	else if (lb_service_is_draining(job->opts->service))
		lb_admin_job_refuse(job, draining);
	else
		ask_main(job, &changes);
}
