# SPDX-License-Identifier: MIT
"""Starts that fail say why; stops drain; a killed daemon comes up again; it may be process 1."""
import contextlib
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
from lbtest.talk import Talk

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
def carrier(request):
    return request.param


@pytest.fixture
def held_flow(carrier, net, folder, daemon):
    """A daemon with one flow in mid-life: (daemon, exchange)."""
    made = []

    def make(drain_ms):
        d = daemon(config(carrier, timeouts={"drain_ms": drain_ms})).start()
        lanes.skip_without(carrier, d)
        options = {"send": 1000, "recv": 1000, "hold": 1, "go": 1, "expect": "any"}
        exchange = lane(d, folder, carrier).open(options, options)
        made.append(exchange)
        exchange.wait_holding()
        return d, exchange
    yield make
    for exchange in made:
        exchange.stop()


def assert_closes_its_listener(net):
    """Asked of the kernel: a connection that came a moment too early would be served."""
    wait_until(lambda: not run(*net.inside(LB), "ss", "-Hltn", f"sport = :{LISTEN[1]}").stdout,
               3, "the listener is closed")
    with pytest.raises(ConnectionRefusedError):
        net.connect(*LISTEN, seconds=1).close()


def test_sigterm_lets_flows_finish_and_takes_no_new_ones(net, held_flow):
    d, exchange = held_flow(drain_ms=20000)
    d.process.signal(signal.SIGTERM)
    assert_closes_its_listener(net)
    assert d.process.alive()
    exchange.release()
    assert "of 1 flows 1 ended by themselves, 0 were cut" in d.wait_stopped(5)
    exchange.finish().assert_identical()
    d.check_gone()


@pytest.mark.parametrize("how", ["deadline", "second SIGTERM", "SIGINT after SIGTERM"])
def test_what_a_stop_cuts_is_reset_and_told_by_the_exit_code(net, held_flow, carrier, how):
    d, exchange = held_flow(drain_ms=500 if how == "deadline" else 60000)
    begin = time.monotonic()
    d.process.signal(signal.SIGTERM)
    if how == "deadline":
        told = d.wait_stopped(5, cut=1)
        assert 0.4 < time.monotonic() - begin < 4
    else:
        assert_closes_its_listener(net)
        begin = time.monotonic()
        d.process.signal(signal.SIGINT if "SIGINT" in how else signal.SIGTERM)
        told = d.wait_stopped(5, cut=1)
        assert time.monotonic() - begin < 2
    assert told.endswith(f"of 1 flows 0 ended by themselves, 1 were cut ({carrier} 1)"), told
    exchange.finish()
    exchange.assert_ends("drained")
    # Cut off is not the same as finished.
    assert exchange.client_report["ends"] == {"rst": 1}, exchange.client_report
    assert exchange.server_report["ends"] == {"rst": 1}, exchange.server_report
    d.check_gone()


def test_the_report_counts_flows_of_every_kind(net, daemon):
    """Two that are carried, one that waits for a backend with room, one that ends well."""
    long = {"timeouts": {"drain_ms": 60000}}
    # One worker: another one might give the waiting flow the place of one that was cut before it.
    d = daemon({"workers": 1, "rules": [
        rule("full", AT, [{"addr": TO, "max_connections": 1}], acceleration="relay",
             queue={"max": 10, "timeout_ms": 60000}, **long),
        rule("fast", "10.81.0.1:6801", ["10.81.1.2:7801"], acceleration="sockmap", **long)]})
    d.start()
    lanes.skip_without(lanes.SOCKMAP, d)
    with contextlib.ExitStack() as opened:
        def talk(at, to):
            flow = opened.enter_context(Talk(net, at, to))
            flow.exchange()
            return flow
        talk(LISTEN, BACK)
        opened.enter_context(net.connect(*LISTEN, seconds=5))
        good, _ = (talk(("10.81.0.1", 6801), ("10.81.1.2", 7801)) for _ in range(2))
        wait_until(lambda: sorted(f["carrier"] or f["state"] for f in d.living()) ==
                   ["queued", "relay", "sockmap", "sockmap"], 5, d.living)
        d.process.signal(signal.SIGTERM)
        wait_until(lambda: "draining: 4 flows" in d.log, 5, lambda: d.log)
        good.finish()
        d.wait_flows(1)
        d.process.signal(signal.SIGTERM)
        told = d.wait_stopped(5)
    assert told.endswith("of 4 flows 1 ended by themselves, 3 were cut "
                         "(relay 1, sockmap 1, not yet carried 1)"), told
    assert "second signal: cutting 3 flows" in d.log
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
            d.wait_stopped(5, cut=0)
        finally:
            for p in (client, server):
                if p:
                    p.stop()


# --- process 1 of a PID namespace, as in a container ----------------------------------------------

AS_PROCESS_1 = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


def find_process_1(d):
    """What <d> names was unshare, which waits for its only child."""
    shell = d.pid
    children = wait_until(Path(f"/proc/{shell}/task/{shell}/children").read_text, 5, "it is there")
    d.pid = int(children.split()[0])
    status = Path(f"/proc/{d.pid}/status").read_text()
    assert re.search(r"^NSpid:\s+\d+\s+1$", status, re.M), status


@pytest.fixture
def process_1(daemon):
    d = daemon(config("relay"), wrap=AS_PROCESS_1).start()
    find_process_1(d)
    d.held = machine.bpf_held(d.pid)
    yield d
    d.kill()


def test_it_runs_as_process_1(net, folder, daemon):
    d = daemon(config("sockmap"), wrap=AS_PROCESS_1).start()
    try:
        find_process_1(d)
        d.held = machine.bpf_held(d.pid)
        lanes.skip_without(lanes.SOCKMAP, d)
        lane(d, folder, lanes.SOCKMAP).run(EXCHANGE, EXCHANGE).assert_identical()
        os.kill(d.pid, signal.SIGTERM)
        d.wait_stopped(5, cut=0)
        d.check_gone()
    finally:
        d.kill()


def inside(d, *command):
    """A program that somebody else starts in the daemon's namespace, as `docker exec` does."""
    return run("nsenter", f"--pid=/proc/{d.pid}/ns/pid", "--", *command)


def test_as_process_1_it_drains_when_told_from_within(net, process_1):
    """The kernel drops there what nobody handles."""
    d = process_1
    with Talk(net, LISTEN, BACK) as talk:
        for number in ("USR2", "PIPE", "QUIT", "CHLD", "TERM"):
            inside(d, "sh", "-c", f"kill -{number} 1")
        assert_closes_its_listener(net)
        talk.exchange()
        talk.finish()
        d.wait_stopped(5, cut=0)


def orphans(d):
    return Path(f"/proc/{d.pid}/task/{d.pid}/children").read_text().split()


def test_as_process_1_it_keeps_no_zombies(process_1):
    d = process_1
    inside(d, "sh", "-c", "for i in 1 2 3 4 5; do sleep 1000 >/dev/null 2>&1 & done")
    left = orphans(d)
    assert len(left) == 5, left
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)
    wait_until(lambda: not orphans(d), 5, lambda: orphans(d))
    os.kill(d.pid, signal.SIGTERM)
    d.wait_stopped(5, cut=0)


def test_as_process_1_it_is_told_to_stop_before_it_is_ready(folder, daemon):
    """Its configuration comes late, from a pipe."""
    d = daemon(config("relay"), wrap=AS_PROCESS_1)
    text = d.config.read_text()
    d.config.unlink()
    os.mkfifo(d.config)
    d.spawn()
    try:
        # Opens when the daemon does.
        with open(d.config, "w", encoding="utf-8") as pipe:
            find_process_1(d)
            inside(d, "sh", "-c", "kill -TERM 1")
            pipe.write(text)
        d.wait_stopped(10, cut=0)
    finally:
        d.kill()
