# SPDX-License-Identifier: MIT
"""What a path does to packets, and what a host does to those that leave: netem and fq."""
import contextlib

import pytest

from lbtest import lane as lanes
from test_integrity import SETTLED, both

# Late by turns, in another order, twice, not at all. Each way crosses two such devices.
BAD_PATH = "netem limit 10000 delay 10ms 3ms loss 0.5% duplicate 0.5% reorder 25%"
SIZE, RATE = 1 << 20, 400000
FAMILIES = ["v4n0", "v6"]  # names of lanes


@contextlib.contextmanager
def sent_through(net, text):
    try:
        with net.qdisc(text):
            yield
    except ValueError as lacking:
        pytest.skip(str(lacking))


@pytest.mark.parametrize("carrier", lanes.CARRIERS, indirect=True)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_path_that_delays_loses_doubles_and_reorders(lane_of, family):
    lane = lane_of(family)
    server, client = both(SIZE, SIZE, **SETTLED)
    with lane.net.small_packets(), sent_through(lane.net, BAD_PATH):
        exchange = lane.run(server, client, count=8, deadline_ms=60000)
        counters = lane.net.qdisc_counters()
    exchange.assert_identical()
    assert all(at["drops"] for at in counters), counters


@pytest.mark.parametrize("carrier", lanes.CARRIERS, indirect=True)
@pytest.mark.parametrize("pace", [0, RATE])
@pytest.mark.parametrize("family", FAMILIES)
def test_departure_times_of_one_host_mean_nothing_to_the_next(lane_of, family, pace):
    """
    fq sends each packet at the time that is written on it, and drops what would leave beyond its
    horizon. What arrived with a time and goes on must not be taken at its word.
    """
    lane = lane_of(family)
    server, client = both(SIZE, SIZE, pace=pace, **SETTLED)
    with sent_through(lane.net, "fq"):
        exchange = lane.run(server, client, count=4, deadline_ms=60000)
        counters = lane.net.qdisc_counters()
    exchange.assert_identical()
    # tc leaves it out where it is 0.
    assert all(at["kind"] == "fq" and at["packets"] and not at.get("horizon_drops")
               for at in counters), counters
    if pace:
        assert exchange.client_report["duration_ms"] > 0.8 * SIZE / pace * 1000
        assert counters[0]["throttled"] and counters[-1]["throttled"], counters
