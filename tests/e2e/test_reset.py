# SPDX-License-Identifier: MIT
"""
A reset of one end reaches the other end as a reset. Never as a FIN: that would make lost bytes
look like the end of the stream.
"""
import signal
import time

import pytest

from lbtest import lane as lanes
from lbtest.net import LB
from lbtest.process import wait_until

SETTLED = {"go": 1}


def assert_mirrored(exchange, reason):
    exchange.assert_peers_content()
    exchange.assert_ends(reason)
    exchange.assert_carried()


@pytest.mark.parametrize("sent", [0, 1, 70000, 1 << 20])
def test_a_clients_reset_reaches_the_server(lane, sent):
    exchange = lane.run({"expect": "rst"},
                        {"send": sent, "order": "send", "end": "rst", "end_delay_ms": 20,
                         "expect": "any", **SETTLED})
    assert_mirrored(exchange, "reset_by_client")


@pytest.mark.parametrize("sent", [0, 1, 70000, 1 << 20])
def test_a_servers_reset_reaches_the_client(lane, sent):
    exchange = lane.run({"send": sent, "order": "send", "end": "rst", "end_delay_ms": 20,
                         "expect": "any", **SETTLED},
                        {"expect": "rst", "end": "keep"})
    assert_mirrored(exchange, "reset_by_backend")


@pytest.mark.parametrize("after", [1, 100000, 3000000])
def test_a_clients_reset_in_the_middle_of_a_download_reaches_the_server(lane, after):
    exchange = lane.run({"send": 64 << 20, "expect": "rst", **SETTLED},
                        {"rst_after": after, "expect": "any", "end": "keep"})
    assert_mirrored(exchange, "reset_by_client")


@pytest.mark.parametrize("after", [1, 100000, 3000000])
def test_a_servers_reset_in_the_middle_of_an_upload_reaches_the_client(lane, after):
    exchange = lane.run({"rst_after": after, "expect": "any", "end": "keep"},
                        {"send": 64 << 20, "expect": "rst", **SETTLED})
    assert_mirrored(exchange, "reset_by_backend")


@pytest.mark.parametrize("after", [100000, 3000000])
def test_a_reset_while_both_sides_stream_reaches_the_other_side(lane, after):
    exchange = lane.run({"send": 64 << 20, "expect": "rst", **SETTLED},
                        {"send": 64 << 20, "rst_after": after, "expect": "any", **SETTLED})
    assert_mirrored(exchange, "reset_by_client")


def test_a_reset_after_the_clients_fin_reaches_the_client(lane):
    exchange = lane.run({"order": "recv", "send": 1000, "end": "rst", "end_delay_ms": 20,
                         "expect": "any"},
                        {"send": 1000, "end_delay_ms": 10, "expect": "rst", **SETTLED})
    assert_mirrored(exchange, "reset_by_backend")


@pytest.mark.parametrize("carrier", lanes.CARRIERS, indirect=True)
def test_a_reset_of_a_flow_that_is_not_promoted_yet_reaches_the_server(lane):
    with lane.open({"expect": "rst"}, {"send": 70000, "order": "send", "end": "rst",
                                       "expect": "any"}) as exchange:
        exchange.finish()
    exchange.assert_peers_content()
    exchange.assert_ends("reset_by_client")


@pytest.mark.parametrize("carrier", lanes.CARRIERS, indirect=True)
def test_a_killed_backend_with_unread_bytes_resets_all_five_hundred_clients(lane):
    flows, size = 500, 2000
    before = lane.daemon.metric("l4lb_traffic_bytes_total")
    with lane.open({"rx": "never", "end": "keep", "expect": "any"},
                   {"send": size, "hold": 1, "expect": "rst", **SETTLED}, count=flows) as exchange:
        exchange.wait_holding()
        # All bytes are in the backend's sockets, where nobody reads them.
        wait_until(lambda: lane.daemon.metric("l4lb_traffic_bytes_total") - before == flows * size,
                   5, "all bytes have crossed", every=0.05)
        exchange.server.process.kill()
        begin = time.monotonic()
        report = exchange.client.result()
        assert report["ends"] == {"rst": flows}, report
        assert time.monotonic() - begin < 3
        exchange.log = lane.daemon.wait_flows(flows, lane.name, exchange.skip)
    exchange.assert_ends("reset_by_backend")
    exchange.assert_carried()


def test_a_killed_backend_in_mid_stream_never_looks_like_a_good_end(lane):
    flows = 500
    trickle = {"send": 1 << 30, "pause_every": 8192, "pause_ms": 50, **SETTLED}
    with lane.open({**trickle, "expect": "any"}, {**trickle, "expect": "rst"},
                   count=flows) as exchange:
        begin = lane.daemon.metric("l4lb_traffic_bytes_total")
        wait_until(lambda: lane.daemon.metric("l4lb_traffic_bytes_total") > begin + (32 << 20),
                   10, "traffic flows", every=0.05)
        exchange.server.process.kill()
        report = exchange.client.result()
        exchange.log = lane.daemon.wait_flows(flows, lane.name, exchange.skip)
    # The kernel of a dead process answers every further byte with a reset.
    assert report["ends"] == {"rst": flows}, report
    exchange.assert_ends("reset_by_backend")
    exchange.assert_carried()


@pytest.mark.parametrize("carrier", [lanes.RELAY, lanes.SOCKMAP], indirect=True)
@pytest.mark.parametrize("leg,reason", [("client", "reset_by_client"),
                                        ("backend", "reset_by_backend")])
@pytest.mark.parametrize("load", ["idle", "streaming"])
def test_a_socket_destroyed_from_outside_resets_both_ends(lane, leg, reason, load):
    flows = 20
    if load == "idle":
        options = {"send": 1000, "recv": 1000, "hold": 1, "expect": "rst", **SETTLED}
    else:
        options = {"send": 1 << 30, "expect": "rst", **SETTLED}
    with lane.open(options, options, count=flows) as exchange:
        if load == "idle":
            exchange.wait_holding()
        else:
            before = lane.daemon.metric("l4lb_traffic_bytes_total")
            wait_until(lambda: lane.daemon.metric("l4lb_traffic_bytes_total") > before + (8 << 20),
                       10, "traffic flows", every=0.05)
        match = (["sport", "=", f":{lane.listen[1]}"] if leg == "client" else
                 ["dport", "=", f":{lane.backend[1]}"])
        lane.net.tcp_flows(LB, "-K", *match)
        exchange.finish()
    exchange.assert_peers_content()
    exchange.assert_ends(reason)


@pytest.mark.parametrize("carrier", [lanes.GRAFT], indirect=True)
def test_a_grafted_flow_has_no_socket_that_could_be_destroyed(lane):
    options = {"send": 1000, "recv": 1000, "pause_every": 100, "pause_ms": 100, **SETTLED}
    with lane.open(options, options, count=20) as exchange:
        for match in (["sport", "=", f":{lane.listen[1]}"], ["dport", "=", f":{lane.backend[1]}"]):
            assert not lane.net.tcp_flows(LB, *match)
            lane.net.tcp_flows(LB, "-K", *match)
        exchange.finish()
    exchange.assert_identical()


def test_a_stopped_backend_goes_on_where_it_was(lane):
    size = 32 << 20
    # Paced, so that it cannot be over before the stop: 1.6 s at least.
    options = {"send": size, "recv": size, "pause_every": 1 << 20, "pause_ms": 50, **SETTLED}
    with lane.open(options, options, count=4) as exchange:
        before = lane.daemon.metric("l4lb_traffic_bytes_total")
        wait_until(lambda: lane.daemon.metric("l4lb_traffic_bytes_total") > before + (4 << 20),
                   10, "traffic flows", every=0.01)
        exchange.server.process.signal(signal.SIGSTOP)
        time.sleep(1)
        assert exchange.client.process.alive()
        exchange.server.process.signal(signal.SIGCONT)
        exchange.finish()
    exchange.assert_identical()
