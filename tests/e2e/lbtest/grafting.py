# SPDX-License-Identifier: MIT
"""
What tests of grafts stand on: a daemon for one rule, peers anywhere, other networks than the plain
one, and segments made by hand.
"""
import contextlib
import re
import socket
import struct
from pathlib import Path

from . import lane as lanes
from .daemon import LOSSY, rule
from .net import BACKEND, CLIENT, LB
from .process import run, wait_until
from .talk import Talk

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
                           acceleration=acceleration, timeouts=LOSSY)],
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
    """A further veth pair without addresses: lb<number> - eth<number> of <side>."""
    run("ip", "link", "add", f"lb{number}", "netns", net.names[LB], "type", "veth",
        "peer", "name", f"eth{number}", "netns", net.names[side])


def addresses(device, host, number):
    return [f"addr add 10.82.{number}.{host}/24 dev {device}",
            f"addr add fd82:{number}::{host}/64 dev {device} nodad", f"link set {device} up"]


def own_address(family, number):
    return f"fd82:{number}::1" if family == 6 else f"10.82.{number}.1"


def mac(net, side, device):
    return re.search(r"link/ether (\S+)", net.ip(side, f"link show {device}").stdout).group(1)


def sent_by(net, side, device):
    return int(re.search(r"TX:.*\n\s+\d+\s+(\d+)", net.ip(side, f"-s link show {device}").stdout
                         ).group(1))


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


# --- segments made by hand ----------------------------------------------------------------------

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
