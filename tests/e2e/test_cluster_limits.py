# SPDX-License-Identifier: MIT
"""Limits that nodes share: one limit, wherever clients are, and whatever becomes of the network."""
import json
import os
import re
import time

import pytest

from lbtest import takeover
from lbtest.crowd import Crowd
from lbtest.daemon import rule
from lbtest.nodes import OUTSIDE, Nodes
from lbtest.process import BUILD, PATIENCE, wait_until

NODES = 5
LISTEN, BACK = 7350, 8350
# What a machine can drive that does other things, too. Elsewhere: LB_CLUSTER_RATE=1000.
RATE = int(os.environ.get("LB_CLUSTER_RATE", "300"))
# A quarter of a second: so long may clients and nodes have to wait for a processor.
BURST = RATE // 4
SECONDS = 10
SOURCES = [f"10.82.0.{110 + i}" for i in range(40)]
LIMITS = {
    "client": ({"requests_per_second": RATE, "burst": BURST}, [OUTSIDE]),
    "rule": ({"requests_per_second": RATE, "rule_requests_per_second": RATE, "rule_burst": BURST},
             SOURCES),
}


class Field:
    """Five nodes that balance to one backend, beside the clients."""

    def __init__(self, folder):
        self.nodes, self.folder = Nodes(NODES), folder
        self.daemons, self.crowd = [], None
        for s in SOURCES:
            self.nodes.outside.ip(None, f"addr add {s}/24 dev br0")
        self.backend = self.nodes.outside.start(
            None, "backend", [BUILD / "lb-demo-backend", "--echo", f"{OUTSIDE}:{BACK}"], folder)
        self.targets = [(n.addr, LISTEN) for n in self.nodes.nodes]

    def rules(self, i, **limit):
        return [rule("r", f"{self.targets[i][0]}:{LISTEN}", [f"{OUTSIDE}:{BACK}"],
                     acceleration="relay",
                     rate_limit={"enabled": True, "cluster": True, **limit})]

    def start(self, limit, nodes=NODES):
        key = self.folder / "cluster.key"
        key.write_text("33" * 32)
        key.chmod(0o600)
        self.daemons = [self.nodes.daemon(i, self.folder, self.rules(i, **limit),
                                          key_file=str(key), nodes=nodes) for i in range(NODES)]
        for d in self.daemons:
            d.start()
        wait_until(lambda: all(d.ctl("cluster")["cluster"]["alive"] == NODES
                               for d in self.daemons), 20 * PATIENCE, "they meet")

    def reload(self, d, i, **limit):
        config = json.loads(d.config.read_text())
        d.configure({**config, "rules": self.rules(i, **limit)})
        assert d.ctl("reload")["ok"]

    def knock(self, sources, *rates):
        self.crowd = Crowd(self.nodes.outside, self.targets, sources)
        self.crowd.set_rates(*rates)
        return self.crowd

    def allowed(self):
        """Beyond the rate: what each node says of the limit, and the least of it."""
        rows = [next((r for r in d.ctl("cluster")["limits"] if r.get("rule") == "r"), None)
                for d in self.daemons]
        return min(r["burst"] + r["overshoot"] for r in rows if r)

    def close(self):
        if self.crowd:
            self.crowd.stop()
        for d in self.daemons:
            d.kill()
        self.backend.kill()
        self.nodes.close()


@pytest.fixture
def field(ready_to_test, folder):
    f = Field(folder)
    yield f
    f.close()


def within(count, seconds, rate=RATE):
    """5 % of the limit, either way; the burst is on top."""
    wanted = rate * seconds
    print(f"{count} of {wanted} in {seconds} s")
    assert wanted * 0.95 <= count <= wanted * 1.05 + BURST, f"{count} of {wanted}"


@pytest.mark.parametrize("of", ["client", pytest.param("rule", marks=pytest.mark.long)])
def test_clients_everywhere_and_clients_at_one_node_get_the_limit(field, of):
    limit, sources = LIMITS[of]
    field.start(limit)
    crowd = field.knock(sources, *[RATE * 2 / NODES] * NODES)
    begin = time.monotonic()
    time.sleep(SECONDS)
    moved = time.monotonic()
    crowd.set_rates(0, 0, 0, RATE * 2, 0)
    time.sleep(SECONDS)
    end = time.monotonic()
    allowed = field.allowed()
    table = field.daemons[3].lbctl("cluster").stdout
    crowd.stop()
    within(crowd.count(begin, moved), moved - begin)
    within(crowd.count(moved, end), end - moved)
    excess = crowd.excess(RATE)
    print(f"at most {excess:.1f} beyond the rate in any time, {allowed:.1f} allowed")
    assert excess <= allowed
    # The node has borrowed most of what it spends, and says so.
    found = re.search(
        r"^r +(\S+) +rate +(\S+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) +([\d.]+)$", table, re.M)
    assert found and found[1] == (OUTSIDE if of == "client" else "-"), table
    assert float(found[4]) > RATE * 0.8 and float(found[7]) > RATE * 0.6, table


def test_a_partition_stays_within_what_is_said(field):
    limit, sources = LIMITS["client"]
    field.start(limit)
    crowd = field.knock(sources, 0, 0, 0, RATE, RATE)
    time.sleep(3)
    field.nodes.silence(3, 4)
    crowd.set_rates(*[RATE] * NODES)
    time.sleep(2)  # loans are over
    begin = time.monotonic()
    time.sleep(6)
    apart, allowed = time.monotonic(), field.allowed()
    shares = [next(r for r in d.ctl("cluster")["limits"])["share"] for d in field.daemons]
    field.nodes.silence()
    wait_until(lambda: all(d.ctl("cluster")["cluster"]["alive"] == NODES for d in field.daemons),
               60 * PATIENCE, "they meet again")
    crowd.set_rates(0, 0, 0, 0, RATE * 2)
    time.sleep(4)
    healed = time.monotonic()
    time.sleep(5)
    end = time.monotonic()
    allowed = min(allowed, field.allowed())
    crowd.stop()
    # Everybody is short: each node has its own share, and nobody's beside.
    assert all(abs(s - RATE / NODES) < RATE / 1000 for s in shares), shares
    within(crowd.count(begin, apart), apart - begin)
    within(crowd.count(healed, end), end - healed)
    excess = crowd.excess(RATE)
    print(f"at most {excess:.1f} beyond the rate in any time, {allowed:.1f} allowed")
    assert excess <= allowed


def test_limits_change_and_daemons_too(field):
    limit, sources = LIMITS["client"]
    field.start(limit)
    crowd = field.knock(sources, RATE, RATE, 0, 0, 0)
    time.sleep(3)
    # Half of it, on one node after the other; then its next daemon, under load.
    for i, d in enumerate(field.daemons):
        field.reload(d, i, requests_per_second=RATE // 2, burst=BURST)
    time.sleep(2)
    begin = time.monotonic()
    time.sleep(5)
    changed = time.monotonic()
    old = field.daemons[0]
    field.daemons[0] = takeover.take_over(old)
    takeover.wait_ended(old)
    time.sleep(2)
    taken = time.monotonic()
    time.sleep(5)
    end = time.monotonic()
    lent = field.daemons[2].ctl("cluster")["limits"][0]["lent"]
    # A limit that is shared no more is each node's own. Where the clients are delayed by whatever
    # else the machine does, tokens wait for them.
    for i, d in enumerate(field.daemons):
        field.reload(d, i, requests_per_second=RATE // 2, burst=RATE // 2, cluster=False)
    alone = time.monotonic()
    time.sleep(5)
    last = time.monotonic()
    crowd.stop()
    within(crowd.count(begin, changed), changed - begin, RATE // 2)
    within(crowd.count(changed, taken), taken - changed, RATE // 2)
    within(crowd.count(taken, end), end - taken, RATE // 2)
    assert lent > RATE / 2 / NODES * 0.9
    own = crowd.count(alone, last)
    assert RATE * (last - alone) * 0.95 <= own <= RATE * (last - alone) * 1.05 + RATE, own


@pytest.mark.parametrize("key, more", [
    ("rate_limit", {"enabled": True, "requests_per_second": 10}), ("connection_limits", {})])
def test_a_limit_is_not_shared_by_mistake(daemon, key, more):
    alone = rule("r", f"127.0.0.1:{LISTEN}", [f"127.0.0.1:{BACK}"], acceleration="relay",
                 client_connection_limit=5)
    shared = {**alone, key: {**more, "cluster": True}}
    together = {"enabled": True, "bind_addr": "127.0.0.1:7946", "insecure": True, "name": "a"}
    d = daemon({"rules": [shared]}).spawn()
    assert d.process.wait(10) != 0
    assert f"{key}.cluster: true, and this node is in no cluster" in d.log
    d.forget()
    with daemon({"rules": [alone]}) as d:
        d.configure({"rules": [shared], "cluster": together})
        assert d.lbctl("reload").returncode
        assert d.count_log(f"rule r: {key}.cluster: this node has been in no cluster since") == 1
