# SPDX-License-Identifier: MIT
"""
Three network namespaces, client - lb - backend, joined by veth pairs, IPv4 and IPv6. Names carry
the process id of the test run, so runs do not meet; what a killed run left behind goes at the next.
"""
import contextlib
import ctypes
import json
import os
import re
import socket
import threading
from pathlib import Path

from .process import Process, run

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000

CLIENT, LB, BACKEND = "client", "lb", "backend"
DEVICES = ((CLIENT, "eth0"), (LB, "lb0"), (LB, "lb1"), (BACKEND, "eth0"))
# The load balancer's address towards the client, and the backend's. Further backend addresses
# serve tests that tell backends apart by address.
LB_ADDR = {4: "10.81.0.1", 6: "fd81::1"}
CLIENT_ADDR = {4: "10.81.0.2", 6: "fd81::2"}
BACKEND_ADDR = {4: "10.81.1.2", 6: "fd81:1::2"}
PREFIX = "l4e"

# A namespace inherits what its host was tuned to; tests mean the same everywhere. bbr without fq
# paces by timers of its own, reno is allowed everywhere; the buffers are the kernel's defaults.
_SYSCTLS = ["net.ipv4.tcp_congestion_control=reno", "net.ipv4.tcp_rmem=4096 131072 6291456",
            "net.ipv4.tcp_wmem=4096 16384 4194304"]


def remove_stale():
    """Namespaces of runs that are no more."""
    for path in Path("/run/netns").glob(f"{PREFIX}[0-9]*"):
        pid = re.match(rf"{PREFIX}(\d+)", path.name).group(1)
        if not Path(f"/proc/{pid}").exists():
            run("ip", "netns", "del", path.name, check=False)


class Net:
    def __init__(self):
        self.names = {side: f"{PREFIX}{os.getpid()}{side[0]}" for side in (CLIENT, LB, BACKEND)}
        try:
            for side in self.names:
                run("ip", "netns", "add", self.names[side])
                self.ip(side, "link set lo up")
                run(*self.inside(side), "sysctl", "-qw", *_SYSCTLS)
            self._join(CLIENT, 0)
            self._join(BACKEND, 1)
        except BaseException:
            self.close()
            raise

    def _join(self, side, number):
        own, other = self.names[LB], self.names[side]
        run("ip", "link", "add", f"lb{number}", "netns", own, "type", "veth",
            "peer", "name", "eth0", "netns", other)
        for name, device, host in ((LB, f"lb{number}", 1), (side, "eth0", 2)):
            v6 = "fd81::" if number == 0 else "fd81:1::"
            self.ip(name, f"addr add 10.81.{number}.{host}/24 dev {device}")
            self.ip(name, f"addr add {v6}{host}/64 dev {device} nodad")
            self.ip(name, f"link set {device} up")
        self.ip(side, f"route add default via 10.81.{number}.1")

    def ip(self, side, text):
        return run("ip", "-n", self.names[side], *text.split())

    def inside(self, side):
        """What to put before a command. Not `ip netns exec`: that hides /sys/fs/bpf."""
        return ["nsenter", f"--net=/run/netns/{self.names[side]}", "--"]

    def call(self, side, function, *args):
        """function(*args) in a thread that lives in the namespace."""
        result = {}

        def thread():
            try:
                with open(f"/run/netns/{self.names[side]}", "rb") as ns:
                    if _libc.setns(ns.fileno(), _CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                result["value"] = function(*args)
            except BaseException as error:  # handed to the caller below
                result["error"] = error

        t = threading.Thread(target=thread)
        t.start()
        t.join()
        if "error" in result:
            raise result["error"]
        return result["value"]

    def connect(self, addr, port, seconds=5):
        """A plain client socket."""
        return self.call(CLIENT, lambda: socket.create_connection((addr, port), seconds))

    def start(self, side, name, command, folder, env=None):
        return Process(name, self.inside(side) + list(command), folder, env)

    @contextlib.contextmanager
    def nft(self, side, rules):
        """Rules of one table, e.g. `chain c { type filter hook input priority 0; ... }`."""
        run(*self.inside(side), "nft", "-f", "-", stdin=f"table inet l4e {{\n{rules}\n}}\n")
        try:
            yield
        finally:
            run(*self.inside(side), "nft", "delete", "table", "inet", "l4e")

    @contextlib.contextmanager
    def small_packets(self):
        """No GSO at any device: "one packet" may be 64 KB with it."""
        with contextlib.ExitStack() as stack:
            for side, device in DEVICES:
                # GRO is off on a veth device to begin with.
                def offload(state, side=side, device=device):
                    run(*self.inside(side), "ethtool", "-K", device, "tso", state, "gso", state,
                        "gro", "off")
                stack.callback(offload, "on")
                offload("off")
            yield

    @contextlib.contextmanager
    def loss(self, percent):
        """Every device drops so many packets, each way."""
        rule = f"numgen random mod 1000 < {int(percent * 10)} drop"
        chain = f"chain c {{ type filter hook input priority 0; meta l4proto tcp {rule}; }}"
        with self.small_packets(), contextlib.ExitStack() as stack:
            for side in self.names:
                stack.enter_context(self.nft(side, chain))
            yield

    @contextlib.contextmanager
    def qdisc(self, text):
        """Every device sends through this queueing discipline. ValueError: the kernel has none."""
        with contextlib.ExitStack() as stack:
            for side, device in DEVICES:
                where = (*self.inside(side), "tc", "qdisc")
                done = run(*where, "add", "dev", device, "root", *text.split(), check=False)
                if "kind is unknown" in done.stderr:
                    raise ValueError(f"this kernel has no {text.split()[0]}")
                assert not done.returncode, done.stderr
                stack.callback(run, *where, "del", "dev", device, "root")
            yield

    def qdisc_counters(self):
        """[dict] of what `tc` counts at each device."""
        return [json.loads(run(*self.inside(side), "tc", "-j", "-s", "qdisc", "show", "dev", device,
                               "root").stdout)[0] for side, device in DEVICES]

    def tcp_flows(self, side, *filters):
        """Lines of `ss` for established connections, e.g. tcp_flows(LB, "sport = :80")."""
        out = run(*self.inside(side), "ss", "-Htn", "state", "established", *filters).stdout
        return [line.split() for line in out.splitlines()]

    def close(self):
        for name in self.names.values():
            run("ip", "netns", "del", name, check=False)
