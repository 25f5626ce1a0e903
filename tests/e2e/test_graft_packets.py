# SPDX-License-Identifier: MIT
"""
Grafted flows, seen as packets: where they come from, what they look like, where they go, and what
must not be able to harm them.
"""
import contextlib
import re
import socket
import struct
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
