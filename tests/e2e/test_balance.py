# SPDX-License-Identifier: MIT
"""Who gets a connection: shares by weight, nobody who drains, the next one when one fails."""
import os

import pytest

from lbtest import peer
from lbtest.daemon import rule
from lbtest.net import BACKEND
from lbtest.process import wait_until

LISTEN = ("10.81.0.1", 6600)
AT = "%s:%d" % LISTEN
PORTS = (7601, 7602, 7603)


def backend(port, **keys):
    return {"addr": f"10.81.1.2:{port}", **keys}


def servers(net, folder, ports, **options):
    options = {"host": "10.81.1.2", "count": 0, "deadline_ms": 60000, **options}
    return [peer.server(net, folder, port=p, **options) for p in ports]


def counts(running):
    """Connections each server got. Ends them."""
    for s in running:
        s.process.signal(15)
    return [s.result()["flows"] for s in running]


@pytest.fixture
def stop_all():
    running = []
    yield running
    for p in running:
        p.stop()


def clients(net, folder, count, parallel=50, **options):
    options = {"send": 100, "recv": 100, "patient": 1, **options}
    report = peer.client(net, folder, host=LISTEN[0], port=LISTEN[1], count=count,
                         parallel=parallel, deadline_ms=60000, **options).result()
    assert report["ok"] == count, report
    return report


def test_weights_five_one_one_are_kept_within_one_percent(net, folder, daemon, stop_all):
    total, weights = 7000, (5, 1, 1)
    config = {"rules": [rule("r", AT, [backend(p, weight=w) for p, w in zip(PORTS, weights)])],
              "workers": max(2, len(os.sched_getaffinity(0)))}
    with daemon(config) as d:
        stop_all += servers(net, folder, PORTS, send=100)
        clients(net, folder, total)
        got = counts(stop_all)
        assert sum(got) == total, got
        for have, weight in zip(got, weights):
            share = total * weight / sum(weights)
            assert abs(have - share) <= share * 0.01, got
        logged = d.wait_flows(total)
        for port, have in zip(PORTS, got):
            assert sum(f["backend"].endswith(f":{port}") for f in logged) == have


def test_equal_weights_take_turns(net, folder, daemon, stop_all):
    with daemon({"rules": [rule("r", AT, [backend(p) for p in PORTS])], "workers": 1}):
        stop_all += servers(net, folder, PORTS, send=100)
        clients(net, folder, 30, parallel=1)
        assert counts(stop_all) == [10, 10, 10]


def test_a_draining_backend_gets_nothing(net, folder, daemon, stop_all):
    backends = [backend(PORTS[0]), backend(PORTS[1], drain=True, weight=100)]
    with daemon({"rules": [rule("r", AT, backends)]}):
        stop_all += servers(net, folder, PORTS[:2], send=100)
        clients(net, folder, 200)
        assert counts(stop_all) == [200, 0]


def test_a_client_does_not_notice_a_backend_that_refuses(net, folder, daemon, stop_all):
    with daemon({"rules": [rule("r", AT, [backend(p) for p in PORTS])]}) as d:
        stop_all += servers(net, folder, PORTS[1:], send=100)
        clients(net, folder, 300)
        got = counts(stop_all)
        assert sum(got) == 300, got
        # The one that refuses was asked now and then: those flows needed a second try.
        logged = d.wait_flows(300)
        assert {f["reason"] for f in logged} == {"done"}
        assert any(int(f["tries"]) == 2 for f in logged)
        assert d.metric("l4lb_backend_connect_failures_total", backend=f"10.81.1.2:{PORTS[0]}") > 0


def test_a_client_does_not_notice_a_backend_that_never_answers(net, folder, daemon, stop_all):
    hole = f"chain c {{ type filter hook input priority 0; tcp dport {PORTS[0]} drop; }}"
    rules = [rule("r", AT, [backend(p) for p in PORTS[:2]], timeouts={"connect_ms": 200})]
    with net.nft(BACKEND, hole), daemon({"rules": rules}) as d:
        stop_all += servers(net, folder, PORTS[1:2], send=100)
        report = clients(net, folder, 20)
        assert report["duration_ms"] < 3000
        assert counts(stop_all) == [20]
        logged = d.wait_flows(20)
        assert {f["tries"] for f in logged} == {"1", "2"}
        assert all(f["backend"].endswith(f":{PORTS[1]}") for f in logged)


def test_early_bytes_survive_the_change_of_backend(net, folder, daemon, stop_all):
    backends = [backend(p) for p in PORTS[:2]]
    with daemon({"rules": [rule("r", AT, backends)], "workers": 1}):
        # The first backend of every second flow refuses while the client's bytes are there already.
        stop_all += servers(net, folder, PORTS[1:2], send=1 << 20, recv=1 << 20)
        clients(net, folder, 10, send=1 << 20, recv=1 << 20)
        stop_all[0].process.signal(15)
        report = stop_all[0].result()
        assert report["ok"] == 10, report


def test_retries_zero_means_one_try(net, folder, daemon, stop_all):
    rules = [rule("r", AT, [backend(p) for p in PORTS[:2]], retries=0)]
    with daemon({"rules": rules, "workers": 1}) as d:
        stop_all += servers(net, folder, PORTS[1:2], send=100)
        c = peer.client(net, folder, host=LISTEN[0], port=LISTEN[1], count=10, parallel=1,
                        send=100, recv=100, patient=1, expect="any")
        report = c.result()
        assert report["ends"] == {"rst": 5, "fin": 5}, report
        logged = d.wait_flows(10)
        assert {f["tries"] for f in logged} == {"1"}
        assert sum(f["reason"] == "connect_failed" for f in logged) == 5


def test_a_backend_that_comes_back_is_used_again(net, folder, daemon, stop_all):
    with daemon({"rules": [rule("r", AT, [backend(p) for p in PORTS[:2]])]}) as d:
        stop_all += servers(net, folder, PORTS[1:2], send=100)
        clients(net, folder, 10)
        stop_all += servers(net, folder, PORTS[:1], send=100)
        clients(net, folder, 20)
        got = counts(stop_all)
        assert sum(got) == 30 and got[1] >= 9, got
        wait_until(lambda: d.metric("l4lb_active_connections") == 0, 3, "all flows have ended")
