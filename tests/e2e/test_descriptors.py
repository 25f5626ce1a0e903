# SPDX-License-Identifier: MIT
"""Out of descriptors: accepting pauses, nothing spins, one line says so, and it recovers."""
import time

from lbtest import machine, peer
from lbtest.daemon import rule
from lbtest.process import wait_until

LISTEN, BACK = ("10.81.0.1", 6700), ("10.81.1.2", 7700)
RULES = {"rules": [rule("r", "%s:%d" % LISTEN, ["%s:%d" % BACK], acceleration="relay")],
         "workers": 2}
LIMIT = 128


def test_accepting_pauses_without_spinning_and_goes_on_when_flows_end(net, folder, daemon):
    with daemon(RULES, wrap=["prlimit", f"--nofile={LIMIT}:{LIMIT}"]) as d:
        server = peer.server(net, folder, host=BACK[0], port=BACK[1], count=0, send=100, recv=100,
                             patient=1, deadline_ms=30000)
        hoard = peer.client(net, folder, host=LISTEN[0], port=LISTEN[1], count=200, hold=1,
                            send=100, recv=100, deadline_ms=30000)
        late = None
        try:
            wait_until(lambda: d.count_log("accepting paused"), 10, "accepting pauses")
            served = d.metric("l4lb_active_connections")
            assert 0 < served < LIMIT / 2, served

            # Who comes now waits in the backlog; the daemon waits too.
            late = peer.client(net, folder, host=LISTEN[0], port=LISTEN[1], count=20, send=100,
                               recv=100, patient=1, deadline_ms=25000)
            begin, cpu = time.monotonic(), machine.process_cpu(d.pid)
            time.sleep(1)
            used = (machine.process_cpu(d.pid) - cpu) / (time.monotonic() - begin)
            assert used < 0.1, f"{used * 100:.0f} % of a CPU while paused"
            assert late.process.alive()
            assert d.count_log("accepting paused") == 1

            # The first ones end, everybody else is served.
            hoard.release()
            assert hoard.result()["ok"] == 200
            assert late.result()["ok"] == 20
            wait_until(lambda: d.count_log("accepting again"), 5, "accepting goes on")
        finally:
            for p in (hoard, late, server):
                if p:
                    p.stop()
        d.wait_flows(220)
        d.check_idle()


def test_the_backlog_of_a_paused_daemon_survives_many_turns(net, folder, daemon):
    """More clients than descriptors, in waves: everybody is served in the end."""
    with daemon(RULES, wrap=["prlimit", f"--nofile={LIMIT}:{LIMIT}"]) as d:
        server = peer.server(net, folder, host=BACK[0], port=BACK[1], count=0, send=5000,
                             deadline_ms=60000)
        try:
            report = peer.client(net, folder, host=LISTEN[0], port=LISTEN[1], count=1500,
                                 parallel=300, send=5000, recv=5000, patient=1,
                                 deadline_ms=60000).result()
        finally:
            server.stop()
        assert report["ok"] == 1500, report
        d.wait_flows(1500)
        assert {f["reason"] for f in d.flows()} == {"done"}
