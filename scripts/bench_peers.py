# SPDX-License-Identifier: MIT
"""
Decides what is measured and how each path is set up: no load balancer (routed), the balancers
people run today, and layer4-lb with each acceleration. All get the same number of threads or
workers and are tuned as their users would for plain TCP. A path that cannot run on this machine
raises Unavailable with a sentence; nothing here may stand in for it silently.
"""

import os
import re
import shutil
import subprocess

import bench_net

# service -> (port the balancer listens on, port of the backend)
SERVICES = {"http": (7080, 8080), "iperf": (7201, 5201), "echo": (7007, 9007)}
NGINX_PID = "nginx.pid"  # below the prefix of the measurement; nginx unlinks it when it ends
METRICS = "127.0.0.1:9091"  # of layer4-lb, inside the lb namespace; read after a measurement only
MAXCONN = 7000  # above what `idle` opens, and with two descriptors and some pipes each below 20000


class Unavailable(Exception):
    """This path cannot be measured here, and why."""


def need(program, package):
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if not path:
        raise Unavailable(f"{program} is not installed (Debian package {package})")
    return path


def first_line(argv):
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return ((done.stdout or done.stderr).strip().splitlines() or ["unknown"])[0]


class Peer:
    """
    One path. prepare() once per run, start() once per measurement inside `net`.
    `text` is the configuration as it is written to disk, for the report.
    """
    ours = False
    bulk_only = False
    has_program = True
    chooses = False  # among carriers
    services = SERVICES
    title = ""
    text = ""
    command = []

    def __init__(self, key, options):
        self.key = key
        self.options = options
        self.version = ""

    def prepare(self):
        pass

    def carriers(self, net):
        """Carrier -> bytes, of a path that has a choice."""
        return {}

    def target(self, service):
        """Where the client connects to: address, port."""
        return bench_net.LB_ADDR, self.services[service][0]

    def start(self, net):
        """Returns the running program, listening; None when the path has none."""
        path = os.path.join(net.run_dir, self.key + ".conf")
        with open(path, "w", encoding="ascii") as conf:
            conf.write(self.text)
        proc = net.start(bench_net.LB, [*self.command, path], self.key)
        self.await_ready(net, proc)
        return proc

    def await_ready(self, net, proc):
        net.await_listen(proc, [listen for listen, _ in self.services.values()])


class Direct(Peer):
    title = "direct (routed, no load balancer)"
    has_program = False

    def target(self, service):
        return bench_net.BACKEND_ADDR, SERVICES[service][1]

    def start(self, net):
        return None


class Nft(Peer):
    """The kernel's own: every packet is translated and routed, as kube-proxy has it done."""
    title = "nft DNAT"
    has_program = False

    def prepare(self):
        self.command = [need("nft", "nftables"), "-f"]
        self.version = first_line([self.command[0], "--version"])
        rules = "\n        ".join(
            f"ip daddr {bench_net.LB_ADDR} tcp dport {listen} "
            f"dnat to {bench_net.BACKEND_ADDR}:{port}"
            for listen, port in SERVICES.values())
        self.text = f"""table ip bench {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        {rules}
    }}
}}
"""

    def start(self, net):
        path = os.path.join(net.run_dir, self.key + ".conf")
        with open(path, "w", encoding="ascii") as conf:
            conf.write(self.text)
        net.run(bench_net.LB, [*self.command, path], 10)


class Haproxy(Peer):
    """Debian 12's HAProxy, as installed."""
    title = "HAProxy 2.6"
    splice = ["option splice-auto"]

    def prepare(self):
        self.command = [need("haproxy", "haproxy"), "-db", "-f"]
        self.version = first_line([self.command[0], "-v"])
        self.text = self.config()

    def config(self):
        listens = "".join(f"""
listen {name}
    bind {bench_net.LB_ADDR}:{listen}
    server backend {bench_net.BACKEND_ADDR}:{port}
""" for name, (listen, port) in SERVICES.items())
        splice = "\n    ".join(self.splice)
        return f"""global
    nbthread {self.options.workers}
    maxconn {MAXCONN}

defaults
    mode tcp
    maxconn {MAXCONN}
    {splice}
    timeout connect 5s
    timeout client 10m
    timeout server 10m
{listens}"""


class HaproxyTrixie(Haproxy):
    """Debian 13's HAProxy: far better at bulk than 2.6, so the one to beat. Runs from a chroot."""
    title = "HAProxy 3.0"

    def prepare(self):
        root = self.options.trixie
        if not os.path.exists(os.path.join(root, ".complete")):
            self.bootstrap(root)
        self.command = ["chroot", root, "/usr/sbin/haproxy", "-db", "-f"]
        self.version = first_line(["chroot", root, "/usr/sbin/haproxy", "-v"])
        self.text = self.config()

    def bootstrap(self, root):
        debootstrap = need("debootstrap", "debootstrap")
        mirror = debian_mirror()
        if os.path.exists(root):
            raise Unavailable(f"{root} exists and is no finished chroot: remove it to try again")
        print(f"  creating a Debian trixie chroot in {root} (once, about 250 MB)", flush=True)
        os.makedirs(os.path.dirname(root), exist_ok=True)
        part = f"{root}.part-{os.getpid()}"
        # A mount namespace of its own: what debootstrap mounts can never outlive it, so removing
        # the folder later removes nothing else.
        done = subprocess.run(["unshare", "--mount", debootstrap, "--variant=minbase",
                               "--include=haproxy", "trixie", part, mirror],
                              env={**os.environ, **apt_proxy()}, check=False,
                              capture_output=True, text=True)
        if done.returncode:
            said = (done.stdout + done.stderr).strip().splitlines()
            shutil.rmtree(part, ignore_errors=True)
            raise Unavailable("debootstrap of trixie failed: " + " / ".join(said[-2:]))
        with open(os.path.join(part, ".complete"), "w", encoding="ascii"):
            pass
        os.rename(part, root)

    def start(self, net):
        # The program sees only the chroot: its configuration has to be in there.
        inside = f"/tmp/bench-{os.getpid()}.conf"
        path = self.options.trixie + inside
        with open(path, "w", encoding="ascii") as conf:
            conf.write(self.text)
        try:
            proc = net.start(bench_net.LB, [*self.command, inside], self.key)
            self.await_ready(net, proc)
        finally:
            os.unlink(path)
        return proc


# What splice-auto decides is a guess, and 2.6 does not take it for bulk: it stays with recv and
# send, at a third of the rate. Who knows that his flows are bulk forces it; for small messages that
# costs a quarter of the rate, so only the bulk workloads are measured this way.
FORCED = ["option splice-request", "option splice-response"]


class HaproxyForced(Haproxy):
    title = "HAProxy 2.6, splice forced"
    splice = FORCED
    bulk_only = True


class HaproxyTrixieForced(HaproxyTrixie):
    title = "HAProxy 3.0, splice forced"
    splice = FORCED
    bulk_only = True


def debian_mirror():
    """The Debian archive this machine's apt uses, whatever it is called here."""
    done = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)",
                           "Created-By: Packages", "Origin: Debian", "Label: Debian"],
                          capture_output=True, text=True, check=False)
    found = done.stdout.split()
    if not found:
        raise Unavailable("apt knows no Debian mirror on this machine (apt-get update?)")
    return found[0]


def apt_proxy():
    """debootstrap does not read apt's configuration; hand it apt's proxy."""
    done = subprocess.run(["apt-config", "shell", "proxy", "Acquire::http::Proxy"],
                          capture_output=True, text=True, check=False)
    value = done.stdout.strip().partition("=")[2].strip("'")
    return {"http_proxy": value} if value and value != "DIRECT" else {}


class Nginx(Peer):
    title = "nginx stream"
    module = "/usr/lib/nginx/modules/ngx_stream_module.so"

    def prepare(self):
        if not os.path.exists(self.module):
            raise Unavailable("nginx has no stream module (Debian package libnginx-mod-stream)")
        self.version = first_line([need("nginx", "nginx"), "-v"])
        self.text = self.config()

    def config(self):
        servers = "".join(f"""
    server {{
        listen {bench_net.LB_ADDR}:{listen} reuseport;
        proxy_pass {bench_net.BACKEND_ADDR}:{port};
    }}""" for listen, port in SERVICES.values())
        return f"""load_module {self.module};
user root;
daemon off;
pid {NGINX_PID};
worker_processes {self.options.workers};
worker_rlimit_nofile 20000;
error_log stderr crit;
events {{
    worker_connections {2 * MAXCONN};
}}
stream {{
    tcp_nodelay on;
    proxy_connect_timeout 5s;
    proxy_timeout 10m;{servers}
}}
"""

    def start(self, net):
        proc = start_nginx(net, bench_net.LB, self.key, self.text)
        self.await_ready(net, proc)
        return proc


def start_nginx(net, role, label, text):
    """A prefix of its own: pid file and relative paths stay apart from any other nginx."""
    prefix = os.path.join(os.path.abspath(net.run_dir), label)
    os.makedirs(prefix, exist_ok=True)
    path = os.path.join(prefix, "nginx.conf")
    with open(path, "w", encoding="ascii") as conf:
        conf.write(text)
    argv = [need("nginx", "nginx"), "-p", prefix, "-e", "stderr", "-c", path]
    return net.start(role, argv, label)


class Layer4Lb(Peer):
    ours = True

    def __init__(self, key, options):
        super().__init__(key, options)
        self.title = "layer4-lb " + key
        self.chooses = key != "relay"

    def prepare(self):
        program = self.options.program
        if not os.access(program, os.X_OK):
            raise Unavailable(f"{program} is not built")
        self.command = [program, "--instance", f"bench-{os.getpid()}", "--config"]
        self.version = first_line([program, "--version"])
        self.text = self.config()

    def config(self):
        rules = "".join(f"""
  - name: {name}
    listen: "{bench_net.LB_ADDR}:{listen}"
    acceleration: {self.key}
    backends: ["{bench_net.BACKEND_ADDR}:{port}"]""" for name, (listen, port) in SERVICES.items())
        return f"""workers: {self.options.workers}
access_log: off
admin:
  metrics: {METRICS}
rules:{rules}
"""

    def await_ready(self, net, proc):
        net.await_listen(proc, [listen for listen, _ in self.services.values()], word="ready")

    def metrics(self, net):
        return net.run(bench_net.LB, ["curl", "-fsS", f"http://{METRICS}/metrics"], 10)

    def carriers(self, net):
        """
        Payload bytes by what carried them. A flow may fall back to relay for good reasons, and a
        figure of relay under the name of sockmap would be a lie.
        """
        found = {}
        for line in self.metrics(net).splitlines():
            match = re.match(r'l4lb_carrier_bytes_total\{.*carrier="(\w+)".*\} (\S+)', line)
            if match:
                found[match[1]] = found.get(match[1], 0) + float(match[2])
        if not found:
            raise RuntimeError("layer4-lb's metrics do not say what carried the bytes")
        return found


PEERS = {
    "direct": Direct,
    "nft": Nft,
    "haproxy26": Haproxy,
    "haproxy30": HaproxyTrixie,
    "haproxy26s": HaproxyForced,
    "haproxy30s": HaproxyTrixieForced,
    "nginx": Nginx,
    "relay": Layer4Lb,
    "sockmap": Layer4Lb,
    "graft": Layer4Lb,
    "auto": Layer4Lb,
}


def start_http(net, workers, label="backend", port=SERVICES["http"][1]):
    """nginx behind the path, listening."""
    proc = start_nginx(net, bench_net.BACKEND, label, backend_http(workers, port))
    net.await_listen(proc, [port])
    return proc


def backend_http(workers, port):
    """nginx as the server behind every path: a small static answer, connections kept for ever."""
    return f"""user root;
daemon off;
pid {NGINX_PID};
worker_processes {workers};
worker_rlimit_nofile 20000;
error_log stderr crit;
events {{
    worker_connections 8192;
}}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    keepalive_timeout 10m;
    server {{
        listen {bench_net.BACKEND_ADDR}:{port} reuseport backlog=16384;
        location / {{
            default_type text/plain;
            return 200 "{'layer4-lb ' * 12}";
        }}
    }}
}}
"""
