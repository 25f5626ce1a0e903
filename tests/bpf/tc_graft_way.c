/* SPDX-License-Identifier: MIT */
/*
 * tc_graft between real frames: a TAP device whose other end is the test. What is written comes in
 * at the program, what is read has gone out to the neighbour.
 */
#include <linux/if_tun.h>
#include <net/if_arp.h>

#include "tc_graft.h"

#define PATIENCE_MS 5000
/* Long enough for a frame that must not come; what did come is seen sooner. */
#define SILENCE_MS 50
#define NEIGHBOUR  "\x02\x00\x00\x00\x00\x99"
#define OURS       "\x02\x00\x00\x00\x00\x01"

static int tap = -1;
static uint32_t tap_index;

static void in_addr_of(struct sockaddr *to, uint8_t a, uint8_t b, uint8_t c, uint8_t d)
{
	struct sockaddr_in in = {.sin_family = AF_INET,
				 .sin_addr.s_addr = htonl((uint32_t)a << 24 | (uint32_t)b << 16 |
							  (uint32_t)c << 8 | d)};

	memcpy(to, &in, sizeof(in));
}

/* 10.0.0.0/8 is behind it, and the backend's link address known. */
static int tap_open(void)
{
	LB_AUTO_CLOSE int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = {.ifr_name = "tap0", .ifr_flags = IFF_TAP | IFF_NO_PI};
	struct arpreq arp = {.arp_flags = ATF_PERM | ATF_COM, .arp_dev = "tap0"};

	tap = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || tap < 0 || ioctl(tap, TUNSETIFF, &ifr))
		return -errno;
	ifr.ifr_hwaddr.sa_family = ARPHRD_ETHER;
	memcpy(ifr.ifr_hwaddr.sa_data, OURS, 6);
	if (ioctl(fd, SIOCSIFHWADDR, &ifr))
		return -errno;
	in_addr_of(&ifr.ifr_addr, 10, 0, 0, 1);
	if (ioctl(fd, SIOCSIFADDR, &ifr))
		return -errno;
	in_addr_of(&ifr.ifr_netmask, 255, 0, 0, 0);
	if (ioctl(fd, SIOCSIFNETMASK, &ifr))
		return -errno;
	ifr.ifr_flags = IFF_UP | IFF_RUNNING;
	if (ioctl(fd, SIOCSIFFLAGS, &ifr))
		return -errno;
	in_addr_of(&arp.arp_pa, 10, 1, 0, 2);
	arp.arp_ha.sa_family = ARPHRD_ETHER;
	memcpy(arp.arp_ha.sa_data, NEIGHBOUR, 6);
	tap_index = if_nametoindex("tap0");
	return ioctl(fd, SIOCSARP, &arp) ? -errno : 0;
}

static int way_setup(void **state)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts);
	int r;

	if (graft_setup(state))
		return -1;
	if (room_missing[0])
		return 0;
	r = tap_open();
	if (r) {
		snprintf(room_missing, sizeof(room_missing), "no TAP device: %s", strerror(-r));
		return 0;
	}
	hook.ifindex = (int)tap_index;
	opts.prog_fd = bpf_program__fd(skel->progs.tc_graft);
	return bpf_tc_hook_create(&hook) || bpf_tc_attach(&hook, &opts) ? -1 : 0;
}

static struct lb_graft *pair_on_tap(uint32_t stage)
{
	struct lb_graft *g = pair_open(false, stage);

	g->leg[0].ifindex = g->leg[1].ifindex = tap_index;
	return g;
}

static void put_frame(struct frame_bytes *f)
{
	memcpy(f->b, OURS, 6);
	assert_int_equal(write(tap, f->b, f->n), f->n);
}

/* The next TCP frame that goes out; the host says other things of its own accord. */
static bool take_frame(struct frame_bytes *f, int timeout_ms)
{
	while (room_readable(tap, timeout_ms)) {
		ssize_t n = read(tap, f->b, sizeof(f->b));

		assert_true(n > 0);
		f->n = (size_t)n;
		if (get16(f->b + 12) == 0x0800 && f->b[ETH_LEN + 9] == 6)
			return true;
	}
	return false;
}

static struct frame_bytes tagged(const struct frame_bytes *f, uint16_t tag)
{
	struct frame_bytes t = *f;

	put16(t.b + 12, 0x8100);
	put16(t.b + 14, tag);
	memcpy(t.b + 16, f->b + 12, f->n - 12);
	t.n += 4;
	return t;
}

static void assert_leaves(const char *name, struct frame_bytes *in, const struct segment *want)
{
	struct frame_bytes out, w = build(want);

	put_frame(in);
	if (!take_frame(&out, PATIENCE_MS))
		fail_msg("%s: nothing went out", name);
	memcpy(w.b, NEIGHBOUR, 6);
	memcpy(w.b + 6, OURS, 6);
	assert_frame(name, &out, &w, 0);
	assert_false(take_frame(&out, 0));
}

static void a_packet_leaves_for_the_neighbour(void **state)
{
	struct segment s = segment_of(false, 0, 1000), want;
	struct frame_bytes f = build(&s);

	room_required();
	pair_on_tap(LB_GRAFT_FULL);
	want = forwarded(&s, 0);
	assert_leaves("FULL", &f, &want);
	assert_int_equal(grafts[PAIR].leg[0].packets, 1);
}

static void a_priority_tag_is_not_for_the_way_out(void **state)
{
	struct segment s = segment_of(false, 0, 1000), want;
	struct frame_bytes plain = build(&s), f = tagged(&plain, 0xa000);

	room_required();
	pair_on_tap(LB_GRAFT_FULL);
	want = forwarded(&s, 0);
	assert_leaves("priority tag", &f, &want);
}

static void a_tagged_frame_is_its_vlans_business(void **state)
{
	struct segment s = segment_of(false, 0, 1000);
	struct frame_bytes plain = build(&s), f = tagged(&plain, 0xa005), out;

	room_required();
	pair_on_tap(LB_GRAFT_FULL);
	put_frame(&f);
	assert_false(take_frame(&out, SILENCE_MS));
	assert_int_equal(grafts[PAIR].leg[0].packets, 0);
}

/* Its clone comes in again, finds no socket here, and is no second packet of the flow. */
static void while_it_is_split_a_packet_leaves_once(void **state)
{
	struct segment s = segment_of(false, 0, 1000), want;
	struct frame_bytes f = build(&s), out;

	room_required();
	pair_on_tap(LB_GRAFT_SPLIT);
	want = forwarded(&s, 0);
	assert_leaves("SPLIT", &f, &want);
	assert_false(take_frame(&out, SILENCE_MS));
	assert_int_equal(grafts[PAIR].leg[0].packets, 1);
}

static void a_packet_for_this_host_goes_to_loopback(void **state)
{
	struct segment s = segment_of(false, 0, 1000), want;
	struct frame_bytes f = build(&s), out, w;

	room_required();
	pair_on_tap(LB_GRAFT_FULL)->leg[0].ifindex = LOCAL;
	want = forwarded(&s, 0);
	assert_int_equal(want.ttl, s.ttl);
	w = build(&want);
	assert_int_equal(run_raw(&f, &out, 0, tap_index), TC_ACT_REDIRECT);
	assert_frame("local", &out, &w, 0);
}

static int way_teardown(void **state)
{
	lb_cleanup_close(&tap);
	return graft_teardown(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_packet_leaves_for_the_neighbour),
		cmocka_unit_test(a_priority_tag_is_not_for_the_way_out),
		cmocka_unit_test(a_tagged_frame_is_its_vlans_business),
		cmocka_unit_test(while_it_is_split_a_packet_leaves_once),
		cmocka_unit_test(a_packet_for_this_host_goes_to_loopback),
	};

	return cmocka_run_group_tests(tests, way_setup, way_teardown);
}
