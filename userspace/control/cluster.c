/* SPDX-License-Identifier: MIT */
/* See cluster.h. */
#include "control/cluster.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include "backend/resolve.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"

/* Names are asked again after so long. */
#define LOOK_UP_MS   60000u
#define LEAVE_LOOK   20u
#define LATE_TRIES   250u
#define LATE_WAIT_US 20000u
/* Peers times addresses of each are so many at most. */
#define PEERS_MAX 4096u
#define NICE      10

struct lb_cluster {
	const struct lb_cluster_config *config; /* of the start, for ever */
	struct lb_loop *loop;
	struct lb_gossip *gossip;
	struct lb_limits *limits;
	struct lb_opinions *opinions;
	pthread_t thread;
	bool bound, runs;
	/* The thread's: one name after the other. */
	struct lb_resolve *lookup;
	struct lb_timer timer;
	size_t next;
	char host[256];
	struct lb_addr *peers; /* found in this round */
	size_t peers_count;
	struct lb_timer tick; /* of the limits */
	struct lb_timer leave;
	uint32_t looks; /* at whether all have been told */
};

/* --- limits ----------------------------------------------------------------------------------- */

static uint64_t now_us(void)
{
	return lb_clock_ns() / 1000;
}

static void count_member(struct lb_cluster *c, const struct lb_member_view *m,
			 enum lb_member_event event)
{
	int err = 0;

	if (event == LB_MEMBER_JOINED)
		err = lb_opinions_join(c->opinions, m->id, m->name);
	else if (event == LB_MEMBER_DIED || event == LB_MEMBER_WENT)
		lb_opinions_leave(c->opinions, m->id);
	if (event == LB_MEMBER_JOINED && !err)
		err = lb_limits_join(c->limits, m->id, now_us());
	else if (event == LB_MEMBER_DIED)
		lb_limits_silent(c->limits, m->id);
	else if (event == LB_MEMBER_WENT || event == LB_MEMBER_FORGOTTEN)
		lb_limits_leave(c->limits, m->id, now_us());
	if (err)
		lb_err("cluster: %s is not counted among those that share: %s", m->name,
		       strerror(-err));
}

static void shares_came(void *arg, uint64_t id, const uint8_t *bytes, size_t len)
{
	struct lb_cluster *c = arg;

	lb_limits_receive(c->limits, id, bytes, len, now_us());
}

static void say(void *arg, uint64_t id, const uint8_t *bytes, size_t len)
{
	struct lb_cluster *c = arg;

	lb_gossip_say(c->gossip, id, LB_WIRE_SHARES, bytes, len);
}

static void health_came(void *arg, uint64_t id, const uint8_t *bytes, size_t len)
{
	struct lb_cluster *c = arg;

	lb_opinions_receive(c->opinions, id, bytes, len, lb_clock_ms());
}

static void say_health(void *arg, uint64_t id, const uint8_t *bytes, size_t len)
{
	struct lb_cluster *c = arg;

	lb_gossip_say(c->gossip, id, LB_WIRE_HEALTH, bytes, len);
}

static void on_tick(struct lb_timer *t)
{
	struct lb_cluster *c = lb_container_of(t, struct lb_cluster, tick);

	lb_limits_tick(c->limits, now_us(), say, c);
	lb_opinions_tick(c->opinions, lb_clock_ms(), say_health, c);
	lb_timer_start(c->loop, t, LB_SHARE_TICK_MS);
}

static bool is_own(const struct lb_cluster_config *config, const struct lb_addr *peer)
{
	return lb_addr_equal(peer, config->advertise_addr.sa.sa_family ? &config->advertise_addr
								       : &config->bind_addr);
}

uint32_t lb_cluster_nodes_min(const struct lb_cluster_config *config)
{
	bool addresses = true, own = false;
	struct lb_addr peer;

	if (config->nodes)
		return config->nodes;
	for (size_t i = 0; i < config->peers_count; i++) {
		if (lb_addr_parse(config->peers[i], &peer))
			addresses = false;
		else
			own = own || is_own(config, &peer);
	}
	/* A name may be this node's, or stand for several. */
	return (uint32_t)config->peers_count + (addresses && !own);
}

static int open_limits(struct lb_cluster *c, const char *name)
{
	struct lb_limits_params p = {
		.self = lb_wire_id(name),
		.nodes_min = lb_cluster_nodes_min(c->config),
		.nodes_max = LB_GOSSIP_MEMBERS_MAX,
		.section_max = lb_member_section_max(),
	};
	int err;

	if (getrandom(&p.session, sizeof(p.session), 0) != sizeof(p.session))
		return -errno;
	lb_timer_init(&c->tick, on_tick);
	err = lb_opinions_new(&c->opinions, p.self, p.section_max);
	return err ? err : lb_limits_new(&c->limits, &p, now_us());
}

/* --- the log ---------------------------------------------------------------------------------- */

static void member_changed(void *arg, const struct lb_member_view *m, enum lb_member_event event,
			   uint32_t alive)
{
	char addr[LB_ADDR_STR_MAX];

	count_member(arg, m, event);
	lb_addr_format(m->addr, addr);
	switch (event) {
	case LB_MEMBER_JOINED:
		lb_info("cluster: %s (%s, version %s) is there; %u nodes", m->name, addr,
			m->version, alive);
		break;
	case LB_MEMBER_SUSPECTED:
		lb_info("cluster: %s (%s) is silent", m->name, addr);
		break;
	case LB_MEMBER_REFUTED:
		lb_info("cluster: %s (%s) is well", m->name, addr);
		break;
	case LB_MEMBER_CHANGED:
		lb_info("cluster: %s (%s, version %s) has another configuration or address",
			m->name, addr, m->version);
		break;
	case LB_MEMBER_DIED:
		lb_warn("cluster: %s (%s) is dead; %u nodes", m->name, addr, alive);
		break;
	case LB_MEMBER_WENT:
		lb_info("cluster: %s (%s) has left; %u nodes", m->name, addr, alive);
		break;
	case LB_MEMBER_FORGOTTEN:
		lb_debug("cluster: %s (%s) is forgotten", m->name, addr);
		break;
	}
}

static void clock_differs(void *arg, const struct lb_addr *from, int64_t ahead_ms)
{
	char addr[LB_ADDR_STR_MAX];

	lb_warn("cluster: %s is not heard: its clock is %.1f s %s ours, and may be %.0f s",
		lb_addr_format(from, addr), (double)(ahead_ms < 0 ? -ahead_ms : ahead_ms) / 1000,
		ahead_ms < 0 ? "behind" : "ahead of", LB_SEAL_SKEW_MS / 1000.0);
}

/* --- peers ------------------------------------------------------------------------------------ */

static void add_peer(struct lb_cluster *c, const struct lb_addr *addr)
{
	if (c->peers_count < PEERS_MAX)
		c->peers[c->peers_count++] = *addr;
}

static void look_up(struct lb_cluster *c);

static void on_answer(void *arg, const struct lb_resolve_answer *answer)
{
	struct lb_cluster *c = arg;

	c->lookup = NULL;
	if (answer->cause)
		lb_warn("cluster: peer %s: %s", c->config->peers[c->next - 1], answer->cause);
	for (uint32_t i = 0; i < answer->count; i++)
		add_peer(c, &answer->addrs[i]);
	look_up(c);
}

static void ask(struct lb_cluster *c, const char *peer)
{
	struct lb_resolve_ask ask = {
		.loop = c->loop,
		.host = c->host,
		.config = {.timeout_ms = 5000},
		.done = on_answer,
		.arg = c,
	};

	if (!lb_addr_split(peer, c->host, sizeof(c->host), &ask.port))
		(void)lb_resolve_start(&c->lookup, &ask);
}

/* On from where the last look-up ended; at the end of the round the addresses are told. */
static void look_up(struct lb_cluster *c)
{
	while (c->next < c->config->peers_count && !c->lookup) {
		const char *peer = c->config->peers[c->next++];
		struct lb_addr addr;

		if (!lb_addr_parse(peer, &addr))
			add_peer(c, &addr);
		else
			ask(c, peer);
	}
	if (c->lookup)
		return;
	if (lb_gossip_set_peers(c->gossip, c->peers, c->peers_count))
		lb_warn("cluster: peers: %s", strerror(ENOMEM));
	lb_timer_start(c->loop, &c->timer, LOOK_UP_MS);
}

static void on_round(struct lb_timer *t)
{
	struct lb_cluster *c = lb_container_of(t, struct lb_cluster, timer);

	c->next = c->peers_count = 0;
	look_up(c);
}

/* --- life ------------------------------------------------------------------------------------- */

uint32_t lb_cluster_config_hash(const struct lb_config *config)
{
	struct lb_config common = *config;
	LB_AUTO_FREE char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return 0;
	common.cluster = (struct lb_cluster_config){};
	common.admin = (struct lb_admin_config){};
	common.metrics_enabled = false;
	lb_config_print(&common, out);
	return fclose(out) ? 0 : (uint32_t)lb_hash(text, size);
}

static const char *name_of(const struct lb_cluster_config *config, char buf[LB_WIRE_NAME_MAX])
{
	if (config->name)
		return config->name;
	if (gethostname(buf, LB_WIRE_NAME_MAX))
		buf[0] = '\0';
	buf[LB_WIRE_NAME_MAX - 1] = '\0';
	return buf;
}

static int open_gossip(struct lb_cluster *c, const struct lb_config *config)
{
	char host[LB_WIRE_NAME_MAX], why[LB_GOSSIP_WHY_MAX];
	const struct lb_gossip_opts opts = {
		.config = c->config,
		.name = name_of(c->config, host),
		.version = LB_VERSION,
		.config_hash = lb_cluster_config_hash(config),
		.loop = c->loop,
		.changed = member_changed,
		.clock = clock_differs,
		.shares = shares_came,
		.health = health_came,
		.arg = c,
	};
	int err = open_limits(c, opts.name);

	if (err) {
		lb_err("cluster: %s", strerror(-err));
		return err;
	}
	err = lb_gossip_open(&c->gossip, &opts, why);
	if (err)
		lb_err("cluster: %s", why);
	else if (!c->config->key_file)
		lb_warn("cluster: insecure: whoever reaches the port may join and say anything");
	return err;
}

static int bind_port(struct lb_cluster *c)
{
	char why[LB_GOSSIP_WHY_MAX];
	int err = lb_gossip_bind(c->gossip, &c->config->bind_addr, why);

	if (err)
		lb_err("cluster: %s", why);
	c->bound = !err;
	return err;
}

/* The daemon before us lets go of the port when it has heard that we serve. */
static int bind_late(struct lb_cluster *c)
{
	char why[LB_GOSSIP_WHY_MAX];
	int err = -EADDRINUSE;

	for (unsigned int i = 0; i < LATE_TRIES && err == -EADDRINUSE; i++) {
		err = lb_gossip_bind(c->gossip, &c->config->bind_addr, why);
		if (err == -EADDRINUSE)
			usleep(LATE_WAIT_US);
	}
	if (err)
		lb_err("cluster: %s; this node is in no cluster", why);
	c->bound = !err;
	return err;
}

int lb_cluster_open(struct lb_cluster **ret, const struct lb_config *config, bool bind)
{
	LB_AUTO(lb_cluster_close) struct lb_cluster *c = NULL;
	int err;

	if (!config->cluster.enabled)
		return 0;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->config = &config->cluster;
	lb_timer_init(&c->timer, on_round);
	c->peers = calloc(PEERS_MAX, sizeof(*c->peers));
	err = c->peers ? lb_loop_new(&c->loop) : -ENOMEM;
	if (!err)
		err = lb_resolve_init();
	if (err) {
		lb_err("cluster: %s", strerror(-err));
		return err;
	}
	err = open_gossip(c, config);
	if (!err && bind)
		err = bind_port(c);
	if (err)
		return err;
	lb_timer_start(c->loop, &c->timer, 0);
	lb_timer_start(c->loop, &c->tick, LB_SHARE_TICK_MS);
	*ret = LB_TAKE_PTR(c);
	return 0;
}

static void *run(void *arg)
{
	struct lb_cluster *c = arg;
	int err;

	pthread_setname_np(pthread_self(), "cluster");
	/* Datagrams may come in a flood, and clients are served first. */
	(void)setpriority(PRIO_PROCESS, (id_t)gettid(), NICE);
	err = lb_loop_run(c->loop);
	if (err)
		lb_err("cluster: the event loop failed: %s", strerror(-err));
	return NULL;
}

int lb_cluster_start(struct lb_cluster *c)
{
	int err;

	if (!c)
		return 0;
	/* Clients are served already: without the port they go on being. */
	if (!c->bound && bind_late(c))
		return 0;
	err = -pthread_create(&c->thread, NULL, run, c);
	if (err)
		lb_err("cluster: cannot start its thread: %s", strerror(-err));
	c->runs = !err;
	return err;
}

void lb_cluster_silence(struct lb_cluster *c)
{
	if (!c || !c->runs)
		return;
	lb_loop_stop(c->loop);
	pthread_join(c->thread, NULL);
	c->runs = false;
	lb_gossip_unbind(c->gossip);
}

void lb_cluster_renew(struct lb_cluster *c, const struct lb_config *config)
{
	char why[LB_GOSSIP_WHY_MAX];

	if (!c)
		return;
	lb_gossip_set_config(c->gossip, lb_cluster_config_hash(config));
	if (c->config->key_file && lb_gossip_read_keys(c->gossip, c->config->key_file, why))
		lb_err("cluster: %s; the old keys stay", why);
}

static void on_leave(struct lb_timer *t)
{
	struct lb_cluster *c = lb_container_of(t, struct lb_cluster, leave);

	if (lb_gossip_left(c->gossip) || ++c->looks > LB_CLUSTER_LEAVE_MS / LEAVE_LOOK)
		lb_loop_stop(c->loop);
	else
		lb_timer_start(c->loop, &c->leave, LEAVE_LOOK);
}

static void begin_leaving(void *arg)
{
	struct lb_cluster *c = arg;

	lb_gossip_leave(c->gossip);
	lb_timer_init(&c->leave, on_leave);
	lb_timer_start(c->loop, &c->leave, 0);
}

void lb_cluster_close(struct lb_cluster **pc)
{
	struct lb_cluster *c = *pc;

	if (!c)
		return;
	*pc = NULL;
	if (c->runs) {
		if (lb_loop_post(c->loop, begin_leaving, c))
			lb_loop_stop(c->loop);
		pthread_join(c->thread, NULL);
	}
	lb_resolve_cancel(&c->lookup);
	lb_gossip_close(&c->gossip);
	lb_limits_free(&c->limits);
	lb_opinions_free(&c->opinions);
	lb_loop_free(c->loop);
	free(c->peers);
	free(c);
}

const char *lb_cluster_key_file(const struct lb_cluster *c)
{
	return c ? c->config->key_file : NULL;
}

struct lb_gossip *lb_cluster_gossip(const struct lb_cluster *c)
{
	return c->gossip;
}

struct lb_opinions *lb_cluster_opinions(const struct lb_cluster *c)
{
	return c ? c->opinions : NULL;
}

struct lb_limits *lb_cluster_limits(const struct lb_cluster *c)
{
	return c ? c->limits : NULL;
}
