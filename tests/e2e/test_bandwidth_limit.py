# SPDX-License-Identifier: MIT
"""
bandwidth_limit: bytes per second of a client, of a backend, each way, held on every carrier; fair
shares; and no byte is lost, changed or reordered by it. `make limits` measures it all.
"""
import time

import pytest

from lbtest import lane as lanes, tls, traffic
from lbtest.backends import Backend
from lbtest.certs import Authority
from lbtest.daemon import rule
from lbtest.net import BACKEND_ADDR, CLIENT, CLIENT_ADDR, LB, LB_ADDR
from lbtest.process import SAN, wait_until
from lbtest.traffic import DOWN, UP

LISTEN, BACK = 6970, 7970
CARRIERS = ("relay", "sockmap")  # auto is one of them, sooner or later
MB = 1000000
WORD = {UP: "upload_per_sec", DOWN: "download_per_sec"}
# The kernel's buffers in front of a reader, and what a turn of the loop has in hand.
OFF = 0.05


def endpoint(addr, port):
    return f"[{addr}]:{port}" if ":" in addr else f"{addr}:{port}"


class Limited:
    """A daemon with one rule that has a limit."""

    def __init__(self, make, carrier, limit, family=4, backends=1, **keys):
        self.family = family
        self.daemon = make({"workers": 2, "rules": [
            rule("r", endpoint(LB_ADDR[family], LISTEN),
                 [endpoint(BACKEND_ADDR[family], BACK + i) for i in range(backends)],
                 acceleration=carrier, bandwidth_limit={"enabled": True, **limit},
                 **keys)]}).start()
        if carrier != "auto":
            lanes.skip_without(carrier, self.daemon)
        self.carrier = carrier

    def traffic(self, count, sources=(None,)):
        return traffic.Traffic(self.daemon.net, (LB_ADDR[self.family], LISTEN),
                               (BACKEND_ADDR[self.family], BACK), count, sources)

    def settle(self, count):
        """All flows are where they are to be before the first byte."""
        if self.carrier == "sockmap":
            wait_until(lambda: self.daemon.promoted() == count, 5, "all flows are on sockmap")

    def waits(self, direction):
        return self.daemon.metric("l4lb_bandwidth_limit_waits_total", direction=direction)

    def lane(self, folder):
        carrier = {"auto": lanes.GRAFT}.get(self.carrier, self.carrier)
        return lanes.Lane(self.daemon, folder, "r", (LB_ADDR[4], LISTEN), (BACKEND_ADDR[4], BACK),
                          carrier)


@pytest.fixture
def limited(daemon):
    made = []

    def make(*args, **keys):
        made.append(Limited(daemon, *args, **keys))
        return made[-1]
    yield make
    for m in made:
        if m.daemon.process.alive():
            m.daemon.check_idle()
            m.daemon.stop()


@pytest.fixture(params=CARRIERS)
def carrier(request):
    return request.param


@pytest.mark.parametrize("carrier", [*CARRIERS, pytest.param("auto", marks=pytest.mark.long)])
@pytest.mark.parametrize("side,direction,kind,count,rate", [
    ("client", UP, "bulk", 1, 1 * MB),
    ("client", DOWN, "bulk", 10, 10 * MB),
    ("client", UP, "messages", 200, 50000),
    ("backend", UP, "bulk", 200, 2 * MB),
    ("backend", DOWN, "messages", 10, 50000),
])
def test_a_limit_holds_within_five_percent_with_fair_shares(limited, carrier, side, direction, kind,
                                                            count, rate):
    site, seconds = limited(carrier, {side: {WORD[direction]: rate}}), 4
    with site.traffic(count) as t:
        site.settle(count)
        parts = []
        # From the first byte on; shares without the burst, which is theirs who come first.
        for part in (0.5, seconds - 0.5):
            before = [f.got[direction] for f in t.flows]
            if kind == "bulk":
                t.bulk(direction, part)
            else:
                t.messages(40, part)
            parts.append([f.got[direction] - b for f, b in zip(t.flows, before)])
        total = sum(map(sum, parts))
        assert abs(total / (rate * seconds) - 1) <= OFF, (total, rate * seconds)
        # One that asks and waits is as fast as it is answered, too: on a busy machine not all are
        # answered alike, and what they leave others take.
        assert traffic.fairness(parts[1]) >= (0.8 if kind == "bulk" else 0.4), sorted(parts[1])
        # The flow was made to wait, and counted for it, this way and not the other.
        assert site.waits(direction) > 0
        assert site.waits({UP: DOWN, DOWN: UP}[direction]) == 0


def test_the_other_way_is_not_limited(limited, carrier):
    site = limited(carrier, {"client": {"upload_per_sec": 100000}})
    with site.traffic(2) as t:
        site.settle(2)
        assert sum(t.bulk(UP, 1)) < 200000
        assert sum(t.bulk(DOWN, 1)) > 20 * MB


def test_an_ipv6_client_is_limited_too(limited, carrier):
    site = limited(carrier, {"client": {"download_per_sec": MB}}, family=6)
    with site.traffic(5) as t:
        site.settle(5)
        assert abs(traffic.error(t.bulk(DOWN, 3), 3 * MB)) <= OFF


@pytest.fixture
def second_client(net):
    addr = "10.81.0.77"
    net.ip(CLIENT, f"addr add {addr}/24 dev eth0")
    yield addr
    net.ip(CLIENT, f"addr del {addr}/24 dev eth0")


def test_each_client_has_its_own_limit_and_all_share_the_backends(limited, carrier, second_client):
    sources = (CLIENT_ADDR[4], second_client)
    site = limited(carrier, {"client": {"upload_per_sec": MB, "download_per_sec": 3 * MB},
                             "backend": {"download_per_sec": 2 * MB}})
    with site.traffic(8, sources) as t:
        site.settle(8)
        got = t.bulk(UP, 3)
        for i in range(2):
            assert abs(traffic.error(got[i::2], 3 * MB)) <= OFF, got
        assert abs(traffic.error(t.bulk(DOWN, 3), 6 * MB)) <= OFF
        assert site.daemon.metric("l4lb_bandwidth_limit_clients") == 2


def test_small_requests_below_the_limit_never_wait(limited, carrier):
    site = limited(carrier, {"client": {"upload_per_sec": 10 * MB, "download_per_sec": 10 * MB},
                             "backend": {"upload_per_sec": 10 * MB}})
    with site.traffic(64) as t:
        site.settle(64)
        assert sum(t.messages(40, 2)) > 40 * 2000
        assert site.waits(UP) == site.waits(DOWN) == 0


def test_nothing_is_set_aside_for_idle_flows(limited, carrier):
    site = limited(carrier, {"client": {"upload_per_sec": MB}})
    with site.traffic(100) as t:
        site.settle(100)
        t.messages(40, 0.2)
        # On sockmap a stream that begins while an answer is under way may run ahead (limits.md).
        time.sleep(0.2)
        assert abs(traffic.error(t.bulk(UP, 3, busy=3), 3 * MB)) <= OFF


def test_flows_that_wait_take_no_cpu(limited, carrier):
    site = limited(carrier, {"client": {"upload_per_sec": 2000}})
    with site.traffic(200) as t:
        site.settle(200)
        t.bulk(UP, 1)
        site.daemon.check_quiet(2, 0.05 * (4 if SAN else 1))


def test_little_is_taken_from_a_sender_beforehand(limited, carrier):
    """Its window closes: what it cannot send stays with it."""
    site = limited(carrier, {"client": {"upload_per_sec": 100000}})
    with site.traffic(1) as t:
        site.settle(1)
        t.bulk(UP, 2)
        found = site.daemon.net.tcp_flows(LB, "sport", "=", f":{LISTEN}")
        # Unread: 64 KiB of window, and what fits behind its last bytes.
        assert 0 < int(found[0][0]) <= 140000, found


def test_coming_back_forgives_no_debt(limited, carrier):
    site, seconds = limited(carrier, {"client": {"upload_per_sec": 100000}}), 3
    end, got = time.monotonic() + seconds, 0
    while (left := end - time.monotonic()) > 0:
        with site.traffic(1) as t:
            got += sum(t.bulk(UP, min(0.2, left)))
    # What is in hand when a flow is cut was charged and does not arrive.
    assert got <= 100000 * seconds * (1 + OFF), got
    assert got >= 100000 * seconds * 0.7, got


def test_a_rule_with_a_limit_is_not_grafted_and_says_so(limited, folder):
    site = limited("graft", {"client": {"upload_per_sec": 50 * MB}})
    lane = lanes.Lane(site.daemon, folder, "r", (LB_ADDR[4], LISTEN), (BACKEND_ADDR[4], BACK),
                      lanes.GRAFT)
    exchange = lane.run({"recv": 4 << 20}, {"send": 4 << 20, "patient": 1})
    exchange.assert_identical("limited")
    assert {(f["carrier"] == "graft", f["why"]) for f in exchange.log} == {(False, "limited")}


def test_buckets_come_back(limited, carrier):
    site = limited(carrier, {"client": {"upload_per_sec": MB}, "backend": {"upload_per_sec": MB}})
    d = site.daemon
    with site.traffic(20) as t:
        t.messages(40, 0.2)
        assert d.metric("l4lb_buckets") == 4
        assert d.metric("l4lb_bandwidth_limit_clients") == 1
        assert d.metric("l4lb_buckets_max") > 1000
    d.wait_flows(20)
    # Those of the backend stay; a client's go with its last flow, when it owes nothing.
    wait_until(lambda: d.metric("l4lb_buckets") == 2, 2, "buckets are free again")


def test_a_process_without_rights_keeps_to_limits_too(daemon):
    config = {"workers": 2, "rules": [
        rule("r", endpoint(LB_ADDR[4], LISTEN), [endpoint(BACKEND_ADDR[4], BACK)],
             bandwidth_limit={"enabled": True, "backend": {"download_per_sec": MB}})]}
    d = daemon(config, wrap=("setpriv", "--bounding-set=-all", "--inh-caps=-all")).start()
    assert d.refusal("sockmap") == "no_cap"
    with traffic.Traffic(d.net, (LB_ADDR[4], LISTEN), (BACKEND_ADDR[4], BACK), 10) as t:
        assert abs(traffic.error(t.bulk(DOWN, 3), 3 * MB)) <= OFF
    d.stop()


def test_tls_flows_keep_to_limits_too(net, daemon, tmp_path):
    """What counts is what is inside."""
    data = bytes(range(251)) * 10000
    ca = Authority(tmp_path)

    def send(conn, _):
        conn.sendall(data)
        conn.recv(1)
    backend = Backend(net, BACK, send)
    try:
        d = daemon({"workers": 2, "rules": [
            rule("r", endpoint(LB_ADDR[4], LISTEN), [endpoint(BACKEND_ADDR[4], BACK)],
                 tls={"enabled": True, **ca.issue("app.example").config()},
                 bandwidth_limit={"enabled": True, "client": {"download_per_sec": MB}})]}).start()
        with tls.connect(net, (LB_ADDR[4], LISTEN), tls.client_context(ca.cert)) as c:
            begin, got = time.monotonic(), b""
            while len(got) < len(data):
                got += c.recv(65536)
            took = time.monotonic() - begin
        assert got == data
        # The burst comes at once.
        assert abs(took / (len(data) / MB - 0.05) - 1) <= OFF, took
        flow, = d.wait_flows(1)
        assert flow["why"] == "tls" and int(flow["down"]) == len(data), flow
        d.stop()
    finally:
        backend.close()


# --- the streams stay whole -----------------------------------------------------------------------

BOTH_WAYS = {"client": {"upload_per_sec": 4 * MB, "download_per_sec": 3 * MB},
             "backend": {"upload_per_sec": 3 * MB, "download_per_sec": 4 * MB}}


def go(site):
    return {} if site.carrier == "auto" else {"go": 1}


@pytest.mark.parametrize("up,down", [(1, 1), (70000, 0), (0, 70000), (2000000, 2000000)])
def test_streams_both_ways_arrive_whole(limited, carrier, folder, up, down):
    site = limited(carrier, BOTH_WAYS)
    site.lane(folder).run({"send": down, "recv": up, **go(site)},
                          {"send": up, "recv": down, "patient": 1, **go(site)}, count=4
                          ).assert_identical("limited")


def test_many_flows_of_messages_and_a_slow_reader_stay_whole(limited, carrier, folder):
    site = limited(carrier, BOTH_WAYS)
    lane = site.lane(folder)
    lane.run({"send": 20000, "recv": 20000, "order": "pingpong", "chunk": 500, **go(site)},
             {"send": 20000, "recv": 20000, "order": "pingpong", "chunk": 500, **go(site)},
             count=50, deadline_ms=40000).assert_identical("limited")
    slow = {"stall_every": 1 << 16, "stall_ms": 30, "rcvbuf": 16384}
    lane.run({"send": 1 << 20, "recv": 1 << 20, **slow, **go(site)},
             {"send": 1 << 20, "recv": 1 << 20, "patient": 1, **go(site)},
             count=4).assert_identical("limited")


def test_loss_on_the_way_does_no_harm(limited, carrier, folder):
    site = limited(carrier, BOTH_WAYS, timeouts={"connect_ms": 15000})
    with site.daemon.net.loss(1):
        site.lane(folder).run({"send": 500000, "recv": 500000, **go(site)},
                              {"send": 500000, "recv": 500000, "patient": 1, **go(site)}, count=4,
                              deadline_ms=40000).assert_identical("limited")


def test_what_was_sent_before_a_close_arrives_through_a_limit(limited, carrier, folder):
    site = limited(carrier, BOTH_WAYS)
    size = 1 << 20
    site.lane(folder).run({"recv": size, "order": "recv"},
                          {"send": size, "order": "send", "end": "close", **go(site)}, count=4
                          ).assert_identical("limited")
    # And each direction ends by itself.
    site.lane(folder).run({"order": "recv", "send": size, "recv": size},
                          {"send": size, "recv": size, **go(site)}).assert_identical("limited")


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_reaches_the_other_end_of_a_flow_that_waits(limited, carrier, folder, who):
    site = limited(carrier, {"client": {"upload_per_sec": 200000, "download_per_sec": 200000}})
    streams = {"send": 64 << 20, "expect": "rst", **go(site)}
    resets = {"rst_after": 100000, "expect": "any", "end": "keep"}
    server, client = (streams, resets) if who == "client" else (resets, streams)
    begin = time.monotonic()
    exchange = site.lane(folder).run(server, client)
    exchange.assert_peers_content()
    exchange.assert_ends("reset_by_client" if who == "client" else "reset_by_backend")
    assert time.monotonic() - begin < 5


def test_the_last_bytes_of_many_flows_are_not_forgotten(limited, carrier, folder):
    """Every flow ends although most of the time all of them wait."""
    site = limited(carrier, {"backend": {"upload_per_sec": 2 * MB, "download_per_sec": 2 * MB}})
    site.lane(folder).run({"send": 20000, "recv": 20000},
                          {"send": 20000, "recv": 20000, "patient": 1}, count=200,
                          deadline_ms=40000).assert_identical("limited", "not_established", "short")
