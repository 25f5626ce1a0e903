# SPDX-License-Identifier: MIT
"""same_host_bypass: between processes of one host bytes skip TCP, and nobody can tell by them."""
import os
import re
import signal

import pytest

from lbtest import machine, peer
from lbtest.daemon import rule
from lbtest.lane import RELAY, Lane
from lbtest.net import BACKEND, CLIENT, LB, LB_ADDR
from lbtest.process import run, wait_until

LIMIT = 16 << 20  # per flow
TRIES = 3  # other processes use the same memory
FAST = {"send": 1 << 30, "hold": 1, "quiet_ms": 1500, "expect": "any", "go": 1, "sndbuf": 65536}
NEVER = {"rx": "never", "expect": "any", "end": "keep", "rcvbuf": 65536}

# name: (listener, where clients connect, backend). Sockmap is what the rules ask for: the key wins.
RULES = {
    "v4": (("127.0.0.1", 5600), ("127.0.0.1", 5600), ("127.0.0.1", 5700)),
    "v6": (("::1", 5601), ("::1", 5601), ("::1", 5701)),
    "any4to6": (("0.0.0.0", 5602), (LB_ADDR[4], 5602), (LB_ADDR[6], 5702)),
    "any6to4": (("::", 5603), (LB_ADDR[6], 5603), (LB_ADDR[4], 5703)),
}
UNWATCHED = ("127.0.0.1", 5610), ("127.0.0.1", 5710)


def text(addr):
    return "[%s]:%d" % addr if ":" in addr[0] else "%s:%d" % addr


def bypassed_rule(name):
    listen, _, backend = RULES[name]
    return rule(name, text(listen), [text(backend)], acceleration="sockmap", same_host_bypass=True)


def same_host(daemon, name, **labels):
    return daemon.metric(f"l4lb_same_host_{name}", **labels)


def counts(daemon):
    return {"/".join([name[len("l4lb_same_host_"):], *dict(labels).values()]): int(value)
            for (name, labels), value in daemon.metrics().items() if "_same_host_" in name}


def had_memory(daemon):
    """Other processes may have used up TCP's memory; then messages rightly go through TCP."""
    return not same_host(daemon, "passes_total", reason="memory")


def attached():
    """Ids of the sock_ops programs at the root control group."""
    at = next(line.split()[1] for line in open("/proc/self/mounts") if " cgroup2 " in line)
    return set(re.findall(r"^(\d+)\s+\S*sock_ops", run("bpftool", "cgroup", "show", at).stdout,
                          re.M))


@pytest.fixture(autouse=True)
def cgroup2_is_there():
    if not any(" cgroup2 " in line for line in open("/proc/self/mounts")):
        pytest.skip("no cgroup2 file system is mounted")


@pytest.fixture
def bypassing(daemon):
    plain = rule("plain", text(UNWATCHED[0]), [text(UNWATCHED[1])], acceleration="relay")
    with daemon({"rules": [plain, *map(bypassed_rule, RULES)]}) as d:
        yield d


def local_lane(daemon, folder, name):
    _, listen, backend = RULES[name]
    return Lane(daemon, folder, name, listen, backend, RELAY, (LB, LB))


@pytest.fixture(params=RULES)
def lane(request, bypassing, folder):
    return local_lane(bypassing, folder, request.param)


def assert_bypassed(exchange, share=0.0):
    """Every flow says so, and at least this share of the bytes on both hops did."""
    daemon = exchange.lane.daemon
    exchange.assert_identical()
    assert {f["why"] for f in exchange.log} == {"same_host"}, exchange.log[:3]
    hops = 2 * (exchange.client_report["sent"] + exchange.client_report["received"])
    if had_memory(daemon):
        assert same_host(daemon, "bytes_total") >= share * hops, (hops, str(counts(daemon)))


def test_messages_skip_tcp_both_ways(lane):
    options = {"send": 64 * 2000, "recv": 64 * 2000, "order": "pingpong", "chunk": 64, "go": 1}
    assert_bypassed(lane.run(options, options, count=4), 0.9)


def test_streams_arrive_as_they_were_sent(lane):
    options = {"send": 16 << 20, "recv": 16 << 20, "patient": 1}
    assert_bypassed(lane.run(options, options, count=4))


@pytest.mark.parametrize("slow", [
    {"stall_every": 1 << 17, "stall_ms": 5},
    {"stall_every": 1 << 15, "stall_ms": 5, "rcvbuf": 16384},
    {"stall_every": 100000, "stall_ms": 20, "rx": "peek"},
], ids=["default", "small", "peek"])
@pytest.mark.parametrize("chunk", [100, 5000])
def test_order_is_kept_when_a_slow_reader_makes_bytes_change_their_way(lane, slow, chunk):
    # On loopback a receiver with so little room may offer less than half of what it once did; TCP
    # then sends a window for each persist timer, 14 KB in 200 ms, through any proxy or none.
    size = 1 << 20 if "rcvbuf" in slow else 4 << 20
    options = {"send": size, "recv": size, "patient": 1, "chunk": chunk}
    assert_bypassed(lane.run({**options, **slow}, {**options, **slow}, count=2))
    if had_memory(lane.daemon):
        ways = [same_host(lane.daemon, "passes_total", reason=r) for r in ("full", "unread")]
        assert all([*ways, same_host(lane.daemon, "redirects_total")]), str(counts(lane.daemon))


def test_writes_too_large_for_the_receiver_go_through_tcp(lane):
    options = {"send": 4 << 20, "recv": 4 << 20, "patient": 1, "chunk": 300000, "rcvbuf": 16384}
    assert_bypassed(lane.run(options, options, count=2))
    assert same_host(lane.daemon, "passes_total", reason="full") or not had_memory(lane.daemon)


def test_an_answer_comes_after_the_client_closed_its_half(lane):
    assert_bypassed(lane.run({"order": "recv", "send": 50000, "recv": 1 << 20},
                             {"send": 1 << 20, "recv": 50000}))


def test_what_was_redirected_before_the_close_is_read_long_after_it(lane):
    # The reader begins when the writer, and the daemon's leg, are gone.
    late = {"order": "recv", "stall_every": 1, "stall_ms": 300, "recv": 20000}
    exchange = lane.run({"send": 20000, "order": "send", "end": "close"},
                        {**late, "stall_every": 10000})
    exchange.assert_identical()


@pytest.mark.parametrize("direction,chunk", [
    ("up", 32), ("down", 65536),
    *(pytest.param(*other, marks=pytest.mark.long) for other in (("up", 65536), ("down", 32)))])
def test_a_reader_that_never_reads_costs_bounded_memory(lane, direction, chunk):
    # Each message of 32 bytes wakes three processes; on a busy machine that takes its time.
    fast = {**FAST, "chunk": chunk}
    server, client = (NEVER, fast) if direction == "up" else (fast, NEVER)
    for _ in range(TRIES):
        before = machine.memory()
        with lane.open(server, client, count=2, deadline_ms=90000) as exchange:
            exchange.wait_holding(80)
            grown = {kind: n - before[kind] for kind, n in machine.memory().items()}
            exchange.release()
            exchange.finish()
        sender = exchange.client_report if direction == "up" else exchange.server_report
        assert sender["sends"] == {"timeout": 2}, (sender, str(counts(lane.daemon)))
        assert sender["sent"] < LIMIT * 2, f"{sender['sent'] / 2} bytes per flow"
        if grown["slab"] < LIMIT * 2:  # what messages cost beyond their bytes
            break
    assert grown["slab"] < LIMIT * 2, grown
    assert same_host(lane.daemon, "redirects_total") > 0 or not had_memory(lane.daemon)


def test_a_reset_is_a_reset(lane):
    exchange = lane.run({"send": 1 << 20, "recv": 0, "end": "keep", "expect": "rst"},
                        {"rst_after": 4000, "end": "keep", "expect": "any"})
    exchange.assert_ends("reset_by_client")
    assert exchange.server_report["ends"] == {"rst": 1}, str(exchange.server_report)


def test_other_ports_of_the_host_are_left_alone(bypassing, folder):
    lane = Lane(bypassing, folder, "plain", *UNWATCHED, RELAY, (LB, LB))
    options = {"send": 1 << 20, "recv": 1 << 20, "patient": 1}
    exchange = lane.run(options, options, count=2)
    exchange.assert_identical()
    assert {f["why"] for f in exchange.log} == {"configured"}
    assert same_host(bypassing, "sockets_total") == 0


def test_other_hosts_go_through_tcp(daemon, folder):
    address = (LB_ADDR[4], 5620), ("10.81.1.2", 5720)
    r = rule("far", text(address[0]), [text(address[1])], same_host_bypass=True)
    with daemon({"rules": [r]}) as d:
        lane = Lane(d, folder, "far", *address, RELAY, (CLIENT, BACKEND))
        options = {"send": 1 << 20, "recv": 1 << 20, "patient": 1}
        lane.run(options, options, count=2).assert_identical()
        assert same_host(d, "sockets_total") == 0


def test_the_same_port_in_another_network_namespace_is_left_alone(bypassing, folder):
    backend = RULES["v4"][2]
    options = {"host": backend[0], "port": backend[1], "send": 1 << 20, "recv": 1 << 20, "count": 1}
    server = peer.server(bypassing.net, folder, CLIENT, **options)
    client = peer.client(bypassing.net, folder, CLIENT, **options)
    assert client.result()["exit"] == server.result()["exit"] == 0
    assert same_host(bypassing, "sockets_total") == 0


def test_a_rule_that_shares_a_backend_is_bypassed_too_and_stays_on_relay(daemon, folder):
    listen, backend = ("127.0.0.1", 5630), RULES["v4"][2]
    sharing = rule("sharing", text(listen), [text(backend)], acceleration="sockmap")
    with daemon({"rules": [bypassed_rule("v4"), sharing]}) as d:
        lane = Lane(d, folder, "sharing", listen, backend, RELAY, (LB, LB))
        options = {"send": 64 * 500, "recv": 64 * 500, "order": "pingpong", "chunk": 64}
        assert_bypassed(lane.run(options, options), 0.4)  # one hop of two


def test_off_by_default(daemon):
    with daemon({"rules": [rule("r", "127.0.0.1:5640", ["127.0.0.1:5740"])]}) as d:
        assert same_host(d, "in_service") == 0
        assert not any(o["name"].startswith("lb_same") for o in d.held.values())


def test_without_a_cgroup2_one_line_says_so_and_bytes_go_through_tcp(daemon, folder):
    with daemon({"rules": [bypassed_rule("v4")]},
                wrap=["unshare", "-m", "sh", "-c",
                      "while read -r _ at kind _; do [ \"$kind\" != cgroup2 ] || umount \"$at\"; "
                      "done < /proc/self/mounts; exec \"$@\"", "sh"]) as d:
        assert d.count_log("same_host_bypass is not in service: no cgroup2") == 1, d.log
        lane = local_lane(d, folder, "v4")
        options = {"send": 1 << 20, "recv": 1 << 20, "patient": 1}
        lane.run(options, options)
        assert {f["why"] for f in lane.daemon.flows()} == {"none"}, "sockmap is free to go on"
        assert same_host(d, "in_service") == 0


def test_kill_9_leaves_nothing_attached(daemon):
    before = attached()
    d = daemon({"rules": [bypassed_rule("v4")]}).start()
    assert len(attached() - before) == 1
    os.kill(d.pid, signal.SIGKILL)
    d.process.wait(5)
    wait_until(lambda: attached() == before, 2, "nothing is attached any more")
    d.kill()
    d.check_gone()


def test_what_was_redirected_outlives_the_daemon(daemon, folder):
    d = daemon({"rules": [bypassed_rule("v4")]}).start()
    lane = local_lane(d, folder, "v4")
    with lane.open({"send": 30000, "order": "send", "end": "close"},
                   {"recv": 30000, "order": "recv", "rx": "recv", "go": 1}) as exchange:
        exchange.server.result()
        d.wait_flows(1)
        redirected = same_host(d, "bytes_total")
        d.process.signal(signal.SIGTERM)
        assert d.process.wait(5) == 0
        exchange.client.process.signal(signal.SIGUSR1)
        report = exchange.client.result()
        assert redirected > 30000 and report["exit"] == 0, (redirected, report)
    d.forget()
    d.check_gone()
