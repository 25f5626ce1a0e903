# SPDX-License-Identifier: MIT
"""What tests of reloads stand on: files that differ in a little, backends that say who they are."""
import os
import re
import signal
import socket

import pytest

from .backends import Backend
from .daemon import rule
from .net import BACKEND_ADDR, LB_ADDR
from .process import wait_until

LISTEN, BACK = 7340, 8340


def addr(i=0):
    return f"{BACKEND_ADDR[4]}:{BACK + i}"


def one(name="r", listen=0, back=(0,), **keys):
    return rule(name, f"{LB_ADDR[4]}:{LISTEN + listen}",
                [b if isinstance(b, dict) else addr(b) for b in back], **keys)


def config(*rules, **top):
    return {"graft": {"max_flows": 256}, "rules": list(rules), **top}


def outcomes(d):
    return d.count_log(r"reload: \S+ is (not )?in force")


def reload(d, new=None, good=True):
    """SIGHUP, and what came of it."""
    if new is not None:
        d.configure(new)
    before = outcomes(d)
    d.process.signal(signal.SIGHUP)
    wait_until(lambda: outcomes(d) > before, 10, "it has been read", every=0.002)
    last = re.findall(r"reload: \S+ is (not )?in force", d.log)[-1]
    assert (last == "") == good, d.log[-2000:]


class Echo:
    """Backends that say their port and echo, on some ports."""

    def __init__(self, net, count=4):
        def greets(conn, stop):
            conn.sendall(b"%d\n" % (conn.getsockname()[1] - BACK))
            conn.settimeout(None)
            while True:
                got = conn.recv(65536)
                if not got:
                    return
                conn.sendall(got)
        self.all = [Backend(net, BACK + i, greets) for i in range(count)]

    def close(self):
        for b in self.all:
            b.close()


@pytest.fixture
def echo(net):
    """For a test file to import."""
    made = Echo(net)
    yield made
    made.close()


class Flow:
    def __init__(self, net, listen=0):
        self.socket = net.connect(LB_ADDR[4], LISTEN + listen)
        self.at = int(self.line())

    def line(self):
        got = b""
        while not got.endswith(b"\n"):
            more = self.socket.recv(1)
            assert more, "closed before it said anything"
            got += more
        return got

    def exchange(self, size=20000):
        data = os.urandom(size)
        self.socket.sendall(data)
        got = b""
        while len(got) < size:
            more = self.socket.recv(65536)
            assert more, "the flow was cut"
            got += more
        assert got == data

    def end(self):
        self.socket.shutdown(socket.SHUT_WR)
        assert self.socket.recv(1) == b""
        self.socket.close()


def where(net, listen=0):
    flow = Flow(net, listen)
    flow.end()
    return flow.at


def shares(net, count=40, listen=0):
    got = [where(net, listen) for _ in range(count)]
    return {i: got.count(i) for i in set(got)}


def is_refused(net, listen):
    try:
        net.connect(LB_ADDR[4], LISTEN + listen).close()
    except ConnectionRefusedError:
        return True
    return False


def wait_carried(d, carrier, count):
    if carrier == "graft":
        wait_until(lambda: d.grafted() == count, 5, "all are grafted")
    if carrier == "sockmap":
        wait_until(lambda: d.promoted() == count, 5, "all are in the map")
