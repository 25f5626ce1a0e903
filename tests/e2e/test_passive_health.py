# SPDX-License-Identifier: MIT
"""passive_health: backends that fail under traffic are left out for a while, never all of them."""
import socket
import time

import pytest

from lbtest import backends, graft, lane as lanes
from lbtest.backends import Backend, wait_status
from lbtest.daemon import rule
from lbtest.net import BACKEND, BACKEND_ADDR, CLIENT, LB_ADDR

LISTEN, BACK = 7090, 8090
EJECT = 600  # ms
PASSIVE = {"enabled": True, "failures": 3, "window_ms": 5000, "eject_ms": EJECT,
           "max_ejected_percent": 50}


def addr(number=0):
    return f"{BACKEND_ADDR[4]}:{BACK + number}"


def config(count, passive=PASSIVE, **keys):
    return {"rules": [rule("r", f"{LB_ADDR[4]}:{LISTEN}", [addr(i) for i in range(count)],
                           passive_health=passive, acceleration="relay", **keys)]}


def speaks(conn, stop):
    conn.recv(100)
    conn.sendall(str(conn.getsockname()[1]).encode())


def resets_when_asked(conn, stop):
    conn.recv(100)
    backends.resets(conn, stop)


@pytest.fixture
def serve(net):
    made = []

    def make(number, kind):
        made.append(Backend(net, BACK + number, kind))
        return made[-1]
    yield make
    for b in made:
        b.close()


def ask(net, count):
    """How many clients each backend answered; "" those that were reset."""
    got = {}

    def clients():
        for _ in range(count):
            try:
                with socket.create_connection((LB_ADDR[4], LISTEN), 5) as c:
                    c.sendall(b"?")
                    who = c.recv(100).decode()
            except ConnectionResetError:
                who = ""
            got[who] = got.get(who, 0) + 1
    net.call(CLIENT, clients)
    return got


def test_a_backend_that_resets_its_flows_is_out_for_longer_each_time(net, daemon, serve):
    serve(0, speaks)
    bad = serve(1, resets_when_asked)
    d = daemon(config(2)).start()
    assert ask(net, 6) == {str(BACK): 3, "": 3}
    wait_status(d, 0, 1, backend=addr(1))
    begin = time.monotonic()
    assert ask(net, 20) == {str(BACK): 20}
    wait_status(d, 1, 2, backend=addr(1))
    assert time.monotonic() - begin < EJECT / 1000 + 0.5
    assert ask(net, 6) == {str(BACK): 3, "": 3}
    wait_status(d, 0, 1, backend=addr(1))
    bad.serve = speaks
    wait_status(d, 1, 3, backend=addr(1))
    assert ask(net, 20) == {str(BACK): 10, str(BACK + 1): 10}
    outs = [line for line in d.log.splitlines() if " is out for " in line]
    assert [line.split(" is out for ")[1].split(":")[0] for line in outs] == ["0.6 s", "1.2 s"]
    assert d.count_log("may take flows again; 2 of 2 take flows") == 2
    d.stop()


def test_connects_that_fail_count_and_no_client_notices(net, daemon, serve):
    serve(0, speaks)  # nobody listens at the other one
    d = daemon(config(2)).start()
    assert ask(net, 20) == {str(BACK): 20}
    wait_status(d, 0, 1, backend=addr(1))
    failed = d.metric("l4lb_backend_connect_failures_total", backend=addr(1))
    assert 3 <= failed <= 10
    assert ask(net, 20) == {str(BACK): 20}
    assert d.metric("l4lb_backend_connect_failures_total", backend=addr(1)) == failed
    d.stop()


def test_connects_that_time_out_count(net, daemon, serve):
    serve(0, speaks)
    hole = f"chain c {{ type filter hook input priority 0; tcp dport {BACK + 1} drop; }}"
    with net.nft(BACKEND, hole):
        d = daemon(config(2, timeouts={"connect_ms": 100})).start()
        assert ask(net, 8) == {str(BACK): 8}
        wait_status(d, 0, 1, backend=addr(1))
        d.stop()


@pytest.mark.parametrize("carrier", ["relay", "sockmap"])
def test_flows_whose_bytes_are_not_acknowledged_count(net, daemon, request, carrier):
    c = config(1)
    c["rules"][0].update(acceleration=carrier,
                         backends=[addr(0), {"addr": addr(1), "backup": True}])
    d = daemon(c).start()
    lanes.skip_without(carrier, d)
    site = graft.Site(d, (LB_ADDR[4], LISTEN), (BACKEND_ADDR[4], BACK))
    request.addfinalizer(site.close)
    flows = site.open_busy(3)
    deaf = f"chain c {{ type filter hook input priority 0; tcp dport {BACK} drop; }}"
    with net.nft(BACKEND, deaf):
        for f in flows:
            f.client.sendall(b"hello")
        wait_status(d, 0, 5, backend=addr(0))
    # They live: nobody is cut for a suspicion.
    for f in flows:
        assert f.server.recv(5) == b"hello"
        f.up += 5
        f.close()
    assert {x["reason"] for x in d.wait_flows(3)} == {"done"}
    d.stop()


def test_never_more_than_the_share_and_never_the_last_one_are_out(net, daemon, serve):
    for i in range(4):
        serve(i, resets_when_asked)
    d = daemon(config(4, passive={**PASSIVE, "eject_ms": 60000})).start()
    assert ask(net, 60) == {"": 60}
    time.sleep(0.2)
    assert d.metric("l4lb_backend_health_status") == 2
    d.stop()
    d = daemon(config(1, passive={**PASSIVE, "max_ejected_percent": 100})).start()
    assert ask(net, 20) == {"": 20}
    time.sleep(0.2)
    assert d.metric("l4lb_backend_health_status") == 1
    d.stop()


def test_a_flow_that_was_answered_does_not_count(net, daemon, serve):
    def answers_then_resets(conn, stop):
        speaks(conn, stop)
        conn.recv(100)
        backends.resets(conn, stop)
    serve(0, answers_then_resets)
    serve(1, answers_then_resets)
    d = daemon(config(2)).start()
    ask(net, 20)
    time.sleep(0.2)
    assert d.metric("l4lb_backend_health_status") == 2
    d.stop()


def test_checks_and_flows_must_both_be_well(net, daemon, serve):
    check = {"enabled": True, "interval_ms": 100, "timeout_ms": 90, "protocol": "http", "port":
             BACK + 9}
    health = serve(9, backends.good)
    serve(0, speaks)
    serve(1, resets_when_asked)
    d = daemon(config(2, health_check=check)).start()
    assert ask(net, 6) == {str(BACK): 3, "": 3}
    wait_status(d, 0, 1, backend=addr(1))
    health.serve = backends.resets
    wait_status(d, 0, 2, backend=addr(0))
    # Its time out ends, its checks still fail.
    time.sleep(EJECT / 1000 + 0.3)
    assert d.metric("l4lb_backend_health_status") == 0
    health.serve = backends.good
    wait_status(d, 2, 2)
    d.stop()
