# SPDX-License-Identifier: MIT
"""Addresses come back: a new connection works wherever an old one left an entry, dead or alive."""
import os
import time

import pytest

from lbtest import graft, lane as lanes
from lbtest.daemon import rule
from lbtest.net import BACKEND_ADDR, CLIENT, LB, LB_ADDR
from lbtest.process import PATIENCE, run, wait_until

LISTEN, BACK = 6940, 7940
PORT = 41000
# Connections of the churn, all kinds together.
CHURN = int(os.environ.get("LB_CHURN") or 20000)
SLICE = 50000


def at(family, port, addr):
    return f"[{addr[family]}]:{port}" if family == 6 else f"{addr[family]}:{port}"


@pytest.fixture(params=[4, 6])
def site(request, daemon):
    """Where flows go, of a daemon of its own with few local ports."""
    family = request.param
    d = daemon({"graft": {"max_flows": 16, "port_min": 20000, "port_max": 20007},
                "rules": [rule("r", at(family, LISTEN, LB_ADDR), [at(family, BACK, BACKEND_ADDR)],
                               acceleration="graft")]}).start()
    lanes.skip_without(lanes.GRAFT, d)
    with graft.Site(d, (LB_ADDR[family], LISTEN), (BACKEND_ADDR[family], BACK)) as s:
        yield s


def graft_again(to, seconds=0.8):
    """The same four addresses: a connection that works, and soon, not after a SYN's second try."""
    begin = time.monotonic()
    flow = to.open(PORT)
    flow.ping(10000)
    assert time.monotonic() < begin + seconds * PATIENCE
    return flow


def assert_done(to, flow, reason, skip):
    line = to.daemon.wait_flows(skip + 1)[skip]
    assert line["reason"] == reason, line
    assert (int(line["up"]), int(line["down"])) == (flow.up, flow.down), line


def test_a_port_is_reused_at_once_after_the_server_closed_first(site):
    for i in range(5):
        flow = graft_again(site)
        wait_until(lambda: site.daemon.metric("l4lb_promotions_total", carrier="graft") == i + 1, 3,
                   "it is grafted, though its predecessor lingers")
        flow.server.shutdown(1)
        assert flow.client.recv(1) == b""
        flow.client.close()
        assert flow.server.recv(1) == b""
        flow.server.close()
        assert_done(site, flow, "done", i)
    graft.wait_empty(site.daemon)
    site.daemon.stop()


def test_a_port_is_reused_at_once_after_a_reset(site):
    for i in range(5):
        flow = graft_again(site)
        wait_until(lambda: site.daemon.metric("l4lb_promotions_total", carrier="graft") == i + 1, 3,
                   "it is grafted, though its predecessor lingers")
        graft.reset(flow.client)
        graft.wait_reset(flow.server, 1)
    assert {f["reason"] for f in site.daemon.wait_flows(5)} == {"reset_by_client"}
    graft.wait_empty(site.daemon)
    site.daemon.stop()


def test_a_host_that_crashed_and_came_back_gets_a_new_connection(site):
    flow = site.graft(PORT)
    bystander = site.graft()
    flow.ping(1000)
    graft.vanish(flow.client)
    # Nobody knows that it is gone: its SYN meets a living entry.
    assert site.daemon.grafted() == 2
    again = graft_again(site, 4)
    graft.wait_reset(flow.server, 1)
    bystander.ping(1000)
    assert_done(site, flow, "reset_by_client", 0)
    again.close()
    bystander.close()
    found = site.daemon.wait_flows(3)
    assert sorted(f["reason"] for f in found) == ["done", "done", "reset_by_client"], found
    graft.wait_empty(site.daemon)
    site.daemon.stop()


def test_a_backend_that_crashed_is_noticed_when_it_is_spoken_to(site):
    flow = site.graft(PORT)
    graft.vanish(flow.server)
    flow.client.sendall(b"x")
    graft.wait_reset(flow.client, 1)
    assert site.daemon.wait_flows(1)[0]["reason"] == "reset_by_backend"
    graft_again(site).close()
    graft.wait_empty(site.daemon)
    site.daemon.stop()


# --- churn ----------------------------------------------------------------------------------------


@pytest.fixture
def few_client_ports(net):
    def set_range(text):
        run(*net.inside(CLIENT), "sysctl", "-qw", f"net.ipv4.ip_local_port_range={text}")
    set_range("42000 42063")
    yield
    set_range("32768 60999")


# Who closes first, or resets, has no TIME_WAIT at the client: its few ports stay in use.
SERVER_FIRST = ({"send": 300, "recv": 200}, {"send": 200, "recv": 300, "order": "recv"})
CLIENT_RESETS = ({"send": 300, "expect": "any"},
                 {"send": 200, "recv": 300, "end": "rst", "expect": "any", "patient": 1})
LONGER = ({"send": 300, "recv": 200, "pause_every": 100, "pause_ms": 3},
          {"send": 200, "recv": 300, "order": "recv"})


def churn(lane, server, client, count):
    """<count> connections of a kind; how many were grafted. Prints their rate."""
    limit = {"deadline_ms": 120000}
    with lane.open({**server, **limit}, {**client, **limit, "parallel": 16}, count) as exchange:
        # Before its lines are waited for: of a connection that was reset there is none.
        report = exchange.client.result()
        assert report["exit"] == 0, report
        exchange.finish()
    exchange.assert_peers_content()
    ends = {f["reason"] for f in exchange.log}
    if client is CLIENT_RESETS[1]:
        assert ends <= {"done", "reset_by_client"}, ends
    else:
        assert ends == {"done"}, ends
        assert sum(int(f["up"]) for f in exchange.log) == 200 * count
        assert sum(int(f["down"]) for f in exchange.log) == 300 * count
    carried = sum(f["carrier"] == "graft" for f in exchange.log)
    print(f"{count} connections, {carried} grafted: {count * 1000 / report['duration_ms']:.0f}/s",
          flush=True)
    return carried


def test_churn_through_few_client_ports_leaves_nothing(net, folder, daemon, few_client_ports):
    d = daemon({"rules": [rule("r", at(4, LISTEN, LB_ADDR), [at(4, BACK, BACKEND_ADDR)],
                               acceleration="graft")]}).start()
    lanes.skip_without(lanes.GRAFT, d)
    lane = lanes.Lane(d, folder, "r", (LB_ADDR[4], LISTEN), (BACKEND_ADDR[4], BACK), lanes.GRAFT)
    grafted, total = 0, 0
    for share, (server, client) in ((0.5, SERVER_FIRST), (0.25, LONGER), (0.25, CLIENT_RESETS)):
        left = int(CHURN * share)
        while left:
            count = min(left, SLICE)
            left -= count
            total += count
            grafted += churn(lane, server, client, count)
    print(f"{grafted} of {total} were grafted")
    # Or this tested nothing.
    assert grafted > total / 20
    graft.wait_empty(d)
    assert d.metric("l4lb_active_connections") == 0
    assert not net.tcp_flows(LB, "sport", "=", f":{LISTEN}")
    d.check_idle()
    d.stop()
