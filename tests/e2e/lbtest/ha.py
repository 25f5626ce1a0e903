# SPDX-License-Identifier: MIT
"""Nodes with one address for all of them, set up by the very files of samples/ha."""
import contextlib
import os
import signal
import socket
import threading
import time

from .backends import Backend
from .daemon import Daemon
from .net import PREFIX
from .nodes import Node, Nodes
from .process import PATIENCE, ROOT, run, wait_until

SAMPLES = ROOT / "samples/ha"
BACKENDS = ("10.82.0.201", "10.82.0.202", "10.82.0.203")
VIP = {"vrrp": "10.82.0.100", "bgp": "192.0.2.10"}


def names_itself(conn, _stop):
    """A backend that says who it is, and then the same as its client."""
    conn.sendall(conn.getsockname()[0].encode() + b"\n")
    conn.settimeout(120)
    while data := conn.recv(4096):
        conn.sendall(data)


def open_one(to, source, seconds):
    """A connection, and which backend answered; OSError."""
    s = socket.socket()
    try:
        s.settimeout(seconds)
        if source:
            s.bind((source, 0))
        s.connect(to)
        return s, s.makefile("rb").readline().decode().strip()
    except BaseException:
        s.close()
        raise


class Steady:
    """Clients that come one after the other, 50 a second, each with little patience."""

    PATIENCE = 0.2

    def __init__(self, node, to, sources=(None,)):
        self.to, self.sources = to, sources
        self.tries = []  # (when it began, source, backend or None)
        self.over = threading.Event()
        self.thread = threading.Thread(target=node.call, args=(None, self._run))

    def _run(self):
        number = 0
        while not self.over.is_set():
            begin, source = time.monotonic(), self.sources[number % len(self.sources)]
            number += 1
            backend = None
            with contextlib.suppress(OSError):
                s, backend = open_one(self.to, source, self.PATIENCE)
                s.close()
            self.tries.append((begin, source, backend or None))
            self.over.wait(max(0.0, begin + 0.02 - time.monotonic()))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def served(self, count=20, seconds=20):
        """Waits until the last <count> have all been served."""
        wait_until(lambda: len(self.tries) >= count and
                   all(t[2] for t in self.tries[-count:]), seconds,
                   lambda: f"clients are served: {self.tries[-count:]}")

    def gap(self, since=0.0):
        """From the first that was not served to the last such one, and their number; seconds."""
        failed = [t[0] for t in self.tries if not t[2] and t[0] >= since]
        return (failed[-1] - failed[0] + self.PATIENCE if failed else 0.0), len(failed)


class Site(Nodes):
    """
    Load balancers, other nodes, and the backends' on one network. What is started here ends with
    it, by its process id.
    """

    def __init__(self, balancers, others, folder):
        super().__init__(balancers + others + 1)
        self.folder, self.running = folder, []
        self.backends_node = self.nodes[-1]
        for addr in BACKENDS:
            self.backends_node.ip(None, f"addr add {addr}/24 dev eth0")
        self.backends = [Backend(self.backends_node, 8080, names_itself, addr)
                         for addr in BACKENDS]
        self.daemons = [self._daemon(self.nodes[i]) for i in range(balancers)]

    def _daemon(self, node):
        d = Daemon(node, self.folder, {})
        d.metrics_addr = ("127.0.0.1", 9091)
        d.config.write_text((SAMPLES / "lb.yaml").read_text() + f'\naccess_log: "{d.access_log}"\n')
        return d

    def start(self, number, name, *command):
        p = self.nodes[number].start(None, f"{name}-{number}-{len(self.running)}", command,
                                     self.folder)
        self.running.append(p)
        return p

    def stop(self, process):
        process.signal(signal.SIGTERM)
        process.wait(10)

    def cable(self, number, state):
        """Pulled (down) at the switch's end, or back (up)."""
        self._hub(f"link set port{number} {state}")

    def close(self):
        for p in reversed(self.running):
            if p.alive():
                p.signal(signal.SIGTERM)
        for p in self.running:
            with contextlib.suppress(AssertionError):
                p.wait(5)
            p.kill()
        for d in self.daemons:
            d.kill()
        for b in self.backends:
            b.close()
        super().close()

    # --- VRRP --------------------------------------------------------------------------------

    def keepalived(self, number):
        where = self.folder / f"keepalived-{number}"
        return self.start(number, "keepalived", "keepalived", "--dont-fork", "--log-console",
                          "--vrrp", "--use-file", SAMPLES / "keepalived.conf",
                          "--config-id", f"lb-{number + 1}", "--pid", f"{where}.pid",
                          "--vrrp_pid", f"{where}-vrrp.pid")

    def masters(self):
        """Who has the virtual address."""
        return [i for i in range(len(self.daemons))
                if VIP["vrrp"] in self.nodes[i].ip(None, "-4 addr show dev eth0").stdout]

    # --- BGP ---------------------------------------------------------------------------------

    def bird(self, number, config):
        where = self.folder / f"bird-{number}"
        return self.start(number, "bird", "bird", "-f", "-c", SAMPLES / config,
                          "-s", f"{where}.ctl", "-P", f"{where}.pid")

    def announce(self, number):
        return self.start(number, "announce", SAMPLES / "announce", "-s",
                          self.folder / f"bird-{number}.ctl")

    def route(self, router):
        """The load balancers that the router has a way to."""
        text = self.nodes[router].ip(None, f"route show {VIP['bgp']}").stdout
        return [i for i in range(len(self.daemons)) if f"via {self.nodes[i].addr} " in text]


class Outside(Node):
    """Clients behind a router: another network."""

    SOURCES = tuple(f"198.51.100.{i}" for i in range(1, 9))

    def __init__(self, router):
        self.name = f"{PREFIX}{os.getpid()}out"
        self.names = type(router.names)(self.name)
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", "eth1", "netns", router.name, "type", "veth", "peer", "name",
            "eth0", "netns", self.name)
        router.ip(None, "addr add 198.51.100.254/24 dev eth1")
        router.ip(None, "link set eth1 up")
        self.ip(None, "link set lo up")
        for source in self.SOURCES:
            self.ip(None, f"addr add {source}/24 dev eth0")
        self.ip(None, "link set eth0 up")
        self.ip(None, "route add default via 198.51.100.254")

    def close(self):
        run("ip", "netns", "del", self.name, check=False)


def patient(seconds):
    return seconds * PATIENCE
