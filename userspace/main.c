/* SPDX-License-Identifier: MIT */
/*
 * layer4-lb: options, load, apply, run, exit code. The only file that may exit().
 *
 * Exit codes: 0 fine, 1 configuration, 2 usage, 3 the system refused something, 4 a stop cut flows.
 */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/listen_fds.h"
#include "base/log.h"
#include "base/notify.h"
#include "config/config.h"
#include "config/config_notices.h"
#include "control/apply.h"
#include "control/file_watch.h"
#include "control/instance.h"
#include "control/service.h"
#include "control/takeover.h"
#include "control/takeover_offer.h"
#include "control/tls.h"
#include "control/watchdog.h"
#include "kernel/admit.h"
#include "kernel/graft_table.h"
#include "kernel/kernel.h"

enum exit_code {
	EXIT_FINE = 0,
	EXIT_CONFIG = 1,
	EXIT_USAGE = 2,
	EXIT_SYSTEM = 3,
	EXIT_CUT = 4,
};

enum action {
	ACTION_RUN,
	ACTION_CHECK,
	ACTION_PRINT_CONFIG,
	ACTION_SELFTEST,
	ACTION_UNLOAD,
	ACTION_JANITOR,
	ACTION_VERSION,
	ACTION_HELP,
};

struct options {
	enum action action;
	const char *config;
	const char *instance;
	const char *janitor;
	bool takeover;
	char *const *argv;
};

/* Of the daemon before, at a time. */
#define MESSAGES_MAX 64
/* While draining: how often it is looked whether all flows have ended. */
#define DRAIN_STEP_MS 50
/* While something is to be looked at again. */
#define TICK_MS 50
/* While draining: lbctl gets its last answers until then. */
#define ANSWERS_MS 2000
/* While draining: how often the service manager hears of it. */
#define TELL_MS 1000

static void print_help(FILE *out)
{
	fputs("usage: layer4-lb [options]\n"
	      "\n"
	      "  -c, --config FILE     the configuration (default: lb.yaml)\n"
	      "      --instance NAME   keep this daemon's lock, pins and admin socket apart\n"
	      "      --takeover        take over from the daemon of this instance that serves\n"
	      "      --check           judge the configuration, then exit: 0 good, 1 bad\n"
	      "      --print-config    print it in canonical form, defaults filled in\n"
	      "      --selftest        print what this kernel can do, with proof\n"
	      "      --unload          remove what a daemon that is gone left in the kernel:\n"
	      "                        programs, filters, pins; flows it grafted break\n"
	      "      --version         print the version\n"
	      "  -h, --help            print this\n"
	      "\n"
	      "SIGTERM and SIGINT drain and exit; a second one cuts the drain short.\n"
	      "SIGHUP reads the configuration again, SIGUSR1 opens the access log anew.\n"
	      "Exit codes: 0 fine, 1 configuration, 2 usage, 3 the system refused something,\n"
	      "4 it was told to stop and had to cut flows.\n",
	      out);
}

/* 0, or -EINVAL after a message. */
static int parse_options(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
		{"config", required_argument, NULL, 'c'},
		{"instance", required_argument, NULL, 'i'},
		{"takeover", no_argument, NULL, 't'},
		{"check", no_argument, NULL, 'k'},
		{"print-config", no_argument, NULL, 'p'},
		{"selftest", no_argument, NULL, 's'},
		{"unload", no_argument, NULL, 'u'},
		{"janitor", required_argument, NULL, 'j'}, /* kernel/admit.h; not for people */
		{"version", no_argument, NULL, 'v'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "c:h", longs, NULL)) != -1) {
		switch (c) {
		case 'c':
			o->config = optarg;
			break;
		case 'i':
			o->instance = optarg;
			break;
		case 't':
			o->takeover = true;
			break;
		case 'k':
			o->action = ACTION_CHECK;
			break;
		case 'p':
			o->action = ACTION_PRINT_CONFIG;
			break;
		case 's':
			o->action = ACTION_SELFTEST;
			break;
		case 'u':
			o->action = ACTION_UNLOAD;
			break;
		case 'j':
			o->action = ACTION_JANITOR;
			o->janitor = optarg;
			break;
		case 'v':
			o->action = ACTION_VERSION;
			break;
		case 'h':
			o->action = ACTION_HELP;
			break;
		default:
			fputs("layer4-lb --help lists the options\n", stderr);
			return -EINVAL;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "layer4-lb: unexpected argument '%s'\n", argv[optind]);
		return -EINVAL;
	}
	if (o->instance && !lb_instance_name_is_valid(o->instance)) {
		fputs("layer4-lb: --instance takes letters, digits, '-' and '_', at most 32\n",
		      stderr);
		return -EINVAL;
	}
	return 0;
}

/* --- running ---------------------------------------------------------------------------------- */

static bool is_process_1(void)
{
	return getpid() == 1;
}

/*
 * Those that ask for something wait until somebody can do it. The kernel drops what process 1 of a
 * PID namespace has neither a handler for nor blocked (pid_namespaces(7)): told to stop that early,
 * it would go on.
 */
static void hold_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGUSR1);
	if (is_process_1()) {
		sigaddset(&set, SIGTERM);
		sigaddset(&set, SIGINT);
	}
	pthread_sigmask(SIG_BLOCK, &set, NULL);
}

/* Before any thread exists: all of them inherit the mask, main() alone waits for signals. */
static void block_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
	sigaddset(set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, set, NULL);
	/* A peer that closed its socket is an error of one flow, not of the process. */
	signal(SIGPIPE, SIG_IGN);
	/* Orphans of others are process 1's children: the kernel clears them away (wait(2)). */
	if (is_process_1())
		signal(SIGCHLD, SIG_IGN);
}

struct server {
	struct lb_service *service;
	const char *path;
	int signals;
	struct lb_file_watch *watch; /* NULL: nobody wants it */
	uint64_t settled_ms;         /* then the file is looked at; 0: nothing has happened to it */
	bool ticking;                /* rules that were removed still have flows */
	struct lb_takeover *before;  /* the daemon that we took over from; NULL: from none */
	struct lb_takeover_offer *offer;
	struct lb_watchdog watchdog;
};

static void tell_ready(struct lb_service *service)
{
	struct lb_reload_report r = lb_service_reloads(service);

	(void)lb_notify("READY=1\nSTATUS=serving, configuration %llu%s",
			(unsigned long long)r.generation,
			r.begun && !(r.results & 1) ? "; the last reload was refused" : "");
}

/* So that nobody kills us for taking the time that timeouts.drain_ms gives. */
static void tell_draining(struct server *s, uint64_t elapsed_ms, uint64_t *due_ms)
{
	struct lb_service *service = s->service;

	if (elapsed_ms < *due_ms)
		return;
	*due_ms = elapsed_ms + TELL_MS;
	/* Then it is that one the service manager asks. */
	if (lb_takeover_offer_heir(s->offer)) {
		lb_takeover_offer_tell(s->offer, elapsed_ms);
		return;
	}
	(void)lb_notify("STOPPING=1\nEXTEND_TIMEOUT_USEC=%u\nSTATUS=draining: %llu flows",
			10u * TELL_MS * 1000u, (unsigned long long)lb_service_flows(service));
}

/* The daemon before us has something to say, or has ended. */
static void look_before(struct server *s)
{
	struct pollfd fd = {.fd = lb_takeover_fd(s->before), .events = POLLIN};
	bool lives = true;

	for (int i = 0; i < MESSAGES_MAX && lives && poll(&fd, 1, 0) > 0; i++) {
		lives = lb_takeover_look(s->before, s->service);
		lb_service_take_state(s->service, s->before, true);
	}
	if (lives) {
		lb_service_set_predecessor(s->service, s->before);
		return;
	}
	lb_info("the daemon before this one has ended");
	lb_service_inherit(s->service);
	lb_service_set_predecessor(s->service, NULL);
	lb_takeover_free(&s->before);
	/* By now the service manager listens to us. */
	if (!lb_takeover_offer_heir(s->offer))
		tell_ready(s->service);
}

static void drain(struct server *s, const sigset_t *set)
{
	const struct timespec step = {.tv_nsec = DRAIN_STEP_MS * 1000000L};
	uint64_t begin = lb_clock_ms(), tell_ms = 0;
	struct lb_service *service = s->service;

	lb_info("draining: %llu flows", (unsigned long long)lb_service_flows(service));
	if (!lb_takeover_offer_heir(s->offer))
		lb_service_drain(service);
	for (;;) {
		int sig;

		tell_draining(s, lb_clock_ms() - begin, &tell_ms);
		if (s->before)
			look_before(s);
		lb_takeover_offer_move(s->offer);
		(void)lb_watchdog_look(&s->watchdog, service, lb_clock_ms());
		sig = sigtimedwait(set, NULL, &step);

		if (sig == SIGTERM || sig == SIGINT) {
			lb_info("second signal: cutting %llu flows",
				(unsigned long long)lb_service_flows(service));
			return;
		}
		if (sig == SIGUSR1)
			lb_service_reopen_log(service);
		if (lb_service_drain_step(service, lb_clock_ms() - begin))
			continue;
		/* Whoever has asked for a takeover is to hear of it. */
		if (!lb_takeover_offer_heir(s->offer) || !lb_service_is_answering(service) ||
		    lb_clock_ms() - begin > ANSWERS_MS)
			return;
	}
}

static enum exit_code stop(struct server *s, const sigset_t *set)
{
	struct lb_ends before = lb_service_ends(s->service), after;
	uint64_t begin_ms = lb_clock_ms();
	char told[256];
	bool uncut;

	if (lb_takeover_offer_heir(s->offer))
		(void)lb_notify("MAINPID=%d", lb_takeover_offer_heir(s->offer));
	else
		lb_takeover_offer_close(&s->offer);
	drain(s, set);
	/* The last word on what was counted. */
	lb_takeover_offer_tell(s->offer, UINT64_MAX);
	lb_takeover_offer_close(&s->offer);
	lb_service_halt(s->service);
	after = lb_service_ends(s->service);
	uncut = lb_service_tell_ends(&before, &after, told, sizeof(told));
	lb_service_stop(&s->service);
	lb_info("stopped after %.1f s: %s", (double)(lb_clock_ms() - begin_ms) / 1000, told);
	return uncut ? EXIT_FINE : EXIT_CUT;
}

static void reload(struct server *s)
{
	/* What is read now is known, whatever the watch has seen. */
	if (s->watch)
		(void)lb_file_watch_is_new(s->watch);
	s->settled_ms = 0;
	/* It has been offered the listeners of the rules that there are now. */
	lb_takeover_offer_cancel(s->offer, "the configuration is read again");
	(void)lb_notify("RELOADING=1\nMONOTONIC_USEC=%llu",
			(unsigned long long)(lb_clock_ns() / 1000));
	(void)lb_apply_file(s->service, s->path);
	tell_ready(s->service);
	s->ticking = true;
}

/* 0: none. */
static int next_signal(const struct server *s)
{
	struct signalfd_siginfo info;

	return read(s->signals, &info, sizeof(info)) == sizeof(info) ? (int)info.ssi_signo : 0;
}

static int sooner(int a_ms, int b_ms)
{
	return a_ms < 0 || (b_ms >= 0 && b_ms < a_ms) ? b_ms : a_ms;
}

/* How long poll(2) may wait; <watchdog_ms>: for that one. */
static int patience(const struct server *s, int watchdog_ms)
{
	int ms = sooner(watchdog_ms, lb_takeover_offer_patience(s->offer));

	return s->ticking || s->settled_ms ? sooner(ms, TICK_MS) : ms;
}

static void look_at_file(struct server *s, bool happened)
{
	if (happened) {
		lb_file_watch_look(s->watch);
		s->settled_ms = lb_clock_ms() + LB_FILE_WATCH_SETTLE_MS;
	}
	if (!s->settled_ms || lb_clock_ms() < s->settled_ms)
		return;
	s->settled_ms = 0;
	if (!lb_file_watch_is_new(s->watch))
		return;
	lb_info("%s has changed", s->path);
	reload(s);
}

/* Until somebody wants us to end, or has taken over. */
static void serve(struct server *s)
{
	for (;;) {
		struct pollfd fds[] = {
			{.fd = s->signals, .events = POLLIN},
			{.fd = s->watch ? lb_file_watch_fd(s->watch) : -1, .events = POLLIN},
			{.fd = s->before ? lb_takeover_fd(s->before) : -1, .events = POLLIN},
			{.fd = -1},
			{.fd = -1},
		};
		int sig, ms = lb_watchdog_look(&s->watchdog, s->service, lb_clock_ms());

		lb_takeover_offer_poll(s->offer, fds + 3);
		(void)poll(fds, LB_ARRAY_SIZE(fds), patience(s, ms));
		sig = next_signal(s);
		if (sig == SIGTERM || sig == SIGINT)
			return;
		if (sig == SIGHUP)
			reload(s);
		if (sig == SIGUSR1)
			lb_service_reopen_log(s->service);
		if (s->watch)
			look_at_file(s, fds[1].revents);
		if (s->before && fds[2].revents)
			look_before(s);
		if (s->ticking)
			s->ticking = lb_service_tick(s->service);
		if (lb_takeover_offer_look(s->offer, fds + 3))
			return;
	}
}

/* 0 or -errno after a message. */
static int open_server(struct server *s, const struct lb_config *config, const sigset_t *set)
{
	int err;

	s->signals = signalfd(-1, set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->signals < 0) {
		lb_err("signals: %s", strerror(errno));
		return -errno;
	}
	if (!config->reload_on_change)
		return 0;
	err = lb_file_watch_open(&s->watch, s->path);
	if (err)
		lb_err("reload_on_change: %s cannot be watched: %s", s->path, strerror(-err));
	return err;
}

static void close_server(struct server *s)
{
	lb_takeover_free(&s->before);
	lb_file_watch_close(&s->watch);
	if (s->signals >= 0)
		close(s->signals);
}

/*
 * Bytes that a sink refuses are held in blocks of up to megabytes. glibc would raise its threshold
 * for mmap(2) with each of them and then keep their memory for good.
 */
static void return_large_blocks(void)
{
	(void)mallopt(M_MMAP_THRESHOLD, 128 * 1024);
}

/* Whoever knew more has said it, and it stays the last error, which `lbctl upgrade` prints. */
static void not_started(int err)
{
	char said[LB_LOG_LAST_MAX];

	lb_log_last_error(said);
	if (!*said)
		lb_err("not started: %s", strerror(-err));
}

static enum exit_code run(const struct lb_config *config, const struct options *o)
{
	LB_AUTO(lb_listen_fds_free) struct lb_listen_fds *handed = NULL;
	LB_AUTO(close_server) struct server s = {.path = o->config, .signals = -1};
	struct lb_service_opts opts = {.instance = o->instance, .argv = o->argv};
	sigset_t set;
	int err;

	return_large_blocks();
	block_signals(&set);
	if (lb_listen_fds_new(&handed) || lb_listen_fds_inherit(handed)) {
		lb_err("listeners that were handed in: out of memory");
		return EXIT_SYSTEM;
	}
	if (o->takeover && lb_takeover_begin(&s.before, o->instance, handed))
		return EXIT_SYSTEM;
	opts.listen_fds = handed;
	opts.takeover = s.before;
	if (open_server(&s, config, &set))
		return EXIT_SYSTEM;
	err = lb_service_start(&s.service, config, &opts);
	if (err) {
		not_started(err);
		return EXIT_SYSTEM;
	}
	lb_listen_fds_free(&handed);
	lb_info("ready: %zu rules, %u workers", config->rules_count, lb_service_workers(s.service));
	lb_watchdog_init(&s.watchdog);
	tell_ready(s.service);
	if (lb_takeover_offer_open(&s.offer, s.service, o->instance, lb_takeover_door(s.before)))
		lb_warn("nobody can take over from this daemon: out of memory");
	lb_service_set_predecessor(s.service, s.before);
	serve(&s);
	return stop(&s, &set);
}

static void tell_pin(const char *dir, const char *pin)
{
	printf("removed pin %s/%s\n", dir, pin);
}

static int unload_all(const char *instance)
{
	char note[192];
	int r = lb_graft_table_unload(instance);

	if (r)
		return r;
	r = lb_kernel_unload(instance, tell_pin, note, sizeof(note));
	if (r) {
		fprintf(stderr, "layer4-lb: %s\n", note);
		return r;
	}
	r = lb_admit_unload(instance);
	if (r)
		fprintf(stderr, "layer4-lb: admission: %s\n", strerror(-r));
	return r;
}

static enum exit_code unload(const struct options *o)
{
	struct lb_instance *instance = NULL;
	enum exit_code code;

	/* Says who holds it when a daemon runs. */
	if (lb_instance_lock(&instance, o->instance))
		return EXIT_SYSTEM;
	code = unload_all(o->instance) ? EXIT_SYSTEM : EXIT_FINE;
	lb_instance_unlock(&instance);
	return code;
}

static enum exit_code with_config(const struct options *o)
{
	LB_AUTO(lb_config_notices_fini) struct lb_config_notices notices = {0};
	LB_AUTO(lb_config_free) struct lb_config *config = NULL;
	int err;

	/* Large lists take their time: who rotates logs meanwhile must not end us. */
	hold_signals();
	err = lb_config_load_with(&config, o->config, lb_tls_judge, &notices);
	lb_config_notices_print(&notices, o->config, stderr);
	if (err == -ENOMEM) {
		fprintf(stderr, "%s: out of memory\n", o->config);
		return EXIT_SYSTEM;
	}
	if (err)
		return EXIT_CONFIG;
	if (o->action == ACTION_CHECK) {
		printf("%s: good\n", o->config);
		return EXIT_FINE;
	}
	if (o->action == ACTION_PRINT_CONFIG) {
		lb_config_print(config, stdout);
		return EXIT_FINE;
	}
	if (lb_config_notices_refuse(&notices)) {
		lb_err("%s: not run: it asks for protection that is not yet in force", o->config);
		return EXIT_CONFIG;
	}
	lb_log_set_level(config->log_level);
	lb_log_set_format(config->log_format);
	return run(config, o);
}

int main(int argc, char **argv)
{
	struct options o = {.config = "lb.yaml", .argv = argv};

	if (parse_options(argc, argv, &o))
		return EXIT_USAGE;
	lb_kernel_raise_privileges();
	switch (o.action) {
	case ACTION_HELP:
		print_help(stdout);
		return EXIT_FINE;
	case ACTION_VERSION:
		printf("layer4-lb %s\n", LB_VERSION);
		return EXIT_FINE;
	case ACTION_UNLOAD:
		return unload(&o);
	case ACTION_JANITOR:
		return lb_admit_janitor(o.janitor) ? EXIT_SYSTEM : EXIT_FINE;
	case ACTION_SELFTEST:
		return lb_kernel_print_selftest();
	default:
		return with_config(&o);
	}
}
