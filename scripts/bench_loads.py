# SPDX-License-Identifier: MIT
"""
Decides what is done to a path and which figures come out of it. measure() makes one cell of the
report: one workload over one path, in namespaces of its own, everything started fresh.
Must never turn an error into a figure: a client that reports failed requests fails the cell.
"""

import json
import os
import subprocess
import sys
import time

import bench_cpu
import bench_net
import bench_peers

HERE = os.path.dirname(os.path.abspath(__file__))
GB = 1e9
# A client may cut its last request short when its time is up; more than this is trouble.
ERRORS_ALLOWED = 1e-4


class Load:
    """
    A workload. `metrics`: key -> (heading, unit, digits, True when more is better), in the order
    of the report. `service` names the port it goes to. command() is also what the report prints.
    """
    service = "http"
    warm_seconds = 1
    bulk = False
    needs_program = False  # it looks at the balancer's program, or changes it

    def __init__(self, title, metrics):
        self.title = title
        self.metrics = metrics

    def command(self, target, seconds):
        raise NotImplementedError

    def backend(self, net, options):
        """Starts what stands behind the path."""
        raise NotImplementedError

    def run(self, net, peer, proc, window, seconds):
        """Returns (figures, the Window they were taken in)."""
        raise NotImplementedError


class Wrk(Load):
    scheme = "http"

    def __init__(self, title, metrics, threads, connections, close=False):
        super().__init__(title, metrics)
        self.threads, self.connections, self.close = threads, connections, close

    def command(self, target, seconds):
        argv = ["wrk", f"-t{self.threads}", f"-c{self.connections}", f"-d{seconds}s"]
        if self.close:
            argv += ["-H", "Connection: close"]
        script = os.path.join(HERE, "bench_wrk.lua")
        return argv + ["-s", script, f"{self.scheme}://{target[0]}:{target[1]}/"]

    def backend(self, net, options):
        return bench_peers.start_http(net, options.workers)

    @staticmethod
    def parse(out):
        """What bench_wrk.lua said."""
        return json.loads(next(line for line in out.splitlines() if line.startswith("{")))

    def once(self, net, peer, seconds):
        argv = self.command(peer.target(self.service), seconds)
        return self.parse(net.run(bench_net.CLIENT, argv, seconds + 30))

    def run(self, net, peer, proc, window, seconds):
        self.once(net, peer, self.warm_seconds)
        with window as w:
            said = self.once(net, peer, seconds)
        if not said["requests"] or said["errors"] > max(1, ERRORS_ALLOWED * said["requests"]):
            raise RuntimeError(f"wrk: {said['errors']} errors in {said['requests']} requests")
        return {"rate": said["requests"] / said["seconds"],
                "cpu": w.busy * 1e6 / said["requests"],
                "p50": said["p50_us"], "p99": said["p99_us"], "errors": said["errors"]}, w


class Iperf(Load):
    service = "iperf"
    bulk = True

    def __init__(self, title, metrics, streams, download):
        super().__init__(title, metrics)
        self.streams, self.download = streams, download

    def command(self, target, seconds):
        argv = ["iperf3", "-c", target[0], "-p", str(target[1]), "-t", str(seconds),
                "-P", str(self.streams), "-J"]
        return argv + ["-R"] if self.download else argv

    def backend(self, net, options):
        port = bench_peers.SERVICES[self.service][1]
        proc = net.start(bench_net.BACKEND, ["iperf3", "-s", "-B", bench_net.BACKEND_ADDR,
                                             "-p", str(port)], "backend")
        net.await_listen(proc, [port])
        return proc

    def once(self, net, peer, seconds):
        argv = self.command(peer.target(self.service), seconds)
        return json.loads(net.run(bench_net.CLIENT, argv, seconds + 30))["end"]["sum_received"]

    def run(self, net, peer, proc, window, seconds):
        self.once(net, peer, self.warm_seconds)
        with window as w:
            said = self.once(net, peer, seconds)
        # What arrived, not what was handed to the sender's socket.
        return {"rate": said["bits_per_second"] / 1e9, "cpu": w.busy / (said["bytes"] / GB)}, w


class Idle(Load):
    """Userspace memory of a flow that has carried a few bytes and now does nothing."""
    service = "echo"
    needs_program = True
    flows = 5000
    # Long enough for a carrier that takes a flow over after a while to have done so.
    rest_seconds = 3

    def command(self, target, seconds):
        return self.holder(target, self.flows)

    @staticmethod
    def holder(target, count):
        return [sys.executable, os.path.join(HERE, "bench_idle.py"), "hold", target[0],
                str(target[1]), str(count)]

    def backend(self, net, options):
        port = bench_peers.SERVICES[self.service][1]
        argv = [sys.executable, os.path.join(HERE, "bench_idle.py"), "echo",
                bench_net.BACKEND_ADDR, str(port)]
        proc = net.start(bench_net.BACKEND, argv, "backend")
        net.await_listen(proc, [port])
        return proc

    @classmethod
    def hold(cls, net, peer, count, label):
        """Flows that have each passed some bytes; they end when its standard input is closed."""
        holder = net.start(bench_net.CLIENT, cls.holder(peer.target(cls.service), count), label,
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if holder.stdout.readline() != b"held\n":
            raise RuntimeError(f"{label}: {bench_net.tail(holder.log_path)}")
        return holder

    def run(self, net, peer, proc, window, seconds):
        # The first flows touch code and pools every path needs once; they are not growth.
        first = self.hold(net, peer, 32, "hold-first")
        first.stdin.close()
        first.wait(10)
        time.sleep(1)
        before = bench_cpu.resident_bytes(proc.pid)
        holder = self.hold(net, peer, self.flows, "hold")
        with window as w:
            time.sleep(self.rest_seconds)
        after = bench_cpu.resident_bytes(proc.pid)
        holder.stdin.close()
        holder.wait(20)
        # The whole too: memory that is there before the first flow would not show up as growth.
        return {"memory": (after - before) / self.flows, "resident": after / 2**20}, w


RATE_R = ("requests/s", "", 0, True)
RATE_C = ("connections/s", "", 0, True)
RATE_G = ("Gbit/s", "", 2, True)
CPU_R = ("CPU per request", "us", 1, False)
CPU_C = ("CPU per connection", "us", 1, False)
CPU_G = ("CPU per GB", "s", 2, False)

LOADS = {
    "keepalive": Wrk("Requests over 64 kept connections", {"rate": RATE_R, "cpu": CPU_R}, 2, 64),
    "connections": Wrk("A new connection for each request, 64 at a time",
                       {"rate": RATE_C, "cpu": CPU_C}, 2, 64, close=True),
    "latency": Wrk("Latency of one request at a time on one kept connection",
                   {"p50": ("p50", "us", 0, False), "p99": ("p99", "us", 0, False),
                    "cpu": CPU_R}, 1, 1),
    "upload1": Iperf("Bulk, client sends, one stream", {"rate": RATE_G, "cpu": CPU_G}, 1, False),
    "download1": Iperf("Bulk, client receives, one stream",
                       {"rate": RATE_G, "cpu": CPU_G}, 1, True),
    "upload8": Iperf("Bulk, client sends, eight streams", {"rate": RATE_G, "cpu": CPU_G}, 8, False),
    "download8": Iperf("Bulk, client receives, eight streams",
                       {"rate": RATE_G, "cpu": CPU_G}, 8, True),
    "idle": Idle("Userspace memory of an idle flow (5000 of them)",
                 {"memory": ("bytes per flow", "", 0, False),
                  "resident": ("whole program", "MiB", 1, False)}),
}


def applies(peer, load):
    if peer.bulk_only and not load.bulk:
        return False
    return peer.has_program or not load.needs_program


def measure(peer, load, options, background, run_dir, seconds):
    """One cell: figures, and what has to be known to trust them."""
    restless = bench_cpu.settle(background)
    with bench_net.Net(run_dir) as net:
        behind = load.backend(net, options)
        proc = peer.start(net)
        window = bench_cpu.Window(background, lambda: {p.pid for p in net.started})
        figures, w = load.run(net, peer, proc, window, seconds)
        for started in net.started:
            if started in (proc, behind) and started.poll() is not None:
                raise RuntimeError(f"{started.label} died: {bench_net.tail(started.log_path)}")
        carriers = peer.carriers(net)
        dropped = sum(bench_cpu.tcp_trouble(p.pid) for p in (proc, behind) if p)
    figures.update(wall=w.wall, busy=w.busy, steal=w.steal, restless=restless, dropped=dropped,
                   carriers=carriers, foreign=w.foreign / (w.wall * bench_cpu.CORES))
    return figures
