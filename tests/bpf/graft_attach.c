/* SPDX-License-Identifier: MIT */
/* graft_attach, links, netlink, graft_route: where the program looks, where packets would go. */
#include "graft.h"

/* --- filters ---------------------------------------------------------------------------------- */

static void filters_of_others_survive_close_and_unload(void **state)
{
	struct lb_graft_table *t;

	room_required();
	attach_somebody("lbx");
	t = open_or_fail();
	attach_foreign_filter("lbx", LB_GRAFT_ABI); /* our name, our place: replaced */
	assert_int_equal(lb_graft_table_attach(t, NULL, 0), 0);
	assert_int_equal(filters("lbx").ours, 1);
	assert_int_equal(program_at(t, "lbx"), program_of(t->load.prog_fd));
	lb_graft_table_close(t, false);
	assert_int_equal(filters("lbx").ours, 0);
	assert_int_equal(filters("lbx").others, 1);

	t = open_or_fail();
	assert_int_equal(lb_graft_table_attach(t, NULL, 0), 0);
	lb_graft_table_close(t, true);
	assert_int_equal(lb_graft_table_unload(INSTANCE), 0);
	assert_int_equal(filters("lbx").ours, 0);
	assert_int_equal(filters("lbx").others, 1);
	expect_nothing_left();
}

static void instances_do_not_touch_each_others_filters(void **state)
{
	struct lb_graft_table_opts o = opts;
	struct lb_graft_table_report report;
	struct lb_graft_table *one, *other;

	room_required();
	o.instance = NULL;
	one = open_or_fail();
	other = open_as(&o, &report);
	assert_int_equal(lb_graft_table_attach(one, NULL, 0), 0);
	assert_int_equal(lb_graft_table_attach(other, NULL, 0), 0);
	assert_int_equal(filters("lo").ours, 2);
	assert_int_equal(lb_graft_table_unload(INSTANCE), 0);
	lb_graft_table_close(one, false);
	assert_int_equal(filters("lo").ours, 1);
	assert_int_equal(program_at(other, "lo"), program_of(other->load.prog_fd));
	lb_graft_table_close(other, false);
	assert_int_equal(filters("lo").ours, 0);
}

/* --- interfaces ------------------------------------------------------------------------------- */

static void interfaces_with_an_address_are_attached_and_the_others_not(void **state)
{
	struct lb_graft_table *t;

	room_required();
	t = open_or_fail();
	assert_int_equal(lb_graft_table_attach(t, NULL, 0), 0);
	expect_attached(t, "lo, lbx");
	assert_int_equal(filters("lby").ours, 0);
	run("ip addr add 10.9.1.1/24 dev lby");
	follow(t);
	assert_int_equal(filters("lby").ours, 1);
	/* Addresses come back. */
	run("ip addr del 10.9.1.1/24 dev lby");
	follow(t);
	assert_int_equal(filters("lby").ours, 1);
	lb_graft_table_close(t, false);
	assert_int_equal(filters("lby").ours, 0);
}

static void a_global_ipv6_address_counts_and_a_link_local_one_does_not(void **state)
{
	struct lb_graft_table *t;

	room_required();
	run("ip -6 addr add fe80::77/64 dev lby nodad");
	t = open_or_fail();
	assert_int_equal(lb_graft_table_attach(t, NULL, 0), 0);
	expect_attached(t, "lo, lbx");
	run("ip -6 addr add 2001:db8:1::1/64 dev lby nodad");
	follow(t);
	assert_int_equal(filters("lby").ours, 1);
	lb_graft_table_close(t, false);
}

static void an_interface_that_goes_and_comes_again_is_attached_again(void **state)
{
	struct lb_graft_table *t;

	room_required();
	t = open_or_fail();
	assert_int_equal(lb_graft_table_attach(t, NULL, 0), 0);
	run("ip link del lbx");
	follow(t);
	expect_attached(t, "lo");
	assert_int_equal(with_veth(NULL), 0);
	follow(t);
	expect_attached(t, "lo, lbx");
	assert_int_equal(filters("lbx").ours, 1);
	lb_graft_table_close(t, false);
}

/* Both in one batch of news, and with the same index. */
static void an_interface_that_is_exchanged_unseen_is_attached_again(void **state)
{
	char command[256];
	struct lb_graft_table *t;

	room_required();
	t = open_or_fail();
	assert_int_equal(lb_graft_table_attach(t, NULL, 0), 0);
	snprintf(command, sizeof(command),
		 "i=%u; ip link del lbx && ip link add lbx index $i type veth peer name lby && "
		 "ip addr add 10.9.0.1/24 dev lbx",
		 index_of("lbx"));
	run(command);
	assert_int_equal(filters("lbx").ours, 0);
	follow(t);
	expect_attached(t, "lo, lbx");
	assert_int_equal(filters("lbx").ours, 1);
	lb_graft_table_close(t, false);
}

static void lost_news_are_made_up_for(void **state)
{
	int bytes = 1;
	struct lb_graft_table *t;

	room_required();
	t = open_or_fail();
	assert_int_equal(lb_graft_table_attach(t, NULL, 0), 0);
	assert_int_equal(setsockopt(lb_links_fd(t->links), SOL_SOCKET, SO_RCVBUF, &bytes, 4), 0);
	run("for i in 1 2 3 4 5 6 7 8 9; do ip link set lby down; ip link set lby up; done; "
	    "ip addr add 10.9.1.1/24 dev lby; tc qdisc del dev lbx clsact");
	follow(t);
	assert_int_equal(filters("lby").ours, 1);
	assert_int_equal(filters("lbx").ours, 1);
	lb_graft_table_close(t, false);
}

static void named_interfaces_are_attached_when_they_come(void **state)
{
	static char *const names[] = {"later", "lby"};
	struct lb_graft_table *t;

	room_required();
	t = open_or_fail();
	assert_int_equal(lb_graft_table_attach(t, names, 1), -ENODEV);
	assert_int_equal(lb_graft_table_attach(t, names, 2), 0);
	expect_attached(t, "lby");
	run("ip link add later type veth peer name even-later");
	follow(t);
	expect_attached(t, "lby, later");
	assert_int_equal(filters("lo").ours, 0);
	run("ip link del later");
	follow(t);
	expect_attached(t, "lby");
	lb_graft_table_close(t, false);
}

static void interfaces_without_an_ethernet_header_are_not_attached(void **state)
{
	static char *const names[] = {"lbtun"};
	struct lb_graft_table *t;

	room_required();
	if (system("ip tuntap add lbtun mode tun 2>/dev/null"))
		skip();
	run("ip addr add 10.9.2.1/24 dev lbtun");
	t = open_or_fail();
	assert_int_equal(lb_graft_table_attach(t, names, 1), -EPROTONOSUPPORT);
	assert_int_equal(lb_graft_table_attach(t, NULL, 0), 0);
	assert_int_equal(filters("lbtun").ours, 0);
	lb_graft_table_close(t, false);
	run("ip tuntap del lbtun mode tun");
}

/* --- routes ----------------------------------------------------------------------------------- */

static void expect_route(struct lb_graft_table *t, struct lb_graft_tuple tuple, int err,
			 const char *ifname)
{
	struct lb_graft_route route = {.ifindex = 4711};

	assert_int_equal(lb_graft_table_route(t, &tuple, &route), err);
	assert_int_equal(route.ifindex, err ? 4711 : ifname ? index_of(ifname) : 0);
}

static void routes_are_the_kernels_own(void **state)
{
	struct lb_graft_table *t;

	room_required();
	run("ip route add blackhole 10.66.0.0/16; ip route add unreachable 10.67.0.0/16; "
	    "ip route add prohibit 10.68.0.0/16; ip -6 route add unreachable 2001:db8:67::/48; "
	    "ip -6 route add blackhole 2001:db8:66::/48; ip route add 10.70.0.0/16 dev lby; "
	    "ip -6 route add 2001:db8:70::/48 via 2001:db8::9 dev lbx; "
	    "ip route add 10.71.0.0/16 via 10.9.0.9");
	t = open_or_fail();
	assert_int_equal(lb_graft_table_attach(t, NULL, 0), 0);

	expect_route(t, tuple4("127.0.0.1", "127.0.0.1", 1, 2), 0, NULL);
	expect_route(t, tuple4("10.9.0.1", "10.9.0.1", 1, 2), 0, NULL);
	expect_route(t, tuple6("::1", "::1", 1, 2), 0, NULL);
	expect_route(t, tuple6("2001:db8::1", "2001:db8::1", 1, 2), 0, NULL);

	expect_route(t, tuple4("10.9.0.2", "10.9.0.1", 1, 2), 0, "lbx");
	expect_route(t, tuple4("10.71.0.2", "10.9.0.1", 1, 2), 0, "lbx");
	expect_route(t, tuple6("2001:db8::2", "2001:db8::1", 1, 2), 0, "lbx");
	expect_route(t, tuple6("2001:db8:70::2", "2001:db8::1", 1, 2), 0, "lbx");

	expect_route(t, tuple4("10.66.0.1", "10.9.0.1", 1, 2), -EHOSTUNREACH, NULL);
	expect_route(t, tuple4("10.67.0.1", "10.9.0.1", 1, 2), -EHOSTUNREACH, NULL);
	expect_route(t, tuple4("10.68.0.1", "10.9.0.1", 1, 2), -EHOSTUNREACH, NULL);
	expect_route(t, tuple4("192.0.2.1", "10.9.0.1", 1, 2), -EHOSTUNREACH, NULL);
	expect_route(t, tuple4("10.9.0.2", "10.9.0.77", 1, 2), -EHOSTUNREACH, NULL);
	expect_route(t, tuple6("2001:db8:66::1", "2001:db8::1", 1, 2), -EHOSTUNREACH, NULL);
	expect_route(t, tuple6("2001:db8:67::1", "2001:db8::1", 1, 2), -EHOSTUNREACH, NULL);
	expect_route(t, tuple6("2001:db8:99::1", "2001:db8::1", 1, 2), -EHOSTUNREACH, NULL);

	expect_route(t, tuple4("10.70.0.1", "10.9.0.1", 1, 2), -EOPNOTSUPP, NULL);
	expect_route(t, tuple4("224.0.0.1", "10.9.0.1", 1, 2), -EOPNOTSUPP, NULL);
	expect_route(t, tuple6("fe80::2", "fe80::1", 1, 2), -EOPNOTSUPP, NULL);
	lb_graft_table_close(t, false);
	run("ip route del blackhole 10.66.0.0/16; ip route del unreachable 10.67.0.0/16; "
	    "ip route del prohibit 10.68.0.0/16; ip -6 route del unreachable 2001:db8:67::/48; "
	    "ip -6 route del blackhole 2001:db8:66::/48");
}

static void a_local_peer_needs_loopback_attached(void **state)
{
	static char *const lbx[] = {"lbx"};
	struct lb_graft_table *t;

	room_required();
	t = open_or_fail();
	assert_int_equal(lb_graft_table_attach(t, lbx, 1), 0);
	expect_route(t, tuple4("127.0.0.1", "127.0.0.1", 1, 2), -EOPNOTSUPP, NULL);
	expect_route(t, tuple4("10.9.0.2", "10.9.0.1", 1, 2), 0, "lbx");
	lb_graft_table_close(t, false);
}

/* Printed, not judged: the machine of a test has other things to do. */
static void a_route_takes_microseconds(void **state)
{
	struct lb_graft_tuple tuple = tuple4("10.9.0.2", "10.9.0.1", 1, 2);
	struct lb_graft_route route;
	struct lb_graft_table *t;
	uint64_t start;

	room_required();
	t = open_or_fail();
	assert_int_equal(lb_graft_table_attach(t, NULL, 0), 0);
	start = lb_clock_ns();
	for (unsigned int i = 0; i < 1000; i++)
		assert_int_equal(lb_graft_table_route(t, &tuple, &route), 0);
	print_message("a route lookup takes %.1f us\n", (double)(lb_clock_ns() - start) / 1e6);
	lb_graft_table_close(t, false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		with_net(filters_of_others_survive_close_and_unload),
		cmocka_unit_test(instances_do_not_touch_each_others_filters),
		with_net(interfaces_with_an_address_are_attached_and_the_others_not),
		with_net(a_global_ipv6_address_counts_and_a_link_local_one_does_not),
		with_net(an_interface_that_goes_and_comes_again_is_attached_again),
		with_net(an_interface_that_is_exchanged_unseen_is_attached_again),
		with_net(lost_news_are_made_up_for),
		with_net(named_interfaces_are_attached_when_they_come),
		cmocka_unit_test(interfaces_without_an_ethernet_header_are_not_attached),
		with_net(routes_are_the_kernels_own),
		with_net(a_local_peer_needs_loopback_attached),
		with_net(a_route_takes_microseconds),
	};

	return cmocka_run_group_tests(tests, room_enter, NULL);
}
