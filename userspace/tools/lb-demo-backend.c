/* SPDX-License-Identifier: MIT */
/*
 * lb-demo-backend: something to balance over. Options, listeners and one loop; what the listeners
 * answer is in lb-demo-backend/http.c and lb-demo-backend/echo.c.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "tools/common/pattern.h"
#include "tools/common/tool.h"
#include "tools/lb-demo-backend/demo.h"

#define SERVICES_MAX 32

static const char usage[] =
	"usage: lb-demo-backend [--name NAME] [--http ADDR:PORT]... [--echo ADDR:PORT]...\n"
	"\n"
	"A backend to try a load balancer on; at least one --http or --echo, each up to 32 times.\n"
	"  --http ADDR:PORT   HTTP/1.1: / /health /bytes/N /slow/MS /status/NNN /close; bodies "
	"are\n"
	"                     read and counted; every answer carries X-Backend: NAME\n"
	"  --echo ADDR:PORT   sends every byte back\n"
	"  --name NAME        what the answers call this backend (default: demo)\n"
	"  --help\n"
	"\n"
	"SIGINT or SIGTERM ends it. Exit codes: 0 ended by signal, 2 usage, 3 system error.\n";

struct options {
	const char *name;
	struct lb_addr http[SERVICES_MAX], echo[SERVICES_MAX];
	size_t https, echos;
};

struct services {
	struct lb_loop *loop;
	struct lb_demo_http *http[SERVICES_MAX];
	struct lb_demo_echo *echo[SERVICES_MAX];
};

static int add_addr(const char *text, struct lb_addr addrs[SERVICES_MAX], size_t *count)
{
	if (*count == SERVICES_MAX) {
		fprintf(stderr, "lb-demo-backend: more than %d listeners of a kind\n",
			SERVICES_MAX);
		return -EINVAL;
	}
	if (lb_addr_parse(text, &addrs[*count]) < 0) {
		fprintf(stderr, "lb-demo-backend: %s: expected an address like 127.0.0.1:9101\n",
			text);
		return -EINVAL;
	}
	(*count)++;
	return 0;
}

/* The name goes into a header: whatever could end or garble that is no name. */
static int check_name(const char *name)
{
	size_t len = strlen(name);

	if (len >= 1 && len <= 64 &&
	    strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") ==
		    len)
		return 0;
	fputs("lb-demo-backend: --name: 1 to 64 letters, digits, '.', '_' and '-'\n", stderr);
	return -EINVAL;
}

/* 0, 1 when only help was wanted, or -EINVAL with the sentence printed. */
static int parse_options(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
		{"http", required_argument, NULL, 'H'},
		{"echo", required_argument, NULL, 'e'},
		{"name", required_argument, NULL, 'n'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int c, r = 0;

	while (r == 0 && (c = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
		if (c == 'h')
			return 1;
		if (c == 'H')
			r = add_addr(optarg, o->http, &o->https);
		else if (c == 'e')
			r = add_addr(optarg, o->echo, &o->echos);
		else if (c == 'n')
			r = check_name(o->name = optarg);
		else
			r = -EINVAL;
	}
	if (r == 0 && (optind != argc || o->https + o->echos == 0)) {
		fputs(usage, stderr);
		r = -EINVAL;
	}
	return r;
}

static int say(const char *what, const struct lb_addr *addr, int err)
{
	char text[LB_ADDR_STR_MAX];

	fprintf(stderr, "lb-demo-backend: %s %s: %s\n", what, lb_addr_format(addr, text),
		strerror(-err));
	return err;
}

static int start(struct services *s, const struct options *o)
{
	int r;

	r = lb_loop_new(&s->loop);
	if (r == 0)
		r = lb_tool_stop_on_signal(s->loop);
	if (r < 0) {
		fprintf(stderr, "lb-demo-backend: event loop: %s\n", strerror(-r));
		return r;
	}
	for (size_t i = 0; i < o->https; i++) {
		r = lb_demo_http_new(&s->http[i], s->loop, &o->http[i], o->name);
		if (r < 0)
			return say("cannot serve HTTP on", &o->http[i], r);
	}
	for (size_t i = 0; i < o->echos; i++) {
		r = lb_demo_echo_new(&s->echo[i], s->loop, &o->echo[i]);
		if (r < 0)
			return say("cannot echo on", &o->echo[i], r);
	}
	return 0;
}

static void stop(struct services *s)
{
	for (size_t i = 0; i < SERVICES_MAX; i++) {
		lb_demo_http_free(s->http[i]);
		lb_demo_echo_free(s->echo[i]);
	}
	lb_loop_free(s->loop);
}

int main(int argc, char **argv)
{
	struct options o = {.name = "demo"};
	struct services s = {0};
	int r;

	r = parse_options(argc, argv, &o);
	if (r > 0)
		fputs(usage, stdout);
	if (r != 0)
		return r > 0 ? LB_TOOL_OK : LB_TOOL_USAGE;
	lb_tool_raise_nofile();
	lb_pattern_init();
	r = start(&s, &o);
	if (r == 0) {
		fprintf(stderr, "ready: %s\n", o.name);
		r = lb_loop_run(s.loop);
	}
	stop(&s);
	return r < 0 ? LB_TOOL_SYSTEM : LB_TOOL_OK;
}
