# SPDX-License-Identifier: MIT
"""Daemons that are a cluster: a network namespace each, joined by bridges that can be split."""
import os
import socket

from .daemon import Daemon, rule
from .net import PREFIX, Net
from .process import run

PORT = 7946
OUTSIDE = "10.82.0.200"


class Node(Net):
    """One node's namespace, wherever a daemon asks for the load balancer's."""

    def __init__(self, number):
        self.addr = f"10.82.0.{number + 1}"
        self.name = f"{PREFIX}{os.getpid()}node{number}"
        self.names = _Always(self.name)

    def nft(self, text, check=True):
        run("ip", "netns", "exec", self.name, "nft", text, check=check)


class Hub(Net):
    """Where the bridges are, and clients and backends at the first of them."""

    def __init__(self):
        self.name = f"{PREFIX}{os.getpid()}hub"
        self.names = _Always(self.name)


class _Always:
    """A daemon has one side here."""

    def __init__(self, name):
        self.name = name

    def __getitem__(self, side):
        return self.name

    def values(self):
        return [self.name]


class Nodes:
    """<count> namespaces at a hub with two bridges. All ports are in the first one."""

    def __init__(self, count):
        self.outside = Hub()
        self.hub = self.outside.name
        self.nodes = [Node(i) for i in range(count)]
        try:
            run("ip", "netns", "add", self.hub)
            for bridge in ("br0", "br1"):
                self._hub(f"link add {bridge} type bridge")
                self._hub(f"link set {bridge} up")
            self._hub("link set lo up")
            self._hub(f"addr add {OUTSIDE}/24 dev br0")
            for i, node in enumerate(self.nodes):
                self._join(i, node)
        except BaseException:
            self.close()
            raise

    def _join(self, number, node):
        run("ip", "netns", "add", node.name)
        run("ip", "link", "add", f"port{number}", "netns", self.hub, "type", "veth",
            "peer", "name", "eth0", "netns", node.name)
        self._hub(f"link set port{number} master br0 up")
        node.ip(None, "link set lo up")
        node.ip(None, f"addr add {node.addr}/24 dev eth0")
        node.ip(None, "link set eth0 up")

    def _hub(self, text):
        return run("ip", "-n", self.hub, *text.split())

    def split(self, *others):
        """These nodes are on the second bridge, all others on the first."""
        for i in range(len(self.nodes)):
            self._hub(f"link set port{i} master br{int(i in others)}")

    def silence(self, *others):
        """No gossip between these nodes and all others; clients reach all. None: it ends."""
        for i, node in enumerate(self.nodes):
            far = [n.addr for j, n in enumerate(self.nodes) if (j in others) != (i in others)]
            node.nft("delete table inet gossip", check=False)
            if others:
                node.nft("add table inet gossip; add chain inet gossip in "
                         "{ type filter hook input priority 0; }; add rule inet gossip in "
                         f"udp dport {PORT} ip saddr {{ {', '.join(far)} }} drop")

    def close(self):
        for name in (self.hub, *(n.name for n in self.nodes)):
            run("ip", "netns", "del", name, check=False)

    def daemon(self, number, folder, rules=None, **cluster):
        """Node <number>, not yet started. Its peers are the first two nodes."""
        node = self.nodes[number]
        config = {
            "cluster": {
                "enabled": True, "name": f"node-{number}", "bind_addr": f"{node.addr}:{PORT}",
                "peers": [f"{n.addr}:{PORT}" for n in self.nodes[:2]], **cluster,
            },
            "rules": rules or [rule("r", "127.0.0.1:6999", ["127.0.0.1:7999"],
                                    acceleration="relay")],
            "workers": 1,
        }
        return Daemon(node, folder, config)


def captured(node, count):
    """Sealed datagrams on their way to a node."""
    def sniff():
        found = []
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as s:
            s.bind(("eth0", 0x0800))
            s.settimeout(30)
            while len(found) < count:
                packet, where = s.recvfrom(2000)
                udp = packet[(packet[0] & 15) * 4:]
                if where[2] == socket.PACKET_HOST and packet[9] == socket.IPPROTO_UDP and \
                        int.from_bytes(udp[2:4], "big") == PORT:
                    found.append(udp[8:])
        return found
    return node.call(None, sniff)
