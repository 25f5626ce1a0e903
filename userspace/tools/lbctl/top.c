/* SPDX-License-Identifier: MIT */
/*
 * Brings together the daemon, the model and the terminal. One thread, one poll(): a daemon that is
 * slow, or gone, never keeps a key from working.
 */
#include "tools/lbctl/top.h"

#include <errno.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "tools/lbctl/top_frame.h"
#include "tools/lbctl/top_screen.h"
#include "tools/lbctl/top_talk.h"

#define ONCE_WIDTH 120u

struct run {
	const struct lb_top_opts *opts;
	struct lb_top top;
	struct lb_top_talk talk;
	int signals; /* signalfd */
	bool over;
};

static enum lb_top_end tell(const struct run *r)
{
	fprintf(stderr, "lbctl: %s: %s\n", r->opts->path, r->talk.trouble);
	return r->talk.refused ? LB_TOP_REFUSED : LB_TOP_UNREACHABLE;
}

/* --- as text ---------------------------------------------------------------------------------- */

static enum lb_top_end print(struct run *r)
{
	struct lb_top_frame frame;
	int err = lb_top_frame_draw_all(&frame, &r->top, ONCE_WIDTH, r->opts->rows);

	for (size_t i = 0; i < frame.count && !err; i++) {
		size_t len = strlen(frame.lines[i].text);

		/* Blanks at the end are for a terminal. */
		while (len && frame.lines[i].text[len - 1] == ' ')
			len--;
		printf("%.*s\n", (int)len, frame.lines[i].text);
	}
	lb_top_frame_fini(&frame);
	if (err)
		fputs("lbctl: out of memory\n", stderr);
	return err ? LB_TOP_UNREACHABLE : LB_TOP_DONE;
}

static enum lb_top_end run_once(struct run *r)
{
	unsigned int overviews = 0;

	/* Two of them, and flows in between; nobody looks on, so there is time. */
	r->talk.first_ms = r->opts->interval_ms;
	while (overviews < 2) {
		struct pollfd fd = {.fd = r->talk.fd, .events = POLLIN};

		(void)poll(&fd, 1, lb_top_talk_timeout_ms(&r->talk, lb_clock_ms()));
		if (lb_top_talk_step(&r->talk, &r->top, lb_clock_ms())) {
			if (*r->talk.trouble)
				return tell(r);
			overviews++;
		}
	}
	return print(r);
}

/* --- on a terminal ---------------------------------------------------------------------------- */

static void draw(struct run *r)
{
	char trouble[sizeof(r->talk.trouble) + 32];
	struct lb_top_frame frame;
	size_t width, height;

	(void)snprintf(trouble, sizeof(trouble), "%s, asking again every second", r->talk.trouble);
	lb_top_screen_size(&width, &height);
	if (!lb_top_frame_draw(&frame, &r->top, *r->talk.trouble ? trouble : NULL, width, height))
		lb_top_screen_draw(&frame);
	lb_top_frame_fini(&frame);
}

/* True when something is to be drawn. */
static bool on_signals(struct run *r)
{
	struct signalfd_siginfo info;
	bool resized = false;

	while (read(r->signals, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGWINCH)
			resized = true;
		else
			r->over = true;
	}
	if (resized)
		lb_top_screen_resize();
	return resized;
}

static bool on_keys(struct run *r)
{
	bool any = false;
	unsigned int key;

	while (!r->top.quit && lb_top_screen_key(&key)) {
		lb_top_press(&r->top, key);
		any = true;
	}
	return any;
}

static void look(struct run *r)
{
	struct pollfd fds[] = {{.fd = STDIN_FILENO, .events = POLLIN},
			       {.fd = r->signals, .events = POLLIN},
			       {.fd = r->talk.fd, .events = POLLIN}};
	bool changed;

	(void)poll(fds, LB_ARRAY_SIZE(fds), lb_top_talk_timeout_ms(&r->talk, lb_clock_ms()));
	changed = on_signals(r);
	/* Whoever had the terminal has left it. */
	if (fds[0].revents & (POLLHUP | POLLERR | POLLNVAL))
		r->over = true;
	changed |= on_keys(r);
	changed |= lb_top_talk_step(&r->talk, &r->top, lb_clock_ms());
	if (changed && !r->over)
		draw(r);
}

static int open_signals(struct run *r)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGQUIT);
	sigaddset(&set, SIGWINCH);
	if (sigprocmask(SIG_BLOCK, &set, NULL))
		return -errno;
	r->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	return r->signals < 0 ? -errno : 0;
}

static enum lb_top_end run_on_terminal(struct run *r)
{
	int err;

	if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) {
		fputs("lbctl: top needs a terminal; --once prints one frame without\n", stderr);
		return LB_TOP_NO_TERMINAL;
	}
	/* Who cannot be reached at all is not waited for. */
	(void)lb_top_talk_step(&r->talk, &r->top, lb_clock_ms());
	if (r->talk.state == LB_TOP_TALK_GONE)
		return tell(r);
	err = open_signals(r);
	if (!err)
		err = lb_top_screen_open();
	if (err) {
		fprintf(stderr, "lbctl: the terminal cannot be used: %s\n", strerror(-err));
		return LB_TOP_NO_TERMINAL;
	}
	draw(r);
	while (!r->over && !r->top.quit)
		look(r);
	lb_top_screen_close();
	return LB_TOP_DONE;
}

enum lb_top_end lb_top_run(const struct lb_top_opts *opts)
{
	struct run r = {.opts = opts, .signals = -1};
	enum lb_top_end end;

	/* Characters of names are those of the user's terminal. */
	setlocale(LC_CTYPE, "");
	lb_top_init(&r.top);
	r.top.interval_ms = opts->interval_ms;
	if (opts->rule)
		(void)snprintf(r.top.places[0].rule, LB_TOP_NAME_MAX, "%s", opts->rule);
	lb_top_talk_init(&r.talk, opts->path);
	end = opts->once ? run_once(&r) : run_on_terminal(&r);
	lb_top_talk_fini(&r.talk);
	lb_top_fini(&r.top);
	if (r.signals >= 0)
		close(r.signals);
	return end;
}
