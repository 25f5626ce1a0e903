# SPDX-License-Identifier: MIT
"""Backends that are drained, disabled or weighed at run time, with flows on every carrier."""
import contextlib
import socket
import time

import pytest

from lbtest import lane as lanes, peer
from lbtest.daemon import rule
from lbtest.lane import CARRIERS, GRAFT
from lbtest.net import BACKEND, CLIENT
from lbtest.process import PATIENCE, wait_until
from lbtest.talk import Talk

HOST = "10.81.1.2"
LISTEN, PORTS = ("10.81.0.1", 6970), (7970, 7971)
AT = "%s:%d" % LISTEN
FIRST, SECOND = (f"{HOST}:{p}" for p in PORTS)
IDLE = 5  # seconds without a byte: see control/drain.c


def config(carrier, backends=(FIRST, SECOND), **keys):
    keys.setdefault("timeouts", {"drain_ms": 60000})
    return {"graft": {"max_flows": 1024},
            "rules": [rule("r", AT, list(backends), acceleration=carrier, **keys)]}


def backend(d, name=FIRST):
    return next(b for b in d.ctl("backends")["backends"] if b["backend"] == name)


@contextlib.contextmanager
def flow(net, d, carrier, to=PORTS[0]):
    """A flow that has carried bytes and is on its carrier now."""
    before = len(d.living("--carrier", carrier))
    with Talk(net, LISTEN, (HOST, to)) as talk:
        talk.exchange(1000)
        wait_until(lambda: len(d.living("--carrier", carrier)) > before, 5,
                   lambda: f"it is on {carrier}: {d.living()}")
        yield talk


@pytest.fixture(params=CARRIERS)
def carrier(request):
    return request.param


@pytest.fixture
def start(daemon):
    @contextlib.contextmanager
    def run(carrier, *args, **keys):
        with daemon(config(carrier, *args, **keys)) as d:
            lanes.skip_without(carrier, d)
            yield d
    return run


def connects_to(net, folder, ports=PORTS, count=10):
    """How many of <count> clients each backend gets."""
    servers = [peer.server(net, folder, host=HOST, port=p, count=0, send=10, deadline_ms=20000)
               for p in ports]
    try:
        report = peer.client(net, folder, host=LISTEN[0], port=LISTEN[1], count=count, send=10,
                             recv=10, deadline_ms=20000).result()
        assert report["ok"] == count, report
        for s in servers:
            s.process.signal(15)
        return [s.result()["flows"] for s in servers]
    finally:
        for s in servers:
            s.stop()


def test_new_flows_go_elsewhere_and_old_ones_live_on(net, folder, start, carrier):
    with start(carrier, [FIRST, SECOND], balance="source_hash") as d:
        # Whoever the client's address leads to, it has a flow there.
        servers = [Server(net, p) for p in PORTS]
        with contextlib.ExitStack() as stack:
            for s in servers:
                stack.enter_context(s)
            talk = stack.enter_context(Two(net, servers))
            wait_until(lambda: d.living("--carrier", carrier), 5, "it is carried")
            used, other = talk.used, PORTS[1 - PORTS.index(talk.used)]
            reply = d.ctl("drain", "r", f"{HOST}:{used}")
            assert (reply["flows"], reply["deadline_ms"]) == (1, 60000)
            for s in servers:
                s.close()
            assert connects_to(net, folder, (used, other)) == [0, 10]
            talk.exchange(5000)
            assert backend(d, f"{HOST}:{used}")["state"] == "draining"
            assert d.metric("l4lb_backend_draining", backend=f"{HOST}:{used}") == 1
            assert d.metric("l4lb_backend_draining") == 1
            assert d.metric("l4lb_backend_health_status", backend=f"{HOST}:{used}") == 0
            assert 50 <= d.metric("l4lb_backend_drain_deadline_seconds") <= 60
            d.ctl("undrain", "r", f"{HOST}:{used}")
            assert backend(d, f"{HOST}:{used}")["state"] == "up"
            assert connects_to(net, folder, (used, other)) == [10, 0]
            talk.exchange(5000)
            assert d.metric("l4lb_backend_draining") == 0
        assert d.count_log(r"drains: it has 1 flows; what is left in 60.0 s is cut") == 1
        assert d.count_log(r"drains no more, after .* it has 1 flows") == 1


class Server:
    """A listener."""

    def __init__(self, net, port):
        def listen():
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((HOST, port))
            s.listen()
            s.settimeout(0.05)
            return s
        self.port, self.socket = port, net.call(BACKEND, listen)

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Two(Talk):
    """A flow to whichever of several servers gets it: .used is its port."""

    def __init__(self, net, servers):
        # Not Talk's: whose listener it is shows only now.
        self.opened = contextlib.ExitStack()
        self.client = self.opened.enter_context(
            net.call(CLIENT, lambda: socket.create_connection(LISTEN, 5)))
        self.bytes, self.server = 0, None
        end = time.monotonic() + 5 * PATIENCE
        while not self.server and time.monotonic() < end:
            for s in servers:
                with contextlib.suppress(TimeoutError):
                    self.server = self.opened.enter_context(s.socket.accept()[0])
                    self.used = s.port
                    break
        assert self.server, "nobody got it"
        for s in (self.client, self.server):
            s.setblocking(False)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.exchange(1000)


def test_idle_flows_are_closed_first(net, start, carrier):
    with start(carrier, [FIRST]) as d, flow(net, d, carrier) as idle, \
            flow(net, d, carrier) as busy:
        d.ctl("drain", "r", FIRST)
        begin, how = time.monotonic(), None
        while how is None and time.monotonic() < begin + (IDLE + 3) * PATIENCE:
            busy.exchange(1000)
            how = idle.ends(idle.client, 0.1 / PATIENCE) or None
        assert IDLE - 1 < time.monotonic() - begin < (IDLE + 2) * PATIENCE
        # In good order where there is a socket of ours that can.
        wanted = "rst" if carrier == GRAFT else "fin"
        assert how == wanted and idle.ends(idle.server) == wanted, how
        assert [f["reason"] for f in d.wait_flows(1)] == ["drained"]
        busy.exchange(1000)
        drain = backend(d)["drain"]
        assert (drain["flows"], drain["closed_idle"], drain["cut"]) == (1, 1, 0), drain
        assert busy.ends(busy.client, IDLE + 3) == wanted
        wait_until(lambda: backend(d)["drain"]["flows"] == 0, 3, "it is drained")
        wait_until(lambda: d.count_log("is drained after"), 3, "it is told")
        assert d.count_log(r"of 2 flows 0 ended by themselves, 2 were idle and closed, 0 were "
                           r"cut") == 1


def test_what_is_left_at_the_deadline_is_cut(net, start, carrier):
    with start(carrier, [FIRST]) as d, flow(net, d, carrier) as talk:
        begin = time.monotonic()
        reply = d.ctl("drain", "r", FIRST, "--deadline", "2s")
        assert reply["deadline_ms"] == 2000
        left = []
        while time.monotonic() < begin + 1.5:
            talk.exchange(1000)
            left.append(backend(d)["drain"]["cut_in_ms"])
        assert left == sorted(left, reverse=True) and left[0] <= 2000
        assert talk.ends(talk.client) == "rst" and talk.ends(talk.server) == "rst"
        assert 1.9 < time.monotonic() - begin < 3.5 * PATIENCE
        assert [f["reason"] for f in d.wait_flows(1)] == ["drained"]
        wait_until(lambda: d.count_log("0 were idle and closed, 1 were cut"), 3, "it is told")


def test_a_deadline_may_be_moved_and_taken_away(net, start, carrier):
    with start(carrier, [FIRST]) as d, flow(net, d, carrier) as talk:
        d.ctl("drain", "r", FIRST, "--deadline", "500ms")
        reply = d.ctl("drain", "r", FIRST, "--deadline", "never")
        assert reply["deadline_ms"] is None
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            talk.exchange(1000)
            time.sleep(0.05)
        assert backend(d)["drain"]["cut_in_ms"] is None
        assert d.metric("l4lb_backend_drain_deadline_seconds") == 0
        d.ctl("drain", "r", FIRST, "--deadline", "0")
        assert talk.ends(talk.client) == "rst"
        assert d.wait_flows(1)[0]["reason"] == "drained"


def test_the_forecast_tells_how_it_goes(net, start, carrier):
    with start(carrier, [FIRST]) as d, flow(net, d, carrier) as talk, flow(net, d, carrier):
        for _ in range(10):  # what has been moved before is no pace
            talk.exchange(100000)
        d.ctl("drain", "r", FIRST)
        begin, moved, seen = time.monotonic(), 0, []
        while time.monotonic() < begin + 4:
            talk.exchange(10000)
            moved += 20000
            seen.append(backend(d)["drain"])
            time.sleep(0.05)
        pace = moved / (time.monotonic() - begin)
        last = seen[-1]
        assert 0.6 * pace < last["bytes_per_second"] < 1.4 * pace, (pace, last)
        assert max(s["bytes_per_second"] for s in seen) < 2 * pace, (pace, seen)
        assert last["flows"] == 2 and last["gone_in_ms"] is None
        assert 54000 < last["cut_in_ms"] < 57500 and 3500 < last["since_ms"] < 8000
        total = d.metric("l4lb_backend_traffic_bytes_total", backend=FIRST)
        assert total == d.metric("l4lb_traffic_bytes_total")


def test_bytes_under_way_are_not_closed_over(net, start):
    with start("relay", [FIRST]) as d, flow(net, d, "relay") as talk:
        talk.clog()
        d.ctl("drain", "r", FIRST, "--deadline", "60s")
        # The last of a window goes in persist probes, seconds apart.
        wait_until(lambda: backend(d)["drain"]["idle"] == 1, IDLE + 25,
                   lambda: f"it is idle: {backend(d)['drain']}, {d.living()}, {d.flows()}")
        drain = backend(d)["drain"]
        assert (drain["flows"], drain["closed_idle"]) == (1, 0), drain
        d.ctl("drain", "r", FIRST, "--deadline", "1s")
        assert talk.ends(talk.client, 6) == "rst"
        assert d.wait_flows(1)[0]["reason"] == "drained"


def test_nobody_in_the_queue_gets_a_backend_that_drains(net, folder, start):
    limited = [{"addr": FIRST, "max_connections": 1}]
    with start("relay", limited, queue={"max": 10, "timeout_ms": 3000}) as d:
        with flow(net, d, "relay") as talk:
            c = peer.client(net, folder, host=LISTEN[0], port=LISTEN[1], count=1, send=10,
                            expect="rst", deadline_ms=20000)
            try:
                wait_until(lambda: d.ctl("status")["rules"][0]["queued"] == 1, 3, "it waits")
                d.ctl("drain", "r", FIRST)
                talk.finish()
                assert c.result()["ends"] == {"rst": 1}
            finally:
                c.stop()
        reasons = {f["reason"]: f["tries"] for f in d.wait_flows(2)}
        assert reasons == {"done": "1", "queue_timeout": "0"}, reasons


def test_drain_in_the_file_is_the_same_state(net, daemon):
    d = daemon(config(GRAFT, [FIRST]))
    with d:
        lanes.skip_without(GRAFT, d)
        with flow(net, d, GRAFT) as talk:
            wait_until(lambda: d.grafted() == 1, 5, "it needs us no more")
            # Adopted by one whose file says that the backend drains.
            d.crash()
            d.configure(config(GRAFT, [{"addr": FIRST, "drain": True}],
                               timeouts={"drain_ms": 1500}))
            begin = time.monotonic()
            d.start()
            shown = backend(d)
            assert shown["state"] == "draining" and shown["drain"]["flows"] == 1, shown
            assert d.count_log("drains: it has 1 flows; what is left in 1.5 s is cut") == 1
            while time.monotonic() < begin + 1:
                talk.exchange(100)
            assert talk.ends(talk.client) == "rst"
            assert d.wait_flows(1)[0]["reason"] == "drained"
        d.ctl("undrain", "r", FIRST)
        with flow(net, d, GRAFT) as talk:
            talk.exchange(100)


def test_a_disabled_backend_keeps_its_flows(net, folder, start, carrier):
    with start(carrier, [FIRST]) as d, flow(net, d, carrier) as talk:
        d.ctl("disable", "r", FIRST)
        assert backend(d)["state"] == "disabled" and backend(d)["drain"] is None
        c = peer.client(net, folder, host=LISTEN[0], port=LISTEN[1], count=3, send=10,
                        expect="rst", deadline_ms=20000)
        assert c.result()["ends"] == {"rst": 3}
        assert {f["reason"] for f in d.wait_flows(3)} == {"no_backend"}
        time.sleep(IDLE + 2)
        talk.exchange(1000)
        d.ctl("disable", "r", FIRST, code=1)
        d.ctl("enable", "r", FIRST)
        assert connects_to(net, folder, PORTS[:1], 5) == [5]
        d.ctl("enable", "r", FIRST, code=1)
        talk.exchange(1000)


def test_drained_and_disabled_are_two_things(start):
    with start("relay") as d:
        d.ctl("drain", "r", FIRST)
        d.ctl("disable", "r", FIRST)
        assert backend(d)["state"] == "draining+disabled"
        d.ctl("undrain", "r", FIRST)
        assert backend(d)["state"] == "disabled" and not backend(d)["eligible"]
        d.ctl("enable", "r", FIRST)
        assert backend(d)["state"] == "up" and backend(d)["eligible"]


def test_weights_change_at_once_and_exactly(net, folder, start):
    with start("relay") as d:
        assert connects_to(net, folder, count=60) == [30, 30]
        reply = d.ctl("weight", "r", FIRST, "5")
        assert (reply["weight"], reply["before"]) == (5, 1)
        assert connects_to(net, folder, count=60) == [50, 10]
        assert backend(d)["weight"] == 5
        assert d.count_log("weight 5 instead of 1, by lbctl") == 1
        for words in (("0",), ("257",), ("many",)):
            d.ctl("weight", "r", FIRST, *words, code=1)


def test_names_that_are_not_there_are_refused(start):
    with start("relay") as d:
        for verb, more in (("drain", ()), ("undrain", ()), ("weight", ("3",)), ("enable", ()),
                           ("disable", ())):
            assert d.ctl(verb, "x", FIRST, *more, code=1)["error"] == "no such rule"
            assert d.ctl(verb, "r", "10.81.1.2:1", *more, code=1)["error"] == \
                "no such backend in this rule"
        assert d.ctl("undrain", "r", FIRST, code=1)["error"] == "it does not drain"
        assert d.ctl("backends", "--rule", "x", code=1)["error"] == "no such rule"
        assert len(d.ctl("backends", "--rule", "r")["backends"]) == 2
        text = d.lbctl("drain", "r", FIRST).stdout
        assert text == f"{FIRST} of rule r drains: 0 flows, cut in 1m00s\n", text
        assert " done\n" in d.lbctl("backends").stdout


def test_a_stop_in_the_midst_of_a_drain_is_a_good_one(net, start, carrier):
    with start(carrier, [FIRST], timeouts={"drain_ms": 500}) as d, flow(net, d, carrier):
        d.ctl("drain", "r", FIRST, "--deadline", "never")
    # The daemon has ended in good order: see Daemon.stop().

