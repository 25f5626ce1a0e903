# SPDX-License-Identifier: MIT
"""Who does not read is not sent to: a slow end stalls the fast one and costs bounded memory."""
import os

import pytest

from lbtest import machine
from lbtest.lane import GRAFT
from lbtest.process import wait_until

FLOWS = 4
LIMIT = 16 << 20  # per flow
TRIES = 3         # other processes use the same memory

# Small buffers of their own: what is stored is stored by the load balancer.
FAST = {"send": 1 << 30, "hold": 1, "quiet_ms": 1500, "expect": "any", "go": 1, "sndbuf": 65536}
NEVER = {"rx": "never", "expect": "any", "end": "keep", "rcvbuf": 65536}


def growth(lane, server, client):
    """(reports, {kind of memory: growth in bytes}) at the moment when nothing moves any more."""
    before = machine.memory()
    rss = machine.process_rss(lane.daemon.pid)
    with lane.open(server, client, count=FLOWS) as exchange:
        exchange.wait_holding()
        after = machine.memory()
        grown = {kind: after[kind] - before[kind] for kind in before}
        grown["process"] = machine.process_rss(lane.daemon.pid) - rss
        assert lane.daemon.process.alive()
        exchange.release()
        exchange.finish()
    return exchange, grown


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_reader_that_never_reads_stalls_the_sender_within_bounded_memory(lane, direction):
    server, client = (NEVER, FAST) if direction == "up" else (FAST, NEVER)
    for attempt in range(TRIES):
        exchange, grown = growth(lane, server, client)
        sender = exchange.client_report if direction == "up" else exchange.server_report
        # Exact, whoever else uses the machine: nobody read a byte, so all that was sent is stored.
        assert sender["sends"] == {"timeout": FLOWS}, sender
        assert sender["sent"] < LIMIT * FLOWS, f"{sender['sent'] / FLOWS} bytes per flow"
        if grown["used"] < LIMIT * FLOWS:
            break
    assert grown["used"] < LIMIT * FLOWS, grown
    assert grown["process"] < LIMIT * FLOWS, grown
    # Nothing is left in the kernel's hands once the flows are gone.
    wait_until(lambda: not lane.net.tcp_flows("lb", "dport", "=", f":{lane.backend[1]}"), 5,
               "the flows are gone")


def test_a_flow_that_stalled_goes_on_when_its_reader_does(lane):
    size = 24 << 20
    options = {"send": size, "recv": size, "patient": 1, "go": 1}
    # Half a second without reading after every eighth of the stream: buffers fill each time.
    lane.run({**options, "stall_every": size // 8, "stall_ms": 250}, options,
             count=2).assert_identical()


def test_a_stalled_flow_does_not_hold_up_another(lane_of):
    stalled, other = lane_of("v4n0"), lane_of("v4n1")
    with stalled.open(NEVER, FAST, count=8) as jam:
        jam.wait_holding()
        options = {"send": 4 << 20, "recv": 4 << 20, "patient": 1, "go": 1, "deadline_ms": 10000}
        other.run(options, options, count=8).assert_identical()
        jam.release()
        jam.finish()


def test_flows_go_on_when_all_of_tcp_is_short_of_memory(lane):
    """
    A few per cent of what the flows' buffers would like to have. Unread bytes of the load balancer
    must not be what keeps its own sinks from sending.
    """
    size = 6 << 20
    options = {"send": size, "recv": size, "go": 1, "hold": 1, "deadline_ms": 20000}
    if not os.access(machine.TCP_MEM, os.W_OK):
        pytest.skip("net.ipv4.tcp_mem cannot be changed here")
    with machine.tcp_memory(10000, 15000, 30000):
        with lane.open(options, options, count=100) as exchange:
            exchange.wait_holding()
            if lane.carrier != GRAFT:
                # Lost count stays lost; acknowledgements may still be coming. The kernel would
                # warn, but only of the first one since it was booted.
                wait_until(lambda: not lane.miscounted(), 3, lane.miscounted)
            exchange.release()
            exchange.finish().assert_identical()
