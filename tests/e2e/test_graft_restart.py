# SPDX-License-Identifier: MIT
"""Grafted flows outlive the daemon: killed, restarted, changed or not able to start, none fails."""
import contextlib
import socket

import pytest

from lbtest import graft, lane as lanes, machine
from lbtest.daemon import rule
from lbtest.net import LB
from lbtest.process import wait_until

KINDS = {"bulk": 20, "idle": 10, "ping": 20}
FLOWS = sum(KINDS.values())
# So many bytes each way; with the pauses they need two seconds or more.
BULK = {"send": 4 << 20, "recv": 4 << 20, "pause_every": 1 << 16, "pause_ms": 30}
IDLE = {"send": 1000, "recv": 1000}
PING = {"send": 40000, "recv": 40000, "order": "pingpong", "chunk": 200, "pause_every": 200,
        "pause_ms": 10}
PLANS = {"bulk": BULK, "idle": IDLE, "ping": PING}


def address(kind, base=6910):
    return base + list(KINDS).index(kind)


def rules(acceleration="graft", **keys):
    return [rule(kind, f"10.81.0.1:{address(kind)}", [f"10.81.1.2:{address(kind, 7910)}"],
                 acceleration=acceleration, **keys) for kind in KINDS]


def config(**keys):
    return {"graft": {"max_flows": 256}, "rules": rules(**keys)}


@pytest.fixture
def started(daemon):
    def make(**keys):
        d = daemon(config(**keys)).start()
        lanes.skip_without(lanes.GRAFT, d)
        return d
    return make


class Crowd:
    """Flows of every kind, grafted, each held at its end until it is released."""

    def __init__(self, d, folder, counts, stack):
        self.daemon, self.folder, self.stack = d, folder, stack
        self.count = sum(counts.values())
        self.exchanges = {kind: self.open(kind, count) for kind, count in counts.items()}

    def open(self, kind, count):
        lane = lanes.Lane(self.daemon, self.folder, kind, ("10.81.0.1", address(kind)),
                          ("10.81.1.2", address(kind, 7910)), lanes.GRAFT)
        options = {**PLANS[kind], "hold": 1, "go": 1, "deadline_ms": 40000}
        return self.stack.enter_context(lane.open(options, options, count))

    def is_moving(self):
        return all("holding" not in self.exchanges[kind].client.process.stdout
                   for kind in ("bulk", "ping") if kind in self.exchanges)

    def wait_moved(self):
        """All bytes but the FINs have arrived."""
        for exchange in self.exchanges.values():
            exchange.wait_holding()

    def release(self):
        for exchange in self.exchanges.values():
            exchange.release()

    def wait_ended(self):
        """Both ends of every flow."""
        for exchange in self.exchanges.values():
            for peer in (exchange.client, exchange.server):
                assert peer.process.wait(20) == 0, peer.process.stdout

    def assert_identical(self):
        for exchange in self.exchanges.values():
            exchange.finish().assert_identical()


@pytest.fixture
def crowd(folder):
    with contextlib.ExitStack() as stack:
        yield lambda d, counts=None: Crowd(d, folder, counts or KINDS, stack)


def assert_adopted(d, count, known=True):
    assert d.count_log(rf"\b{count} grafted flows of an earlier run go on") == 1, d.log
    assert d.grafted() == count
    assert d.metric("l4lb_active_connections") == (count if known else 0)
    assert d.metric("l4lb_backend_active_connections") == (count if known else 0)


def assert_nothing_left(d):
    graft.wait_empty(d)
    assert not graft.stages(d), graft.stages(d)
    assert d.metric("l4lb_active_connections") == 0
    assert d.metric("l4lb_backend_active_connections") == 0


def test_fifty_flows_of_all_kinds_do_not_notice_a_kill_and_a_restart(started, crowd):
    d = started()
    flows = crowd(d)
    flows.exchanges["idle"].wait_holding()
    d.crash()
    assert flows.is_moving()
    flows.wait_moved()
    d.start()
    assert_adopted(d, FLOWS)
    for kind, count in KINDS.items():
        assert d.metric("l4lb_active_connections", rule=kind) == count
    flows.release()
    flows.assert_identical()
    assert_nothing_left(d)
    d.stop()


def test_bytes_before_and_after_a_restart_are_one_flows(started):
    d = started()
    with graft.Site(d, ("10.81.0.1", address("idle")), ("10.81.1.2", address("idle", 7910))) as to:
        flow = to.graft()
        flow.send(70000)
        d.crash()
        flow.send(50000, down=True)
        d.start()
        assert_adopted(d, 1)
        flow.send(30000)
        # The new daemon counts what came after the last one's counting, at the most all of it.
        wait_until(lambda: d.metric("l4lb_traffic_bytes_total", direction="up") >= 30000, 3,
                   "bytes are counted")
        assert d.metric("l4lb_traffic_bytes_total", direction="up") <= flow.up
        flow.close()
        ended = d.wait_flows(1)[0]
        assert (int(ended["up"]), int(ended["down"])) == (flow.up, flow.down), ended
        assert (ended["reason"], ended["carrier"], ended["rule"]) == ("done", "graft", "idle")
        assert_nothing_left(d)
    d.stop()


def test_flows_that_end_while_no_daemon_runs_are_written_down_by_the_next(started, crowd):
    d = started()
    flows = crowd(d)
    d.crash()
    flows.release()
    flows.wait_ended()
    assert not d.flows()
    d.start()
    flows.assert_identical()
    assert_nothing_left(d)
    assert d.metric("l4lb_ends_total", reason="done") == FLOWS
    d.stop()


@pytest.mark.parametrize("acceleration", ["graft", "relay"])
def test_a_restart_without_their_rule_keeps_flows_going(started, crowd, acceleration):
    d = started()
    flows = crowd(d, {"bulk": 4, "ping": 4})
    d.crash()
    other = rule("other", "10.81.0.1:6919", ["10.81.1.2:7919"], acceleration=acceleration)
    d.configure({"rules": [other]})
    d.start()
    assert_adopted(d, 8, known=False)
    assert flows.is_moving()
    flows.release()
    flows.wait_ended()
    found = d.wait_flows(8, "-")
    assert {(f["carrier"], f["reason"]) for f in found} == {("graft", "done")}, found
    assert sum(int(f["up"]) for f in found) == 4 * (BULK["send"] + PING["send"])
    assert sum(int(f["down"]) for f in found) == 4 * (BULK["send"] + PING["send"])
    assert_nothing_left(d)
    d.stop()


def test_a_flow_whose_rule_is_gone_is_drained_with_the_first_rule(started):
    d = started()
    with graft.Site(d, ("10.81.0.1", address("idle")), ("10.81.1.2", address("idle", 7910))) as to:
        flow = to.graft()
        d.crash()
        d.configure({"rules": [rule("other", "10.81.0.1:6919", ["10.81.1.2:7919"],
                                    timeouts={"drain_ms": 300})]})
        d.start()
        assert_adopted(d, 1, known=False)
        d.stop(5)
        for sock in (flow.client, flow.server):
            graft.wait_reset(sock, 1)
        ended = d.wait_flows(1)[0]
        assert (ended["rule"], ended["reason"]) == ("-", "drained"), ended


def test_a_start_that_fails_costs_no_flow(net, started, crowd):
    d = started()
    flows = crowd(d, {"bulk": 4, "idle": 4, "ping": 4})
    d.crash()
    assert flows.is_moving()
    # Also when it gets as far as the last thing that can fail.
    for taken in (("10.81.0.1", address("idle")), d.metrics_addr):
        listener = net.call(LB, socket.create_server, taken)
        with listener:
            d.spawn()
            assert d.process.wait(10) == 3, d.log
            assert "in use" in d.log, d.log
            d.forget()
    flows.wait_moved()
    d.start()
    assert_adopted(d, flows.count)
    flows.release()
    flows.assert_identical()
    assert_nothing_left(d)
    d.stop()


def test_a_start_that_fails_costs_no_line_of_a_flow_that_had_ended(net, started, crowd):
    d = started()
    flows = crowd(d, {"idle": 4})
    d.crash()
    flows.release()
    flows.wait_ended()
    with net.call(LB, socket.create_server, ("10.81.0.1", address("idle"))):
        d.spawn()
        assert d.process.wait(10) == 3, d.log
        d.forget()
    d.start()
    flows.assert_identical()
    assert_nothing_left(d)
    d.stop()


def test_twenty_kills_with_flows_going_on_leave_nothing_stale(started, crowd):
    d = started()
    flows = crowd(d, {"idle": 4, "ping": 4})
    held = dict(d.held)
    with graft.Site(d, ("10.81.0.1", address("bulk")), ("10.81.1.2", address("bulk", 7910))) as to:
        for i in range(20):
            # One more that lives on, one that nobody knows of when it ends.
            to.graft().ping()
            ended = to.graft()
            d.crash()
            ended.close()
            d.start()
            held.update(d.held)
            assert d.count_log(rf"\b{flows.count + i + 2} grafted flows of an earlier run") == 1
        for flow in to.flows[::2]:
            flow.ping()
            flow.close()
        flows.wait_moved()
        flows.release()
        flows.assert_identical()
        assert_nothing_left(d)
    d.stop()
    left = held.keys() & machine.bpf_objects().keys()
    assert not left, left


# Leaving TCP_REPAIR takes SO_REUSEADDR from a socket for as long as its window probe takes; killed
# in that moment, a client that stays holds the listener's address for a minute.
def test_a_kill_while_flows_are_taken_over_never_stops_a_restart(started):
    d = started()
    with graft.Site(d, ("10.81.0.1", address("bulk")), ("10.81.1.2", address("bulk", 7910))) as to:
        for _ in range(15):
            for _ in range(3):
                to.open()
            d.crash()
            d.start()
            for flow in to.flows:
                graft.reset(flow.client)
                graft.reset(flow.server)
            to.flows.clear()
        wait_until(lambda: not graft.keys(d), 4, "no key is left", every=0.1)
    d.stop()
