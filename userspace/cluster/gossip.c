/* SPDX-License-Identifier: MIT */
/* See gossip.h. Must never answer what it could not open. */
#include "cluster/gossip.h"

#include <errno.h>
#include <linux/sock_diag.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"

/* Room for a burst while the thread is busy; the kernel may give less. */
#define RCVBUF_BYTES (1 << 20)
#define MINUTE_MS    60000u

struct lb_gossip {
	pthread_mutex_t lock; /* of all below; the loop's thread changes, any thread looks */
	struct lb_membership *members;
	struct lb_seal *seal; /* NULL: insecure */
	uint64_t unsent;
	struct lb_loop *loop;
	struct lb_watch watch;
	struct lb_timer timer;
	int fd;
	uint64_t clock_told_ms;
	void (*changed)(void *arg, const struct lb_member_view *m, enum lb_member_event event,
			uint32_t alive);
	void (*clock)(void *arg, const struct lb_addr *from, int64_t ahead_ms);
	void (*shares)(void *arg, uint64_t id, const uint8_t *bytes, size_t len);
	void (*health)(void *arg, uint64_t id, const uint8_t *bytes, size_t len);
	void *arg;
};

__attribute__((format(printf, 3, 4))) static int refuse(int err, char why[LB_GOSSIP_WHY_MAX],
							const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(why, LB_GOSSIP_WHY_MAX, fmt, args);
	va_end(args);
	return err;
}

static uint64_t wall_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static struct lb_seal_time seal_time(void)
{
	return (struct lb_seal_time){.wall_ms = wall_ms(), .now_ms = lb_clock_ms()};
}

static uint64_t now_us(void)
{
	return lb_clock_ns() / 1000;
}

/* --- the membership's ------------------------------------------------------------------------- */

static void send_datagram(void *arg, const struct lb_addr *to, const uint8_t *bytes, size_t len)
{
	struct lb_gossip *g = arg;
	uint8_t sealed[LB_WIRE_BYTES_MAX];
	ssize_t sent;

	if (g->seal) {
		int n = lb_seal_close(g->seal, seal_time(), bytes, len, sealed);

		if (n < 0) {
			g->unsent++;
			return;
		}
		bytes = sealed;
		len = (size_t)n;
	}
	sent = sendto(g->fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL, &to->sa, lb_addr_len(to));
	g->unsent += sent < 0;
}

static void member_changed(void *arg, const struct lb_member_view *m, enum lb_member_event event)
{
	struct lb_gossip *g = arg;

	g->changed(g->arg, m, event, lb_member_alive(g->members));
}

static void shares_came(void *arg, uint64_t sender, const uint8_t *bytes, size_t len)
{
	struct lb_gossip *g = arg;

	g->shares(g->arg, sender, bytes, len);
}

static void health_came(void *arg, uint64_t sender, const uint8_t *bytes, size_t len)
{
	struct lb_gossip *g = arg;

	g->health(g->arg, sender, bytes, len);
}

/* --- time and the socket ---------------------------------------------------------------------- */

static void plan(struct lb_gossip *g)
{
	uint64_t now = now_us(), due = lb_member_due(g->members);

	lb_timer_start(g->loop, &g->timer, due > now ? (due - now + 999) / 1000 : 0);
}

static void on_timer(struct lb_timer *t)
{
	struct lb_gossip *g = lb_container_of(t, struct lb_gossip, timer);

	pthread_mutex_lock(&g->lock);
	lb_member_run(g->members, now_us());
	plan(g);
	pthread_mutex_unlock(&g->lock);
}

static void tell_clock(struct lb_gossip *g, const struct lb_addr *from, int64_t ahead_ms)
{
	uint64_t now = lb_clock_ms();

	if (!ahead_ms || (g->clock_told_ms && now - g->clock_told_ms < MINUTE_MS))
		return;
	g->clock_told_ms = now;
	g->clock(g->arg, from, ahead_ms);
}

static void take(struct lb_gossip *g, const struct lb_addr *from, const uint8_t *bytes, size_t len)
{
	uint8_t plain[LB_WIRE_PLAIN_MAX];
	enum lb_seal_verdict verdict;
	int64_t ahead_ms = 0;

	if (g->seal) {
		verdict = lb_seal_open(g->seal, seal_time(), bytes, len, plain, &len, &ahead_ms);
		if (verdict == LB_SEAL_CLOCK)
			tell_clock(g, from, ahead_ms);
		if (verdict != LB_SEAL_OPENED)
			return;
		bytes = plain;
	}
	lb_member_receive(g->members, now_us(), from, bytes, len);
}

static void on_datagrams(struct lb_watch *w, uint32_t events)
{
	struct lb_gossip *g = lb_container_of(w, struct lb_gossip, watch);

	pthread_mutex_lock(&g->lock);
	for (unsigned int i = 0; i < LB_GOSSIP_BATCH; i++) {
		/* One byte more: what is too long must not look as if it were not. */
		uint8_t bytes[LB_WIRE_BYTES_MAX + 1];
		struct lb_addr from = {};
		socklen_t size = sizeof(from);
		ssize_t len = recvfrom(g->fd, bytes, sizeof(bytes), MSG_DONTWAIT, &from.sa, &size);

		/* An ICMP error of something that was sent is one, too. */
		if (len < 0 && errno == EAGAIN)
			break;
		if (len >= 0 && lb_addr_port(&from))
			take(g, &from, bytes, (size_t)len);
	}
	plan(g);
	pthread_mutex_unlock(&g->lock);
}

/* --- life ------------------------------------------------------------------------------------- */

static int bind_socket(struct lb_gossip *g, const struct lb_addr *addr, char *why)
{
	char text[LB_ADDR_STR_MAX];
	int one = 1, size = RCVBUF_BYTES;

	g->fd = socket(addr->sa.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (g->fd < 0)
		return refuse(-errno, why, "no socket: %s", strerror(errno));
	if (addr->sa.sa_family == AF_INET6)
		(void)setsockopt(g->fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	(void)setsockopt(g->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	if (bind(g->fd, &addr->sa, lb_addr_len(addr)))
		return refuse(-errno, why, "cannot bind %s: %s", lb_addr_format(addr, text),
			      strerror(errno));
	return 0;
}

/* The address this host has on its way to a peer; false when there is no way to any. */
static bool own_address(const struct lb_cluster_config *config, struct lb_addr *ret)
{
	for (size_t i = 0; i < config->peers_count; i++) {
		LB_AUTO_CLOSE int fd = -1;
		struct lb_addr peer, own = {};
		socklen_t size = sizeof(own);

		if (lb_addr_parse(config->peers[i], &peer) ||
		    peer.sa.sa_family != config->bind_addr.sa.sa_family)
			continue;
		fd = socket(peer.sa.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (fd < 0 || connect(fd, &peer.sa, lb_addr_len(&peer)) ||
		    getsockname(fd, &own.sa, &size))
			continue;
		lb_addr_set_port(&own, lb_addr_port(&config->bind_addr));
		*ret = own;
		return true;
	}
	return false;
}

static int choose_address(const struct lb_cluster_config *config, struct lb_addr *ret, char *why)
{
	char text[LB_ADDR_STR_MAX];

	if (config->advertise_addr.sa.sa_family)
		*ret = config->advertise_addr;
	else if (!lb_addr_is_any(&config->bind_addr))
		*ret = config->bind_addr;
	else if (!own_address(config, ret))
		return refuse(-EDESTADDRREQ, why,
			      "bind_addr is %s and no peer is an address: advertise_addr must say "
			      "where others reach this node",
			      lb_addr_format(&config->bind_addr, text));
	return 0;
}

static int read_keys(const char *path, struct lb_seal_keys *keys, char *why)
{
	char reason[128];
	int err = lb_seal_keys_read(path, keys, reason, sizeof(reason));

	return err ? refuse(err, why, "key_file %s: %s", path, reason) : 0;
}

static int open_seal(struct lb_gossip *g, const char *path, char *why)
{
	struct lb_seal_keys keys;
	int err = read_keys(path, &keys, why);

	if (err)
		return err;
	err = lb_seal_new(&g->seal, &keys, 2 * LB_GOSSIP_MEMBERS_MAX, seal_time());
	lb_seal_keys_wipe(&keys);
	return err ? refuse(err, why, "no seal: %s", strerror(-err)) : 0;
}

static int open_membership(struct lb_gossip *g, const struct lb_gossip_opts *opts, char *why)
{
	static const struct lb_member_ops ops = {
		.send = send_datagram,
		.changed = member_changed,
		.shares = shares_came,
		.health = health_came,
	};
	struct lb_member_params p = {
		.self.config_hash = opts->config_hash,
		.incarnation = wall_ms(),
		.period_ms = LB_MEMBER_PERIOD_MS,
		.members_max = LB_GOSSIP_MEMBERS_MAX,
		.ops = &ops,
		.arg = g,
	};
	int err = choose_address(opts->config, &p.self.addr, why);

	if (err)
		return err;
	if (!lb_wire_name_valid(opts->name))
		return refuse(-EINVAL, why,
			      "'%s' is no name of a node: 1 to 63 letters, digits, '.', '_', '-'",
			      opts->name);
	(void)snprintf(p.self.name, sizeof(p.self.name), "%s", opts->name);
	(void)snprintf(p.self.version, sizeof(p.self.version), "%s", opts->version);
	if (getrandom(&p.seed, sizeof(p.seed), 0) != sizeof(p.seed))
		return refuse(-errno, why, "no random numbers: %s", strerror(errno));
	p.seed |= 1;
	err = lb_member_new(&g->members, &p, now_us());
	return err ? refuse(err, why, "no membership: %s", strerror(-err)) : 0;
}

int lb_gossip_open(struct lb_gossip **ret, const struct lb_gossip_opts *opts,
		   char why[LB_GOSSIP_WHY_MAX])
{
	LB_AUTO(lb_gossip_close) struct lb_gossip *g = calloc(1, sizeof(*g));
	int err;

	if (!g)
		return refuse(-ENOMEM, why, "out of memory");
	pthread_mutex_init(&g->lock, NULL);
	g->fd = g->watch.fd = -1;
	g->loop = opts->loop;
	g->changed = opts->changed;
	g->clock = opts->clock;
	g->shares = opts->shares;
	g->health = opts->health;
	g->arg = opts->arg;
	lb_timer_init(&g->timer, on_timer);
	err = opts->config->key_file ? open_seal(g, opts->config->key_file, why) : 0;
	if (!err)
		err = open_membership(g, opts, why);
	if (err)
		return err;
	*ret = LB_TAKE_PTR(g);
	return 0;
}

int lb_gossip_bind(struct lb_gossip *g, const struct lb_addr *addr, char why[LB_GOSSIP_WHY_MAX])
{
	int err = bind_socket(g, addr, why);

	if (!err) {
		err = lb_watch_add(g->loop, &g->watch, g->fd, EPOLLIN, on_datagrams);
		if (err)
			(void)refuse(err, why, "no watch: %s", strerror(-err));
	}
	if (err) {
		lb_gossip_unbind(g);
		return err;
	}
	lb_timer_start(g->loop, &g->timer, 0);
	return 0;
}

void lb_gossip_unbind(struct lb_gossip *g)
{
	lb_timer_stop(g->loop, &g->timer);
	lb_watch_remove(g->loop, &g->watch, false);
	lb_cleanup_close(&g->fd);
	g->fd = -1;
}

void lb_gossip_close(struct lb_gossip **pg)
{
	struct lb_gossip *g = *pg;

	if (!g)
		return;
	*pg = NULL;
	lb_gossip_unbind(g);
	lb_member_free(&g->members);
	lb_seal_free(&g->seal);
	pthread_mutex_destroy(&g->lock);
	free(g);
}

int lb_gossip_set_peers(struct lb_gossip *g, const struct lb_addr *peers, size_t count)
{
	int err;

	pthread_mutex_lock(&g->lock);
	err = lb_member_set_peers(g->members, peers, count);
	pthread_mutex_unlock(&g->lock);
	return err;
}

void lb_gossip_set_config(struct lb_gossip *g, uint32_t config_hash)
{
	pthread_mutex_lock(&g->lock);
	/* Told when the timer comes next, which is soon: it belongs to the loop's thread. */
	lb_member_set_config(g->members, config_hash);
	pthread_mutex_unlock(&g->lock);
}

int lb_gossip_read_keys(struct lb_gossip *g, const char *path, char why[LB_GOSSIP_WHY_MAX])
{
	struct lb_seal_keys keys;
	int err = read_keys(path, &keys, why);

	if (err)
		return err;
	pthread_mutex_lock(&g->lock);
	err = g->seal ? lb_seal_set_keys(g->seal, &keys) : 0;
	pthread_mutex_unlock(&g->lock);
	lb_seal_keys_wipe(&keys);
	return err ? refuse(err, why, "no seal: %s", strerror(-err)) : 0;
}

void lb_gossip_say(struct lb_gossip *g, uint64_t id, enum lb_wire_section kind,
		   const uint8_t *bytes, size_t len)
{
	pthread_mutex_lock(&g->lock);
	(void)lb_member_say(g->members, id, kind, bytes, len);
	pthread_mutex_unlock(&g->lock);
}

void lb_gossip_leave(struct lb_gossip *g)
{
	pthread_mutex_lock(&g->lock);
	lb_member_leave(g->members, now_us());
	plan(g);
	pthread_mutex_unlock(&g->lock);
}

bool lb_gossip_left(const struct lb_gossip *g)
{
	return lb_member_left(g->members);
}

/* --- reports ---------------------------------------------------------------------------------- */

struct look {
	struct lb_gossip_report *report;
	void (*fn)(void *arg, const struct lb_member_view *m);
	void *arg;
};

static void look_at(void *arg, const struct lb_member_view *m)
{
	struct look *l = arg;

	l->report->states[m->state]++;
	if (l->fn)
		l->fn(l->arg, m);
}

/* Linux 4.12: SO_MEMINFO (net/core/sock.c, sk_get_meminfo). */
static uint64_t overflowed(const struct lb_gossip *g)
{
	uint32_t info[SK_MEMINFO_VARS] = {};
	socklen_t size = sizeof(info);

	if (g->fd < 0 || getsockopt(g->fd, SOL_SOCKET, SO_MEMINFO, info, &size))
		return 0;
	return info[SK_MEMINFO_DROPS];
}

void lb_gossip_look(struct lb_gossip *g, struct lb_gossip_report *report,
		    void (*fn)(void *arg, const struct lb_member_view *m), void *arg)
{
	struct look look = {report, fn, arg};

	*report = (struct lb_gossip_report){};
	pthread_mutex_lock(&g->lock);
	report->counts = *lb_member_counts(g->members);
	report->unsent = g->unsent;
	report->overflowed = overflowed(g);
	report->sealed = g->seal;
	for (unsigned int v = 0; g->seal && v < LB_SEAL_VERDICTS; v++)
		report->opened[v] = lb_seal_count(g->seal, (enum lb_seal_verdict)v);
	report->health = lb_member_health(g->members);
	report->suspicion_ms = lb_member_suspicion_ms(g->members, UINT32_MAX);
	lb_member_each(g->members, look_at, &look);
	pthread_mutex_unlock(&g->lock);
}
