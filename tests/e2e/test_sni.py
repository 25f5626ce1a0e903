# SPDX-License-Identifier: MIT
"""
TLS that is passed through goes where its hello says, however that is cut; not a byte is touched,
and the flow is carried as any other one.
"""
import contextlib
import socket
import ssl
import struct
import time

import pytest

from lbtest import graft, hello, lane as lanes, machine, tls
from lbtest.backends import Backend
from lbtest.daemon import rule
from lbtest.net import BACKEND_ADDR, CLIENT, CLIENT_ADDR, LB_ADDR
from lbtest.process import PATIENCE, SAN, wait_until
from lbtest.reloading import reload
from lbtest.talk import Talk, hears
from lbtest.tls_rule import ca, ping  # a fixture, too

LISTEN = 6970
AT = (LB_ADDR[4], LISTEN)
# Backends of: the rule itself, and its routes.
DEFAULT, EXACT, WILDCARD, H2 = range(7970, 7974)


def addr(port):
    return f"{BACKEND_ADDR[4]}:{port}"


def route(port, *names, **keys):
    return {"names": list(names), "backends": [addr(port)], **keys}


ROUTES = [route(EXACT, "a.example.org"), route(WILDCARD, "*.example.org", name="wild"),
          route(H2, "h2.example.org", "two.example.net", alpn=["h2"], name="h2")]


def config(carrier="relay", sni=ROUTES, **keys):
    return {"workers": 2, "graft": {"max_flows": 64}, "rules": [
        rule("r", f"{LB_ADDR[4]}:{LISTEN}", [addr(DEFAULT)], acceleration=carrier, sni=sni,
             **keys)]}


@pytest.fixture
def start(daemon):
    def make(*args, **keys):
        d = daemon(config(*args, **keys)).start()
        lanes.skip_without(args[0] if args else "relay", d)
        return d
    return make


# --- hellos -------------------------------------------------------------------------------------


def bytewise(data):
    return [data[i:i + 1] for i in range(len(data))]


NAME = "a.example.org"
MESSAGE = hello.message(NAME)
HELLO = hello.records(MESSAGE)
SAID = {
    "in one piece": [HELLO],
    "byte by byte": bytewise(HELLO),
    "in records of one byte, one by one": [hello.records(byte) for byte in bytewise(MESSAGE)],
    "of 60 KB in records of 16 KiB": [hello.records(hello.message(NAME, 60000))],
    "of 40 KB in records of 1000 bytes": [hello.records(hello.message(NAME, 40000), 1000)],
}


def wait_carried(d, carrier):
    if carrier == lanes.GRAFT:
        wait_until(lambda: d.grafted() == 1, 5, lambda: f"it is grafted\n{d.log[-2000:]}")
    elif carrier == lanes.SOCKMAP:
        wait_until(lambda: d.promoted() == 1, 5, lambda: f"it is promoted\n{d.log[-2000:]}")


def carry_to_the_end(d, t, carrier, up):
    """<up>: bytes that the client has sent already."""
    t.server.sendall(bytes(200))
    hears(t.client, bytes(200))
    for _ in range(20):
        t.exchange(300)
    wait_carried(d, carrier)
    t.exchange(1 << 20)
    t.finish()
    flow, = d.wait_flows(1)
    assert (flow["carrier"], flow["why"], flow["reason"]) == (carrier, "none" if carrier != "relay"
                                                              else "configured", "done"), flow
    assert (int(flow["up"]), int(flow["down"])) == (up + t.bytes, 200 + t.bytes), flow
    return flow


@pytest.mark.parametrize("carrier", lanes.CARRIERS)
@pytest.mark.parametrize("said", SAID)
def test_a_hello_arrives_whole_and_its_flow_is_carried_as_any_other(net, start, carrier, said):
    d = start(carrier)
    whole = b"".join(SAID[said])
    with Talk(net, AT, (BACKEND_ADDR[4], EXACT), says=SAID[said]) as t:
        hears(t.server, whole)
        flow = carry_to_the_end(d, t, carrier, len(whole))
    assert (flow["rule"], flow["backend"]) == ("r/a.example.org", addr(EXACT)), flow
    # The flow is the rule's, the connection its route's.
    assert d.metric("l4lb_connections_total", rule="r") == 1
    assert d.metric("l4lb_active_connections", rule="r") == 0
    assert d.metric("l4lb_ends_total", rule="r", reason="done") == 1
    assert d.metric("l4lb_backend_connections_total", rule="r/a.example.org") == 1
    assert d.metric("l4lb_backend_connections_total", rule="r") == 0
    d.check_idle()
    d.stop()


@pytest.mark.parametrize("carrier", lanes.CARRIERS)
def test_flows_of_a_route_are_listed_as_its_rules_too(net, start, carrier):
    d = start(carrier)
    with Talk(net, AT, (BACKEND_ADDR[4], EXACT), says=HELLO) as t:
        hears(t.server, HELLO)
        wait_carried(d, carrier)
        for asked, count in {"r": 1, "r/a.example.org": 1, "r/wild": 0, "a.example.org": 0}.items():
            found = d.living("--rule", asked)
            assert [(f["rule"], f["of"]) for f in found] == [("r/a.example.org", "r")] * count
        t.finish()
    backend, = (b for b in d.ctl("backends")["backends"] if b["backend"] == addr(EXACT))
    assert (backend["rule"], backend["of"]) == ("r/a.example.org", "r"), backend
    d.stop()


@pytest.mark.parametrize("carrier", lanes.CARRIERS)
def test_proxy_headers_go_before_the_hello_on_either_side(net, start, carrier):
    d = start(carrier, accept_proxy_protocol=[CLIENT_ADDR[4]], proxy_protocol="v1")
    header = b"PROXY TCP4 192.0.2.77 198.51.100.5 55555 443\r\n"
    with Talk(net, AT, (BACKEND_ADDR[4], EXACT), says=bytewise(header + HELLO)) as t:
        hears(t.server, header + HELLO)
        flow = carry_to_the_end(d, t, carrier, len(HELLO))
    assert flow["client"] == "192.0.2.77:55555"
    d.stop()


# --- who goes where -----------------------------------------------------------------------------


@pytest.fixture
def servers(net, ca):
    """One that speaks TLS at each address, with a certificate that tells where it was."""
    made = {}
    for port in (DEFAULT, EXACT, WILDCARD, H2):
        cert = ca.issue("x.example", cn=str(port))
        made[port] = Backend(net, port, tls.serving(cert, tls.echo, alpn=["h2", "http/1.1"]))
    yield made
    for b in made.values():
        b.close()


def reached(net, ca, name, alpn=()):
    """Whom a client that asks for <name> speaks with."""
    context = tls.client_context(ca.cert, alpn=alpn)
    context.check_hostname = False
    with tls.connect(net, AT, context, name=name) as c:
        ping(c, bytes(range(256)) * 100)
        subject = dict(field[0] for field in c.getpeercert()["subject"])
        assert c.unwrap().recv(1) == b""
    return int(subject["commonName"])


def test_names_and_protocols_choose_the_backends(net, start, servers, ca):
    d = start()
    for name, alpn, want in (
            ("a.example.org", [], EXACT), ("A.Example.ORG", ["h2"], EXACT),
            ("b.example.org", [], WILDCARD), ("x.b.example.org", [], DEFAULT),
            ("example.org", [], DEFAULT), ("other.net", [], DEFAULT), (None, [], DEFAULT),
            ("h2.example.org", ["h2", "http/1.1"], H2), ("h2.example.org", ["http/1.1"], WILDCARD),
            ("two.example.net", ["h2"], H2), ("two.example.net", [], DEFAULT)):
        assert reached(net, ca, name, alpn) == want, (name, alpn)
    assert {f["rule"] for f in d.wait_flows(11)} == {"r", "r/a.example.org", "r/wild", "r/h2"}
    d.stop()


def test_a_route_is_drained_and_listed_by_its_name(net, start, servers, ca):
    d = start()
    listed = d.ctl("backends")["backends"]
    assert {(b["rule"], b["backend"]) for b in listed} == {
        ("r", addr(DEFAULT)), ("r/a.example.org", addr(EXACT)), ("r/wild", addr(WILDCARD)),
        ("r/h2", addr(H2))}
    d.ctl("drain", "r/a.example.org", addr(EXACT))
    with pytest.raises(ConnectionError):
        reached(net, ca, NAME)
    assert d.wait_flows(1)[0]["reason"] == "no_backend"
    assert reached(net, ca, "b.example.org") == WILDCARD and reached(net, ca, None) == DEFAULT
    d.ctl("undrain", "r/a.example.org", addr(EXACT))
    assert reached(net, ca, NAME) == EXACT
    d.stop()


def test_each_route_has_health_of_its_own(net, start, servers, ca):
    d = start(health_check={"enabled": True, "interval_ms": 200, "timeout_ms": 100, "tls": True},
              timeouts={"connect_ms": 300})
    servers[EXACT].close()
    wait_until(lambda: d.metric("l4lb_backend_health_status", rule="r/a.example.org") == 0, 5,
               lambda: f"it is down\n{d.log[-2000:]}")
    with pytest.raises(ConnectionError):
        reached(net, ca, NAME)
    assert reached(net, ca, "b.example.org") == WILDCARD and reached(net, ca, None) == DEFAULT
    d.stop()


# --- those who mean no good ---------------------------------------------------------------------

GARBAGE = {
    **tls.NO_HELLO,
    "a hello that is too long": hello.records(b"\x01\x01\x00\x00" + bytes(40)),
    "a length that lies": HELLO[:43] + b"\xff" + HELLO[44:],
    "half a hello, and a FIN": HELLO[:100],
    "nothing, and a FIN": b"",
}


def say(net, text):
    s = net.connect(*AT)
    s.sendall(text)
    return s


def wait_end(sock, seconds):
    sock.settimeout(seconds * PATIENCE)
    with sock, contextlib.suppress(ConnectionResetError, ssl.SSLEOFError):
        assert sock.recv(1) == b""


def test_who_speaks_no_tls_is_closed_at_once_and_reaches_nobody(net, start, servers):
    d = start()
    for what, text in GARBAGE.items():
        s = say(net, text)
        if "FIN" in what:
            s.shutdown(socket.SHUT_WR)
        wait_end(s, 5)
    flows = d.wait_flows(len(GARBAGE))
    assert {f["reason"] for f in flows} == {"tls_failed"} and all(f["detail"] for f in flows), flows
    assert not any(b.connections for b in servers.values())
    d.stop()


def test_a_hello_that_stops_in_the_middle_is_closed_on_time(net, start, servers):
    d = start(timeouts={"handshake_ms": 700})
    large = hello.records(hello.message(NAME, 60000))
    said = [b"", HELLO[:1], HELLO[:6], HELLO[:-1], large[:40000], large[:-1]]
    before = machine.process_cpu(d.pid)
    for s in [say(net, text) for text in said]:
        wait_end(s, 5)
    flows = d.wait_flows(len(said))
    assert {f["reason"] for f in flows} == {"handshake_timeout"}, flows
    assert all(700 <= int(f["duration_ms"]) < 5000 for f in flows), flows
    assert machine.process_cpu(d.pid) - before < 0.1 * PATIENCE, "nobody spins"
    assert not any(b.connections for b in servers.values())
    d.stop()


def test_thousands_of_them_leave_nothing_behind(net, start, servers, ca):
    d = start(timeouts={"handshake_ms": 500})
    texts = [text for what, text in GARBAGE.items() if "FIN" not in what] + [HELLO[:100]]

    def storm(count):
        def one(i):
            with socket.create_connection(AT, 5 * PATIENCE) as s, \
                    contextlib.suppress(ConnectionError):
                s.sendall(texts[i % len(texts)])
                if texts[i % len(texts)] is not texts[-1]:
                    s.recv(1)
        net.call(CLIENT, lambda: [one(i) for i in range(count)])

    storm(500)
    d.check_idle()
    rss = machine.process_rss(d.pid)
    storm(4000)
    d.check_idle()
    assert SAN or machine.process_rss(d.pid) < rss + (1 << 20)
    assert not any(b.connections for b in servers.values())
    assert reached(net, ca, NAME) == EXACT
    d.stop()


# --- while it serves ----------------------------------------------------------------------------


def test_routes_change_live_and_their_flows_live_on(net, start, servers, ca):
    d = start(sni=[route(EXACT, NAME)], timeouts={"drain_ms": 700})
    context = tls.client_context(ca.cert)
    context.check_hostname = False
    with tls.connect(net, AT, context, name=NAME) as old:
        ping(old)
        assert reached(net, ca, "b.example.org") == DEFAULT
        # Others come, this one gets another name and another backend.
        reload(d, config(sni=[route(WILDCARD, NAME, "c.example.org"), *ROUTES[1:]],
                         timeouts={"drain_ms": 700}))
        assert reached(net, ca, NAME) == reached(net, ca, "b.example.org") == WILDCARD
        assert reached(net, ca, "h2.example.org", ["h2"]) == H2
        ping(old)
        # It goes: what it has got is drained as a rule's is. Another one stays: a rule with routes
        # does not become one without while it lives.
        reload(d, config(sni=[], timeouts={"drain_ms": 700}), good=False)
        reload(d, config(sni=[route(H2, "other.example.net")], timeouts={"drain_ms": 700}))
        assert reached(net, ca, NAME) == DEFAULT
        wait_end(old, 5)
    assert "sni: + wild" in d.log and "sni: - a.example.org" in d.log, d.log[-3000:]
    # The lines of two workers are in no order, and may be late.
    assert sorted(f["reason"] for f in d.wait_flows(2, rule="r/a.example.org")) == [
        "done", "drained"]
    wait_until(lambda: d.count_log("rule r/.* is gone") == 3, 5, lambda: f"gone\n{d.log[-2000:]}")
    reload(d, config(timeouts={"drain_ms": 700}))
    assert reached(net, ca, NAME) == EXACT
    d.check_idle()
    d.stop()


def test_a_graft_of_a_route_is_found_again_after_a_kill(net, start):
    d = start(lanes.GRAFT)
    with Talk(net, AT, (BACKEND_ADDR[4], EXACT), says=HELLO) as t:
        hears(t.server, HELLO)
        t.exchange(3000)
        wait_carried(d, lanes.GRAFT)
        d.crash()
        t.exchange(3000)
        d.start()
        active = "l4lb_backend_active_connections"
        assert d.metric(active, rule="r/a.example.org") == 1 and d.metric(active, rule="r") == 0
        assert d.metric("l4lb_active_connections", rule="r") == 1
        t.exchange(3000)
        t.finish()
    flow, = d.wait_flows(1)
    assert (flow["rule"], flow["reason"]) == ("r/a.example.org", "done"), flow
    wait_until(lambda: d.metric(active, rule="r/a.example.org") == 0, 5, "none is left")
    graft.wait_empty(d)
    d.stop()
