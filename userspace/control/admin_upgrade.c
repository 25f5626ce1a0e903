/* SPDX-License-Identifier: MIT */
/*
 * `upgrade`: starts a new daemon that takes over from this one, and tells what came of it. Must
 * never leave a new one behind that has not taken over, nor one without descriptors of its own.
 */
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/admin_job.h"
#include "control/service.h"

#define LOOK_MS      20u
#define LAST_WORD_MS 300u
#define MOST_MS      25000u /* the client loses patience soon after */
#define ENV_MAX      4096u

struct work {
	struct lb_timer timer;
	struct lb_admin_job *job;
	pid_t pid;
	uint64_t begin_ms;
	uint64_t most_ms;
	int status; /* .. of the new one: it has ended */
	bool ended;
};

static void drop(struct lb_admin_job *job)
{
	struct work *w = job->work;

	lb_timer_stop(job->loop, &w->timer);
	free(w);
}

/* --- the new one ------------------------------------------------------------------------------ */

/* What is said to this process alone: the service manager's watchdog, sockets that it was given. */
static bool is_ours_alone(const char *variable)
{
	static const char *const names[] = {
		"WATCHDOG_PID=", "LISTEN_PID=", "LISTEN_FDS=", "LISTEN_FDNAMES="};

	for (size_t i = 0; i < LB_ARRAY_SIZE(names); i++)
		if (!strncmp(variable, names[i], strlen(names[i])))
			return true;
	return false;
}

static void environment(char *ret[ENV_MAX])
{
	size_t n = 0;

	for (char **e = environ; *e && n + 1 < ENV_MAX; e++)
		if (!is_ours_alone(*e))
			ret[n++] = *e;
	ret[n] = NULL;
}

/* As this one was started, and --takeover. NULL: no memory. */
static char **arguments(char *const *argv, const char *binary)
{
	static char takeover[] = "--takeover";
	size_t n = 0, at = 0;
	char **ret;

	while (argv[n])
		n++;
	ret = calloc(n + 2, sizeof(*ret));
	if (!ret)
		return NULL;
	ret[at++] = (char *)binary;
	for (size_t i = 1; i < n; i++)
		if (strcmp(argv[i], takeover) != 0)
			ret[at++] = argv[i];
	ret[at] = takeover;
	return ret;
}

static int spawn(const char *binary, char *const *argv, pid_t *ret)
{
	LB_AUTO_FREE char **args = arguments(argv, binary), **env = calloc(ENV_MAX, sizeof(*env));
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int err;

	if (!args || !env)
		return -ENOMEM;
	environment(env);
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&files);
	posix_spawnattr_init(&attr);
	/* All of ours are closed on exec(2); those of a library that forgot it too. */
	err = posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
	if (!err)
		err = posix_spawnattr_setsigmask(&attr, &none);
	if (!err)
		err = posix_spawnattr_setsigdefault(&attr, &all);
	if (!err)
		err = posix_spawnattr_setflags(&attr,
					       POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	if (!err)
		err = posix_spawn(ret, binary, &files, &attr, args, env);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	return -err;
}

/* --- what comes of it ------------------------------------------------------------------------- */

static void succeed(struct work *w)
{
	json_t *head =
		json_pack("{s:i,s:i,s:I}", "pid", (int)w->pid, "before", (int)getpid(), "took_ms",
			  (json_int_t)(lb_loop_now_ms(w->job->loop) - w->begin_ms));

	if (!head) {
		lb_admin_job_refuse(w->job, "it has been taken over, and there is no memory to say "
					    "more");
		return;
	}
	lb_admin_text_begin(&w->job->reply, head);
	lb_admin_text_end(&w->job->reply);
	lb_admin_job_end(w->job);
}

static void fail_with(struct work *w, const char *what)
{
	char why[LB_ADMIN_WHY_MAX + 64];

	(void)snprintf(why, sizeof(why), "the new daemon %s; this one serves on", what);
	lb_err("upgrade: %s", why);
	lb_admin_job_refuse(w->job, why);
}

static void tell_end(struct work *w, int status)
{
	const char *reason = lb_service_takeover_failure(w->job->opts->service);
	char what[LB_ADMIN_WHY_MAX];

	if (WIFSIGNALED(status))
		(void)snprintf(what, sizeof(what), "was ended by signal %d", WTERMSIG(status));
	else if (WEXITSTATUS(status) == 1)
		(void)snprintf(what, sizeof(what), "refuses its configuration: --check tells why");
	else
		(void)snprintf(what, sizeof(what), "has ended with exit code %d: %s",
			       WEXITSTATUS(status), *reason ? reason : "the log tells why");
	fail_with(w, what);
}

static void on_look(struct lb_timer *t)
{
	struct work *w = lb_container_of(t, struct work, timer);
	int status;

	if (lb_service_heir(w->job->opts->service) == w->pid) {
		succeed(w);
		return;
	}
	if (w->ended) {
		tell_end(w, w->status);
		return;
	}
	if (waitpid(w->pid, &w->status, WNOHANG) == w->pid) {
		/* Its last word may still be on its way to the main thread. */
		w->ended = true;
		lb_timer_start(w->job->loop, t, LAST_WORD_MS);
		return;
	}
	/* Claimed: it is making it just now, or fails. */
	if (lb_loop_now_ms(w->job->loop) - w->begin_ms >= w->most_ms &&
	    lb_service_claim_commit(w->job->opts->service)) {
		kill(w->pid, SIGKILL);
		(void)waitpid(w->pid, &status, 0);
		lb_service_unclaim_commit(w->job->opts->service);
		fail_with(w, "took too long");
		return;
	}
	lb_timer_start(w->job->loop, t, LOOK_MS);
}

void lb_admin_answer_upgrade(struct lb_admin_job *job)
{
	const struct lb_service_self *self = lb_service_self(job->opts->service);
	const char *refusal = lb_service_refuses_takeover(job->opts->service);
	const char *binary = job->request.binary ? job->request.binary : self->binary;
	struct work *w;
	int err;

	if (refusal || !self->argv || !*binary) {
		lb_admin_job_refuse(job, refusal ? refusal : "it does not know how it was started");
		return;
	}
	w = calloc(1, sizeof(*w));
	if (!w) {
		lb_admin_job_refuse(job, "out of memory");
		return;
	}
	w->job = job;
	w->begin_ms = lb_loop_now_ms(job->loop);
	w->most_ms = job->request.timeout_ms ? job->request.timeout_ms : MOST_MS;
	lb_timer_init(&w->timer, on_look);
	job->work = w;
	job->drop = drop;
	err = spawn(binary, self->argv, &w->pid);
	if (err) {
		char why[LB_ADMIN_WHY_MAX];

		(void)snprintf(why, sizeof(why), "%.100s cannot be started: %s", binary,
			       strerror(-err));
		lb_admin_job_refuse(job, why);
		return;
	}
	lb_info("upgrade: %s is started, as process %d", binary, w->pid);
	lb_timer_start(job->loop, &w->timer, LOOK_MS);
}
