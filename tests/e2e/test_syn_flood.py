# SPDX-License-Identifier: MIT
"""A flood of SYNs: established flows hardly notice, and every one of them is counted."""
import socket
import threading
import time

import pytest

from lbtest import clients
from lbtest.backends import Backend
from lbtest.daemon import rule
from lbtest.net import BACKEND, BACKEND_ADDR, CLIENT, LB_ADDR
from lbtest.process import BUILD, wait_until

LISTEN, BACK = 7390, 8390
RATE = 15000  # a second: bounded, for sender and receiver share the machine
DENIED = [f"198.18.{i // 250}.{i % 250 + 1}" for i in range(4000)]
STRANGERS = [f"198.51.100.{i + 1}" for i in range(250)]


def config(hook, **keys):
    return {"admission": hook,
            "rules": [rule("r", f"{LB_ADDR[4]}:{LISTEN}", [clients.backend_addr(BACK)],
                           acceleration="relay", deny_list=["198.18.0.0/15"], **keys)]}


def is_listening():
    with socket.socket() as s:
        return s.connect_ex((BACKEND_ADDR[4], BACK)) == 0


def moved(d, seconds):
    """Bytes a second that the flow gets through."""
    begin, before = time.monotonic(), d.metric("l4lb_traffic_bytes_total", direction="up")
    time.sleep(seconds)
    return (d.metric("l4lb_traffic_bytes_total", direction="up") - before) / \
        (time.monotonic() - begin)


class Flood:
    """Frames from a thread until it is closed; <sent> then says how many."""

    def __init__(self, net, frames):
        self.stop, self.sent = threading.Event(), 0

        def send():
            self.sent = clients.send_frames(net, frames, 1 << 30, RATE, stop=self.stop)
        self.thread = threading.Thread(target=send)
        self.thread.start()

    def close(self):
        self.stop.set()
        self.thread.join()
        return self.sent


@pytest.mark.parametrize("who,hook", [
    ("denied", "native"), ("strangers", "tc"),
    *(pytest.param(*other, marks=pytest.mark.long)
      for other in (("denied", "tc"), ("strangers", "native")))])
def test_established_flows_keep_their_throughput(net, daemon, folder, hook, who):
    d = daemon(config(hook)).start()
    sink = net.start(BACKEND, "sink", [BUILD / "throughput", "sink", f"{BACKEND_ADDR[4]}:{BACK}"],
                     folder)
    source = None
    to = (LB_ADDR[4], LISTEN)
    sources = DENIED if who == "denied" else STRANGERS
    # The same work for the sender, and none for us: frames for another card.
    idle, real = clients.syns(net, sources, to, other_host=True), clients.syns(net, sources, to)
    try:
        wait_until(lambda: net.call(BACKEND, is_listening), 5, "the sink is up")
        source = net.start(CLIENT, "source", [BUILD / "throughput", "source", "--seconds", "60",
                                              f"{LB_ADDR[4]}:{LISTEN}"], folder)
        wait_until(lambda: d.metric("l4lb_active_connections") >= 1, 5, "a flow is established")
        ratios, sent = [], 0
        for _ in range(3):
            flood = Flood(net, idle)
            without = moved(d, 1)
            flood.close()
            flood = Flood(net, real)
            ratios.append(moved(d, 1) / without)
            sent += flood.close()
        ratio = sorted(ratios)[len(ratios) // 2]
        print(f"{hook}, {who}: {ratio:.2f} of the throughput, {sent} SYNs")
        assert ratio >= 0.8, ratios
        hook_name = "xdp" if hook == "native" else hook

        def counted():
            refused = d.metric("l4lb_refusals_total", hook=hook_name)
            passed = d.metric("l4lb_admission_passed_total", hook=hook_name)
            return (refused, passed)
        flows = d.metric("l4lb_connections_total")
        want = (sent, flows) if who == "denied" else (0, sent + flows)
        wait_until(lambda: counted() == want, 5, f"{want} are counted, not {counted()}")
    finally:
        for p in (source, sink):
            if p:
                p.kill()
    d.stop()


def test_a_good_client_is_served_during_a_flood(net, daemon):
    b = Backend(net, BACK, clients.says_y)
    d = daemon(config("auto")).start()
    flood = Flood(net, clients.syns(net, STRANGERS, (LB_ADDR[4], LISTEN)))
    try:
        time.sleep(0.5)
        for _ in range(20):
            assert clients.attempt(net, (LB_ADDR[4], LISTEN), seconds=5) == "y"
    finally:
        flood.close()
        b.close()
    d.stop()
