# SPDX-License-Identifier: MIT
"""health_check: who is down and why, who gets flows then, and what a check costs."""
import re
import socket
import time

import pytest

from lbtest import backends, graft, lane as lanes, machine
from lbtest.backends import Backend, wait_status
from lbtest.daemon import rule
from lbtest.net import BACKEND_ADDR, CLIENT, LB_ADDR
from lbtest.process import PATIENCE, SAN, wait_until

LISTEN, BACK = 6940, 7940
INTERVAL = 200  # ms
CHECK = {"enabled": True, "interval_ms": INTERVAL, "timeout_ms": 150, "rise": 2, "fall": 3}
HTTP = {**CHECK, "protocol": "http", "path": "/health"}
PATIENT = {**CHECK, "timeout_ms": 3000}
HTTP_PATIENT = {**HTTP, "timeout_ms": 3000}

# kind -> (check, how it behaves; None: nobody listens, what the log says of it; None: it is well)
# The backends are threads of this process, which may have to wait for a processor: whoever answers
# has time for it.
KINDS = {
    "tcp": (PATIENT, backends.silent, None),
    "refuses": (PATIENT, None, r"connect: Connection refused"),
    "http": (HTTP_PATIENT, backends.good, None),
    "http10": (HTTP_PATIENT, backends.http(b"HTTP/1.0 200 OK\r\n\r\nwell"), None),
    "redirects": (HTTP_PATIENT, backends.http(b"HTTP/1.1 302 Found\r\n\r\n"), None),
    "interim": (HTTP_PATIENT,
                backends.http(b"HTTP/1.1 103 E\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), None),
    "bytewise": (HTTP_PATIENT, backends.bytewise, None),
    "huge": (HTTP_PATIENT, backends.huge, None),
    "ailing": (HTTP_PATIENT, backends.http(b"HTTP/1.1 503 No\r\n\r\n"), r"status 503"),
    "silent": (HTTP, backends.silent, r"no answer in 150 ms"),
    "closes": (HTTP_PATIENT, backends.closes, r"closed without an answer|connection lost: .*"),
    "breaks": (HTTP_PATIENT, backends.http(b"HTTP/1.1 2"), r"closed in the middle of the answer"),
    "resets": (HTTP_PATIENT, backends.resets, r"connection lost: Connection reset by peer|"
                                              r"connect: Connection reset by peer"),
    "garbage": (HTTP_PATIENT, backends.garbage, r"the answer is not HTTP/1"),
    "endless": (HTTP, backends.endless_headers, r"no status in 16 KiB|no answer in 150 ms"),
    "teapot": ({**HTTP_PATIENT, "expect_status": [200, "400-418"]},
               backends.http(b"HTTP/1.1 418 I\r\n\r\n"), None),
    "picky": ({**HTTP_PATIENT, "expect_status": [204]}, backends.good, r"status 200"),
    "banner": ({**PATIENT, "expect": "SSH-2.0-"}, lambda c, stop: c.sendall(b"SSH-2.0-x\r\n"),
               None),
    "other": ({**PATIENT, "send": "PING\r\n", "expect": "+PONG"},
              lambda c, stop: c.sendall(b"-ERR\r\n"), r"the answer is another one than `expect`"),
}


@pytest.fixture
def serve(net):
    """serve(port, kind) opens a backend; all are closed in the end."""
    made = []

    def make(port, kind):
        made.append(Backend(net, port, kind))
        return made[-1]
    yield make
    for b in made:
        b.close()


def addr(number=0):
    return f"{BACKEND_ADDR[4]}:{BACK + number}"


def one_rule(check=CHECK, count=1, **keys):
    return {"rules": [rule("r", f"{LB_ADDR[4]}:{LISTEN}", [addr(i) for i in range(count)],
                           health_check=check, **keys)]}


def rules_of(kinds):
    return {"rules": [rule(kind, f"{LB_ADDR[4]}:{LISTEN + i}", [addr(i)],
                           health_check=KINDS[kind][0]) for i, kind in enumerate(kinds)]}


def downs(daemon, name="r"):
    return re.findall(rf"rule {name}: backend \S+ is down: (.*?) \((\d+) in a row\)", daemon.log)


def test_every_kind_of_backend_is_judged_for_its_own_reason(daemon, serve):
    for i, (check, kind, _) in enumerate(KINDS.values()):
        if kind:
            serve(BACK + i, kind)
    d = daemon(rules_of(KINDS)).start()
    for name, (_, _, cause) in KINDS.items():
        wait_status(d, 0 if cause else 1, 5, rule=name)
    # Through some more checks nothing changes, and nothing is said twice.
    for name in KINDS:
        wait_until(lambda: d.metric("l4lb_backend_health_checks_total", rule=name) > 3, 10, name)
    for name, (_, _, cause) in KINDS.items():
        found = downs(d, name)
        if cause:
            assert len(found) == 1 and re.fullmatch(cause, found[0][0]), (name, found)
            assert found[0][1] == "1"  # the first answer decides
        else:
            assert not found, (name, found)
            assert d.metric("l4lb_backend_health_check_failures_total", rule=name) == 0
    d.stop()
    d.check_gone()


def test_a_backend_goes_down_and_comes_back_within_its_bounds(daemon, serve):
    b = serve(BACK, backends.good)
    d = daemon(one_rule(HTTP)).start()
    wait_until(lambda: d.metric("l4lb_backend_health_checks_total") >= 1, 3, "a first check")
    for _ in range(2):
        b.serve = backends.http(b"HTTP/1.1 500 No\r\n\r\n")
        wait_status(d, 0, (2 * INTERVAL * 1.1 + 500) / 1000)
        b.serve = backends.good
        wait_status(d, 1, (INTERVAL * 1.1 + 500) / 1000)
    assert downs(d) == [("status 500", "3")] * 2
    assert d.count_log(r"is up again after \d+\.\d s; 1 of 1 take flows") == 2
    d.stop()


def test_one_failure_less_than_fall_changes_nothing(daemon, serve):
    answers = iter([backends.good] + 50 * [backends.resets, backends.resets, backends.good])
    serve(BACK, lambda conn, stop: next(answers)(conn, stop))
    d = daemon(one_rule({**HTTP, "interval_ms": 50})).start()
    wait_until(lambda: d.metric("l4lb_backend_health_check_failures_total") >= 8, 5, "failures")
    assert not downs(d)
    d.stop()


def test_unknown_backends_get_no_flow_before_their_first_answer(net, daemon, serve):
    b = serve(BACK, backends.silent)
    d = daemon(one_rule({**HTTP, "initial": "unknown", "timeout_ms": 1500, "interval_ms": 100}))
    d.start()
    assert net.call(CLIENT, is_turned_away)
    b.serve = backends.good
    wait_status(d, 1, 5)
    assert d.wait_flows(1)[0]["reason"] == "no_backend"
    d.stop()


def is_turned_away():
    try:
        with socket.create_connection((LB_ADDR[4], LISTEN), 5) as sock:
            return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def speak(sock, stop):
    """A check's GET is answered well; anything else is a client and hears who speaks."""
    got = sock.recv(4096)
    if got.startswith(b"GET /health"):
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    elif got:
        sock.sendall(str(sock.getsockname()[1]).encode())


def ask(net, count):
    """{backend's port: how many of <count> clients it got}."""
    got = {}

    def clients():
        for _ in range(count):
            with socket.create_connection((LB_ADDR[4], LISTEN), 5) as c:
                c.sendall(b"who?")
                who = c.recv(100).decode()
                got[who] = got.get(who, 0) + 1
    net.call(CLIENT, clients)
    return got


def test_flows_go_to_those_that_are_up_in_exact_shares(net, daemon, serve):
    b = [serve(BACK + i, speak) for i in range(4)]
    d = daemon(one_rule(HTTP, count=4, acceleration="relay")).start()
    wait_until(lambda: d.metric("l4lb_backend_health_checks_total") >= 4, 3, "first checks")
    assert ask(net, 40) == {str(BACK + i): 10 for i in range(4)}
    b[1].close()
    wait_status(d, 0, 3, backend=addr(1))
    failures = d.metric("l4lb_backend_connect_failures_total")
    assert ask(net, 30) == {str(BACK + i): 10 for i in (0, 2, 3)}
    assert d.metric("l4lb_backend_connect_failures_total") == failures
    serve(BACK + 1, speak)
    wait_status(d, 1, 3, backend=addr(1))
    assert ask(net, 40) == {str(BACK + i): 10 for i in range(4)}
    d.stop()


def test_nobody_notices_a_backend_that_dies_before_its_check_does(net, daemon, serve):
    b = [serve(BACK + i, speak) for i in range(2)]
    d = daemon(one_rule({**HTTP, "interval_ms": 60000}, count=2, acceleration="relay")).start()
    wait_until(lambda: d.metric("l4lb_backend_health_checks_total") >= 2, 3, "first checks")
    b[0].close()
    assert ask(net, 20) == {str(BACK + 1): 20}
    d.stop()


def test_without_any_backend_clients_are_told_at_once_and_cheaply(net, daemon):
    d = daemon(one_rule({**CHECK, "interval_ms": 100})).start()
    wait_status(d, 0, 3)

    assert net.call(CLIENT, lambda: all(is_turned_away() for _ in range(200)))
    assert {f["reason"] for f in d.wait_flows(200)} == {"no_backend"}
    d.check_quiet()
    d.stop()


def test_a_backup_serves_while_no_other_does(net, daemon, serve):
    b = [serve(BACK + i, speak) for i in range(2)]
    config = one_rule(HTTP, acceleration="relay")
    config["rules"][0]["backends"].append({"addr": addr(1), "backup": True})
    d = daemon(config).start()
    wait_until(lambda: d.metric("l4lb_backend_health_checks_total") >= 2, 3, "first checks")
    assert ask(net, 10) == {str(BACK): 10}
    b[0].close()
    wait_status(d, 0, 3, backend=addr(0))
    assert ask(net, 10) == {str(BACK + 1): 10}
    serve(BACK, speak)
    wait_status(d, 1, 3, backend=addr(0))
    assert ask(net, 10) == {str(BACK): 10}
    d.stop()


def test_a_backend_that_came_up_gets_its_share_little_by_little(net, daemon, serve):
    b = [serve(BACK + i, speak) for i in range(2)]
    d = daemon(one_rule({**HTTP, "slow_start_ms": 3000}, count=2, acceleration="relay")).start()
    wait_until(lambda: d.metric("l4lb_backend_health_checks_total") >= 2, 3, "first checks")
    assert ask(net, 20) == {str(BACK): 10, str(BACK + 1): 10}
    b[1].close()
    wait_status(d, 1, 3)
    serve(BACK + 1, speak)
    wait_status(d, 2, 3)
    begin, shares = time.monotonic(), []
    while time.monotonic() < begin + 3:
        shares.append(ask(net, 34).get(str(BACK + 1), 0))
        time.sleep(0.2)
    early, late = shares[0], shares[-3:]
    assert early <= 4 and min(late) >= 9, shares
    time.sleep(0.5)
    assert ask(net, 40) == {str(BACK): 20, str(BACK + 1): 20}
    d.stop()


@pytest.mark.parametrize("on_down", ["keep", "reset"])
@pytest.mark.parametrize("carrier", lanes.CARRIERS)
def test_flows_of_one_that_goes_down_are_kept_or_reset(request, daemon, serve, carrier, on_down):
    # The check asks another port: the backend that carries the flows lives on.
    health = serve(BACK + 1, backends.good)
    d = daemon({"graft": {"max_flows": 64},
                **one_rule({**HTTP, "port": BACK + 1}, acceleration=carrier, on_down=on_down)})
    d.start()
    lanes.skip_without(carrier, d)
    site = graft.Site(d, (LB_ADDR[4], LISTEN), (BACKEND_ADDR[4], BACK))
    request.addfinalizer(site.close)
    flows = site.open_busy(3)
    if carrier == lanes.GRAFT:
        wait_until(lambda: d.grafted() == 3, 3, "all are grafted")
    health.serve = backends.resets
    wait_status(d, 0, 3)
    if on_down == "reset":
        for f in flows:
            graft.wait_reset(f.client, 2)
            graft.wait_reset(f.server, 2)
        ended = d.wait_flows(3)
        assert {(f["reason"], f["carrier"]) for f in ended} == {("backend_down", carrier)}
        assert all(int(f["up"]) == int(f["down"]) == 7000 for f in ended)
    else:
        for f in flows:
            f.ping(100)
            f.close()
        assert {f["reason"] for f in d.wait_flows(3)} == {"done"}
    d.stop()
    d.check_gone()


def test_checks_that_are_off_ask_nobody(daemon, serve):
    b = serve(BACK, backends.good)
    d = daemon(one_rule({**CHECK, "enabled": False})).start()
    time.sleep(3 * INTERVAL / 1000)
    assert b.connections == 0
    assert d.metric("l4lb_backend_health_status") == 1
    d.stop()


def test_a_check_may_begin_with_a_proxy_header(daemon, serve):
    heard = []

    def keep(conn, stop):
        heard.append(backends.read_request(conn))
        conn.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    serve(BACK, keep)
    d = daemon(one_rule({**HTTP, "send_proxy": True, "host": "app.example"})).start()
    wait_until(lambda: heard, 3, "a check")
    assert heard[0].startswith(
        b"PROXY UNKNOWN\r\nGET /health HTTP/1.1\r\nHost: app.example\r\n"), heard[0]
    d.stop()


def test_an_ipv6_backend_is_checked_and_an_ipv6_client_counted(net, daemon):
    def keep(conn, stop):
        speak(conn, stop)
        conn.recv(1)
    b = Backend(net, BACK, keep, addr=BACKEND_ADDR[6])
    d = daemon({"rules": [rule("r", f"[{LB_ADDR[6]}]:{LISTEN}", [f"[{BACKEND_ADDR[6]}]:{BACK}"],
                               health_check=HTTP, client_connection_limit=1)]}).start()
    wait_until(lambda: d.metric("l4lb_backend_health_checks_total") >= 2, 3, "checks")
    assert d.metric("l4lb_backend_health_status") == 1
    with net.connect(LB_ADDR[6], LISTEN) as c:
        c.sendall(b"who?")
        assert c.recv(100) == str(BACK).encode()
        with pytest.raises(ConnectionResetError), net.connect(LB_ADDR[6], LISTEN) as second:
            second.recv(1)
    b.close()
    wait_status(d, 0, 3)
    d.stop()


def test_forty_rules_with_every_other_backend_down(daemon, serve):
    for i in range(0, 40, 2):
        serve(BACK + i, backends.silent)
    d = daemon({"rules": [rule(f"r{i}", f"{LB_ADDR[4]}:{LISTEN + i}", [addr(i)], health_check=CHECK)
                          for i in range(40)]}).start()
    want = {f"r{i}": 1 - i % 2 for i in range(40)}

    def states():
        return {dict(labels)["rule"]: value for (name, labels), value in d.metrics().items()
                if name == "l4lb_backend_health_status"}
    wait_until(lambda: states() == want, INTERVAL / 1000 + 0.5, lambda: f"{want}, not {states()}")
    time.sleep(2 * INTERVAL / 1000)
    assert d.count_log("is down") == 20 and d.count_log("is up") == 0
    d.stop()


def test_a_thousand_checks_of_each_kind_cost_nothing_that_stays(daemon, serve):
    for i, (_, kind, _) in enumerate(KINDS.values()):
        if kind:
            serve(BACK + i, kind)
    config = rules_of(KINDS)
    for r in config["rules"]:
        r["health_check"] = {**r["health_check"], "interval_ms": 10, "timeout_ms": 20}
    d = daemon(config).start()
    wait_until(lambda: d.metric("l4lb_backend_health_checks_total") >= 1000, 30, "checks")
    d.fds, d.rss = machine_state(d)
    wait_until(lambda: d.metric("l4lb_backend_health_checks_total") >= 1000 * len(KINDS),
               120 * PATIENCE, lambda: f"checks: {d.metric('l4lb_backend_health_checks_total')}")
    fds, rss = machine_state(d)
    assert abs(fds["other"] - d.fds["other"]) <= len(KINDS), (d.fds, fds)
    if not SAN:  # its allocator keeps what was freed, on purpose
        assert rss <= d.rss + (1 << 20) or rss <= d.rss * 1.05, (d.rss, rss)
    d.stop()
    d.check_gone()


def machine_state(d):
    return machine.process_fds(d.pid), machine.process_rss(d.pid)
