# SPDX-License-Identifier: MIT
"""
How grafts begin and end: promotion, every way of ending, stops and `--unload`. Whatever the end,
the entry, its keys and its local port are free again.
"""
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lbtest import graft, lane as lanes, machine
from lbtest.daemon import rule
from lbtest.net import BACKEND, BACKEND_ADDR, CLIENT, LB, LB_ADDR
from lbtest.process import wait_until

LISTEN, BACK = 6920, 7920
LINGER = 1  # seconds that an ended graft's addresses are kept


def at(family, port, addr):
    return f"[{addr[family]}]:{port}" if family == 6 else f"{addr[family]}:{port}"


def rules(family=4, acceleration="graft", **keys):
    return [rule("r", at(family, LISTEN, LB_ADDR), [at(family, BACK, BACKEND_ADDR)],
                 acceleration=acceleration, **keys)]


@pytest.fixture
def site(daemon):
    """site(family, config keys, rule keys) is where flows go, of a daemon of its own."""
    made = []

    def make(family=4, config=None, **keys):
        d = daemon({"graft": {"max_flows": 256}, **(config or {}),
                    "rules": rules(family, **keys)}).start()
        lanes.skip_without(lanes.GRAFT, d)
        made.append(graft.Site(d, (LB_ADDR[family], LISTEN), (BACKEND_ADDR[family], BACK)))
        return made[-1]
    yield make
    for s in made:
        s.close()


@pytest.fixture(params=[4, 6])
def family(request):
    return request.param


def lane(d, folder, carrier=lanes.GRAFT):
    return lanes.Lane(d, folder, "r", (LB_ADDR[4], LISTEN), (BACKEND_ADDR[4], BACK), carrier)


def assert_ended(d, flow, reason, carrier="graft", skip=0):
    """The next line of the log is this flow's, byte for byte."""
    line = d.wait_flows(1, skip=skip)[0]
    assert (line["reason"], line["carrier"]) == (reason, carrier), line
    assert (int(line["up"]), int(line["down"])) == (flow.up, flow.down), line
    return line


# --- idle and old ---------------------------------------------------------------------------------


def assert_both_reset_at_once(net, flow, d, reason, cause=lambda: None):
    """Each end gets one RST, with the one sequence number that needs no challenge."""
    ends = ((CLIENT, flow.client, LISTEN), (BACKEND, flow.server, flow.server.getpeername()[1]))
    challenges = [graft.kernel_count(net, side, "TCPChallengeACK") for side, _, _ in ends]
    counters = [graft.counting_resets(net, side, port, graft.next_expected(sock))
                for side, sock, port in ends]
    with counters[0] as at_client, counters[1] as at_backend:
        cause()
        d.wait_flows(1, seconds=6)
        for _, sock, _ in ends:
            graft.wait_reset(sock, 1)
        assert (at_client(), at_backend()) == ((1, 1), (1, 1))
    assert challenges == [graft.kernel_count(net, side, "TCPChallengeACK") for side, _, _ in ends]
    assert_ended(d, flow, reason)


@pytest.mark.parametrize("reason, timeouts", [("idle", {"idle_ms": 1500}),
                                              ("max_lifetime", {"max_lifetime_ms": 1500})])
def test_a_quiet_graft_ends_with_the_one_right_reset_at_each_end(net, site, family, reason,
                                                                 timeouts):
    to = site(family, timeouts=timeouts)
    flow = to.graft()
    flow.send(3000)
    flow.send(5000, down=True)
    assert_both_reset_at_once(net, flow, to.daemon, reason)
    graft.wait_empty(to.daemon)
    to.daemon.stop()


def test_bytes_either_way_keep_a_graft_from_being_idle(site, family):
    to = site(family, timeouts={"idle_ms": 1000})
    flow = to.graft()
    for i in range(12):
        flow.send(down=bool(i // 4 % 2))
        time.sleep(0.3)  # what is tested
    assert to.daemon.grafted() == 1 and not to.daemon.flows()
    flow.close()
    assert_ended(to.daemon, flow, "done")
    to.daemon.stop()


def test_traffic_does_not_keep_a_graft_beyond_its_lifetime(site):
    to = site(timeouts={"max_lifetime_ms": 1000})
    flow = to.graft()
    begin = time.monotonic()
    with pytest.raises(ConnectionError):
        while time.monotonic() < begin + 6:
            flow.ping()
    assert to.daemon.wait_flows(1)[0]["reason"] == "max_lifetime"

    graft.wait_empty(to.daemon)
    to.daemon.stop()


# --- resets and closes ----------------------------------------------------------------------------

ONE_PORT = {"graft": {"max_flows": 16, "port_min": 20000, "port_max": 20000}}


def assert_free_again(to):
    """No entry, no key; and the only local port serves a new graft."""
    graft.wait_empty(to.daemon, 3)
    assert not graft.stages(to.daemon)
    skip = len(to.daemon.flows())
    flow = to.graft()
    assert flow.server.getpeername()[1] == 20000
    flow.close()
    assert_ended(to.daemon, flow, "done", skip=skip)
    to.daemon.stop()


@pytest.mark.parametrize("by", ["client", "backend"])
def test_a_reset_in_mid_flow_reaches_the_other_end_at_once(site, family, by):
    to = site(family, config=ONE_PORT)
    flow = to.graft()
    flow.send(100000)
    first, other = (flow.client, flow.server) if by == "client" else (flow.server, flow.client)
    graft.reset(first)
    graft.wait_reset(other, 1)
    assert_ended(to.daemon, flow, f"reset_by_{by}")
    assert_free_again(to)


@pytest.mark.parametrize("by", ["client", "backend"])
def test_a_reset_among_streaming_bytes_has_its_reason(site, by):
    to = site(config=ONE_PORT)
    flow = to.graft()
    first, other = (flow.client, flow.server) if by == "client" else (flow.server, flow.client)
    # Nobody reads: bytes stand in both directions when the reset comes.
    assert graft.stall(first) and graft.stall(other)
    graft.reset(first)
    graft.wait_reset(other, 2)
    line = to.daemon.wait_flows(1)[0]
    assert (line["reason"], line["carrier"]) == (f"reset_by_{by}", "graft"), line
    assert_free_again(to)


@pytest.mark.parametrize("first", ["client", "backend", "both"])
def test_a_half_closed_graft_lives_on_beyond_the_linger(site, family, first):
    to = site(family, config=ONE_PORT)
    flow = to.graft()
    closed, other = (flow.client, flow.server) if first != "backend" else (flow.server, flow.client)
    closed.shutdown(1)
    if first == "both":
        other.shutdown(1)
        assert closed.recv(1) == b""
    else:
        assert other.recv(1) == b""
        end = time.monotonic() + 2 * LINGER
        while time.monotonic() < end:
            flow.send(1000, down=first == "client")
            time.sleep(0.1)  # what is tested
        assert to.daemon.grafted() == 1 and not to.daemon.flows()
        other.shutdown(1)
    for sock in (closed, other):
        assert sock.recv(1) == b""
        sock.close()
    assert_ended(to.daemon, flow, "done")
    assert_free_again(to)


# --- room, promotion ------------------------------------------------------------------------------


def test_flows_beyond_the_tables_room_go_another_way_and_say_so(folder, site):
    to = site(config={"graft": {"max_flows": 8}})
    to.close()
    options = {"send": 100000, "recv": 100000, "hold": 1}
    for _ in range(2):  # and the room comes back
        graft.wait_empty(to.daemon)
        with lane(to.daemon, folder).open(options, options, 12) as exchange:
            exchange.wait_holding()
            wait_until(lambda: to.daemon.grafted() == 8, 3, "eight are grafted")
            exchange.release()
            exchange.finish().assert_identical("map_full")
        ways = sorted((f["carrier"] == "graft", f["why"]) for f in exchange.log)
        assert ways == [(False, "map_full")] * 4 + [(True, "none")] * 8, ways
    to.daemon.stop()


def auto(site, **keys):
    return site(config={"graft": {"max_flows": 16, **keys}}, acceleration="auto")


def test_auto_grafts_after_so_many_bytes_and_not_before(site):
    to = auto(site, after_bytes=100000, after_ms=60000)
    flow = to.open()
    flow.send(50000)
    flow.send(49999, down=True)
    time.sleep(0.5)  # nothing is to happen
    assert not to.daemon.grafted() and not graft.keys(to.daemon)
    flow.send(1)
    wait_until(to.daemon.grafted, 5, "the flow is grafted")
    flow.close()
    assert_ended(to.daemon, flow, "done")
    to.daemon.stop()


def test_auto_grafts_after_so_long_and_not_before(site):
    to = auto(site, after_bytes=1 << 40, after_ms=1500)
    flow, begin = to.open(), time.monotonic()
    while not to.daemon.grafted():
        flow.ping()
        assert time.monotonic() < begin + 6
        time.sleep(0.02)
    assert time.monotonic() > begin + 1.4
    flow.close()
    assert_ended(to.daemon, flow, "done")
    to.daemon.stop()


def test_auto_grafts_after_so_long_without_a_byte(site):
    to = auto(site, after_bytes=1 << 40, after_ms=500)
    flow = to.open()
    wait_until(to.daemon.grafted, 5, "the silent flow is grafted")
    flow.ping()
    flow.close()
    assert_ended(to.daemon, flow, "done")
    to.daemon.stop()


def test_auto_leaves_a_short_flow_alone(site):
    to = auto(site, after_ms=60000)
    flow = to.open()
    flow.ping(1000)
    flow.close()
    line = assert_ended(to.daemon, flow, "done", carrier="relay")
    assert line["why"] == "short", line
    assert to.daemon.metric("l4lb_promotions_total", carrier="graft") == 0
    to.daemon.stop()


@pytest.mark.parametrize("carrier", [lanes.RELAY, lanes.SOCKMAP])
def test_another_acceleration_never_grafts(folder, daemon, carrier):
    graft_too = rule("other", "10.81.0.1:6929", ["10.81.1.2:7929"], acceleration="graft")
    d = daemon({"graft": {"max_flows": 16, "after_bytes": 0, "after_ms": 0},
                "rules": [*rules(acceleration=carrier), graft_too]}).start()
    lanes.skip_without(lanes.GRAFT, d)
    options = {"send": 1 << 20, "recv": 1 << 20}
    exchange = lane(d, folder, carrier).run(options, options, 8)
    exchange.assert_peers_content()
    assert "graft" not in {f["carrier"] for f in exchange.log}
    assert d.metric("l4lb_promotions_total", carrier="graft") == 0
    assert d.metric("l4lb_graft_packets_total", what="forwarded") == 0
    d.stop()


# --- what is stored -------------------------------------------------------------------------------


def test_nothing_is_stored_here_for_an_end_that_does_not_read(net, site):
    to = site()
    flow = to.graft()
    rss = machine.process_rss(to.daemon.pid)
    sent = graft.stall(flow.client) + graft.stall(flow.server)
    assert sent > 100000
    assert machine.process_rss(to.daemon.pid) <= rss + (256 << 10)
    # Without a socket there is no buffer.
    ports = (f":{LISTEN}", f":{BACK}")
    assert not [f for f in net.tcp_flows(LB) if f[2].endswith(ports) or f[3].endswith(ports)]
    to.daemon.stop()


def test_a_backend_that_reads_only_once_it_is_heard_is_not_grafted_before(net, site, family):
    """Its window is shut: what lies in front of it would not reach it, whatever it says."""
    to = site(family, {"graft": {"max_flows": 16, "after_bytes": 1 << 40, "after_ms": 1500}},
              acceleration="auto")
    to.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    flow, sent, size = to.open(), 0, 4 << 20

    def kept():
        return int(net.tcp_flows(LB, f"dport = :{BACK}")[0][1])
    while kept() < 4096:
        flow.client.sendall(b"x" * 1024)
        sent += 1024
        time.sleep(0.01)
    wait_until(lambda: graft.stages(to.daemon) == {graft.PASS: 1}, 5, "the flow is looked at")
    time.sleep(0.5)  # nothing is to happen
    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(flow.server.sendall, b"y" * size)
        flow.take(size, down=True)
        writer.result()
    assert graft.stages(to.daemon) == {graft.PASS: 1}
    flow.take(sent)
    wait_until(to.daemon.grafted, 10, "nothing is in the way any more")
    flow.ping()
    flow.close()
    assert_ended(to.daemon, flow, "done")
    to.daemon.stop()


# --- stops and --unload ---------------------------------------------------------------------------


def in_kernel(net, d):
    return graft.filters(net), d.held.keys() & machine.bpf_objects().keys(), d.pins()


def test_a_stop_lets_grafts_finish_and_leaves_nothing(net, site):
    before = graft.filters(net)
    to = site(timeouts={"drain_ms": 20000})
    d, flow = to.daemon, to.graft()
    assert graft.filters(net) != before
    d.process.signal(signal.SIGTERM)
    wait_until(lambda: "draining" in d.log, 3, "it drains")
    flow.ping(1000)
    assert d.process.alive()
    flow.close()
    assert d.process.wait(5) == 0
    d.forget()
    assert_ended(d, flow, "done")
    d.check_gone()
    assert graft.filters(net) == before


@pytest.mark.parametrize("how", ["deadline", "second signal"])
def test_a_drain_that_is_cut_resets_both_ends_at_once(net, site, family, how):
    before = graft.filters(net)
    to = site(family, timeouts={"drain_ms": 700 if how == "deadline" else 60000})
    d, flow = to.daemon, to.graft()
    flow.ping(2000)
    begin = time.monotonic()

    def end():
        d.process.signal(signal.SIGTERM)
        if how == "second signal":
            wait_until(lambda: "draining" in d.log, 3, "it drains")
            d.process.signal(signal.SIGTERM)
    assert_both_reset_at_once(net, flow, d, "drained", end)
    assert how == "second signal" or time.monotonic() > begin + 0.6
    assert d.wait_stopped(3, cut=1).endswith("(graft 1)")
    d.check_gone()
    assert graft.filters(net) == before


def test_a_second_signal_still_writes_down_what_was_reset_a_moment_ago(site):
    to = site(timeouts={"drain_ms": 60000})
    d, flow, other = to.daemon, to.graft(), to.graft()
    d.process.signal(signal.SIGTERM)
    wait_until(lambda: "draining" in d.log, 3, "it drains")
    graft.reset(flow.client)
    graft.wait_reset(flow.server, 1)
    d.process.signal(signal.SIGTERM)
    d.wait_stopped(3, cut=1)
    graft.wait_reset(other.client, 1)
    assert {f["reason"] for f in d.wait_flows(2)} == {"reset_by_client", "drained"}
    d.check_gone()


def test_unload_after_a_kill_removes_everything(net, site):
    before = graft.filters(net)
    to = site()
    d, flow = to.daemon, to.graft()
    d.crash()
    flow.ping()
    found, objects, pins = in_kernel(net, d)
    assert found != before and objects and pins
    assert d.unload() == 0
    wait_until(lambda: in_kernel(net, d) == (before, set(), []), 3, lambda: in_kernel(net, d))
    # It says that flows break: they do, and are told when they speak; an acknowledgement that was
    # still owed may have spoken already.
    for end in (flow.client, flow.server):
        try:
            end.sendall(b"x")
            graft.wait_reset(end, 3)
        except ConnectionError:
            pass
    assert d.unload() == 0


def test_unload_refuses_while_a_daemon_runs(net, site):
    to = site()
    d, flow = to.daemon, to.graft()
    before = in_kernel(net, d)
    assert d.unload() == 3
    assert in_kernel(net, d) == before
    flow.ping()
    flow.close()
    assert_ended(d, flow, "done")
    d.stop()
