# SPDX-License-Identifier: MIT
"""health_check.share: two nodes ask for all, and each one believes what it has seen itself."""
import contextlib
import re
import socket
import time

import pytest

from lbtest.backends import Backend
from lbtest.clients import says_y
from lbtest.daemon import Daemon, rule
from lbtest.net import Net
from lbtest.nodes import PORT, Nodes
from lbtest.process import PATIENCE, wait_until

COUNT, INTERVAL_S = 3, 0.2
BACK = "10.82.0.4:7990"
SOON = 10


class Site:
    """Three load balancers and the node of their backend."""

    def __init__(self, folder, share=True):
        key = folder / "cluster.key"
        key.write_text("33" * 32 + "\n")
        key.chmod(0o600)
        self.nodes = Nodes(COUNT + 1)
        self.backend = None
        self.daemons = [Daemon(node, folder, {
            "cluster": {"enabled": True, "name": f"node-{i}", "bind_addr": f"{node.addr}:{PORT}",
                        "peers": [f"{n.addr}:{PORT}" for n in self.nodes.nodes[:COUNT]],
                        "key_file": str(key)},
            "rules": [rule("r", f"{node.addr}:6990", [BACK], acceleration="relay", retries=0,
                           timeouts={"connect_ms": 500},
                           health_check={"enabled": True, "interval_ms": int(INTERVAL_S * 1000),
                                         "timeout_ms": 500, "share": share})],
            "workers": 1}) for i, node in enumerate(self.nodes.nodes[:COUNT])]

    def start(self):
        self.open_backend()
        for d in self.daemons:
            d.start()
        wait_until(lambda: all(d.ctl("cluster")["cluster"]["alive"] == COUNT
                               for d in self.daemons), 20, "they are a cluster", every=0.1)
        return self

    def open_backend(self):
        self.backend = Backend(self.nodes.nodes[COUNT], 7990, says_y, "10.82.0.4")

    def close_backend(self):
        self.backend.close()
        self.backend = None

    def row(self, number):
        return self.daemons[number].ctl("backends")["backends"][0]

    def rows(self):
        return [self.row(i) for i in range(COUNT)]

    def wait(self, what, condition, seconds=SOON):
        def told():
            return f"{what}: {[(r['state'], r['checked_by'], r['checks']) for r in self.rows()]}"
        wait_until(lambda: condition(self.rows()), seconds, told, every=0.05)

    def settled(self):
        """(who asks, the one that does not), once that is so."""
        self.wait("two ask", lambda rows: [r["checked_by"] for r in rows].count("own") == 2)
        by = [r["checked_by"] for r in self.rows()]
        return [i for i in range(COUNT) if by[i] == "own"], \
            next(i for i in range(COUNT) if by[i] != "own")

    @contextlib.contextmanager
    def blind(self, number):
        """A node whose packets to the backend are lost."""
        # What a plain namespace does: a node's own nft() takes one command.
        with Net.nft(self.nodes.nodes[number], None, "chain c { type filter hook output priority 0;"
                     " tcp dport 7990 drop; }"):
            yield

    def connect(self, number):
        """A client of a node: what it hears."""
        def client():
            with socket.create_connection((self.nodes.nodes[number].addr, 6990), 5) as s:
                try:
                    return s.recv(1)
                except ConnectionResetError:
                    return b""
        return self.nodes.nodes[number].call(None, client)

    def close(self):
        for d in self.daemons:
            d.kill()
        if self.backend:
            self.backend.close()
        self.nodes.close()


@pytest.fixture
def site(ready_to_test, folder):
    made = []

    def make(**options):
        made.append(Site(folder, **options))
        return made[-1].start()
    yield make
    for s in made:
        s.close()


def checks_in(site, seconds):
    """Checks that each node has made in a while."""
    before = [r["checks"] for r in site.rows()]
    time.sleep(seconds)
    return [r["checks"] - b for r, b in zip(site.rows(), before)]


def test_two_ask_for_three(site):
    s = site()
    askers, other = s.settled()
    assert s.row(other)["checked_by"] in [f"node-{i}" for i in askers]
    table = s.daemons[other].lbctl("backends").stdout
    assert re.search(r"^r +10\.82\.0\.4:7990 +up .*  node-\d  ", table, re.M), table
    made = checks_in(s, 3)
    print(f"checks in 3 s with share: {made}")
    assert made[other] == 0 or PATIENCE > 1 and made[other] < 5, made
    assert all(made[i] >= 8 for i in askers), made
    # One that asks leaves: another one takes its part.
    gone = s.daemons[askers[0]]
    gone.stop()
    left = [askers[1], other]
    wait_until(lambda: all(s.row(i)["checked_by"] == "own" for i in left), SOON, "both ask")
    gone.start()
    s.settled()


def test_without_share_all_ask(site):
    s = site(share=False)
    made = checks_in(s, 3)
    print(f"checks in 3 s without share: {made}")
    assert all(n >= 8 for n in made), made
    assert all(r["checked_by"] == "own" for r in s.rows())


def test_who_dies_is_down_everywhere(site):
    s = site()
    _, other = s.settled()
    s.close_backend()
    s.wait("all have seen it", lambda rows: all(r["state"] == "down" for r in rows))
    # The one that did not ask has seen it with its own eyes.
    assert s.row(other)["check_failures"] >= 3
    assert "in a row" in s.daemons[other].log
    # And goes back to not asking.
    s.settled()
    s.open_backend()
    s.wait("it is up again", lambda rows: all(r["state"] == "up" for r in rows))
    s.settled()
    assert all(s.connect(i) == b"y" for i in range(COUNT))


def test_what_flows_see_is_looked_into(site):
    s = site()
    askers, other = s.settled()
    with s.blind(other):
        # Nobody has tried: what others say is all there is.
        time.sleep(5 * INTERVAL_S)
        assert s.row(other)["state"] == "up"
        assert s.connect(other) == b""
        s.wait("it asks", lambda rows: rows[other]["state"] == "down")
        time.sleep(5 * INTERVAL_S)
        rows = s.rows()
        assert rows[other]["state"] == "down" and rows[other]["checked_by"] == "own"
        assert all(rows[i]["state"] == "up" for i in askers)
    s.wait("it sees again", lambda rows: rows[other]["state"] == "up")
    assert s.settled()[1] == other


def test_one_that_is_wrong_convinces_nobody(site):
    s = site()
    askers, other = s.settled()
    with s.blind(askers[0]):
        s.wait("it is wrong", lambda rows: rows[askers[0]]["state"] == "down")
        s.wait("the other one asks by itself", lambda rows: rows[other]["checked_by"] == "own")
        made = checks_in(s, 2)
        assert made[other] >= 5, made
        rows = s.rows()
        assert rows[other]["state"] == rows[askers[1]]["state"] == "up"
        assert "is down" not in s.daemons[other].log + s.daemons[askers[1]].log
    s.wait("all see it", lambda rows: all(r["state"] == "up" for r in rows))
    assert s.settled()[1] == other
