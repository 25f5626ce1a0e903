#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
The benchmark of TLS termination: layer4-lb beside Debian's HAProxy, which is linked with the same
OpenSSL. Decides how both are set up: the same certificates, the one cipher and the one group, the
same number of threads, TCP behind. The order of measurements, the cost and the report are those of
bench.py.

What is done is tests/e2e/tls_load.c for handshakes and bulk, and wrk for requests.
"""

import json
import os
import sys

import bench
import bench_cpu
import bench_loads
import bench_net
import bench_peers
import bench_report

BUILD = os.path.join(bench.ROOT, os.environ.get("LB_BUILD", "build"))
# As in bench_peers; "rsa" alone has a certificate of that kind.
SERVICES = {"ecdsa": (7443, 9007), "rsa": (7444, 9007), "http": (7445, 8080),
            "sink": (7446, 9201), "bytes": (7447, 9101)}
# One of each: a library or a setting that prefers another one would decide the result.
CIPHERS = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"
SUITE = "TLS_AES_128_GCM_SHA256"
GROUP = "X25519"
KEYS = {"ecdsa": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
        "rsa": ["rsa", "-pkeyopt", "rsa_keygen_bits:2048"]}


def certificate(folder, service):
    """Certificate and key in one file, as HAProxy wants them. Made once per output folder."""
    kind = service if service in KEYS else "ecdsa"
    path = os.path.join(folder, f"tls-{kind}.pem")
    if not os.path.exists(path):
        os.makedirs(folder, exist_ok=True)
        parts = [f"{path}.key", f"{path}.crt"]
        bench_net.must(["openssl", "req", "-x509", "-nodes", "-days", "365", "-subj", "/CN=bench",
                        "-newkey", *KEYS[kind], "-keyout", parts[0], "-out", parts[1]])
        text = ""
        for part in reversed(parts):
            with open(part, encoding="ascii") as made:
                text += made.read()
            os.unlink(part)
        with open(path, "w", encoding="ascii", opener=private) as out:
            out.write(text)
    return path


def private(path, flags):
    return os.open(path, flags, 0o600)


class Haproxy(bench_peers.Haproxy):
    services = SERVICES

    def config(self):
        listens = "".join(f"""
listen {name}
    bind {bench_net.LB_ADDR}:{listen} ssl crt {certificate(self.options.out, name)} curves {GROUP}
    server backend {bench_net.BACKEND_ADDR}:{port}
""" for name, (listen, port) in self.services.items())
        return f"""global
    nbthread {self.options.workers}
    maxconn {bench_peers.MAXCONN}
    ssl-default-bind-options ssl-min-ver TLSv1.2
    ssl-default-bind-ciphers {CIPHERS}
    ssl-default-bind-ciphersuites {SUITE}

defaults
    mode tcp
    maxconn {bench_peers.MAXCONN}
    timeout connect 5s
    timeout client 10m
    timeout server 10m
{listens}"""


class Layer4Lb(bench_peers.Layer4Lb):
    services = SERVICES

    def __init__(self, key, options):
        super().__init__(key, options)
        self.title, self.chooses = "layer4-lb", False

    def config(self):
        rules = "".join(f"""
  - name: {name}
    listen: "{bench_net.LB_ADDR}:{listen}"
    backends: ["{bench_net.BACKEND_ADDR}:{port}"]
    tls:
      enabled: true
      cert: {certificate(self.options.out, name)}
      key: {certificate(self.options.out, name)}
      ciphers: "{CIPHERS}:{SUITE}"
      groups: {GROUP}""" for name, (listen, port) in self.services.items())
        return f"""workers: {self.options.workers}
access_log: off
admin:
  metrics: {bench_peers.METRICS}
rules:{rules}
"""


def tool(name):
    path = os.path.join(BUILD, name)
    if not os.access(path, os.X_OK):
        raise RuntimeError(f"{path} is not built")
    return path


def measured(load, net, peer, proc, window, seconds):
    """What <load> said of its run, the balancer's own seconds of CPU, and the machine's window."""
    load.once(net, peer, load.warm_seconds)
    before = balancer_seconds(proc)
    with window as w:
        said = load.once(net, peer, seconds)
    return said, balancer_seconds(proc) - before, w


class TlsLoad(bench_loads.Load):
    """tls_load; behind the path stands a tool of our own, which costs little."""

    def __init__(self, title, metrics, service, what, clients, version="1.3"):
        super().__init__(title, metrics)
        self.service, self.what, self.clients, self.version = service, what, clients, version

    def command(self, target, seconds):
        return [tool("tests/e2e/tls_load"), target[0], str(target[1]), self.what, str(seconds),
                str(self.clients), self.version]

    def backend(self, net, options):
        port = SERVICES[self.service][1]
        at = f"{bench_net.BACKEND_ADDR}:{port}"
        argv = {"bytes": [tool("lb-demo-backend"), "--http", at],
                "sink": [tool("throughput"), "sink", at]}
        proc = net.start(bench_net.BACKEND,
                         argv.get(self.service, [tool("lb-demo-backend"), "--echo", at]), "backend")
        net.await_listen(proc, [port])
        return proc

    def once(self, net, peer, seconds):
        argv = self.command(peer.target(self.service), seconds)
        said = json.loads(net.run(bench_net.CLIENT, argv, seconds + 30))
        if said["errors"] or not said["count"]:
            raise RuntimeError(f"tls_load: {said}")
        return said

    def run(self, net, peer, proc, window, seconds):
        said, own, w = measured(self, net, peer, proc, window, seconds)
        if self.service in ("bytes", "sink"):
            size = said["bytes"] / bench_loads.GB
            return {"rate": 8 * size / said["seconds"], "cpu": ours(w) / size, "own": own / size}, w
        return {"rate": said["count"] / said["seconds"], "cpu": ours(w) * 1e6 / said["count"],
                "own": own * 1e6 / said["count"]}, w


class TlsWrk(bench_loads.Wrk):
    scheme = "https"

    def run(self, net, peer, proc, window, seconds):
        said, own, w = measured(self, net, peer, proc, window, seconds)
        if not said["requests"] or said["errors"]:
            raise RuntimeError(f"wrk: {said}")
        return {"rate": said["requests"] / said["seconds"],
                "cpu": ours(w) * 1e6 / said["requests"], "own": own * 1e6 / said["requests"],
                "p50": said["p50_us"], "p99": said["p99_us"]}, w


def ours(window):
    """
    Busy time of the machine less that of programs outside this run. Handshakes are arithmetic in
    programs: what others compute meanwhile can be told apart far better than where packets move.
    """
    return window.busy - window.foreign


def balancer_seconds(proc):
    """CPU time of the balancer's processes so far."""
    return sum(spent for session, spent, _ in bench_cpu.read_processes().values()
               if session == proc.pid)


RATE_H = ("handshakes/s", "", 0, True)
CPU_H = ("CPU per handshake", "us", 0, False)
OWN = ("of it the balancer's", "us", 0, False)
BULK = {"rate": bench_loads.RATE_G, "cpu": bench_loads.CPU_G,
        "own": ("of it the balancer's", "s", 2, False)}
SHAKE = {"rate": RATE_H, "cpu": CPU_H, "own": OWN}
REQUEST = {"rate": bench_loads.RATE_R, "cpu": bench_loads.CPU_R,
           "own": ("of it the balancer's", "us", 1, False),
           "p50": ("p50", "us", 0, False), "p99": ("p99", "us", 0, False)}

PEERS = {"haproxy": Haproxy, "layer4-lb": Layer4Lb}
LOADS = {
    f"{what}-{kind}-{version}": TlsLoad(
        f"Handshakes {words}, {title}, TLS {version}, 16 at a time", SHAKE, kind, what, 16, version)
    for what, words, kinds in (("full", "in full", ("rsa", "ecdsa")),
                               ("resumed", "of resumed sessions", ("ecdsa",)))
    for kind, title in (("rsa", "RSA-2048"), ("ecdsa", "ECDSA P-256")) if kind in kinds
    for version in ("1.3", "1.2")
}
LOADS.update({
    "requests": TlsWrk("Requests over 64 kept connections", REQUEST, 2, 64),
    "upload": TlsLoad("Bulk, clients send, four streams", BULK, "sink", "send", 4),
    "download": TlsLoad("Bulk, clients receive, four streams", BULK, "bytes", "receive", 4),
})

GOALS = tuple(("layer4-lb", key, metric, "haproxy", 1.0) for key in LOADS
              for metric in ("rate", "cpu"))
TLS = bench.Suite("tls", PEERS, LOADS,
                  bench_report.Judged(("layer4-lb",), ("haproxy",), ("haproxy",), GOALS),
                  (("wrk", "wrk"), ("nginx", "nginx"), ("openssl", "openssl")),
                  (["wrk", "-v"], ["openssl", "version"]))


if __name__ == "__main__":
    try:
        sys.exit(bench.main(TLS))
    except KeyboardInterrupt:
        sys.exit(130)
