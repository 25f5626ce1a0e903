# SPDX-License-Identifier: MIT
"""One daemon takes over from another one: the next process of an instance, and fakes of both."""
import socket
import struct
from pathlib import Path

from . import machine
from .daemon import Daemon
from .process import wait_until

HELLO, WELCOME, REFUSE, LISTENERS, OWN, OFFERED, READY, FROZEN, KEEPS, TAKEN, YOURS, DRAINS, \
    STATE = range(1, 14)
MAGIC, PROTOCOL, TEXT_MAX = 0x6b34626c, 1, 256


def successor(d, config=None):
    """The next daemon of <d>'s instance, not started: `--takeover`, and <d>'s configuration."""
    new = Daemon(d.net, d.folder, {}, instance=d.instance, options=("--takeover",))
    new.metrics_addr, new.access_log = d.metrics_addr, d.access_log
    if config is None:
        new.config.write_text(d.config.read_text())
    else:
        new.configure(config)
    return new


def take_over(d, config=None):
    """The daemon that serves after <d>, which drains."""
    new = successor(d, config).start()
    wait_until(lambda: d.count_log(r"has taken over"), 5, "the old one knows")
    return new


def wait_ended(d, seconds=10, cut=0):
    """<d> has drained, and had to cut so many flows."""
    d.wait_stopped(seconds, cut)
    assert not d.count_log("ERROR: .*Sanitizer|runtime error:"), d.log


def door(d):
    return Path(f"/run/layer4-lb-{d.instance}/takeover.sock")


class Peer:
    """Speaks the protocol to a daemon's door, well or badly."""

    def __init__(self, d):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(10)
        self.socket.connect(str(door(d)))
        self.instance = d.instance
        self.fds = []

    def send(self, kind, body=b"", fds=(), magic=MAGIC, size=None, count=None):
        head = struct.pack("=IHHII", magic, kind, len(fds) if count is None else count,
                           len(body) if size is None else size, 0)
        socket.send_fds(self.socket, [head + body], list(fds))

    def hello(self, protocol=PROTOCOL, version=b"9.9", instance=None, pid=4711):
        name = (self.instance if instance is None else instance).encode()
        self.send(HELLO, struct.pack("=Ii64s64s", protocol, pid, version, name))

    def recv(self):
        """(kind, body); kind 0: the other side has closed."""
        data, fds, _, _ = socket.recv_fds(self.socket, 8192, 253)
        self.fds += fds
        if not data:
            return 0, b""
        return struct.unpack("=IHHII", data[:16])[1], data[16:]

    def take_offer(self):
        kinds = []
        while not kinds or kinds[-1] not in (OFFERED, REFUSE, 0):
            kinds.append(self.recv()[0])
        return kinds

    def is_closed(self):
        """Whatever else was said before."""
        try:
            while self.recv()[0]:
                pass
        except ConnectionResetError:
            pass
        return True

    def close(self):
        for fd in self.fds:
            socket.close(fd)
        self.fds = []
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def footprint(d):
    return {"descriptors": machine.process_fds(d.pid)["other"],
            "objects": len(machine.bpf_held(d.pid))}
