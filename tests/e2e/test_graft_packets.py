# SPDX-License-Identifier: MIT
"""
Grafted flows, seen as packets: where they come from, what they look like, where they go, and what
must not be able to harm them.
"""
import contextlib
import re
import socket
import struct
import time
from datetime import datetime
from pathlib import Path

import pytest

from lbtest import lane as lanes
from lbtest.daemon import rule
from lbtest.net import BACKEND, BACKEND_ADDR, CLIENT, CLIENT_ADDR, LB, LB_ADDR
from lbtest.process import PATIENCE, run, wait_until
from lbtest.talk import Talk, positions

LISTEN, PORT = 6900, 7900
LB_BACK_ADDR = {4: "10.81.1.1", 6: "fd81:1::1"}  # the load balancer's towards the backend
SIDES = {CLIENT: ["eth0"], LB: ["lb0", "lb1"], BACKEND: ["eth0"]}


def endpoint(addr, port):
    return f"[{addr}]:{port}" if ":" in addr else f"{addr}:{port}"


class Elsewhere:
    """The net, for peers that are not where their role says: {"server": namespace, ..}."""

    def __init__(self, net, sides):
        self.net = net
        self.at = {CLIENT: sides.get("client", CLIENT), BACKEND: sides.get("server", BACKEND)}

    def start(self, side, *args):
        return self.net.start(self.at[side], *args)


class Grafting:
    """A daemon with one rule, for flows that are to be grafted."""

    def __init__(self, daemon, net, folder, listen, backend, acceleration, graft):
        self.net, self.folder = net, folder
        self.listen, self.backend = (listen, LISTEN), (backend, PORT)
        self.daemon = daemon({
            "graft": {"max_flows": 1024, **graft},
            "rules": [rule("r", endpoint(listen, LISTEN), [endpoint(backend, PORT)],
                           acceleration=acceleration)],
        }).start()
        lanes.skip_without("graft", self.daemon)

    def lane(self, **sides):
        """The peer program's way; <sides> as for talk()."""
        lane = lanes.Lane(self.daemon, self.folder, "r", self.listen, self.backend, "graft")
        lane.net = Elsewhere(self.net, sides)
        return lane

    @contextlib.contextmanager
    def talk(self, grafted=True, **sides):
        """A flow that has carried bytes and, if <grafted>, is grafted for good."""
        before = self.daemon.grafted()
        with Talk(self.net, self.listen, self.backend, **sides) as talk:
            talk.exchange(1000)
            if grafted:
                wait_until(lambda: self.daemon.grafted() == before + 1, 5, self.why_not)
            yield talk

    def why_not(self):
        return f"the flow is grafted\n{self.daemon.log[-2000:]}"

    def end(self, talk, why="none"):
        """Ends a flow in good order; its line in the log must say what was moved."""
        skip = len(self.daemon.flows("r"))
        talk.finish()
        flow, = self.daemon.wait_flows(1, "r", skip)
        assert flow["reason"] == "done", flow
        assert (int(flow["up"]), int(flow["down"])) == (talk.bytes, talk.bytes), flow
        assert flow["why"] == why, flow
        assert (flow["carrier"] == "graft") == (why == "none"), flow
        return flow

    def packets(self, what="forwarded"):
        return self.daemon.metric("l4lb_graft_packets_total", what=what)


@pytest.fixture
def grafting(daemon, net, folder):
    """grafting(..) starts a daemon; it ends in good order, or the test has failed."""
    made = []

    def make(family=4, listen=None, backend=None, acceleration="graft", **graft):
        made.append(Grafting(daemon, net, folder, listen or LB_ADDR[family],
                             backend or BACKEND_ADDR[family], acceleration, graft))
        return made[-1]
    yield make
    for g in made:
        if g.daemon.process.alive():
            g.daemon.stop()


# --- the peers' machines ------------------------------------------------------------------------


def sysctl(net, side, name, value=None):
    """The old value; sets a new one."""
    command = (*net.inside(side), "sysctl", "-n")
    old = run(*command, name).stdout.strip()
    if value is not None:
        run(*net.inside(side), "sysctl", "-qw", f"{name}={value}")
    return old


@contextlib.contextmanager
def sysctls(net, settings):
    """[(side, name, value)], taken back at the end."""
    with contextlib.ExitStack() as back:
        for side, name, value in settings:
            old = sysctl(net, side, name, value)
            back.callback(sysctl, net, side, name, old)
        yield


@contextlib.contextmanager
def offloads(net, state, *features, sides=(CLIENT, LB, BACKEND)):
    def switch(to):
        for side in sides:
            for device in SIDES[side]:
                run(*net.inside(side), "ethtool", "-K", device,
                    *(word for f in features for word in (f, to)))
    switch(state)
    try:
        yield
    finally:
        switch("on" if state == "off" else "off")


@contextlib.contextmanager
def mtu(net, sides, bytes_):
    """On both ends of a side's wire."""
    ends = [(LB, "lb0" if side == CLIENT else "lb1") for side in sides]
    ends += [(side, "eth0") for side in sides]
    try:
        for side, device in ends:
            net.ip(side, f"link set {device} mtu {bytes_}")
        yield
    finally:
        for side, device in ends:
            net.ip(side, f"link set {device} mtu 1500")


def bad_checksums(net):
    """What all three kernels have complained about so far."""
    def read():
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        names, values = [line.split() for line in lines if line.startswith("Tcp:")]
        return int(values[names.index("InCsumErrors")])
    return [net.call(side, read) for side in SIDES]


@pytest.fixture(autouse=True)
def no_packet_has_a_bad_checksum(net):
    before = bad_checksums(net)
    yield
    assert bad_checksums(net) == before


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


def test_flows_are_grafted_whole_while_one_percent_is_lost(net, grafting):
    g = grafting(acceleration="auto", after_bytes=50000)
    with net.loss(1):
        promote(g)


def test_flows_with_tiny_windows_are_grafted_whole(grafting):
    g = grafting(acceleration="auto", after_bytes=20000)
    promote(g, 200000, 200000, rcvbuf=4096)


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


@contextlib.contextmanager
def links(net, commands, devices):
    """Runs (side, text of `ip`), and deletes (side, device) at the end, made or not."""
    try:
        for side, text in commands:
            net.ip(side, text)
        yield
    finally:
        for side, device in devices:
            run("ip", "-n", net.names[side], "link", "del", device, check=False)


def second_wire(net, side, number):
    """A further veth pair: lb<number> on the load balancer, eth<number> there, without addresses."""
    run("ip", "link", "add", f"lb{number}", "netns", net.names[LB], "type", "veth",
        "peer", "name", f"eth{number}", "netns", net.names[side])


def addresses(device, host, number):
    return [f"addr add 10.82.{number}.{host}/24 dev {device}",
            f"addr add fd82:{number}::{host}/64 dev {device} nodad", f"link set {device} up"]


def own_address(family, number):
    return f"fd82:{number}::1" if family == 6 else f"10.82.{number}.1"


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


def mac(net, side, device):
    return re.search(r"link/ether (\S+)", net.ip(side, f"link show {device}").stdout).group(1)


def sent_by(net, side, device):
    return int(re.search(r"TX:.*\n\s+\d+\s+(\d+)", net.ip(side, f"-s link show {device}").stdout
                         ).group(1))


def test_frames_may_carry_a_priority_tag_but_no_vlan(grafting, net):
    g = grafting()
    with g.talk() as talk:
        sends, expects = positions(talk.client)
        ends = talk.client.getsockname(), talk.client.getpeername()
        for number, payload in ((5, b"wrong"), (0, b"right")):
            packet = segment(*ends, PSH | ACK, sends, expects, payload)
            frame = bytes.fromhex((mac(net, LB, "lb0") + mac(net, CLIENT, "eth0")).replace(":", ""))
            # 802.1Q, priority 3
            frame += struct.pack("!HHH", 0x8100, 3 << 13 | number, 0x0800) + packet

            def send(frame=frame):
                with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
                    s.bind(("eth0", 0))
                    s.send(frame)
            net.call(CLIENT, send)
        talk.server.settimeout(5 * PATIENCE)
        assert talk.server.recv(100) == b"right"
        assert g.packets("failed") == 0


# --- sizes, checksums, options ------------------------------------------------------------------


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("off", [("tso", "gso"), ("gro",), ("tx",), ("tx", "gro"), ("rx",)],
                         ids=" ".join)
@pytest.mark.parametrize("where", ["the peers", "everywhere"])
def test_offloads_may_be_off(grafting, net, off, where, family):
    sides = (CLIENT, BACKEND) if where == "the peers" else (CLIENT, LB, BACKEND)
    with offloads(net, "off", *off, sides=sides):
        g = grafting(family)
        with g.talk() as talk:
            talk.exchange(2 << 20)
            g.end(talk)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("side,bytes_", [(CLIENT, 9000), (BACKEND, 9000), (CLIENT, 1400),
                                         (BACKEND, 1400)])
def test_the_legs_may_carry_segments_of_different_sizes(grafting, net, side, bytes_, family):
    with mtu(net, [side], bytes_):
        g = grafting(family)
        with g.talk() as talk:
            talk.exchange(2 << 20)
            g.end(talk)


def test_a_client_that_was_promised_too_large_segments_is_not_grafted(grafting, net):
    g = grafting()
    # Behind the daemon's back: it has looked at the routes at its start.
    with mtu(net, [BACKEND], 1400), g.talk(grafted=False) as talk:
        talk.exchange(1 << 20)
        g.end(talk, why="mss")


OPTIONS = {
    "timestamps": "net.ipv4.tcp_timestamps=0",
    "sack": "net.ipv4.tcp_sack=0",
    "window_scaling": "net.ipv4.tcp_window_scaling=0",
    "ecn": "net.ipv4.tcp_ecn=1",
}


@pytest.mark.parametrize("which", OPTIONS)
@pytest.mark.parametrize("where", ["client", "backend", "both"])
def test_legs_are_grafted_when_their_options_agree(grafting, net, which, where):
    name, value = OPTIONS[which].split("=")
    sides = [CLIENT, BACKEND] if where == "both" else [where]
    settings = [(side, name, value) for side in sides]
    agree = where == "both" or which == "window_scaling"
    if which == "ecn":
        # Who opens a connection asks for it: that is us on the backend's leg.
        settings = [(side, name, value) for side in
                    {"client": [CLIENT], "backend": [LB], "both": [CLIENT, LB]}[where]]
    with sysctls(net, settings):
        g = grafting()
        with g.talk(grafted=agree) as talk:
            talk.exchange(2 << 20)
            g.end(talk, why="none" if agree else "tcp_options")


@pytest.mark.parametrize("rmem", ["4096 8192 16384", "4096 131072 33554432"])
@pytest.mark.parametrize("side", [CLIENT, LB, BACKEND])
def test_the_legs_may_scale_their_windows_differently(grafting, net, side, rmem):
    with sysctls(net, [(side, "net.ipv4.tcp_rmem", rmem)]):
        g = grafting()
        with g.talk() as talk:
            talk.exchange(4 << 20)
            g.end(talk)


# --- strangers ----------------------------------------------------------------------------------

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def internet_sum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def segment(source, target, flags, seq, ack=0, payload=b""):
    """An IPv4 packet; both ends are (address, port)."""
    def tcp(check):
        return struct.pack("!HHIIBBHHH", source[1], target[1], seq & 0xffffffff, ack & 0xffffffff,
                           5 << 4, flags, 1000, check, 0) + payload

    def ip(check):
        return struct.pack("!BBHHHBBH", 0x45, 0, 40 + len(payload), 1, 0, 64, 6, check) + ends
    ends = socket.inet_aton(source[0]) + socket.inet_aton(target[0])
    pseudo = ends + struct.pack("!HH", 6, 20 + len(payload))
    return ip(internet_sum(ip(0))) + tcp(internet_sum(pseudo + tcp(0)))


def forge(net, side, source, target, *what):
    """Sends a segment from namespace <side> that claims to come from <source>."""
    def send():
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
            s.sendto(segment(source, target, *what), (target[0], 0))
    net.call(side, send)


# {what: (flags, distance from the number that is expected next, payload)}
HARMLESS = {
    "reset just ahead": (RST, 1, b""),
    "reset in the window": (RST | ACK, 20000, b""),
    "reset behind": (RST, -1, b""),
    "reset far away": (RST, 1 << 30, b""),
    "fin behind": (FIN | ACK, -70000, b""),
    "fin far ahead": (FIN | ACK, 1 << 29, b""),
    "data behind": (PSH | ACK, -5000, b"x" * 1000),
    "data far ahead": (PSH | ACK, 1 << 30, b"x" * 1000),
    "syn in the window": (SYN, 1000, b""),
    "syn at the exact number": (SYN, 0, b""),
    "syn far away": (SYN, -(1 << 30), b""),
    "syn-ack": (SYN | ACK, 0, b""),
}


@pytest.mark.parametrize("from_side", [CLIENT, BACKEND])
@pytest.mark.parametrize("as_whom", ["client", "server"])
@pytest.mark.parametrize("what", HARMLESS)
def test_a_stranger_does_no_more_harm_than_to_a_direct_connection(grafting, net, what, as_whom,
                                                                  from_side):
    flags, distance, payload = HARMLESS[what]
    g = grafting()
    with g.talk() as talk:
        talk.exchange(200000)
        before = g.packets()
        end = getattr(talk, as_whom)
        sends, expects = positions(end)
        for _ in range(3):
            forge(net, from_side, end.getsockname(), end.getpeername(), flags, sends + distance,
                  expects, payload)
        # It was a packet of this flow, and was judged by the one it is for.
        wait_until(lambda: g.packets() >= before + 3, 2, "the forged packets are forwarded")
        talk.exchange(200000)
        assert g.daemon.grafted() == 1
        g.end(talk)


@pytest.mark.parametrize("as_whom", ["client", "server"])
def test_a_reset_with_the_exact_number_ends_the_flow_for_both(grafting, net, as_whom):
    g = grafting()
    with g.talk() as talk:
        talk.exchange(200000)
        sender = getattr(talk, as_whom)
        receiver = talk.server if as_whom == "client" else talk.client
        sends, expects = positions(sender)
        forge(net, CLIENT, sender.getsockname(), sender.getpeername(), RST, sends, expects)
        assert talk.ends(receiver) == "rst"
        # Who was impersonated learns of it when it speaks next, as ever.
        sender.send(b"x")
        assert talk.ends(sender) == "rst"
        flow, = g.daemon.wait_flows(1, "r")
        assert flow["reason"] == f"reset_by_{'client' if as_whom == 'client' else 'backend'}", flow


# --- a router with a narrow way behind it -------------------------------------------------------


@contextlib.contextmanager
def router(net, narrow):
    """client - router - load balancer; what the router sends to the client is at most <narrow>."""
    name = f"{net.names[LB][:-1]}r"
    run("ip", "netns", "add", name)
    net.names["router"] = name
    try:
        second_wire(net, "router", 9)
        run("ip", "link", "add", "eth10", "netns", net.names[CLIENT], "type", "veth",
            "peer", "name", "r10", "netns", name)
        for side, device, host, number in ((LB, "lb9", 1, 9), ("router", "eth9", 2, 9),
                                           ("router", "r10", 1, 10), (CLIENT, "eth10", 2, 10)):
            for text in addresses(device, host, number):
                net.ip(side, text)
        run(*net.inside("router"), "sysctl", "-qw", "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1")
        net.ip(LB, "route add 10.82.10.0/24 via 10.82.9.2")
        net.ip(LB, "-6 route add fd82:10::/64 via fd82:9::2")
        net.ip(CLIENT, "route add 10.82.9.0/24 via 10.82.10.1")
        net.ip(CLIENT, "-6 route add fd82:9::/64 via fd82:10::1")
        net.ip("router", f"route add 10.82.10.2 dev r10 mtu {narrow}")
        net.ip("router", f"-6 route add fd82:10::2 dev r10 mtu {narrow}")
        yield
    finally:
        run("ip", "-n", net.names[LB], "link", "del", "lb9", check=False)
        run("ip", "-n", net.names[CLIENT], "link", "del", "eth10", check=False)
        run("ip", "netns", "del", name, check=False)
        del net.names["router"]


@pytest.mark.parametrize("family", [4, 6])
def test_a_backend_learns_what_the_way_to_the_client_carries(grafting, net, family):
    with router(net, 1300):
        g = grafting(listen=own_address(family, 9), backend=BACKEND_ADDR[family])
        with g.talk() as talk:
            talk.exchange(1 << 20)
            assert g.packets("icmp") >= 1
            g.end(talk)
        net.ip(BACKEND, f"-{family} route flush cache")


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
    promote(g, count=8)
    assert g.packets() > 100
    assert g.packets("copied") > 0
    for what in ("icmp", "irregular", "hop_limit", "failed"):
        assert g.packets(what) == 0, what
