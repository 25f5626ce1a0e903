# SPDX-License-Identifier: MIT
"""
Grafted flows, seen as packets: bytes that are under way when a flow is grafted, where packets come
from and where they go.
"""
import socket
import struct
import time
from datetime import datetime

import pytest

from lbtest.daemon import rule
from lbtest.grafting import (ACK, LB_BACK_ADDR, PORT, PSH, addresses, endpoint, links, mac,
                             own_address, second_wire, segment, sent_by, sysctl, sysctls)
from lbtest.net import BACKEND, BACKEND_ADDR, CLIENT, LB, LB_ADDR
from lbtest.process import PATIENCE, run, wait_until
from lbtest.talk import Talk, positions

# --- promotion under traffic --------------------------------------------------------------------

FLOWS = 64
MEGABYTE = 1 << 20
# {who speaks: (bytes up, bytes down, what both are told besides)}
WHO = {
    "the client": (MEGABYTE, 1, {}),
    "the server": (1, MEGABYTE, {}),
    "both at once": (MEGABYTE, MEGABYTE, {}),
    "each in turn": (MEGABYTE, MEGABYTE, {"order": "pingpong", "chunk": 1 << 16}),
}


def promote(g, up=MEGABYTE, down=MEGABYTE, server=(), client=(), count=FLOWS, where=(), **both):
    """Flows that are promoted while they stream, and live until all of them have been."""
    both = {"patient": 1, "hold": 1, **both}
    server, client = {**both, **dict(server)}, {**both, **dict(client)}
    with g.lane(**dict(where)).open({"send": down, "recv": up, **server},
                                    {"send": up, "recv": down, **client},
                                    count=count, deadline_ms=60000) as exchange:
        # None stays half taken over while its peers live.
        exchange.wait_holding()
        wait_until(lambda: g.daemon.grafted() == count, 10,
                   lambda: f"{count} flows are grafted for good: {g.daemon.grafted()} are")
        exchange.release()
        exchange.finish()
    exchange.assert_identical()
    assert {f["why"] for f in exchange.log} == {"none"}


@pytest.mark.parametrize("acceleration,after", [("graft", 0), ("auto", 1), ("auto", 200000)])
@pytest.mark.parametrize("who", WHO)
def test_sixty_four_streaming_flows_are_grafted_whole(grafting, who, acceleration, after):
    g = grafting(acceleration=acceleration, after_bytes=after, after_ms=60000)
    up, down, both = WHO[who]
    promote(g, up, down, **both)


def test_two_hundred_flows_of_twenty_megabytes_stay_whole_while_they_are_promoted(grafting):
    """Those that do not drain for too long, TCP being short of memory, or already end may stay."""
    g = grafting(acceleration="auto", after_bytes=4 << 20, after_ms=60000)
    both = {"send": 20 << 20, "recv": 20 << 20, "patient": 1}
    exchange = g.lane().run(both, both, count=200, deadline_ms=120000)
    exchange.assert_identical("short", "not_established", "backlog")
    assert sum(f["carrier"] == "graft" for f in exchange.log) >= 150, exchange.log[:3]


@pytest.mark.parametrize("slow", ["client", "server"])
def test_a_bulk_flow_to_a_slow_reader_is_grafted(grafting, slow):
    """Its sender keeps all buffers between the ends full."""
    g = grafting(acceleration="auto", after_bytes=1 << 20, after_ms=60000)
    source = {"send": 40 << 20, "recv": 1000, "patient": 1}
    sink = {"send": 1000, "recv": 40 << 20, "patient": 1, "stall_every": 1 << 18, "stall_ms": 10}
    sides = (source, sink) if slow == "client" else (sink, source)
    exchange = g.lane().run(*sides, count=8, deadline_ms=60000)
    exchange.assert_identical()


def test_flows_are_grafted_whole_while_one_percent_is_lost(net, grafting):
    g = grafting(acceleration="auto", after_bytes=50000)
    with net.loss(1):
        promote(g)


def test_flows_with_tiny_windows_stay_whole(grafting):
    """Or not grafted, for a reason: little is taken, more lies between the ends, or it is over."""
    g = grafting(acceleration="auto", after_bytes=20000)
    both = {"send": 200000, "recv": 200000, "rcvbuf": 4096, "patient": 1}
    exchange = g.lane().run(both, both, count=FLOWS, deadline_ms=60000)
    exchange.assert_identical("short", "backlog", "not_established")


@pytest.mark.parametrize("slow", ["server", "client", "both"])
def test_flows_are_grafted_whole_while_relay_holds_bytes_for_a_stalling_reader(grafting, slow):
    g = grafting(acceleration="auto", after_bytes=100000)
    stall = {"stall_every": 1 << 16, "stall_ms": 20, "rcvbuf": 16384}
    promote(g, server=stall if slow != "client" else {}, client=stall if slow != "server" else {})


# --- ends on the load balancer's host -----------------------------------------------------------


def local_sides(which, family):
    """(listen, backend, {sides of the talk}) of a flow with <which> ends on the lb host."""
    loopback = "::1" if family == 6 else "127.0.0.1"
    own = LB_BACK_ADDR[family]
    return {
        "server on loopback": (LB_ADDR[family], loopback, {"server": LB}),
        "server on own address": (LB_ADDR[family], own, {"server": LB}),
        "client on loopback": (loopback, BACKEND_ADDR[family], {"client": LB}),
        "client on own address": (LB_ADDR[family], BACKEND_ADDR[family], {"client": LB}),
        "both on loopback": (loopback, loopback, {"client": LB, "server": LB}),
        "both on own addresses": (LB_ADDR[family], own, {"client": LB, "server": LB}),
    }[which]


LOCAL = ["server on loopback", "server on own address", "client on loopback",
         "client on own address", "both on loopback", "both on own addresses"]


def forget_routes(net):
    """What makes the kernel look up every route again, for flows that go on too."""
    for text in ("route add 10.99.0.0/24 dev lb1", "route del 10.99.0.0/24 dev lb1",
                 "-6 route add fd99::/64 dev lb1", "-6 route del fd99::/64 dev lb1",
                 "addr add 10.98.0.1/24 dev lb1", "addr del 10.98.0.1/24 dev lb1"):
        net.ip(LB, text)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("which", LOCAL)
def test_an_end_may_be_on_this_host(grafting, net, which, family):
    listen, backend, sides = local_sides(which, family)
    g = grafting(listen=listen, backend=backend)
    with g.talk(**sides) as talk:
        talk.exchange(3 << 20)
        forget_routes(net)
        talk.exchange(1 << 20)
        g.end(talk)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("setting", ["ip_early_demux=0", "conf.all.rp_filter=1"])
@pytest.mark.parametrize("which", LOCAL)
def test_an_end_on_this_host_depends_on_no_setting(grafting, net, which, setting, family):
    name, value = setting.split("=")
    listen, backend, sides = local_sides(which, family)
    g = grafting(listen=listen, backend=backend)
    with sysctls(net, [(LB, f"net.ipv4.{name}", value)]), g.talk(**sides) as talk:
        forget_routes(net)
        talk.exchange(1 << 20)
        g.end(talk)


@pytest.mark.parametrize("which", LOCAL)
def test_streaming_flows_with_ends_on_this_host_are_grafted_whole(grafting, net, which):
    listen, backend, sides = local_sides(which, 4)
    g = grafting(listen=listen, backend=backend, acceleration="auto", after_bytes=100000)
    with sysctls(net, [(LB, "net.ipv4.ip_early_demux", 0)]):
        promote(g, count=16, where=sides)


# --- interfaces ---------------------------------------------------------------------------------


def has_vlans(net):
    add = run("ip", "-n", net.names[LB], *"link add link lb0 name probe type vlan id 4".split(),
              check=False)
    run("ip", "-n", net.names[LB], "link", "del", "probe", check=False)
    return add.returncode == 0


@pytest.mark.parametrize("family", [4, 6])
def test_a_leg_may_be_a_vlan(grafting, net, family):
    if not has_vlans(net):
        pytest.skip("this kernel has no VLAN interfaces (CONFIG_VLAN_8021Q)")
    commands = [(LB, "link add link lb0 name lb0.5 type vlan id 5"),
                (CLIENT, "link add link eth0 name eth0.5 type vlan id 5"),
                *((LB, text) for text in addresses("lb0.5", 1, 5)),
                *((CLIENT, text) for text in addresses("eth0.5", 2, 5))]
    with links(net, commands, [(LB, "lb0.5"), (CLIENT, "eth0.5")]):
        g = grafting(listen=own_address(family, 5), backend=BACKEND_ADDR[family])
        with g.talk() as talk:
            talk.exchange(3 << 20)
            g.end(talk)


@pytest.mark.parametrize("family", [4, 6])
def test_a_leg_may_be_a_bridge(grafting, net, family):
    commands = [(LB, "link add br7 type bridge"), (LB, "link set lb7 master br7"),
                (LB, "link set lb7 up"),
                *((LB, text) for text in addresses("br7", 1, 7)),
                *((CLIENT, text) for text in addresses("eth7", 2, 7))]
    with links(net, [], [(LB, "br7"), (LB, "lb7")]):
        second_wire(net, CLIENT, 7)
        for side, text in commands:
            net.ip(side, text)
        g = grafting(listen=own_address(family, 7), backend=BACKEND_ADDR[family])
        with g.talk(seconds=10) as talk:
            talk.exchange(3 << 20)
            g.end(talk)


def test_frames_may_carry_a_priority_tag_but_no_vlan(grafting, net):
    g = grafting()
    with g.talk() as talk:
        sends, expects = positions(talk.client)
        ends = talk.client.getsockname(), talk.client.getpeername()
        to = bytes.fromhex((mac(net, LB, "lb0") + mac(net, CLIENT, "eth0")).replace(":", ""))
        for number, payload in ((5, b"wrong"), (0, b"right")):
            packet = segment(*ends, PSH | ACK, sends, expects, payload)
            # 802.1Q, priority 3
            frame = to + struct.pack("!HHH", 0x8100, 3 << 13 | number, 0x0800) + packet

            def send(frame=frame):
                with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
                    s.bind(("eth0", 0))
                    s.send(frame)
            net.call(CLIENT, send)
        talk.server.settimeout(5 * PATIENCE)
        assert talk.server.recv(100) == b"right"
        assert g.packets("failed") == 0


# --- the load balancer's own network ------------------------------------------------------------


def test_nothing_but_a_route_is_needed(grafting, net):
    """Neither forwarding, nor loose reverse path filters, nor neighbours that stay known."""
    assert sysctl(net, LB, "net.ipv4.ip_forward") == "0"
    assert sysctl(net, LB, "net.ipv6.conf.all.forwarding") == "0"
    strict = [(LB, f"net.ipv4.conf.{device}.rp_filter", 1) for device in ("all", "lb0", "lb1")]
    with sysctls(net, strict):
        g = grafting()
        with g.talk() as talk:
            for _ in range(3):
                talk.exchange(500000)
                net.ip(LB, "neigh flush all")
            talk.exchange(500000)
            g.end(talk)


@pytest.mark.parametrize("family", [4, 6])
def test_a_flow_follows_a_route_that_moves(grafting, net, family):
    with links(net, [], [(LB, "lb8")]):
        second_wire(net, BACKEND, 8)
        for side, device, host in ((LB, "lb8", 1), (BACKEND, "eth8", 2)):
            # Its link-local address asks for neighbours at once.
            sysctl(net, side, f"net.ipv6.conf.{device}.accept_dad", 0)
            for text in addresses(device, host, 8):
                net.ip(side, text)
        g = grafting(family)
        with g.talk() as talk:
            talk.exchange(500000)
            via = "fd82:8::2" if family == 6 else "10.82.8.2"
            host = f"{BACKEND_ADDR[family]}/{128 if family == 6 else 32}"
            net.ip(LB, f"-{family} route add {host} via {via}")
            before = sent_by(net, LB, "lb8")
            def moved():
                talk.exchange(50000)
                return sent_by(net, LB, "lb8") > before + 10
            wait_until(moved, 5, "the flow goes by the new route", every=0.1)
            net.ip(LB, f"-{family} route del {host} via {via}")
            talk.exchange(500000)
            g.end(talk)


def test_of_two_rules_in_a_row_one_is_grafted(daemon, net, folder):
    d = daemon({"rules": [
        rule("front", endpoint(LB_ADDR[4], 6901), [endpoint(LB_BACK_ADDR[4], 6902)],
             acceleration="graft"),
        rule("back", endpoint(LB_BACK_ADDR[4], 6902), [endpoint(BACKEND_ADDR[4], PORT)],
             acceleration="graft"),
    ]})
    with d:
        for _ in range(8):
            skips = {name: len(d.flows(name)) for name in ("front", "back")}
            with Talk(net, (LB_ADDR[4], 6901), (BACKEND_ADDR[4], PORT)) as talk:
                talk.exchange(1000)
                wait_until(lambda: d.grafted() == 1, 5, "one of both is grafted")
                talk.exchange(1 << 20)
                talk.finish()
            flows = [d.wait_flows(1, name, skip)[0] for name, skip in skips.items()]
            assert sorted(f["why"] for f in flows) == ["chained", "none"], flows
            assert {(int(f["up"]), int(f["down"])) for f in flows} == {(talk.bytes, talk.bytes)}


# --- the books ----------------------------------------------------------------------------------


def test_the_log_tells_when_a_graft_ended_and_how_long_it_was(grafting):
    g = grafting()
    begin = time.time()
    with g.talk() as talk:
        talk.exchange(200000)
        time.sleep(0.5)
        talk.exchange(200000)
        last = time.time()
        flow = g.end(talk)
    end = time.time()
    logged = datetime.fromisoformat(flow["time"].replace("Z", "+00:00")).timestamp()
    assert last - 0.05 <= logged <= end + 0.05, (flow, last, end)
    # The clock of packets ticks in jiffies.
    assert 480 <= int(flow["duration_ms"]) <= (end - begin) * 1000, (flow, begin, end)
    assert float(flow["connect_ms"]) < 1000, flow


def test_packets_are_counted(grafting):
    g = grafting(acceleration="auto", after_bytes=100000)
    assert (g.packets(), g.packets("copied")) == (0, 0)
    # The pauses let a flow be taken over long before its end.
    promote(g, count=8, pause_every=1 << 16, pause_ms=20)
    assert g.packets() > 100
    # What comes while a flow is being taken over goes both ways; streams do not pause for it.
    promote(g, count=8)
    assert g.packets("copied") > 0
    for what in ("icmp", "irregular", "hop_limit", "failed"):
        assert g.packets(what) == 0, what
