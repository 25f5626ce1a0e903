# SPDX-License-Identifier: MIT
"""Connection limits of backends and clients: never one too many; and who waits how."""
import select
import socket
import threading
import time

import pytest

from lbtest import graft, lane as lanes
from lbtest.backends import Backend
from lbtest.daemon import rule
from lbtest.net import BACKEND_ADDR, CLIENT, LB_ADDR
from lbtest.process import wait_until

LISTEN, BACK = 6990, 7990


def config(limit, backends_count=1, **keys):
    return {"workers": 2,
            "rules": [rule("r", f"{LB_ADDR[4]}:{LISTEN}",
                           [f"{BACKEND_ADDR[4]}:{BACK + i}" for i in range(backends_count)],
                           backend_connection_limit=limit, **keys)]}


class Counted:
    """A backend that answers each client once and holds it for some time; knows how many it had."""

    def __init__(self, hold_s):
        self.hold_s, self.lock = hold_s, threading.Lock()
        self.now = self.most = self.total = 0

    def __call__(self, conn, stop):
        with self.lock:
            self.now += 1
            self.total += 1
            self.most = max(self.most, self.now)
        try:
            stop.wait(self.hold_s)
            conn.recv(1)
        finally:
            # Before the load balancer can know that this one is over.
            with self.lock:
                self.now -= 1
            conn.sendall(b"y")


@pytest.fixture
def serve(net):
    made = []

    def make(kind, port=BACK):
        made.append(Backend(net, port, kind))
        return made[-1]
    yield make
    for b in made:
        b.close()


@pytest.fixture
def site_of():
    """site_of(daemon) is where flows go."""
    made = []

    def make(d):
        made.append(graft.Site(d, (LB_ADDR[4], LISTEN), (BACKEND_ADDR[4], BACK)))
        return made[-1]
    yield make
    for s in made:
        s.close()


def storm(net, count, seconds):
    """<count> clients at once: how many were answered, and how many turned away."""
    def clients():
        socks = []
        for _ in range(count):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex((LB_ADDR[4], LISTEN))
            socks.append(s)
        poll = select.poll()
        for s in socks:
            poll.register(s, select.POLLOUT)
        by_fd = {s.fileno(): s for s in socks}
        answered = refused = 0
        end = time.monotonic() + seconds
        while by_fd and time.monotonic() < end:
            for fd, event in poll.poll(1000):
                s = by_fd[fd]
                try:
                    if event & select.POLLOUT:
                        s.send(b"x")
                        poll.modify(fd, select.POLLIN)
                        continue
                    got = s.recv(1)
                except OSError:
                    got = b""
                answered += got == b"y"
                refused += got != b"y"
                poll.unregister(fd)
                by_fd.pop(fd).close()
        assert not by_fd, f"{len(by_fd)} of {count} were never answered"
        return answered, refused
    return net.call(CLIENT, clients)


@pytest.mark.parametrize("balance", ["weighted_round_robin", "least_connections", "random_two",
                                     "source_hash"])
def test_five_hundred_at_once_never_get_over_a_limit_of_ten(net, daemon, serve, balance):
    kind = Counted(0.01)
    serve(kind)
    d = daemon(config(10, queue={"max": 1000, "timeout_ms": 20000}, balance=balance)).start()
    assert storm(net, 500, 20) == (500, 0)
    assert kind.total == 500 and kind.most == 10
    assert {f["reason"] for f in d.wait_flows(500)} == {"done"}
    assert d.metric("l4lb_queue_length") == 0
    d.check_idle()
    d.stop()


def test_without_a_queue_those_beyond_the_limit_are_turned_away(net, daemon, serve):
    kind = Counted(1)
    serve(kind)
    d = daemon(config(3)).start()
    assert storm(net, 50, 10) == (3, 47)
    assert kind.most == 3
    reasons = [f["reason"] for f in d.wait_flows(50)]
    assert (reasons.count("done"), reasons.count("backend_limit")) == (3, 47)
    d.stop()


def test_the_stricter_limit_counts_and_each_backend_has_its_own(net, daemon, serve):
    kinds = [Counted(1), Counted(1)]
    for i, k in enumerate(kinds):
        serve(k, BACK + i)
    c = config(3, backends_count=2)
    c["rules"][0]["backends"][1] = {"addr": f"{BACKEND_ADDR[4]}:{BACK + 1}", "max_connections": 1}
    d = daemon(c).start()
    assert storm(net, 20, 10) == (4, 16)
    assert [k.most for k in kinds] == [3, 1]
    d.stop()


@pytest.mark.parametrize("carrier", lanes.CARRIERS)
def test_who_waits_too_long_is_turned_away_on_time(net, daemon, site_of, carrier):
    d = daemon({"graft": {"max_flows": 64},
                **config(1, queue={"max": 2, "timeout_ms": 400}, acceleration=carrier)}).start()
    lanes.skip_without(carrier, d)
    site = site_of(d)
    flow, = site.open_busy(1)
    if carrier == lanes.GRAFT:
        wait_until(lambda: d.grafted() == 1, 3, "it is grafted")
    first, second = (net.connect(LB_ADDR[4], LISTEN) for _ in range(2))
    wait_until(lambda: d.metric("l4lb_queue_length") == 2, 2, "both wait")
    assert net.call(CLIENT, is_refused)
    assert is_over(first) and is_over(second)
    flow.ping()
    waited = {f["reason"]: float(f["duration_ms"]) for f in d.wait_flows(3)}
    assert waited.keys() == {"queue_full", "queue_timeout"}
    assert 400 <= waited["queue_timeout"] <= 500
    flow.close()
    # There is room again, at once.
    wait_until(lambda: d.metric("l4lb_backend_active_connections") == 0, 2, "room")
    again = site.open()
    again.ping()
    again.close()
    d.stop()


def is_over(sock):
    with sock:
        try:
            return sock.recv(1) == b""
        except ConnectionResetError:
            return True


def test_who_leaves_the_queue_makes_room_in_it(net, daemon, site_of):
    d = daemon(config(1, queue={"max": 1, "timeout_ms": 10000}, acceleration="relay")).start()
    site = site_of(d)
    flow = site.open()
    for _ in range(20):
        s = net.connect(LB_ADDR[4], LISTEN)
        wait_until(lambda: d.metric("l4lb_queue_length") == 1, 2, "it waits")
        graft.reset(s)
        wait_until(lambda: d.metric("l4lb_queue_length") == 0, 2, "it has gone")
    patient = net.connect(LB_ADDR[4], LISTEN)
    wait_until(lambda: d.metric("l4lb_queue_length") == 1, 2, "it waits")
    flow.close()
    server, _ = site.listener.accept()
    patient.sendall(b"hello")
    assert server.recv(5) == b"hello"
    patient.close()
    server.close()
    reasons = [f["reason"] for f in d.wait_flows(22)]
    assert (reasons.count("reset_by_client"), reasons.count("done")) == (20, 2)
    d.stop()


@pytest.mark.parametrize("carrier", lanes.CARRIERS)
def test_a_client_has_no_more_than_its_own_limit(net, daemon, site_of, carrier):
    c = config(0, client_connection_limit=3, acceleration=carrier)
    d = daemon({"graft": {"max_flows": 64}, **c}).start()
    lanes.skip_without(carrier, d)
    site = site_of(d)
    flows = site.open_busy(3)
    if carrier == lanes.GRAFT:
        wait_until(lambda: d.grafted() == 3, 3, "all are grafted")
    for _ in range(5):
        assert net.call(CLIENT, is_refused)
    assert {f["reason"] for f in d.wait_flows(5)} == {"client_limit"}
    assert d.metric("l4lb_backend_connections_total") == 3
    flows.pop().close()
    d.wait_flows(6)
    flows.append(site.open())
    assert net.call(CLIENT, is_refused)
    for f in flows:
        f.ping()
        f.close()
    d.stop()


def is_refused():
    try:
        return is_over(socket.create_connection((LB_ADDR[4], LISTEN), 5))
    except ConnectionResetError:
        return True
