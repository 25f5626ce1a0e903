# SPDX-License-Identifier: MIT
"""Thousands of clients that say nothing, or next to nothing: closed on time, and nobody waits."""
import resource
import socket
import time

import pytest

from lbtest import machine
from lbtest.daemon import rule
from lbtest.net import BACKEND, BACKEND_ADDR, CLIENT, LB_ADDR
from lbtest.process import BUILD, PATIENCE, wait_until

LISTEN, BACK = 7490, 8490
COUNT = 3000
IDLE = 4  # s


@pytest.fixture
def descriptors():
    """Enough of them for this process's own ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def echo(net, folder, descriptors):
    process = net.start(BACKEND, "echo", [BUILD / "lb-demo-backend", "--echo",
                                          f"{BACKEND_ADDR[4]}:{BACK}"], folder)
    wait_until(lambda: "listen" in process.stderr + process.stdout or
               net.call(BACKEND, answers), 5, "the backend listens")
    yield process
    process.kill()


def answers():
    with socket.socket() as s:
        return s.connect_ex((BACKEND_ADDR[4], BACK)) == 0


def good_client(net):
    """Seconds that a whole exchange takes."""
    def exchange():
        begin = time.monotonic()
        with socket.create_connection((LB_ADDR[4], LISTEN), 5) as s:
            s.sendall(b"hello")
            assert s.recv(100) == b"hello"
        return time.monotonic() - begin
    return net.call(CLIENT, exchange)


@pytest.mark.parametrize("acceleration,says", [("relay", "nothing"),
                                               ("auto", "one byte, and the next too late")])
def test_slow_clients_are_closed_on_time_and_delay_nobody(net, daemon, echo, acceleration, says):
    idle_s = IDLE * PATIENCE
    d = daemon({"rules": [rule("r", f"{LB_ADDR[4]}:{LISTEN}", [f"{BACKEND_ADDR[4]}:{BACK}"],
                               acceleration=acceleration,
                               timeouts={"idle_ms": int(idle_s * 1000)})]}).start()

    def connect_all():
        made = []
        for _ in range(COUNT):
            made.append(socket.create_connection((LB_ADDR[4], LISTEN), 10))
            if says != "nothing":
                made[-1].sendall(b"x")
        return made
    socks = net.call(CLIENT, connect_all)
    try:
        wait_until(lambda: d.metric("l4lb_active_connections") == COUNT, 10, "all are there")
        took = sorted(good_client(net) for _ in range(20))
        assert took[-1] < 0.1 * PATIENCE, took
        cpu = machine.process_cpu(d.pid)
        flows = d.wait_flows(COUNT + 20, seconds=idle_s + 15)
        ends = [f for f in flows if f["reason"] == "idle"]
        assert len(ends) == COUNT, {f["reason"] for f in flows}
        # From its last byte: a client that has spoken did so at once. Grafts are looked at once a
        # second.
        late = [int(f["duration_ms"]) - idle_s * 1000 for f in ends]
        most = 1000 if acceleration == "relay" else 2000
        assert min(late) >= 0 and max(late) < most * PATIENCE, (min(late), max(late))
        assert machine.process_cpu(d.pid) - cpu < 2 * PATIENCE
    finally:
        for s in socks:
            s.close()
    d.check_idle()
    d.stop()
