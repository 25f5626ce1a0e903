# SPDX-License-Identifier: MIT
"""
What operators judge a load balancer by: real servers die in four ways under a real load generator,
and nobody notices but those whose request was on the one that died.
"""
import os
import re
import signal
import shutil
import time

import pytest

from lbtest.backends import wait_status
from lbtest.daemon import rule
from lbtest.net import BACKEND, BACKEND_ADDR, CLIENT, LB_ADDR
from lbtest.process import wait_until

LISTEN, BACK = 7190, 8190
PORTS = [BACK + i for i in range(4)]
CONNECTIONS = 16
# Longer with LB_FAILOVER_SECONDS=40.
SECONDS = max(22, int(os.environ.get("LB_FAILOVER_SECONDS", "22")))
CHECK = {"enabled": True, "interval_ms": 200, "timeout_ms": 200, "protocol": "http", "rise": 2,
         "fall": 2}
BOUND = 2.2 * 0.2 + 2 * 0.2 + 0.3  # docs/backends.md, and some for a busy machine

CONFIG = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx-{port}.pid;
error_log /dev/null; events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen {addr}:{port} backlog=4096; location / {{ return 200 "{port}\\n"; }} }}
}}
"""


class Nginx:
    def __init__(self, net, folder, port):
        self.net, self.folder, self.port = net, folder, port
        self.config = folder / f"nginx-{port}.conf"
        self.config.write_text(CONFIG.format(folder=folder, port=port, addr=BACKEND_ADDR[4]))
        self.process = None
        self.start()

    def start(self):
        self.process = self.net.start(BACKEND, f"nginx-{self.port}",
                                      ["nginx", "-c", str(self.config)], self.folder)

    def signal(self, number):
        self.process.signal(number)

    def close(self):
        self.process.signal(signal.SIGCONT)
        self.process.kill()


@pytest.fixture
def servers(net, folder):
    if not (shutil.which("nginx") and shutil.which("wrk")):
        pytest.skip("nginx or wrk is not installed")
    made = [Nginx(net, folder, port) for port in PORTS]
    yield made
    for s in made:
        s.close()


def connections(d, port):
    return d.metric("l4lb_backend_connections_total", backend=f"{BACKEND_ADDR[4]}:{port}")


class Dead:
    """From its detection bound on, nobody is sent there any more."""

    def __init__(self, d, port):
        self.d, self.port = d, port
        wait_status(d, 0, BOUND, backend=f"{BACKEND_ADDR[4]}:{port}")
        self.count = connections(d, port)

    def still(self):
        assert connections(self.d, self.port) == self.count, self.port


def errors_of(wrk):
    found = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", wrk)
    return tuple(map(int, found.groups())) if found else (0, 0, 0, 0)


@pytest.mark.parametrize("acceleration", ["auto", pytest.param("relay", marks=pytest.mark.long)])
def test_servers_die_in_four_ways_and_nobody_notices(net, daemon, folder, servers, acceleration):
    d = daemon({"rules": [rule("r", f"{LB_ADDR[4]}:{LISTEN}",
                               [f"{BACKEND_ADDR[4]}:{p}" for p in PORTS], health_check=CHECK,
                               timeouts={"connect_ms": 500}, acceleration=acceleration)]}).start()
    wait_until(lambda: d.metric("l4lb_backend_health_status") == 4, 3, "all are up")
    wrk = net.start(CLIENT, "wrk", ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s",
                                    "--timeout", "30s", "-H", "Connection: close",
                                    f"http://{LB_ADDR[4]}:{LISTEN}/"], folder)
    begin = time.monotonic()

    def until(seconds):
        time.sleep(max(0, begin + seconds - time.monotonic()))
    until(2)
    servers[0].signal(signal.SIGKILL)
    killed = Dead(d, PORTS[0])
    until(4)
    servers[1].signal(signal.SIGSTOP)
    stopped = Dead(d, PORTS[1])
    until(6)
    hole = f"chain c {{ type filter hook input priority 0; tcp dport {PORTS[2]} drop; }}"
    with net.nft(BACKEND, hole):
        holed = Dead(d, PORTS[2])
        until(8)
        for dead in (killed, stopped, holed):
            dead.still()
    servers[0].process.wait(5)
    servers[0].start()
    until(9)
    servers[1].signal(signal.SIGCONT)
    wait_status(d, 4, 3)
    until(11)
    reject = f"chain c {{ type filter hook input priority 0; tcp dport {PORTS[3]} reject with " \
             "tcp reset; }"
    with net.nft(BACKEND, reject):
        rejecting = Dead(d, PORTS[3])
        until(13)
        rejecting.still()
    wait_status(d, 4, 3)
    until(15)
    before = [connections(d, p) for p in PORTS]
    until(SECONDS - 1)
    shares = [connections(d, p) - b for p, b in zip(PORTS, before)]
    assert wrk.wait(60) == 0
    out = wrk.stdout
    connect, read, write, timeout = errors_of(out)
    # In flight on the one that was killed, or on the one that answers with RST, sent or not yet.
    assert connect == timeout == 0 and read + write <= 2 * CONNECTIONS, out
    assert "Non-2xx" not in out, out
    mean = sum(shares) / len(shares)
    assert mean > 100 and all(abs(s - mean) <= 0.1 * mean for s in shares), shares
    requests = re.search(r"(\d+) requests in", out).group(1)
    print(f"{acceleration}: {requests} requests, {read + write} in flight failed, shares {shares}")
    ends = {f["reason"] for f in d.flows()}
    assert ends <= {"done", "reset_by_backend", "reset_by_client"}, ends
    resets = {f["backend"] for f in d.flows() if f["reason"] == "reset_by_backend"}
    assert resets <= {f"{BACKEND_ADDR[4]}:{PORTS[i]}" for i in (0, 3)}, resets
    d.stop()
