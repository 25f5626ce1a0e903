# SPDX-License-Identifier: MIT
"""Limits of connections that nodes share: never more of them, wherever they come."""
import contextlib
import socket
import threading
import time

import pytest

from lbtest import lane as lanes, takeover
from lbtest.backends import Backend
from lbtest.daemon import rule
from lbtest.nodes import OUTSIDE, Nodes
from lbtest.process import PATIENCE, wait_until

NODES = 3
LISTEN, BACK = 7370, 8370
LIMIT = 9
MOVES = 5  # seconds in which another node has what one has let go of


class Echo(Backend):
    """Says hello, echoes, and knows how many there were at a time."""

    def __init__(self, net, port):
        self.now, self.most, self.lock = 0, 0, threading.Lock()
        super().__init__(net, port, self.one, addr=OUTSIDE)

    def one(self, conn, stop):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            conn.settimeout(None)
            conn.sendall(b"!")
            while got := conn.recv(65536):
                conn.sendall(got)
        finally:
            # Before the daemon can hear of it: it never counts one that is over.
            with self.lock:
                self.now -= 1


class Field:
    def __init__(self, folder):
        self.nodes, self.folder = Nodes(NODES), folder
        self.daemons, self.held = [], [[] for _ in range(NODES)]
        self.echoes = [Echo(self.nodes.outside, BACK + i) for i in range(2)]

    def start(self, carrier, backends=1, **keys):
        key = self.folder / "cluster.key"
        key.write_text("44" * 32)
        key.chmod(0o600)
        for i, n in enumerate(self.nodes.nodes):
            r = rule("r", f"{n.addr}:{LISTEN}", [f"{OUTSIDE}:{BACK + b}" for b in range(backends)],
                     acceleration=carrier, connection_limits={"cluster": True}, **keys)
            d = self.nodes.daemon(i, self.folder, [r], key_file=str(key), nodes=NODES)
            self.daemons.append(d.start())
        lanes.skip_without(carrier, self.daemons[0])
        self.meet()

    def meet(self):
        wait_until(lambda: all(d.ctl("cluster")["cluster"]["alive"] == NODES
                               for d in self.daemons), 20 * PATIENCE, "they meet")

    def open(self, node, seconds=5.0):
        """A connection that was let in, or None."""
        def connect():
            with contextlib.suppress(ConnectionError):
                s = socket.create_connection((self.nodes.nodes[node].addr, LISTEN),
                                             seconds * PATIENCE)
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if s.recv(1) == b"!":
                    return s
                s.close()
            return None
        s = self.nodes.outside.call(None, connect)
        if s:
            self.held[node].append(s)
        return s

    def fill(self, node, count, seconds=MOVES):
        """Tries until it has <count> more."""
        end, got = time.monotonic() + seconds * PATIENCE, 0
        while got < count:
            assert time.monotonic() < end, f"{got} of {count}: {self.tables()}"
            got += self.open(node) is not None
            time.sleep(0.02)

    def carry(self, carrier):
        """All of them go on, and are on their carrier."""
        for s in self.all():
            s.sendall(b"x" * 1000)
            got = 0
            while got < 1000:
                more = s.recv(1000)
                assert more, "it was cut"
                got += len(more)
        wait_until(lambda: sum(len(d.living("--carrier", carrier)) for d in self.daemons) ==
                   len(self.all()), 5 * PATIENCE, lambda: f"they are on {carrier}")

    def all(self):
        return [s for held in self.held for s in held]

    def let_go(self, node, count):
        for _ in range(count):
            self.held[node].pop().close()

    def tables(self):
        return "\n".join(d.lbctl("cluster").stdout for d in self.daemons)

    def row(self, node):
        return next(r for r in self.daemons[node].ctl("cluster")["limits"]
                    if r.get("of") == "connections")

    def close(self):
        for s in self.all():
            s.close()
        for d in self.daemons:
            d.kill()
        for e in self.echoes:
            e.close()
        self.nodes.close()


@pytest.fixture
def field(ready_to_test, folder):
    f = Field(folder)
    yield f
    f.close()


def refused(f, tries=3):
    for _ in range(tries):
        for node in range(NODES):
            assert f.open(node) is None, f"one too many at node {node}: {f.tables()}"
        time.sleep(0.15)


@pytest.mark.parametrize("carrier", lanes.CARRIERS)
def test_a_client_has_its_connections_where_it_wants_them(field, carrier):
    field.start(carrier, client_connection_limit=LIMIT)
    field.fill(0, LIMIT)
    field.carry(carrier)
    refused(field)
    row = field.row(0)
    assert (row["client"], row["limit"], row["used"]) == (OUTSIDE, LIMIT, LIMIT), row
    assert row["share"] >= LIMIT and row["overshoot"] == 0, row
    # What ends at one is had at another one, and what goes on goes on.
    field.let_go(0, 5)
    field.fill(2, 3)
    field.fill(1, 2)
    field.carry(carrier)
    refused(field)
    assert field.echoes[0].most == LIMIT, field.echoes[0].most


@pytest.mark.parametrize("carrier", lanes.CARRIERS)
def test_a_backend_has_no_more_under_a_storm(field, carrier):
    """100 clients at all nodes, those of the first one first; whoever waits is served."""
    field.start(carrier, backends=2, backend_connection_limit=LIMIT,
                queue={"max": 100, "timeout_ms": 60000}, timeouts={"connect_ms": 2000})
    served, lock = [0] * NODES, threading.Lock()

    def client(i):
        node = 0 if i < 40 else i % NODES
        with socket.create_connection((field.nodes.nodes[node].addr, LISTEN), 60) as s:
            assert s.recv(1) == b"!"
            for _ in range(3):
                s.sendall(b"x" * 5000)
                got = 0
                while got < 5000:
                    got += len(s.recv(5000))
                time.sleep(0.02)
            with lock:
                served[node] += 1

    def storm():
        threads = [threading.Thread(target=client, args=(i,)) for i in range(100)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    field.nodes.outside.call(None, storm)
    assert sum(served) == 100, served
    most = [e.most for e in field.echoes]
    print(f"served {served}, at most {most}")
    assert most == [LIMIT, LIMIT], most


def test_a_backend_s_own_limit_and_the_table(field):
    field.start("relay", backend_connection_limit=LIMIT)
    field.fill(1, LIMIT)
    refused(field)
    table = field.daemons[1].lbctl("cluster").stdout
    assert f"r     {OUTSIDE}:{BACK}  connections" in table, table
    row = field.row(1)
    assert (row["backend"], row["used"]) == (f"{OUTSIDE}:{BACK}", LIMIT), row
    assert sum(field.row(i)["lent"] for i in (0, 2)) == row["borrowed"] >= 6, field.tables()


def test_daemons_change_and_nobody_has_more(field):
    """An upgrade, a death and a return, while one node has what the others have lent."""
    field.start("graft", client_connection_limit=LIMIT)
    field.fill(0, LIMIT)
    field.carry("graft")
    old = field.daemons[0]
    field.daemons[0] = takeover.take_over(old)
    takeover.wait_ended(old)
    field.meet()
    field.carry("graft")
    time.sleep(1)
    refused(field)
    # Who has lent dies, and knows nothing of it when it is back.
    field.daemons[1].crash()
    field.daemons[1].start()
    field.meet()
    time.sleep(1)
    refused(field)
    field.let_go(0, 4)
    field.fill(1, 4)
    refused(field)
    assert field.echoes[0].most == LIMIT, field.echoes[0].most


def test_a_partition_has_no_more(field):
    field.start("relay", client_connection_limit=LIMIT)
    field.fill(0, 5)
    field.nodes.silence(2)
    wait_until(lambda: field.daemons[2].ctl("cluster")["cluster"]["dead"] == 2, 30 * PATIENCE,
               "they hold each other dead")
    for _ in range(3):
        for node in range(NODES):
            while field.open(node):
                pass
        time.sleep(0.3)
    assert 5 < len(field.all()) <= LIMIT, field.tables()
    field.nodes.silence()
    wait_until(lambda: all(d.ctl("cluster")["cluster"]["alive"] == NODES for d in field.daemons),
               60 * PATIENCE, "they meet again")
    field.fill(1, LIMIT - len(field.all()), 10)
    refused(field)
    assert field.echoes[0].most == LIMIT
