#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
The benchmark of what clients notice: how long a message takes at a fixed rate, and what happens to
requests and kept connections while the configuration is reloaded or one of two backends goes.
Decides how every path is set up for that: health checks twice a second, a backend is down after two
that failed, half a second for a connect, and the other backend is tried. The order of measurements
and the report are those of bench.py.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import bench
import bench_cpu
import bench_loads
import bench_net
import bench_peers
import bench_report
from bench_tls import tool

SERVICES = {"http": (7080, 8080), "echo": (7007, 9007)}
SECOND = 8081  # the other backend of http
CHECK_MS, CONNECT_MS = 500, 500
RELOAD_SECONDS = 0.5  # from one to the next
KEPT = 200
# Alternately: a reload without a change might be none.
IDLE_MINUTES = (10, 11)


# --- paths ----------------------------------------------------------------------------------------


class Changing:
    """A path whose configuration is written again, otherwise, and read again while it runs."""
    services = SERVICES
    signal = signal.SIGHUP
    text = ""

    def config(self, idle=IDLE_MINUTES[0]):
        raise NotImplementedError

    def path(self, net):
        return os.path.join(net.run_dir, self.key + ".conf")

    def reload(self, net, proc, number):
        with open(self.path(net), "w", encoding="ascii") as conf:
            conf.write(self.config(IDLE_MINUTES[number % 2]))
        os.kill(proc.pid, self.signal)

    def check_reloaded(self, net, proc, count, before):
        """<before>: programs() before the first of <count> reloads."""
        del net, count
        if before == programs(proc):
            raise RuntimeError(f"{self.title} did not reload")


class Haproxy(Changing, bench_peers.Haproxy):
    signal = signal.SIGUSR2

    def prepare(self):
        super().prepare()
        self.command = [word for word in self.command if word != "-f"] + ["-W", "-f"]

    def config(self, idle=IDLE_MINUTES[0]):
        # Without `expose-fd listeners` there is a moment in which nobody listens.
        echo, http = SERVICES["echo"], SERVICES["http"]
        check = f"check inter {CHECK_MS} fall 2 rise 2"
        return f"""global
    nbthread {self.options.workers}
    maxconn {bench_peers.MAXCONN}
    stats socket abns@bench level admin expose-fd listeners

defaults
    mode tcp
    maxconn {bench_peers.MAXCONN}
    option splice-auto
    option redispatch 1
    retries 3
    timeout connect {CONNECT_MS}
    timeout client {idle}m
    timeout server {idle}m

listen echo
    bind {bench_net.LB_ADDR}:{echo[0]}
    server only {bench_net.BACKEND_ADDR}:{echo[1]}

listen http
    bind {bench_net.LB_ADDR}:{http[0]}
    balance roundrobin
    server first {bench_net.BACKEND_ADDR}:{http[1]} {check}
    server second {bench_net.BACKEND_ADDR}:{SECOND} {check}
"""


class HaproxyTrixie(Haproxy, bench_peers.HaproxyTrixie):
    def path(self, net):
        return self.options.trixie + "/tmp/bench-clients.conf"

    def start(self, net):
        with open(self.path(net), "w", encoding="ascii") as conf:
            conf.write(self.text)
        inside = self.path(net)[len(self.options.trixie):]
        proc = net.start(bench_net.LB, [*self.command, inside], self.key)
        self.await_ready(net, proc)
        return proc


class Nginx(Changing, bench_peers.Nginx):
    def path(self, net):
        return os.path.join(os.path.abspath(net.run_dir), self.key, "nginx.conf")

    def config(self, idle=IDLE_MINUTES[0]):
        echo, http = SERVICES["echo"], SERVICES["http"]
        # It has no checks of its own: what a connection finds out counts for that long.
        fails = f"max_fails=2 fail_timeout={2 * CHECK_MS // 1000}s"
        return f"""load_module {self.module};
user root;
daemon off;
pid {bench_peers.NGINX_PID};
worker_processes {self.options.workers};
worker_rlimit_nofile 20000;
error_log stderr crit;
events {{
    worker_connections {2 * bench_peers.MAXCONN};
}}
stream {{
    tcp_nodelay on;
    proxy_connect_timeout {CONNECT_MS}ms;
    proxy_timeout {idle}m;
    upstream http {{
        server {bench_net.BACKEND_ADDR}:{http[1]} {fails};
        server {bench_net.BACKEND_ADDR}:{SECOND} {fails};
    }}
    server {{
        listen {bench_net.LB_ADDR}:{echo[0]} reuseport;
        proxy_pass {bench_net.BACKEND_ADDR}:{echo[1]};
    }}
    server {{
        listen {bench_net.LB_ADDR}:{http[0]} reuseport;
        proxy_pass http;
    }}
}}
"""


class Layer4Lb(Changing, bench_peers.Layer4Lb):
    def config(self, idle=IDLE_MINUTES[0]):
        echo, http = SERVICES["echo"], SERVICES["http"]
        timeouts = f"{{idle_ms: {idle * 60000}, connect_ms: {CONNECT_MS}}}"
        return f"""workers: {self.options.workers}
access_log: off
admin:
  metrics: {bench_peers.METRICS}
rules:
  - name: echo
    listen: "{bench_net.LB_ADDR}:{echo[0]}"
    acceleration: {self.key}
    backends: ["{bench_net.BACKEND_ADDR}:{echo[1]}"]
    timeouts: {timeouts}
  - name: http
    listen: "{bench_net.LB_ADDR}:{http[0]}"
    acceleration: {self.key}
    backends: ["{bench_net.BACKEND_ADDR}:{http[1]}", "{bench_net.BACKEND_ADDR}:{SECOND}"]
    timeouts: {timeouts}
    health_check: {{enabled: true, interval_ms: {CHECK_MS}, fall: 2, rise: 2}}
"""

    def check_reloaded(self, net, proc, count, before):
        at, end = 0, time.monotonic() + 3
        while at != 1 + count and time.monotonic() < end:
            time.sleep(0.1)
            at = int(re.search(r"^l4lb_config_generation (\d+)", self.metrics(net), re.M)[1])
        if at != 1 + count:
            raise RuntimeError(f"{at - 1} of {count} reloads are in force")


def programs(proc):
    return {pid for pid, (session, _, _) in bench_cpu.read_processes().items()
            if session == proc.pid}


# --- loads ----------------------------------------------------------------------------------------


def start_echo(net):
    port = SERVICES["echo"][1]
    proc = net.start(bench_net.BACKEND,
                     [tool("lb-demo-backend"), "--echo", f"{bench_net.BACKEND_ADDR}:{port}"],
                     "backend")
    net.await_listen(proc, [port])
    return proc


def start_http(net, options):
    """{port: both backends}"""
    return {port: bench_peers.start_http(net, options.workers, f"http-{port}", port)
            for port in (SERVICES["http"][1], SECOND)}


class Paced(bench_loads.Load):
    """Messages that are due at their time, whether or not those before have been answered."""
    service = "echo"

    def __init__(self, rate):
        super().__init__(f"{rate:,} messages of 64 bytes a second over 64 kept connections", LATE)
        self.rate = rate

    def command(self, target, seconds):
        return [tool("tests/e2e/paced_load"), target[0], str(target[1]), str(self.rate),
                str(seconds), "64"]

    def backend(self, net, options):
        start_http(net, options)
        return start_echo(net)

    def once(self, net, peer, seconds):
        said = json.loads(net.run(bench_net.CLIENT,
                                  self.command(peer.target(self.service), seconds), seconds + 30))
        if said["errors"]:
            raise RuntimeError(f"paced_load: {said}")
        return said

    def run(self, net, peer, proc, window, seconds):
        self.once(net, peer, self.warm_seconds)
        with window as w:
            said = self.once(net, peer, seconds)
        return {"p50": said["p50_us"], "p99": said["p99_us"], "p999": said["p999_us"],
                "cpu": w.busy * 1e6 / said["count"]}, w


class During(bench_loads.Wrk):
    """Requests, a new connection each, and what meanwhile() does. A failed one is a figure here."""
    needs_program = True

    def __init__(self, title, metrics):
        super().__init__(title, metrics, 2, 16, close=True)
        self.servers = {}

    def command(self, target, seconds):
        first, *rest = super().command(target, seconds)
        return [first, "--timeout", "30s", *rest]

    def backend(self, net, options):
        self.servers = start_http(net, options)
        return start_echo(net)

    def meanwhile(self, net, peer, proc, seconds):
        """Figures of its own."""
        raise NotImplementedError

    def run(self, net, peer, proc, window, seconds):
        self.once(net, peer, self.warm_seconds)
        with window as w:
            wrk = net.start(bench_net.CLIENT, self.command(peer.target("http"), seconds), "wrk",
                            stdout=subprocess.PIPE)
            figures = self.meanwhile(net, peer, proc, seconds)
            out = wrk.communicate(timeout=seconds + 60)[0].decode()
        said = self.parse(out)
        return {"failed": said["errors"], "rate": said["requests"] / said["seconds"],
                "p99": said["p99_us"] / 1e3, "longest": said["max_us"] / 1e3, **figures}, w


class Reload(During):
    def meanwhile(self, net, peer, proc, seconds):
        kept = bench_loads.Idle.hold(net, peer, KEPT, "kept")
        before, memory = programs(proc), bench_cpu.resident_bytes(proc.pid, "Pss:")
        count = max(1, int((seconds - 1) / RELOAD_SECONDS))
        for number in range(1, count + 1):
            peer.reload(net, proc, number)
            time.sleep(RELOAD_SECONDS)
        peer.check_reloaded(net, proc, count, before)
        grown = bench_cpu.resident_bytes(proc.pid, "Pss:") - memory
        kept.stdin.write(b"\n")
        kept.stdin.flush()
        alive = int(kept.stdout.readline())
        kept.stdin.close()
        return {"cut": KEPT - alive, "grown": grown / 2**20, "programs": len(programs(proc))}


class Loss(During):
    """The second of two backends goes after a third of the time and is back after two thirds."""

    def gone(self, net, options):
        """A context manager."""
        raise NotImplementedError

    def meanwhile(self, net, peer, proc, seconds):
        time.sleep(seconds / 3)
        with self.gone(net, peer.options):
            time.sleep(seconds / 3)
        return {}


class Killed(Loss):
    @contextlib.contextmanager
    def gone(self, net, options):
        os.killpg(self.servers[SECOND].pid, signal.SIGKILL)
        self.servers[SECOND].wait()
        yield
        bench_peers.start_http(net, options.workers, "http-again", SECOND)


class Silent(Loss):
    @contextlib.contextmanager
    def gone(self, net, options):
        for line in ("add table inet hole",
                     "add chain inet hole in { type filter hook input priority 0; }",
                     f"add rule inet hole in tcp dport {SECOND} drop"):
            net.run(bench_net.BACKEND, ["nft", line], 10)
        yield
        net.run(bench_net.BACKEND, ["nft", "delete table inet hole"], 10)


LATE = {"p50": ("p50", "us", 0, False), "p99": ("p99", "us", 0, False),
        "p999": ("p99.9", "us", 0, False), "cpu": ("CPU per message", "us", 1, False)}
FAILED = ("requests failed", "", 0, False)
DONE = {"failed": FAILED, "longest": ("longest request", "ms", 1, False),
        "p99": ("p99", "ms", 1, False), "rate": bench_loads.RATE_C}

PEERS = {
    "direct": bench_peers.Direct,
    "haproxy26": Haproxy,
    "haproxy30": HaproxyTrixie,
    "nginx": Nginx,
    "relay": Layer4Lb,
    "sockmap": Layer4Lb,
    "graft": Layer4Lb,
    "auto": Layer4Lb,
}
LOADS = {
    "paced5k": Paced(5000),
    "paced20k": Paced(20000),
    "reload": Reload("Requests while the configuration is reloaded twice a second, "
                     f"{KEPT} connections beside them", {
                         "failed": FAILED, "cut": ("kept connections cut", "", 0, False),
                         "longest": DONE["longest"], "rate": bench_loads.RATE_C,
                         "grown": ("memory grown by", "MiB", 1, False),
                         "programs": ("processes in the end", "", 0, False)}),
    "killed": Killed("Requests while one of two backends is killed and comes back", DONE),
    "silent": Silent("Requests while one of two backends falls silent and comes back", DONE),
}
GOALS = (
    *((ours, key, "p99", "haproxy30", 1.0) for key in ("paced5k", "paced20k")
      for ours in ("relay", "auto")),
    *((ours, "reload", metric, "-", 0) for ours in ("relay", "sockmap", "graft", "auto")
      for metric in ("failed", "cut")),
    ("auto", "silent", "failed", "-", 0),
)
CLIENTS = bench.Suite("clients", PEERS, LOADS,
                      bench_report.Judged(("relay", "sockmap", "graft", "auto"),
                                          ("haproxy30", "direct"),
                                          ("haproxy30", "haproxy26", "nginx"), GOALS),
                      (("wrk", "wrk"), ("nginx", "nginx"), ("nft", "nftables")),
                      (["wrk", "-v"],))


if __name__ == "__main__":
    try:
        sys.exit(bench.main(CLIENTS))
    except KeyboardInterrupt:
        sys.exit(130)
