# SPDX-License-Identifier: MIT
"""What is counted: bytes while a flow lives and after its end, connections, backends."""
import http.client
import json
import re
import signal
import time
import urllib.request

from lbtest import lane as lanes
from lbtest.daemon import rule
from lbtest.net import LB
from lbtest.process import ROOT, run, wait_until
from lbtest.talk import Talk

SETTLED = {"go": 1}


def test_bytes_are_exact_while_a_flow_lives(lane):
    d, up, down = lane.daemon, 1234567, 7654321
    directions = {"up": up, "down": down}
    before = {k: d.metric("l4lb_traffic_bytes_total", rule=lane.name, direction=k)
              for k in directions}
    moved = d.metric("l4lb_carrier_bytes_total", rule=lane.name, carrier=lane.carrier)
    with lane.open({"send": down, "recv": up, "hold": 1, **SETTLED},
                   {"send": up, "recv": down, "hold": 1, **SETTLED}) as exchange:
        exchange.wait_holding()
        for k, size in directions.items():
            now = d.metric("l4lb_traffic_bytes_total", rule=lane.name, direction=k)
            assert now - before[k] == size
        # Every one of them was moved by the carrier the flow is on.
        now = d.metric("l4lb_carrier_bytes_total", rule=lane.name, carrier=lane.carrier)
        assert now - moved == up + down
        assert d.metric("l4lb_active_connections", rule=lane.name) == 1
        assert d.metric("l4lb_backend_active_connections", rule=lane.name) == 1
        assert d.metric("l4lb_sockmap_flows") == (lane.carrier == "sockmap")
        exchange.release()
        exchange.finish()
    exchange.assert_identical()
    for k, size in directions.items():
        now = d.metric("l4lb_traffic_bytes_total", rule=lane.name, direction=k)
        assert now - before[k] == size


def test_bytes_grow_while_a_flow_streams(lane):
    with lane.open({"expect": "any", **SETTLED},
                   {"send": 1 << 30, "pause_every": 100000, "pause_ms": 10, "expect": "any",
                    "deadline_ms": 5000, **SETTLED}) as exchange:
        seen = []
        for _ in range(200):
            seen.append(lane.daemon.metric("l4lb_traffic_bytes_total", rule=lane.name))
            if len(set(seen)) >= 5:
                break
        assert seen == sorted(seen) and len(set(seen)) >= 5, seen
        exchange.stop()
    lane.daemon.wait_flows(1, lane.name, exchange.skip)


def test_connections_and_ends_are_counted(lane):
    d = lane.daemon
    names = {"l4lb_connections_total": {}, "l4lb_ends_total": {"reason": "done"},
             "l4lb_flows_total": {"carrier": lane.carrier},
             "l4lb_backend_connections_total": {}, "l4lb_connection_duration_seconds_count": {}}
    before = {n: d.metric(n, rule=lane.name, **labels) for n, labels in names.items()}
    lane.run({"send": 1000, **SETTLED}, {"send": 1000, **SETTLED}, count=25).assert_identical()
    for name, labels in names.items():
        assert d.metric(name, rule=lane.name, **labels) - before[name] == 25, name
    assert d.metric("l4lb_active_connections", rule=lane.name) == 0


def histogram(d, name, **labels):
    """{(suffix, le): value}."""
    want = set(labels.items())
    return {(n[len(name):], dict(have).get("le")): v for (n, have), v in d.metrics().items()
            if n in (f"{name}_bucket", f"{name}_sum", f"{name}_count") and want <= have}


def test_each_backend_has_histograms_of_its_own(net, daemon):
    fast, silent = ("10.81.1.2", 7691), ("10.81.1.2", 7692)
    rules = [rule("r", "10.81.0.1:6690", ["%s:%d" % b for b in (fast, silent)],
                  acceleration="relay")]
    with daemon({"rules": rules}) as d:
        for back, speaks in ((fast, True), (silent, False)):
            with Talk(net, ("10.81.0.1", 6690), back) as talk:
                if speaks:
                    talk.exchange()
                talk.finish()
        d.wait_flows(2)
        for back, connects, answers in ((fast, 1, 1), (silent, 1, 0)):
            labels = {"rule": "r", "backend": "%s:%d" % back}
            for what, count in (("connect", connects), ("first_byte", answers)):
                told = histogram(d, f"l4lb_backend_{what}_duration_seconds", **labels)
                assert told["_count", None] == told["_bucket", "+Inf"] == count, told


def test_the_first_byte_of_a_backend_is_timed_on_every_carrier(lane):
    d, name = lane.daemon, "l4lb_first_byte_duration_seconds"
    connects = d.metric("l4lb_connect_duration_seconds_count", rule=lane.name)
    if lane.settles:
        wait_until(lambda: lane.promoted() == d.settled, 4, "earlier flows have left the table")
    count, took = d.metric(f"{name}_count", rule=lane.name), d.metric(f"{name}_sum", rule=lane.name)
    skip, waited = len(d.flows(lane.name)), 0.2
    with Talk(lane.net, lane.listen, lane.backend) as talk:
        begun = time.monotonic()
        if lane.settles:
            # The daemon itself never sees a byte of it.
            wait_until(lambda: lane.promoted() == d.settled + 1, 5, "the flow is promoted")
        talk.client.sendall(b"?")
        time.sleep(waited)
        # The client has spoken, the backend has not.
        assert d.metric(f"{name}_count", rule=lane.name) == count
        talk.server.sendall(b"!")
        assert talk.ends(talk.client) == "bytes"
        longest = time.monotonic() - begun
        # Known while the flow lives, and no second one comes.
        wait_until(lambda: d.metric(f"{name}_count", rule=lane.name) == count + 1, 2, "it counts")
        seen = d.metric(f"{name}_sum", rule=lane.name) - took
        assert waited <= seen <= longest + 0.1, (waited, seen, longest)
        talk.server.sendall(b"!")
        assert talk.ends(talk.client) == "bytes" and talk.server.recv(1) == b"?"
        talk.finish()
    line, = d.wait_flows(1, lane.name, skip)
    assert abs(float(line["first_byte_ms"]) / 1000 - seen) < 0.002, (line, seen)
    assert d.metric(f"{name}_count", rule=lane.name) == count + 1
    assert d.metric("l4lb_connect_duration_seconds_count", rule=lane.name) == connects + 1
    # The rule has one backend: what is told of that is the same.
    for what in ("connect", "first_byte"):
        told = histogram(d, f"l4lb_{what}_duration_seconds", rule=lane.name)
        assert told and told == histogram(d, f"l4lb_backend_{what}_duration_seconds",
                                          rule=lane.name)


def test_bytes_of_a_reset_flow_are_counted(lane):
    d = lane.daemon
    before = d.metric("l4lb_traffic_bytes_total", rule=lane.name)
    exchange = lane.run({"send": 100000, "recv": 50000, "hold": 0, "expect": "rst", **SETTLED},
                        {"send": 50000, "rst_after": 100000, "expect": "any", "end": "keep",
                         **SETTLED})
    logged = int(exchange.log[0]["up"]) + int(exchange.log[0]["down"])
    assert d.metric("l4lb_traffic_bytes_total", rule=lane.name) - before == logged
    assert int(exchange.log[0]["down"]) == 100000


def test_the_page_is_well_formed_prometheus_text(lane):
    d = lane.daemon

    def fetch():
        with urllib.request.urlopen("http://%s:%d/metrics" % d.metrics_addr, timeout=5) as answer:
            return answer.headers["Content-Type"], answer.read().decode()
    kind, page = d.net.call(LB, fetch)
    assert kind.startswith("text/plain"), kind
    typed, sampled = set(), set()
    for line in page.splitlines():
        meta = re.fullmatch(r"# (HELP|TYPE) (l4lb_\w+) .+", line)
        sample = re.fullmatch(r'(l4lb_\w+?)(_bucket|_sum|_count)?(\{(\w+="[^"\n]*",?)*\})? '
                              r'-?[0-9.e+]+', line)
        assert meta or sample, line
        if meta and meta.group(1) == "TYPE":
            assert meta.group(2) not in typed, f"{meta.group(2)} is told twice"
            typed.add(meta.group(2))
        if sample:
            sampled.add(sample.group(1))
    assert sampled <= typed | {n[:-6] for n in typed} | typed, sampled - typed
    # The names of the original product stay.
    assert {"l4lb_active_connections", "l4lb_connections_total", "l4lb_traffic_bytes_total",
            "l4lb_backend_active_connections", "l4lb_backend_health_status",
            "l4lb_connection_duration_seconds"} <= typed
    assert page.endswith("\n")


def test_auto_promotes_only_what_has_earned_it(net, folder, daemon):
    listen, back = ("10.81.0.1", 6950), ("10.81.1.2", 7950)
    rules = [rule("r", "%s:%d" % listen, ["%s:%d" % back], acceleration="auto")]
    with daemon({"rules": rules}) as d:
        lanes.skip_without(lanes.SOCKMAP, d)
        on = lanes.Lane(d, folder, "r", listen, back, lanes.RELAY)
        short = on.run({"send": 1000}, {"send": 1000, "recv": 1000, "patient": 1})
        short.assert_identical()
        assert short.log[0]["why"] == "short", short.log


def test_the_page_is_what_promtool_calls_clean(net, daemon):
    backends = ["10.81.1.2:7690", {"addr": "10.81.1.2:7691", "drain": True}, "localhost:7692"]
    rules = [rule("r \"quoted\"", "10.81.0.1:6690", backends, health_check={"enabled": True},
                  passive_health={"enabled": True}), rule("s", "10.81.0.1:6691", backends)]
    with daemon({"rules": rules}) as d:
        page = d.lbctl("metrics").stdout
        assert page.count("\n") > 100
        run("promtool", "check", "metrics", stdin=page)


def test_health_and_readiness_are_told_by_status(net, folder, daemon):
    config = {"rules": [rule("r", "10.81.0.1:6690", ["10.81.1.2:7690"], acceleration="relay",
                             timeouts={"drain_ms": 20000})]}
    d = daemon(config).start()

    def status(path):
        def fetch():
            connection = http.client.HTTPConnection(*d.metrics_addr, timeout=5)
            connection.request("GET", path)
            return connection.getresponse().status
        return net.call(LB, fetch)
    assert (status("/healthz"), status("/readyz")) == (200, 200)
    with Talk(net, ("10.81.0.1", 6690), ("10.81.1.2", 7690)) as talk:
        d.process.signal(signal.SIGTERM)
        wait_until(lambda: status("/readyz") == 503, 5, "it is not ready any more")
        assert status("/healthz") == 200
        assert d.ctl("status")["state"] == "draining"
        talk.finish()
    assert d.process.wait(10) == 0
    d.forget()
    d.check_gone()


def test_the_dashboard_asks_for_nothing_that_does_not_exist(daemon):
    board = json.loads((ROOT / "docs/grafana.json").read_text())
    asked = [t["expr"] for p in board["panels"] for t in p["targets"]]
    asked += [v["query"] for v in board["templating"]["list"] if v["type"] == "query"]
    assert len(asked) > 15 and all("l4lb_" in a for a in asked)
    rules = [rule("r", "10.81.0.1:6690", ["10.81.1.2:7690"])]
    with daemon({"rules": rules, "graft": {"max_flows": 1024}}) as d:
        lanes.skip_without("graft", d)
        there = {}
        for name, labels in d.metrics():
            there.setdefault(name, set()).update(label for label, _ in labels)
    for expression in asked:
        for name, chosen in re.findall(r"(l4lb_\w+)(?:\{([^}]*)\})?", expression):
            assert name in there, expression
            labels = set(re.findall(r"(\w+)[!=]", chosen)) - {"job"}
            assert labels <= there[name], (expression, there[name])
        grouped = re.search(r"by \(([^)]*)\)", expression)
        if grouped:
            name = re.search(r"l4lb_\w+", expression).group(0)
            assert set(grouped.group(1).split(", ")) <= there[name], expression
