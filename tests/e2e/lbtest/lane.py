# SPDX-License-Identifier: MIT
"""
A lane is one rule of a running daemon with one backend address: where integrity tests send their
flows. It runs a server and a client, and compares what both saw with what the daemon wrote down.
"""
import itertools
import os
import re
import signal

import pytest

from . import peer
from .net import BACKEND, CLIENT, LB
from .process import run, wait_until

RELAY, SOCKMAP, GRAFT = "relay", "sockmap", "graft"
CARRIERS = (RELAY, SOCKMAP, GRAFT)
# Good reasons for a whole process to do without a carrier: the test is skipped, with the reason.
# Any other one on a kernel that should do is a failure.
OUT_OF_SERVICE = ("no_cap", "kernel_old")


def skip_without(carrier, daemon):
    refusal = daemon.refusal(carrier) if carrier != RELAY else None
    if refusal in OUT_OF_SERVICE:
        pytest.skip(f"{carrier} is not in service here: {refusal}")
    assert not refusal, daemon.log


_seeds = itertools.count(1)


class Exchange:
    """A server and a client in action. End it with finish(); the context manager cleans up."""

    def __init__(self, lane, count, server, client):
        self.lane = lane
        self.count = count
        self.skip = len(lane.daemon.flows(lane.name))
        self.settled = 0
        go = server.get("go") or client.get("go")
        if go:
            # Of both, or the one's early FIN would overtake the other's promotion.
            server, client = {**server, "go": 1}, {**client, "go": 1}
        settle = go and lane.settles
        if settle:
            # What is in the table must be the flows of the exchanges that are open now. A graft
            # lingers for a second.
            wait_until(lambda: lane.promoted() == lane.daemon.settled, 4,
                       lambda: f"ended flows leave the table: {lane.promoted()} in it, "
                               f"{lane.daemon.settled} alive")
        seed = next(_seeds) << 32
        self.server = self.client = None
        self.server = peer.server(lane.net, lane.folder, lane.sides[1],
                                  host=lane.backend[0], port=lane.backend[1], count=count,
                                  seed=seed | 1 << 31, **server)
        try:
            if settle:
                self.settled = count
                lane.daemon.settled += count
            self.client = peer.client(lane.net, lane.folder, lane.sides[0],
                                      host=lane.listen[0], port=lane.listen[1], count=count,
                                      seed=seed, **client)
            if go:
                self._go()
        except BaseException:
            self.stop()
            raise

    def _go(self):
        """No byte moves before all flows are connected and on their carrier."""
        for p in (self.server, self.client):
            p.wait_for("waiting")
        lane, daemon = self.lane, self.lane.daemon
        if self.settled:
            wait_until(lambda: lane.promoted() == daemon.settled, 5,
                       lambda: f"{daemon.settled} flows are promoted: {lane.promoted()} are\n" +
                       lane.sockets())
        for p in (self.server, self.client):
            p.process.signal(signal.SIGUSR1)

    def wait_holding(self, seconds=20):
        for p in (self.server, self.client):
            if p.options.get("hold"):
                p.wait_for("holding", seconds)

    def release(self):
        self.client.release()
        self.server.release()

    def finish(self, flows=None):
        """Both reports and the access log's lines (as many as flows, default: one each)."""
        self.client_report = self.client.result()
        self.server_report = self.server.result()
        self.log = self.lane.daemon.wait_flows(self.count if flows is None else flows,
                                               self.lane.name, self.skip)
        return self

    def stop(self):
        self.lane.daemon.settled -= self.settled
        self.settled = 0
        for p in (self.client, self.server):
            if p:
                p.stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    # --- verdicts ----------------------------------------------------------------------------

    def assert_carried(self, *whys):
        """All flows were on the lane's carrier, save for the reasons in <whys>."""
        off = [f for f in self.log
               if f["carrier"] != self.lane.carrier and f["why"] not in whys + self.lane.whys]
        assert not off, f"{len(off)} of {self.count} not on {self.lane.carrier}: {off[0]}"

    def assert_ends(self, reason):
        other = [f for f in self.log if f["reason"] != reason]
        assert not other, f"{len(other)} of {self.count} did not end as {reason}: {other[0]}"

    def assert_peers_content(self):
        for report in (self.client_report, self.server_report):
            assert report["exit"] == 0, report

    def assert_identical(self, *whys):
        """Every byte arrived, both ends closed cleanly, and the log says exactly that."""
        self.assert_peers_content()
        c, s = self.client_report, self.server_report
        assert (c["sent"], c["received"]) == (s["received"], s["sent"]), (c, s)
        assert c["pairs"] == s["pairs"], "streams were swapped between flows"
        assert sum(int(f["up"]) for f in self.log) == c["sent"], (self.log[:3], c)
        assert sum(int(f["down"]) for f in self.log) == c["received"], (self.log[:3], c)
        self.assert_ends("done")
        self.assert_carried(*whys)


class Lane:
    def __init__(self, daemon, folder, name, listen, backend, carrier, sides=(CLIENT, BACKEND)):
        self.daemon = daemon
        self.sides = sides  # where the client and the server live
        self.net = daemon.net
        self.folder = folder
        self.name = name
        self.listen = listen
        self.backend = backend
        self.carrier = carrier
        # A graft cannot join IPv4 and IPv6: such flows stay on other carriers, and say so.
        mixed = carrier == GRAFT and ":" in listen[0] + backend[0] and \
            not (":" in listen[0] and ":" in backend[0])
        self.whys = ("family",) if mixed else ()
        self.settles = carrier != RELAY and not mixed

    def sockets(self):
        """What the load balancer's kernel says of the first few connections to the backend."""
        found = run(*self.daemon.net.inside(LB), "ss", "-tnieomH", "dport", "=",
                    f":{self.backend[1]}").stdout
        return "\n".join(found.splitlines()[:8])

    def miscounted(self):
        """
        Connections of the load balancer whose kernel has lost count of their memory. A socket has
        its memory in whole pages: what is charged for queued bytes and what is left of the pages
        (sk_rmem_alloc, sk_wmem_queued, sk_forward_alloc) add up to them. To be asked at rest.
        """
        found = run(*self.daemon.net.inside(LB), "ss", "-tnmOH", "state", "established").stdout
        memory = re.findall(r"skmem:\(r(\d+),rb\d+,t\d+,tb\d+,f(-?\d+),w(\d+),", found)
        assert memory, found
        return [m for m in memory if sum(int(n) for n in m) % os.sysconf("SC_PAGE_SIZE")]

    def promoted(self):
        """Flows that are on the lane's carrier now."""
        return self.daemon.grafted() if self.carrier == GRAFT else self.daemon.promoted()

    def open(self, server=None, client=None, count=1, **both):
        """Starts an exchange; <both> are options of either end."""
        return Exchange(self, count, {**both, **(server or {})}, {**both, **(client or {})})

    def run(self, server=None, client=None, count=1, **both):
        with self.open(server, client, count, **both) as exchange:
            return exchange.finish()
