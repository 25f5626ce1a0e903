# SPDX-License-Identifier: MIT
"""How flows end that do not end by themselves: each way has its word in the log and the metrics."""
import time
from pathlib import Path

import pytest

from lbtest import graft, lane as lanes, machine, peer
from lbtest.daemon import rule
from lbtest.net import BACKEND, CLIENT
from lbtest.process import run

LISTEN, BACK = ("10.81.0.1", 6500), ("10.81.1.2", 7500)
AT = "%s:%d" % LISTEN
TO = "%s:%d" % BACK
CLOSED = "10.81.1.2:7599"  # nobody listens there


def start(daemon, backends, carrier="relay", **keys):
    return daemon({"rules": [rule("r", AT, backends, acceleration=carrier, **keys)]})


def one_client(net, folder, **options):
    c = peer.client(net, folder, host=LISTEN[0], port=LISTEN[1], **options)
    return c.result()


def assert_ended(d, reason, flows=1):
    found = d.wait_flows(flows)
    assert {f["reason"] for f in found} == {reason}, found
    assert d.metric("l4lb_ends_total", reason=reason) == flows
    assert d.metric("l4lb_active_connections") == 0
    return found


def test_refused_by_all_backends_ends_as_connect_failed(net, folder, daemon):
    with start(daemon, [CLOSED, "10.81.1.2:7598"]) as d:
        report = one_client(net, folder, send=1000, expect="rst")
        assert report["ends"] == {"rst": 1}, report
        assert assert_ended(d, "connect_failed")[0]["tries"] == "2"


def test_silent_backends_end_as_connect_timeout(net, folder, daemon):
    hole = "chain c { type filter hook input priority 0; tcp dport 7500 drop; }"
    with net.nft(BACKEND, hole), start(daemon, [TO], timeouts={"connect_ms": 200}) as d:
        begin = time.monotonic()
        report = one_client(net, folder, send=1000, expect="rst")
        assert report["ends"] == {"rst": 1}, report
        assert time.monotonic() - begin < 20, "the kernel gives up after two minutes"
        assert_ended(d, "connect_timeout")


def test_without_an_eligible_backend_flows_end_as_no_backend(net, folder, daemon):
    with start(daemon, [{"addr": TO, "drain": True}]) as d:
        report = one_client(net, folder, send=1000, expect="rst")
        assert report["ends"] == {"rst": 1}, report
        assert assert_ended(d, "no_backend")[0]["tries"] == "0"


@pytest.fixture
def exchange_on(daemon, folder, carrier):
    """exchange_on(timeouts) starts a daemon of one lane."""
    def make(count=1, server=None, client=None, **timeouts):
        d = start(daemon, [TO], carrier, timeouts=timeouts).start()
        lanes.skip_without(carrier, d)
        lane = lanes.Lane(d, folder, "r", LISTEN, BACK, carrier)
        return d, lane.open(server, client, count)
    return make


@pytest.mark.parametrize("carrier", lanes.CARRIERS, indirect=True)
def test_a_flow_without_bytes_ends_as_idle(exchange_on):
    options = {"send": 1000, "recv": 1000, "end": "keep", "hold": 1, "expect": "any", "go": 1}
    d, exchange = exchange_on(server=options, client=options, idle_ms=300)
    with exchange:
        exchange.wait_holding()
        begin = time.monotonic()
        d.wait_flows(1, "r", seconds=3)
        assert time.monotonic() - begin > 0.2
        exchange.release()
        exchange.finish()
        exchange.assert_carried()
        assert_ended(d, "idle")
    d.stop()


@pytest.mark.parametrize("carrier", lanes.CARRIERS, indirect=True)
def test_bytes_in_one_direction_keep_a_flow_from_being_idle(exchange_on):
    # 1.2 s of a byte every 60 ms.
    options = {"recv": 20, "go": 1}
    d, exchange = exchange_on(server=options, client={"send": 20, "chunk": 1, "pause_every": 1,
                                                      "pause_ms": 60, "go": 1}, idle_ms=400)
    with exchange:
        exchange.finish()
        exchange.assert_identical()
    d.stop()


@pytest.mark.parametrize("carrier", lanes.CARRIERS, indirect=True)
def test_a_flow_older_than_its_lifetime_is_reset(exchange_on):
    stream = {"send": 1 << 30, "pause_every": 10000, "pause_ms": 10, "expect": "rst", "go": 1}
    d, exchange = exchange_on(server=stream, client=stream, max_lifetime_ms=500)
    with exchange:
        exchange.finish()
        exchange.assert_peers_content()
        exchange.assert_carried()
        assert 450 <= float(exchange.log[0]["duration_ms"]) <= 2500, exchange.log
        assert_ended(d, "max_lifetime")
    d.stop()


def free_numbers(pid, count):
    """The lowest of the descriptors that are free, or are in use for a moment only."""
    used = set(range(4096))
    for _ in range(20):
        used &= {int(p.name) for p in Path(f"/proc/{pid}/fd").iterdir()}
        time.sleep(0.01)
    return [n for n in range(len(used) + count) if n not in used][:count]


def test_a_flow_for_which_no_descriptor_is_left_ends_as_full(net, folder, daemon):
    with start(daemon, [TO]) as d:
        # One number is free below the limit: enough to accept, not to connect.
        limit = free_numbers(d.pid, 2)[1]
        run("prlimit", f"--pid={d.pid}", f"--nofile={limit}:{limit}")
        report = one_client(net, folder, send=1000, expect="rst")
        assert report["ends"] == {"rst": 1}, report
        assert_ended(d, "full")


def test_descriptors_come_back_after_every_kind_of_failure(net, folder, daemon):
    backends = [CLOSED, "10.81.1.2:7598"]
    with start(daemon, backends) as d:
        report = one_client(net, folder, send=1000, count=300, parallel=50, expect="rst")
        assert report["ends"] == {"rst": 300}, report
        assert_ended(d, "connect_failed", 300)
        d.check_idle()
        assert machine.process_fds(d.pid)["other"] <= d.fds["other"]


@pytest.mark.parametrize("side, reason", [(CLIENT, "reset_by_client"),
                                          (BACKEND, "reset_by_backend")])
@pytest.mark.parametrize("timeouts", [{"keepalive_ms": 1000}, {"user_timeout_ms": 700}])
def test_a_peer_that_has_gone_is_given_up_by_tcp(request, net, daemon, side, reason, timeouts):
    deaf = "chain c { type filter hook input priority 0; meta l4proto tcp drop; }"
    with start(daemon, [TO], timeouts=timeouts) as d:
        site = graft.Site(d, LISTEN, BACK)
        request.addfinalizer(site.close)
        flow = site.open()
        flow.ping()
        with net.nft(side, deaf):
            if "user_timeout_ms" in timeouts:
                # Towards the one who is deaf: it is the unanswered bytes that count.
                (flow.server if side == CLIENT else flow.client).sendall(b"x")
            found = d.wait_flows(1, seconds=8)
        assert (found[0]["reason"], found[0]["error"]) == (reason, "ETIMEDOUT"), found
