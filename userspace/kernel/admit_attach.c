/* SPDX-License-Identifier: MIT */
/*
 * admit_attach: decides for each interface whether admission is at XDP or at TC, and puts it there.
 * XDP goes through libxdp, beside the programs of others where the kernel allows that.
 *
 * Only what is there at the start gets XDP: to look at what hangs at an interface, and so to take a
 * program away again, needs CAP_SYS_ADMIN (kernel/bpf/syscall.c, bpf_prog_get_fd_by_id), which the
 * daemon gives up. A small process of its own keeps it for that one purpose (admit_sweep.c).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <xdp/libxdp.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "kernel/admit_handle.h"
#include "kernel/libbpf_log.h"
#include "kernel/probe.h"
#include "tc_admit.skel.h"
#include "xdp_admit.skel.h"

static const char *const hooks[] = {
	[LB_ADMIT_AT_XDP_NATIVE] = "xdp_native",
	[LB_ADMIT_AT_XDP_GENERIC] = "xdp_generic",
	[LB_ADMIT_AT_TC] = "tc",
};

/* --- which hook ------------------------------------------------------------------------------- */

static void driver_of(const char *interface, char ret[32])
{
	LB_AUTO_CLOSE int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};
	struct ifreq ifr = {.ifr_data = (void *)&info};

	ret[0] = '\0';
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", interface);
	if (fd >= 0 && !ioctl(fd, SIOCETHTOOL, &ifr))
		snprintf(ret, 32, "%.31s", info.driver);
}

/*
 * Where native XDP takes more than it gives: on veth it switches off the segmentation offload of
 * the other end (drivers/net/veth.c, veth_xdp_set), on virtio the guest's
 * (drivers/net/virtio_net.c, virtnet_clear_guest_offloads): every established flow pays for the
 * SYNs that are dropped.
 */
static bool pays(const struct lb_netlink_iface *i, char *reason, size_t size)
{
	char driver[32];

	driver_of(i->name, driver);
	if (i->loopback)
		snprintf(reason, size, "it is loopback");
	else if (!strcmp(driver, "veth") || !strcmp(driver, "virtio_net"))
		snprintf(reason, size, "native XDP would cost %s its segmentation offload", driver);
	else
		return true;
	return false;
}

void lb_admit_attach_loaded(struct lb_admit *a)
{
	a->cards_fd = bpf_map__fd(a->xdp->maps.lb_admit_cards);
}

void lb_admit_set_card(struct lb_admit *a, uint32_t ifindex, const uint8_t mac[6])
{
	struct lb_admit_card card = {.interface = ifindex};
	uint32_t at = ifindex % LB_ADMIT_CARDS_MAX;

	memcpy(card.mac, mac, sizeof(card.mac));
	/* Without its entry everything passes, and the daemon refuses. */
	if (a->cards_fd >= 0)
		(void)bpf_map_update_elem(a->cards_fd, &at, &card, BPF_ANY);
}

static int attach_xdp(struct lb_admit *a, uint32_t ifindex, enum xdp_attach_mode mode)
{
	DECLARE_LIBXDP_OPTS(xdp_program_opts, opts, .obj = a->xdp->obj,
			    .prog_name = LB_ADMIT_XDP_PROGRAM);
	struct xdp_program *p = a->xdp_program;
	int r = 0;

	if (!p) {
		p = xdp_program__create(&opts);
		r = (int)libxdp_get_error(p);
		if (r)
			return r;
		a->xdp_program = p;
	}
	r = xdp_program__attach(p, (int)ifindex, mode, 0);
	if (!r)
		lb_admit_attach_loaded(a);
	return r;
}

/* What to do about XDP at <i>: true when it is there; else *reason. */
static bool try_xdp(struct lb_admit *a, const struct lb_netlink_iface *i,
		    struct lb_admit_place *place)
{
	bool generic = a->mode == LB_ADMIT_MODE_GENERIC;
	struct lb_probe probe;
	int r;

	if (a->mode == LB_ADMIT_MODE_TC)
		return false;
	if (a->mode == LB_ADMIT_MODE_AUTO && !pays(i, place->reason, sizeof(place->reason)))
		return false;
	if (a->started) {
		snprintf(place->reason, sizeof(place->reason), "it came after the start");
		return false;
	}
	lb_probe_run(&probe);
	if (!(probe.caps & LB_PROBE_CAP_SYS_ADMIN)) {
		snprintf(place->reason, sizeof(place->reason),
			 "without CAP_SYS_ADMIN XDP could not be taken away again");
		return false;
	}
	lb_libbpf_log_quiet(true);
	r = attach_xdp(a, i->ifindex, generic ? XDP_MODE_SKB : XDP_MODE_NATIVE);
	lb_libbpf_log_quiet(false);
	place->at = generic ? LB_ADMIT_AT_XDP_GENERIC : LB_ADMIT_AT_XDP_NATIVE;
	if (!r)
		lb_admit_set_card(a, i->ifindex, i->mac);
	else
		snprintf(place->reason, sizeof(place->reason), "%s XDP: %s",
			 generic ? "generic" : "native",
			 r == -EBUSY || r == -EEXIST ? "somebody else's program is there"
						     : strerror(-r));
	return !r;
}

/* --- one interface ---------------------------------------------------------------------------- */

static int attach_tc(const struct lb_admit *a, uint32_t ifindex)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .prog_fd = bpf_program__fd(a->tc->progs.tc_admit),
		    .handle = a->handle, .priority = LB_ADMIT_PRIORITY, .flags = BPF_TC_F_REPLACE);
	int r = lb_netlink_clsact(ifindex);

	return r ? r : bpf_tc_attach(&hook, &opts);
}

static struct lb_admit_place *place_of(struct lb_admit *a, uint32_t ifindex)
{
	for (size_t i = 0; i < a->places_count; i++)
		if (a->places[i].ifindex == ifindex)
			return &a->places[i];
	return NULL;
}

static void remember(struct lb_admit *a, const struct lb_admit_place *place)
{
	struct lb_admit_place *old = place_of(a, place->ifindex);

	pthread_mutex_lock(&a->lock);
	if (old)
		*old = *place;
	else if (a->places_count < LB_LINKS_MAX)
		a->places[a->places_count++] = *place;
	pthread_mutex_unlock(&a->lock);
}

static int attach(void *arg, const struct lb_netlink_iface *i, bool wanted, bool *fresh)
{
	struct lb_admit_place place = {.ifindex = i->ifindex, .at = LB_ADMIT_AT_TC};
	struct lb_admit *a = arg;
	const struct lb_admit_place *old = place_of(a, i->ifindex);
	int r = 0;

	if (!wanted)
		return LB_LINKS_NOT_THERE;
	if (!i->framed)
		return -EPROTONOSUPPORT;
	/* What is there stays: after the start it could not be attached again. */
	if (old && old->at != LB_ADMIT_AT_TC) {
		place = *old;
		memcpy(place.name, i->name, sizeof(place.name));
		remember(a, &place);
		*fresh = false;
		return 0;
	}
	memcpy(place.name, i->name, sizeof(place.name));
	*fresh = true;
	if (!try_xdp(a, i, &place)) {
		place.at = LB_ADMIT_AT_TC;
		r = attach_tc(a, i->ifindex);
	}
	if (r)
		return r;
	remember(a, &place);
	if (place.reason[0])
		lb_info("admission: %s: %s, as %s", i->name, hooks[place.at], place.reason);
	else
		lb_info("admission: %s: %s", i->name, hooks[place.at]);
	return 0;
}

/* XDP is the janitor's. */
static void detach(void *arg, const struct lb_link *link)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)link->ifindex,
		    .attach_point = BPF_TC_INGRESS);
	struct lb_admit *a = arg;
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = a->handle, .priority = LB_ADMIT_PRIORITY);
	const struct lb_admit_place *place = place_of(a, link->ifindex);

	if (place && place->at == LB_ADMIT_AT_TC)
		(void)bpf_tc_detach(&hook, &opts);
}

static const char *explain(int err)
{
	return err == -EPROTONOSUPPORT ? "its packets have no Ethernet header" : strerror(-err);
}

/* --- the interface ---------------------------------------------------------------------------- */

static int start_janitor(struct lb_admit *a)
{
	LB_AUTO_FREE struct lb_admit_place *at = calloc(a->places_count + 1, sizeof(*at));
	size_t count = 0;
	int fd;

	if (!at)
		return -ENOMEM;
	for (size_t i = 0; i < a->places_count; i++)
		if (a->places[i].at != LB_ADMIT_AT_TC)
			at[count++] = a->places[i];
	if (!count)
		return 0;
	fd = lb_admit_janitor_start(xdp_program__id(a->xdp_program), at, count, &a->janitor);
	if (fd < 0)
		return fd;
	a->janitor_fd = fd;
	return 0;
}

int lb_admit_attach(struct lb_admit *a, char *const *interfaces, size_t count)
{
	int r = lb_links_attach(a->links, interfaces, count);

	a->started = true;
	if (!r)
		r = start_janitor(a);
	/* Nobody else would take XDP away. */
	if (r)
		(void)lb_admit_sweep(a->handle, false, NULL);
	return r;
}

int lb_admit_fd(const struct lb_admit *a)
{
	return lb_links_fd(a->links);
}

/* An interface that is gone has taken its programs along. */
static void forget_gone(struct lb_admit *a)
{
	pthread_mutex_lock(&a->lock);
	for (size_t i = a->places_count; i--;)
		if (!lb_links_is_attached(a->links, a->places[i].ifindex))
			a->places[i] = a->places[--a->places_count];
	pthread_mutex_unlock(&a->lock);
}

/* A card may have got another address. */
static void refresh_cards(struct lb_admit *a)
{
	int seen = a->cards_fd < 0 ? 0 : lb_netlink_ifaces(a->seen, LB_LINKS_MAX);

	for (int i = 0; i < seen; i++) {
		const struct lb_admit_place *place = place_of(a, a->seen[i].ifindex);

		if (place && place->at != LB_ADMIT_AT_TC)
			lb_admit_set_card(a, place->ifindex, a->seen[i].mac);
	}
}

bool lb_admit_follow(struct lb_admit *a)
{
	int news = lb_links_follow(a->links);

	if (news >= 0 && !(news & LB_NETLINK_NEWS_LINKS))
		return false;
	forget_gone(a);
	refresh_cards(a);
	return true;
}

size_t lb_admit_links(struct lb_admit *a, struct lb_admit_link *ret, size_t max)
{
	size_t n = 0;

	pthread_mutex_lock(&a->lock);
	for (; n < a->places_count && n < max; n++) {
		const struct lb_admit_place *place = &a->places[n];

		memcpy(ret[n].interface, place->name, sizeof(ret[n].interface));
		memcpy(ret[n].reason, place->reason, sizeof(ret[n].reason));
		ret[n].hook = hooks[place->at];
	}
	pthread_mutex_unlock(&a->lock);
	return n;
}

/* --- life ------------------------------------------------------------------------------------- */

/* The same tables. */
static int share_tables(struct lb_admit *a)
{
	const struct {
		struct bpf_map *to;
		const struct bpf_map *from;
	} pairs[] = {
		{a->xdp->maps.lb_listeners, a->tc->maps.lb_listeners},
		{a->xdp->maps.lb_admit_rules, a->tc->maps.lb_admit_rules},
		{a->xdp->maps.lb_admit_count, a->tc->maps.lb_admit_count},
		{a->xdp->maps.lb_admit_meta, a->tc->maps.lb_admit_meta},
		{a->xdp->maps.lb_refused, a->tc->maps.lb_refused},
		{a->xdp->maps.lb_acl_v4, a->tc->maps.lb_acl_v4},
		{a->xdp->maps.lb_acl_v6, a->tc->maps.lb_acl_v6},
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(pairs); i++) {
		int r = bpf_map__reuse_fd(pairs[i].to, bpf_map__fd(pairs[i].from));

		if (r)
			return r;
	}
	return 0;
}

int lb_admit_attach_open(struct lb_admit *a)
{
	const struct lb_links_opts opts = {
		.what = "admission",
		.arg = a,
		.attach = attach,
		.detach = detach,
		.explain = explain,
	};
	int r;

	a->places = calloc(LB_LINKS_MAX, sizeof(*a->places));
	a->seen = calloc(LB_LINKS_MAX, sizeof(*a->seen));
	if (!a->places || !a->seen)
		return -ENOMEM;
	a->xdp = xdp_admit__open();
	if (!a->xdp)
		return -errno;
	r = share_tables(a);
	if (r)
		return r;
	r = a->beside ? 0 : lb_admit_sweep(a->handle, true, NULL);
	/* Without CAP_SYS_ADMIN nobody can tell; a dead daemon's programs do no harm. */
	if (r && r != -EPERM)
		lb_info("admission: what earlier daemons left cannot be taken away: %s",
			strerror(-r));
	return lb_links_open(&a->links, &opts);
}

/* Unless somebody else's has replaced it. */
static void take_away_ours(const struct lb_admit *a, uint32_t ifindex)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, query, .handle = a->handle, .priority = LB_ADMIT_PRIORITY);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = a->handle, .priority = LB_ADMIT_PRIORITY);
	struct bpf_prog_info info = {};
	__u32 len = sizeof(info);

	if (!bpf_obj_get_info_by_fd(bpf_program__fd(a->tc->progs.tc_admit), &info, &len) &&
	    !bpf_tc_query(&hook, &query) && query.prog_id == info.id)
		(void)bpf_tc_detach(&hook, &opts);
}

static void finish_janitor(struct lb_admit *a)
{
	if (a->janitor_fd >= 0)
		lb_admit_janitor_finish(a->janitor_fd, a->janitor);
	a->janitor_fd = -1;
}

void lb_admit_cede(struct lb_admit *a)
{
	if (!a)
		return;
	lb_libbpf_log_quiet(true);
	for (size_t i = 0; i < a->places_count; i++)
		if (a->places[i].at == LB_ADMIT_AT_TC)
			take_away_ours(a, a->places[i].ifindex);
	lb_libbpf_log_quiet(false);
	finish_janitor(a);
	a->left = true;
}

void lb_admit_reclaim(struct lb_admit *a)
{
	(void)lb_links_attach_again(a->links);
}

void lb_admit_attach_close(struct lb_admit *a)
{
	lb_links_close(&a->links, a->left);
	finish_janitor(a);
	xdp_program__close(a->xdp_program);
	xdp_admit__destroy(a->xdp);
	free(a->places);
	free(a->seen);
}
