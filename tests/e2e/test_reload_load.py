# SPDX-License-Identifier: MIT
"""A hundred reloads in ten seconds, good and bad ones, and nobody notices."""
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from lbtest import lane as lanes, machine
from lbtest.daemon import rule
from lbtest.net import BACKEND, CLIENT, LB_ADDR
from lbtest.process import PATIENCE, SAN, wait_until
from lbtest.reloading import (  # echo is a fixture
    BACK, LISTEN, Flow, addr, config, echo, one, reload, wait_carried)


RELOADS = 100
FLOWS = 8
NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid;
error_log /dev/null; events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000; client_body_temp_path {folder};
  proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
  scgi_temp_path {folder};
  server {{ {listens} location / {{ return 200 "well\\n"; }} }}
}}
"""


def footprint(d):
    kept = Path(f"/proc/{d.pid}/task")
    return {"descriptors": machine.process_fds(d.pid)["other"],
            "threads": len(list(kept.iterdir())), "objects": set(machine.bpf_held(d.pid))}


def test_a_hundred_reloads_in_ten_seconds_under_load(daemon, net, folder, echo):
    """Flows on every carrier, requests on new and on kept connections; every other file is bad."""
    if not (shutil.which("nginx") and shutil.which("wrk")):
        pytest.skip("nginx or wrk is not installed")
    listens = "".join(f"listen {BACK + 20 + i} backlog=4096; " for i in range(3))
    # nginx makes its folders nobody's, and the daemon may not look into those any more.
    (folder / "nginx").mkdir()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder / "nginx", listens=listens))
    nginx = net.start(BACKEND, "nginx", ["nginx", "-c", str(folder / "nginx.conf")], folder)
    check = {"enabled": True, "interval_ms": 500, "timeout_ms": 400}
    carriers = list(lanes.CARRIERS)

    def good(i):
        rules = [one(c, n, (n, 3) if i % 3 else (n,), acceleration=c, retries=i % 4,
                     timeouts={"idle_ms": 60000 + i}) for n, c in enumerate(carriers)]
        web = [{"addr": addr(20 + k), "weight": 1 + (i + k) % 3} for k in range(2 + i % 2)]
        rules.append(one("web", 10, web, health_check=check, passive_health={"enabled": i % 2 == 0},
                         balance=("weighted_round_robin", "least_connections")[i % 4 // 2]))
        if i % 4 == 1:
            rules.append(one("extra", 11 + i % 3, (0,)))
        if i % 2:
            rules.reverse()
        return config(*rules)

    bad = [config(one("web", 10, (20,)), nonsense=1),
           config(*good(1)["rules"], rule("far", "192.0.2.77:80", [addr()])),
           config(*good(2)["rules"][:-1], one("web", 10, (20,), client_connection_limit=1))]
    d = daemon(good(0)).start()
    for c in carriers:
        if c != "relay" and d.refusal(c):
            pytest.skip(f"{c} is not in service: {d.refusal(c)}")
    # Long-lived ones of each rule go to its own backend.
    flows = {c: [] for c in carriers}
    for n, c in enumerate(carriers):
        while len(flows[c]) < FLOWS:
            flows[c].append(Flow(net, n))
            flows[c][-1].exchange()
    wait_carried(d, "graft", FLOWS)
    wait_carried(d, "sockmap", FLOWS)
    load = [net.start(CLIENT, f"wrk{k}", ["wrk", "-t1", "-c8", "-d60s", "--timeout", "10s", *more,
                                          f"http://{LB_ADDR[4]}:{LISTEN + 10}/"], folder)
            for k, more in enumerate(([], ["-H", "Connection: close"]))]
    time.sleep(1)

    def round_of(count):
        for i in range(count):
            if i % 2:
                reload(d, bad[i // 2 % len(bad)], good=False)
            else:
                reload(d, good(i // 2))
            for c in carriers:
                flows[c][i % FLOWS].exchange(2000)

    round_of(20)
    reload(d, good(0))
    wait_until(lambda: d.metric("l4lb_backend_addresses") == len(carriers) + 2, 5, "settled")
    before, rss = footprint(d), machine.process_rss(d.pid)
    begin = time.monotonic()
    round_of(RELOADS)
    took = time.monotonic() - begin
    print(f"{RELOADS} reloads in {took:.1f} s")
    assert took < 10 * PATIENCE
    reload(d, good(0))
    for w in load:
        w.signal(signal.SIGINT)
        assert w.wait(15) == 0
        assert "Socket errors" not in w.stdout and "Non-2xx" not in w.stdout, w.stdout
        assert int(re.search(r"(\d+) requests in", w.stdout).group(1)) > 500, w.stdout
    wait_until(lambda: footprint(d)["descriptors"] <= before["descriptors"], 5,
               lambda: f"{before}, now {footprint(d)}: {d.fd_names()}")
    now = footprint(d)
    assert now["threads"] == before["threads"] and now["objects"] == before["objects"]
    if not SAN:
        assert machine.process_rss(d.pid) < rss + (4 << 20)
    for c in carriers:
        for f in flows[c]:
            f.exchange()
            f.end()
    for c in carriers:
        ended = d.wait_flows(FLOWS, c)
        assert {(f["reason"], f["carrier"]) for f in ended} == {("done", c)}, ended
    assert {f["reason"] for f in d.flows("web")} <= {"done", "reset_by_client"}
    nginx.kill()
    d.stop()
