# SPDX-License-Identifier: MIT
"""What is sent arrives: sizes, directions, families, ways of sending and receiving."""
import pytest

from lbtest import lane as lanes
from lbtest.net import BACKEND

SIZES = [1, *(base + d for base in (4096, 16384, 65536, 1 << 20) for d in (-1, 0, 1))]

# The flow is on its carrier before the first byte.
SETTLED = {"go": 1}


def both(size_up, size_down, **options):
    """(server, client) options for streams of these sizes."""
    return ({"send": size_down, "recv": size_up, **options},
            {"send": size_up, "recv": size_down, **options})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("direction", ["up", "down", "both"])
def test_every_size_arrives_whole(lane, direction, size):
    up, down = (size if direction != "down" else 0), (size if direction != "up" else 0)
    server, client = both(up, down, **SETTLED)
    lane.run(server, client).assert_identical()


@pytest.mark.parametrize("size", SIZES)
def test_bytes_sent_before_the_backend_is_connected_arrive_whole(lane, size):
    # No rest before the first byte: the flow is promoted in the middle of it, or ends before.
    server, client = both(size, size, patient=1)
    lane.run(server, client).assert_identical("short", "not_established", "backlog")


@pytest.mark.parametrize("carrier", lanes.CARRIERS, indirect=True)
@pytest.mark.parametrize("size", [1, 65536, 1 << 20])
def test_early_bytes_wait_for_a_slow_backend(lane, size):
    """The backend's SYN is lost once: a second passes in which the client sends."""
    # A SYN has 60 bytes: the second one is over the quota.
    drop_first = ("chain c { type filter hook input priority 0; "
                  "tcp flags & (syn|ack) == syn quota 100 bytes drop; }")
    server, client = both(size, 1000)
    with lane.net.nft(BACKEND, drop_first):
        exchange = lane.run(server, {**client, "patient": 1})
    exchange.assert_identical("short", "not_established", "backlog")
    assert float(exchange.log[0]["connect_ms"]) >= 900, exchange.log


@pytest.mark.parametrize("family", ["v6", "v4to6", "v6to4"])
@pytest.mark.parametrize("timing", [{}, SETTLED], ids=["early", "settled"])
def test_families_mix(lane_of, family, timing):
    server, client = both(1 << 20, 1 << 20, **{"patient": 1, **timing})
    lane_of(family).run(server, client).assert_identical(
        *(() if timing else ("short", "not_established", "backlog")))


@pytest.mark.parametrize("chunk", [1, 7, 1448, 4096, 1 << 20])
def test_any_chunk_size_will_do(lane, chunk):
    size = min(1 << 20, chunk * 2000)
    server, client = both(size, size, chunk=chunk, **SETTLED)
    lane.run(server, client).assert_identical()


def test_one_byte_ping_pong_is_answered_byte_by_byte(lane):
    server, client = both(2000, 2000, order="pingpong", chunk=1)
    lane.run(server, {**client, "go": 1}).assert_identical()


@pytest.mark.parametrize("message", [100, 5000, 70000])
def test_ping_pong_of_messages(lane, message):
    server, client = both(message * 200, message * 200, order="pingpong", chunk=message)
    lane.run(server, {**client, "go": 1}).assert_identical()


@pytest.mark.parametrize("tx", ["send", "sendfile", "splice"])
@pytest.mark.parametrize("rx", ["recv", "splice", "peek", "lowat"])
def test_peers_may_use_any_way_to_send_and_receive(lane, tx, rx):
    server, client = both(1 << 20, 1 << 20, tx=tx, rx=rx, chunk=30000, **SETTLED)
    lane.run(server, client).assert_identical()


@pytest.mark.parametrize("rx", ["recv", "splice"])
@pytest.mark.parametrize("slow", ["server", "client", "both"])
def test_a_stalling_reader_gets_everything(lane, slow, rx):
    size = 4 << 20
    server, client = both(size, size, **SETTLED)
    stall = {"stall_every": 1 << 18, "stall_ms": 40, "rcvbuf": 65536, "rx": rx}
    lane.run({**server, **(stall if slow != "client" else {})},
             {**client, **(stall if slow != "server" else {})}).assert_identical()


def test_a_slow_reader_of_small_bites_gets_everything(lane):
    # Nobody is grafted who was promised so much more than the other end takes, nor while relay
    # always holds something for one of them.
    timing = {"patient": 1} if lane.carrier == lanes.GRAFT else SETTLED
    server, client = both(300000, 300000, stall_every=3000, stall_ms=2, rcvbuf=4096, **timing)
    lane.run(server, client).assert_identical("backlog", "short")


def test_a_trickling_sender_is_heard(lane):
    server, client = both(4000, 4000, pause_every=40, pause_ms=3, chunk=40, **SETTLED)
    lane.run(server, client).assert_identical()


def test_a_multipath_client_is_served(lane):
    server, client = both(1 << 20, 1 << 20, **SETTLED)
    lane.run(server, {**client, "mptcp": 1}).assert_identical()


def test_one_percent_loss_loses_nothing(lane):
    server, client = both(2 << 20, 2 << 20, **SETTLED)
    with lane.net.loss(1):
        lane.run(server, client, count=8, deadline_ms=40000).assert_identical()


@pytest.mark.parametrize("timing", [{}, SETTLED], ids=["early", "settled"])
def test_many_flows_both_ways_stay_apart(lane, carrier, timing):
    size = (4 if carrier in lanes.CARRIERS else 1) << 20  # as below
    server, client = both(size, size, **{"patient": 1, **timing})
    # Flows that are not settled may not come to rest before their end, and stay in relay.
    whys = () if timing else ("short", "not_established", "backlog")
    lane.run(server, client, count=40, deadline_ms=120000).assert_identical(*whys)


def test_two_hundred_flows_of_many_megabytes_both_ways(lane, carrier):
    """
    Enough to bring all of TCP under memory pressure: nothing may be lost or cut then either. What
    the kernel drops then comes back after timeouts that double: a flow may well rest for a minute.
    20 of them on each carrier; through TLS, which is relay and two or three daemons in a row, 4.
    """
    size = (20 if carrier in lanes.CARRIERS else 4) << 20
    server, client = both(size, size, quiet_ms=240000, **SETTLED)
    lane.run(server, client, count=200, deadline_ms=240000).assert_identical()
