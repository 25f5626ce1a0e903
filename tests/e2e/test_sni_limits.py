# SPDX-License-Identifier: MIT
"""
Routes by name on IPv6; and limits: they are the rule's, whichever of its routes a client takes.
"""
import contextlib
import itertools
import socket
import time

import pytest

from lbtest import clients, hello, lane as lanes
from lbtest.backends import Backend
from lbtest.daemon import rule
from lbtest.net import BACKEND_ADDR, CLIENT, LB_ADDR
from lbtest.process import PATIENCE, wait_until
from lbtest.talk import Talk, hears

LISTEN = 6976
# Backends of the rule itself, and of its routes, by the name that leads there.
PORTS = {"z.example.net": 7976, "a.example.org": 7977, "b.example.org": 7978}
SAID = {name: hello.records(hello.message(name)) for name in PORTS}
MB = 1000000


@pytest.fixture
def start(daemon):
    def make(carrier="relay", family=4, **keys):
        to = {name: [clients.backend_addr(port, family)] for name, port in PORTS.items()}
        listen = f"[{LB_ADDR[6]}]:{LISTEN}" if family == 6 else f"{LB_ADDR[4]}:{LISTEN}"
        sni = [{"names": [name], "backends": to[name]} for name in list(PORTS)[1:]]
        d = daemon({"workers": 2, "graft": {"max_flows": 64}, "admission": "off", "rules": [
            rule("r", listen, to["z.example.net"], acceleration=carrier, sni=sni, **keys)]}).start()
        lanes.skip_without(carrier, d)
        return d
    return make


def talk(net, name, family=4):
    return Talk(net, (LB_ADDR[family], LISTEN), (BACKEND_ADDR[family], PORTS[name]),
                says=SAID[name])


@pytest.mark.parametrize("carrier", lanes.CARRIERS)
def test_routes_lead_to_their_backends_on_ipv6(net, start, carrier):
    d = start(carrier, family=6)
    for name, port in PORTS.items():
        with talk(net, name, 6) as t:
            hears(t.server, SAID[name])
            for _ in range(20):
                t.exchange(300)
            wait_until(lambda: [f["carrier"] for f in d.living()] == [carrier], 5, d.living)
            t.exchange(1 << 20)
            t.finish()
        flow, = d.wait_flows(1, skip=list(PORTS).index(name))
        assert flow["backend"] == f"[{BACKEND_ADDR[6]}]:{port}", flow
        assert (flow["carrier"], flow["reason"]) == (carrier, "done"), flow
        assert int(flow["up"]) == len(SAID[name]) + t.bytes, flow
    d.check_idle()
    d.stop()


def says_y(conn, stop):
    conn.recv(65536)
    conn.sendall(b"y")
    conn.recv(1)


def is_served(name):
    with contextlib.suppress(ConnectionResetError):
        with socket.create_connection((LB_ADDR[4], LISTEN), 5 * PATIENCE) as s:
            s.sendall(SAID[name])
            return s.recv(1) == b"y"
    return False


def test_a_rate_is_of_all_routes_together(net, start):
    backends = {name: Backend(net, port, says_y, BACKEND_ADDR[4])
                for name, port in PORTS.items()}
    rate, burst = 1, 6
    d = start(rate_limit={"enabled": True, "requests_per_second": rate, "burst": burst})

    def storm():
        begin = time.monotonic()
        names = itertools.islice(itertools.cycle(PORTS), 60)
        served = [name for name in names if is_served(name)]
        return served, rate * (time.monotonic() - begin) + burst
    try:
        served, most = net.call(CLIENT, storm)
        assert burst <= len(served) <= most + 1, (served, most)
        assert served[:burst] == list(PORTS) * 2, served
        assert {f["reason"] for f in d.wait_flows(60)} == {"done", "rate_limited"}
        assert d.metric("l4lb_ends_total", rule="r", reason="rate_limited") == 60 - len(served)
        assert sum(b.connections for b in backends.values()) == len(served)
        d.stop()
    finally:
        for b in backends.values():
            b.close()


@pytest.mark.parametrize("carrier", lanes.CARRIERS)
def test_a_client_has_so_many_connections_on_all_routes_together(net, start, carrier):
    d = start(carrier, client_connection_limit=2)
    with contextlib.ExitStack() as opened:
        first, second = (opened.enter_context(talk(net, name)) for name in list(PORTS)[:2])
        for name in PORTS:
            assert not net.call(CLIENT, is_served, name)
        assert {f["reason"] for f in d.wait_flows(3)} == {"client_limit"}
        first.server.settimeout(5 * PATIENCE)
        hears(first.server, SAID["z.example.net"])
        first.finish()
        d.wait_flows(4)
        # Its place is free, for whichever of them.
        with talk(net, "b.example.org") as third:
            hears(third.server, SAID["b.example.org"])
            third.exchange()
            third.finish()
        hears(second.server, SAID["a.example.org"])
        second.exchange()
        second.finish()
    d.stop()


@pytest.mark.parametrize("carrier", [lanes.RELAY, lanes.SOCKMAP])
def test_a_clients_bandwidth_is_shared_by_its_routes(net, start, carrier):
    d = start(carrier, bandwidth_limit={"enabled": True, "client": {"download_per_sec": MB}})
    with contextlib.ExitStack() as opened:
        both = [opened.enter_context(talk(net, name)) for name in list(PORTS)[1:]]
        for t, name in zip(both, list(PORTS)[1:]):
            hears(t.server, SAID[name])
        begin = time.monotonic()
        got = drain(both, 3 * MB, lambda: b"x" * 65536)
        took = time.monotonic() - begin
        # A limit holds within 5 % from the first byte on.
        assert took >= got / MB / 1.05 - 0.1, (got, took)
        assert d.metric("l4lb_bandwidth_limit_waits_total", rule="r", direction="down") > 0
        assert d.metric("l4lb_bandwidth_limit_clients", rule="r") == 1
    d.stop()


def drain(talks, size, piece):
    """Both backends send as fast as they may until their clients have got <size> together."""
    got = 0
    end = time.monotonic() + 30 * PATIENCE
    while got < size:
        assert time.monotonic() < end, got
        for t in talks:
            with contextlib.suppress(BlockingIOError):
                t.server.send(piece())
            with contextlib.suppress(BlockingIOError):
                got += len(t.client.recv(1 << 18))
    return got
