# SPDX-License-Identifier: MIT
"""
Decides what the network of one measurement looks like: three namespaces of its own

    client 10.77.1.2 -- veth -- 10.77.1.1 lb 10.77.2.1 -- veth -- 10.77.2.2 backend

and starts programs inside them. Every measurement gets a fresh set, so that no TIME_WAIT socket,
cached route metric or attached filter of one path is there when the next one is measured.
Must never touch a namespace, an interface or a process it did not make itself.
"""

import os
import re
import signal
import subprocess
import time

CLIENT, LB, BACKEND = "client", "lb", "backend"
LB_ADDR, BACKEND_ADDR = "10.77.1.1", "10.77.2.2"
PREFIX = "l4bench"
# Pinned, because a host's default (bbr without fq, say) is not what is judged. It sits on the
# routes: the sysctl of a namespace takes only what the host allows to unprivileged users, and the
# host is not ours to change. A route's choice goes for connecting and for accepting sockets.
CONGESTION = "cubic"

# Why each one is set:
# - in connections/s the backend closes first, so TIME_WAIT collects on the accepting sides and the
#   connecting sides only need enough ports; the bucket limit is above what one run can produce, so
#   that the kernel neither drops entries early nor complains;
# - saved metrics would let one path start with the window another one has found;
# - the backlog must not be what limits a burst of connects.
SYSCTLS = {
    "net.ipv4.ip_local_port_range": "1024 65535",
    "net.ipv4.tcp_tw_reuse": "1",
    "net.ipv4.tcp_max_tw_buckets": "2000000",
    "net.ipv4.tcp_no_metrics_save": "1",
    "net.ipv4.tcp_max_syn_backlog": "16384",
    "net.core.somaxconn": "16384",
    "net.ipv4.ip_forward": "1",  # `direct` and `nft` are routed through the lb namespace
}


def must(argv):
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv[:6])}: {done.stderr.strip()[-300:]}")
    return done.stdout


def ip(*args):
    return must(["ip", *args])


def sweep():
    """Removes the namespaces of runs that were killed before they could do it themselves."""
    for line in ip("netns", "list").splitlines():
        name = line.split()[0]
        part = name.split("-")
        if part[0] == PREFIX and part[1].isdigit() and not os.path.exists(f"/proc/{part[1]}"):
            ip("netns", "del", name)


class Net:
    """One set of namespaces and the programs started in it; a context manager that removes both."""

    def __init__(self, run_dir):
        self.run_dir = run_dir  # configuration and log files of this measurement
        self.started = []
        os.makedirs(run_dir, exist_ok=True)

    def name(self, role):
        return f"{PREFIX}-{os.getpid()}-{role}"

    def __enter__(self):
        try:
            self.build()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def build(self):
        client, lb, backend = self.name(CLIENT), self.name(LB), self.name(BACKEND)
        for ns in (client, lb, backend):
            ip("netns", "add", ns)
            ip("-n", ns, "link", "set", "lo", "up")
        for dev, ns in (("client", client), ("backend", backend)):
            ip("-n", lb, "link", "add", dev, "type", "veth", "peer", "name", "eth0", "netns", ns)
        for ns, dev, net, host in ((client, "eth0", "10.77.1", 2), (lb, "client", "10.77.1", 1),
                                   (lb, "backend", "10.77.2", 1), (backend, "eth0", "10.77.2", 2)):
            ip("-n", ns, "addr", "add", f"{net}.{host}/24", "dev", dev, "noprefixroute")
            ip("-n", ns, "link", "set", dev, "up")
            ip("-n", ns, "route", "add", f"{net}.0/24", "dev", dev, "src", f"{net}.{host}",
               "congctl", CONGESTION)
        for ns, gateway in ((client, "10.77.1.1"), (backend, "10.77.2.1")):
            ip("-n", ns, "route", "add", "default", "via", gateway, "congctl", CONGESTION)
        settings = [f"{key}={value}" for key, value in SYSCTLS.items()]
        for role in (CLIENT, LB, BACKEND):
            must(self.inside(role, ["sysctl", "-q", "-w", *settings]))

    def inside(self, role, argv):
        # Not `ip netns exec`: that mounts a new /sys, and with it hides a bpffs.
        return ["nsenter", f"--net=/run/netns/{self.name(role)}", *argv]

    def run(self, role, argv, timeout):
        """Runs to the end; returns its standard output, raises RuntimeError with its last words."""
        done = subprocess.run(self.inside(role, argv), capture_output=True, text=True,
                              timeout=timeout, check=False)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip())[-400:]
            raise RuntimeError(f"{argv[0]} ended with {done.returncode}: {said}")
        return done.stdout

    def start(self, role, argv, label, **popen):
        """Starts in a session of its own: its session id then names all of its processes."""
        log_path = os.path.join(self.run_dir, label + ".log")
        popen.setdefault("stdin", subprocess.DEVNULL)
        with open(log_path, "wb") as log:
            popen.setdefault("stdout", log)
            proc = subprocess.Popen(self.inside(role, argv), stderr=log, start_new_session=True,
                                    **popen)
        proc.log_path = log_path
        proc.label = label
        self.started.append(proc)
        return proc

    def await_listen(self, proc, ports, word=None, seconds=20):
        """Waits until every port listens in the program's namespace and its log has said `word`."""
        deadline = time.monotonic() + seconds
        while True:
            if proc.poll() is not None:
                raise RuntimeError(f"{proc.label} ended with {proc.returncode}: "
                                   f"{tail(proc.log_path)}")
            if set(ports) <= listening(proc.pid) and (not word or said(proc.log_path, word)):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{proc.label} is not ready after {seconds} s: "
                                   f"{tail(proc.log_path)}")
            time.sleep(0.02)

    def stop(self, proc):
        for sig, seconds in ((signal.SIGTERM, 3), (signal.SIGKILL, 5)):
            try:
                os.killpg(proc.pid, sig)
            except ProcessLookupError:
                pass
            try:
                proc.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                continue

    def __exit__(self, *exc):
        for proc in reversed(self.started):
            self.stop(proc)
        for role in (CLIENT, LB, BACKEND):
            # Absent when the build itself failed half way.
            if os.path.exists(f"/run/netns/{self.name(role)}"):
                subprocess.run(["ip", "netns", "del", self.name(role)], check=False)


def listening(pid):
    """The TCP ports in LISTEN in the namespace of this process."""
    ports = set()
    for table in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{pid}/net/{table}", encoding="ascii") as lines:
                next(lines)
                for line in lines:
                    field = line.split()
                    if field[3] == "0A":
                        ports.add(int(field[1].rsplit(":", 1)[1], 16))
        except OSError:
            pass
    return ports


def said(path, word):
    """Has a line of the log begun with this word, after the time and the level if it has them?"""
    start = re.compile(rf"(\S+ \w+ +)?{re.escape(word)}\b")
    with open(path, encoding="utf-8", errors="replace") as log:
        return any(start.match(line) for line in log)


def tail(path):
    with open(path, encoding="utf-8", errors="replace") as log:
        return log.read()[-400:].strip() or "(no output)"
