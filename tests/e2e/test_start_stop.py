# SPDX-License-Identifier: MIT
"""Starts that fail say why; stops drain; a killed daemon comes up again; it may be process 1."""
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from lbtest import lane as lanes, machine, peer
from lbtest.daemon import rule
from lbtest.net import LB
from lbtest.process import run, wait_until

LISTEN, BACK = ("10.81.0.1", 6800), ("10.81.1.2", 7800)
AT, TO = "%s:%d" % LISTEN, "%s:%d" % BACK


def config(acceleration="auto", **keys):
    return {"rules": [rule("r", AT, [TO], acceleration=acceleration, **keys)]}


def lane(d, folder, carrier):
    return lanes.Lane(d, folder, "r", LISTEN, BACK, carrier)


EXCHANGE = {"send": 10000, "recv": 10000, "go": 1}


def test_twenty_kills_leave_nothing_that_stops_a_restart(net, folder, daemon):
    d = daemon(config("sockmap"))
    before = machine.bpf_objects()
    held = {}
    for _ in range(20):
        d.start()
        held.update(d.held)
        on = lane(d, folder, lanes.SOCKMAP)
        with on.open({**EXCHANGE, "expect": "any"}, {**EXCHANGE, "expect": "any"}) as exchange:
            # In mid-flow, so that sockets are in the map when it dies.
            exchange.client.wait_for("waiting")
            d.process.kill()
            d.forget()
    d.start()
    lane(d, folder, lanes.SOCKMAP).run(EXCHANGE, EXCHANGE).assert_identical()
    held.update(d.held)
    d.stop()
    left = held.keys() & machine.bpf_objects().keys() - before.keys()
    assert not left, left


def test_an_address_in_use_is_a_start_error(net, folder, daemon):
    taken = net.call(LB, socket.create_server, LISTEN)
    try:
        d = daemon(config()).spawn()
        assert d.process.wait(10) == 3, d.log
        assert AT in d.log and "in use" in d.log, d.log
        d.forget()
        assert not d.pins()
    finally:
        taken.close()


def test_a_listener_of_another_instance_is_an_address_in_use(net, folder, daemon):
    with daemon(config()):
        d = daemon(config()).spawn()
        assert d.process.wait(10) == 3, d.log
        assert AT in d.log and "in use" in d.log, d.log
        d.forget()


def test_a_metrics_address_in_use_is_a_start_error(net, folder, daemon):
    d = daemon(config())
    taken = net.call(LB, socket.create_server, d.metrics_addr)
    try:
        d.spawn()
        assert d.process.wait(10) == 3, d.log
        assert "%s:%d" % d.metrics_addr in d.log and "in use" in d.log, d.log
        d.forget()
    finally:
        taken.close()


def test_a_second_daemon_of_one_instance_is_a_start_error(net, folder, daemon):
    with daemon(config()) as first:
        other = {"rules": [rule("r", "10.81.0.1:6801", [TO])]}
        d = daemon(other, instance=first.instance).spawn()
        assert d.process.wait(10) == 3, d.log
        assert "instance" in d.log, d.log
        d.forget()
        assert first.process.alive() and (first.refusal("sockmap") or first.pins())


def test_metrics_off_opens_no_port(net, folder, daemon):
    with daemon({**config(), "admin": {"metrics": "off"}}) as d:
        with pytest.raises(OSError):
            d.metrics()


@pytest.fixture(params=lanes.CARRIERS)
def held_flow(request, net, folder, daemon):
    """A daemon with one flow in mid-life: (daemon, exchange)."""
    made = []

    def make(drain_ms):
        d = daemon(config(request.param, timeouts={"drain_ms": drain_ms})).start()
        lanes.skip_without(request.param, d)
        options = {"send": 1000, "recv": 1000, "hold": 1, "go": 1, "expect": "any"}
        exchange = lane(d, folder, request.param).open(options, options)
        made.append(exchange)
        exchange.wait_holding()
        return d, exchange
    yield make
    for exchange in made:
        exchange.stop()


def is_listening(net):
    """Without a try: that would be one more flow."""
    return run(*net.inside(LB), "ss", "-Hltn", "sport", "=", f":{LISTEN[1]}").stdout


def refuses_connections(net):
    try:
        net.connect(*LISTEN, seconds=1).close()
        return False
    except OSError:
        return True


def test_sigterm_lets_flows_finish_and_takes_no_new_ones(net, held_flow):
    d, exchange = held_flow(drain_ms=20000)
    d.process.signal(signal.SIGTERM)
    wait_until(lambda: not is_listening(net), 3, "the listener is closed")
    assert refuses_connections(net)
    assert d.process.alive()
    exchange.release()
    assert d.process.wait(5) == 0, d.log
    d.forget()
    exchange.finish().assert_identical()
    d.check_gone()


def test_the_drain_deadline_cuts_flows_and_exits_0(net, held_flow):
    d, exchange = held_flow(drain_ms=500)
    begin = time.monotonic()
    d.process.signal(signal.SIGTERM)
    assert d.process.wait(5) == 0, d.log
    assert 0.4 < time.monotonic() - begin < 4
    d.forget()
    exchange.finish()
    exchange.assert_ends("drained")
    # Cut off is not the same as finished.
    assert exchange.client_report["ends"] == {"rst": 1}, exchange.client_report
    assert exchange.server_report["ends"] == {"rst": 1}, exchange.server_report
    d.check_gone()


def test_a_second_sigterm_cuts_the_drain_short(net, held_flow):
    d, exchange = held_flow(drain_ms=60000)
    d.process.signal(signal.SIGTERM)
    wait_until(lambda: not is_listening(net), 3, "the listener is closed")
    assert refuses_connections(net)
    begin = time.monotonic()
    d.process.signal(signal.SIGTERM)
    assert d.process.wait(5) == 0, d.log
    assert time.monotonic() - begin < 2
    d.forget()
    exchange.finish()
    exchange.assert_ends("drained")
    d.check_gone()


def test_sigterm_without_flows_ends_at_once(net, daemon):
    d = daemon(config(timeouts={"drain_ms": 60000})).start()
    begin = time.monotonic()
    d.stop()
    assert time.monotonic() - begin < 4


def test_clients_in_the_backlog_are_served_before_the_listener_closes(net, folder, daemon):
    with daemon(config("relay")) as d:
        server = peer.server(net, folder, host=BACK[0], port=BACK[1], count=0, send=100)
        client = None
        try:
            # Whoever connects while it cannot accept stands in the backlog.
            d.process.signal(signal.SIGSTOP)
            client = peer.client(net, folder, host=LISTEN[0], port=LISTEN[1], count=50, send=100,
                                 recv=100, patient=1)
            wait_until(lambda: len(net.tcp_flows("client", "dport", "=", f":{LISTEN[1]}")) == 50,
                       5, "all clients are connected")
            d.process.signal(signal.SIGTERM)
            d.process.signal(signal.SIGCONT)
            report = client.result()
            assert report["ok"] == 50, report
            assert d.process.wait(5) == 0
            d.forget()
        finally:
            for p in (client, server):
                if p:
                    p.stop()


def test_it_runs_as_process_1(net, folder, daemon):
    wrap = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    d = daemon(config("sockmap"), wrap=wrap).start()
    try:
        shell = d.pid
        children = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        d.pid = int(children[0])
        d.held = machine.bpf_held(d.pid)
        status = Path(f"/proc/{d.pid}/status").read_text()
        assert re.search(r"^NSpid:\s+\d+\s+1$", status, re.M), status
        lanes.skip_without(lanes.SOCKMAP, d)
        lane(d, folder, lanes.SOCKMAP).run(EXCHANGE, EXCHANGE).assert_identical()
        os.kill(d.pid, signal.SIGTERM)
        assert d.process.wait(5) == 0, d.log
        d.forget()
        d.check_gone()
    finally:
        d.kill()
