# SPDX-License-Identifier: MIT
"""
All that clients and operators do, for a long time, at once: no client is wronged, nothing grows.
`make soak` has ten minutes of it, each run of the tests half a minute.
"""
import os
import random
import signal
import socket
import ssl
import struct
import threading
import time

import pytest

from lbtest import lane as lanes, machine, takeover, tls
from lbtest.backends import Backend
from lbtest.certs import Authority
from lbtest.daemon import rule
from lbtest.net import BACKEND_ADDR, CLIENT, LB_ADDR
from lbtest.process import PATIENCE, SAN, wait_until
from lbtest.tls_rule import expect, ping

SECONDS = int(os.environ.get("LB_SOAK_SECONDS", "30"))
LISTEN, BACK = 7390, 8390
CLIENTS = 6
PIECE = 100000  # fits into the buffers on the way, whoever reads when
LONGEST_IDLE = 2.0


def echo(conn, stop):
    conn.settimeout(None)
    while got := conn.recv(65536):
        conn.sendall(got)


class Client(threading.Thread):
    """One connection after another to one of the rules, each of some kind, by a seed."""

    def __init__(self, net, number, rules):
        super().__init__()
        self.net, self.rules = net, rules
        self.random = random.Random(number)
        self.over, self.wrong, self.count = threading.Event(), [], {}
        self.context = tls.client_context(verify=False)
        self.start()

    def run(self):
        self.net.call(CLIENT, self.live)

    def live(self):
        kinds = [self.talk, self.talk, self.half_close, self.reset, self.idle]
        while not self.over.is_set() and not self.wrong:
            name, port = self.random.choice(self.rules)
            kind = self.random.choice(kinds)
            try:
                with self.connect(name, port) as s:
                    kind(s)
                self.count[name, kind.__name__] = self.count.get((name, kind.__name__), 0) + 1
            except (OSError, AssertionError) as e:
                self.wrong.append(f"{name}, {kind.__name__}: {e!r}")

    def connect(self, name, port):
        s = socket.create_connection((LB_ADDR[4], port), 10 * PATIENCE)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.context.wrap_socket(s, server_hostname="soak.example",
                                        suppress_ragged_eofs=False) if name == "tls" else s

    def exchange(self, s, size):
        ping(s, self.random.randbytes(size))

    def end(self, s):
        if isinstance(s, ssl.SSLSocket):
            s.unwrap()
        else:
            s.shutdown(socket.SHUT_WR)
            assert s.recv(1) == b""

    def talk(self, s):
        for _ in range(self.random.randrange(1, 20)):
            self.exchange(s, self.random.choice([1, 100, 3000, PIECE]))
        self.end(s)

    def half_close(self, s):
        data = self.random.randbytes(self.random.randrange(1, PIECE))
        s.sendall(data)
        if isinstance(s, ssl.SSLSocket):  # it has no half
            expect(s, data)
        else:
            s.shutdown(socket.SHUT_WR)
            expect(s, data)
            assert s.recv(1) == b""

    def reset(self, s):
        self.exchange(s, 1000)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def idle(self, s):
        self.exchange(s, 2000)
        self.over.wait(self.random.random() * LONGEST_IDLE)
        self.exchange(s, 2000)
        self.end(s)

    def stop(self):
        self.over.set()
        self.join()


class Operator(threading.Thread):
    """Changes something each second."""

    def __init__(self, d, make):
        super().__init__()
        self.d, self.make = d, make
        self.over, self.error, self.changes = threading.Event(), None, 0
        self.start()

    def run(self):
        backend = f"{BACKEND_ADDR[4]}:{BACK}"
        try:
            while not self.over.wait(1):
                self.changes += 1
                step = self.changes % 5
                if step in (0, 2):
                    self.d.configure(self.make(self.changes))
                    assert self.d.ctl("reload")["ok"]
                elif step in (1, 3):
                    self.d.ctl("drain" if step == 1 else "undrain", "relay", backend)
                else:
                    self.d.process.signal(signal.SIGUSR1)
                    assert self.d.metric("l4lb_active_connections") >= 0
        except Exception as e:  # for stop()
            self.error = e

    def stop(self):
        self.over.set()
        self.join()
        if self.error:
            raise self.error


@pytest.fixture
def soak(net, folder, daemon):
    pair = Authority(folder).issue("soak.example")
    backends = [Backend(net, BACK + i, echo) for i in range(3)]
    rules = [*lanes.CARRIERS, "auto", "tls"]

    def make(turn):
        addrs = [{"addr": f"{BACKEND_ADDR[4]}:{BACK + i}", "weight": 1 + (turn + i) % 3}
                 for i in range(3)]
        keys = {"tls": {"enabled": True, **pair.config()}}
        return {"graft": {"max_flows": 4096}, "rules": [
            rule(name, f"{LB_ADDR[4]}:{LISTEN + i}", addrs, timeouts={"drain_ms": 60000},
                 **(keys if name == "tls" else {"acceleration": name}))
            for i, name in enumerate(rules)]}
    made = [daemon(make(0)).start()]
    clients = [Client(net, i, [(name, LISTEN + n) for n, name in enumerate(rules)])
               for i in range(CLIENTS)]
    yield made, clients, make
    for c in clients:
        c.stop()
    for d in made:
        d.kill()
    for b in backends:
        b.close()


def test_all_at_once_for_a_long_time(soak):
    made, clients, make = soak

    def work(seconds):
        operator = Operator(made[-1], make)
        end = time.monotonic() + seconds
        while time.monotonic() < end and not any(c.wrong for c in clients):
            time.sleep(0.2)
        operator.stop()
        assert not any(c.wrong for c in clients), [c.wrong for c in clients]
        return operator.changes
    # A third of the time with a new daemon now and then, the rest with the last one of these.
    changes = 0
    for _ in range(3):
        changes += work(SECONDS / 9)
        old = made[-1]
        made.append(takeover.take_over(old))
        takeover.wait_ended(old, 30 * PATIENCE)
    d = made[-1]
    changes += work(SECONDS / 6)
    rss = machine.process_rss(d.pid)
    changes += work(SECONDS / 2)
    grown = machine.process_rss(d.pid) - rss
    for c in clients:
        c.stop()
    assert not any(c.wrong for c in clients), [c.wrong for c in clients]
    wait_until(lambda: d.metric("l4lb_active_connections") == 0, 10 * PATIENCE, "all are over")
    total = sum(sum(c.count.values()) for c in clients)
    kinds = set().union(*(c.count for c in clients))
    print(f"{total} connections, {changes} changes, {grown >> 10} KiB more in use")
    # Five rules, four kinds of client.
    assert len(kinds) == 20, kinds
    if not SAN:
        assert grown < 8 << 20, grown
    d.check_idle()
    d.check_quiet()
    d.held.update(made[0].held)
    d.stop()
