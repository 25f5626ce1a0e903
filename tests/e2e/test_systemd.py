# SPDX-License-Identifier: MIT
"""What a service manager wants: to be told, to hear of every worker, to hand in listeners."""
import contextlib
import ctypes
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from lbtest.daemon import rule
from lbtest.net import BACKEND, LB
from lbtest.process import run, wait_until
from lbtest.talk import Talk

LISTEN, BACK = ("10.81.0.1", 6870), ("10.81.1.2", 7870)

# Becomes the daemon: with listeners from descriptor 3 on, as systemd leaves them.
_HAND_IN = """
import fcntl, os, socket, sys
count = int(sys.argv[1])
names, high = [], []
for name, where in (a.split("=", 1) for a in sys.argv[2:2 + count]):
    kind, host, port = where.split(",")
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET,
                      socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if kind == "v6only":
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((host, int(port)))
    if kind != "udp":
        s.listen(128)
    names.append(name)
    high.append(fcntl.fcntl(s.detach(), fcntl.F_DUPFD, 200))
for n, fd in enumerate(high):
    os.dup2(fd, 3 + n)
os.closerange(3 + count, 300)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count),
                  LISTEN_FDNAMES=":".join(names))
os.execv(sys.argv[2 + count], sys.argv[2 + count:])
"""


def hand_in(*listeners):
    return [sys.executable, "-c", _HAND_IN, str(len(listeners)), *listeners]


def config(**keys):
    return {"rules": [rule("r", "%s:%d" % LISTEN, ["%s:%d" % BACK], acceleration="relay")],
            "workers": 2, **keys}


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, folder):
        self.path = folder / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(str(self.path))
        self.heard = []  # (when, {name: value})

    def listen(self):
        with contextlib.suppress(BlockingIOError):
            while True:
                text = self.socket.recv(4096).decode()
                self.heard.append((time.monotonic(), dict(x.split("=", 1)
                                                          for x in text.splitlines())))
        return self.heard

    def wait_for(self, key, skip=0):
        def found():
            return next((m for _, m in self.listen()[skip:] if key in m), None)
        return wait_until(found, 5, f"{key} is heard: {self.heard[skip:]}")

    def pings(self):
        return sum("WATCHDOG" in m for _, m in self.listen())

    def env(self, **more):
        return ["env", f"NOTIFY_SOCKET={self.path}", *(f"{k}={v}" for k, v in more.items())]


@pytest.fixture
def manager(folder):
    m = Manager(folder)
    yield m
    m.socket.close()


def test_the_manager_is_told_of_start_reload_and_stop(net, daemon, manager):
    with daemon(config(), wrap=manager.env()) as d:
        assert manager.wait_for("READY") == {"READY": "1", "STATUS": "serving, configuration 1"}
        for changed, status in ((config(log={"level": "debug"}), "serving, configuration 2"),
                                ({"rules": 7}, "serving, configuration 2; the last reload was "
                                               "refused")):
            skip, begun = len(manager.listen()), time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            d.configure(changed)
            d.process.signal(signal.SIGHUP)
            ready = manager.wait_for("READY", skip)
            reloading = manager.heard[skip][1]
            assert reloading["RELOADING"] == "1" and ready["STATUS"] == status, ready
            # systemd takes it for the answer to its own signal by this time.
            assert begun <= int(reloading["MONOTONIC_USEC"]) * 1000 <= \
                time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        skip = len(manager.listen())
        with Talk(net, LISTEN, BACK) as talk:
            d.process.signal(signal.SIGTERM)
            told = manager.wait_for("STOPPING", skip)
            assert told["STATUS"] == "draining: 1 flows" and \
                int(told["EXTEND_TIMEOUT_USEC"]) > 1000000, told
            talk.finish()
        assert d.process.wait(5) == 0
        d.forget()
    assert "WATCHDOG" not in {key for _, m in manager.listen() for key in m}


@contextlib.contextmanager
def held_thread(tid):
    """One thread of a process stands still."""
    libc = ctypes.CDLL(None, use_errno=True)
    attach, detach = 16, 17
    assert libc.ptrace(attach, tid, None, None) == 0, os.strerror(ctypes.get_errno())
    os.waitpid(tid, 0x40000000)  # __WALL
    try:
        yield
    finally:
        assert libc.ptrace(detach, tid, None, None) == 0, os.strerror(ctypes.get_errno())


def worker_tid(pid, name):
    return next(int(t.name) for t in Path(f"/proc/{pid}/task").iterdir()
                if (t / "comm").read_text().strip() == name)


def test_the_watchdog_hears_nothing_while_a_worker_stands_still(net, daemon, manager):
    with daemon(config(), wrap=manager.env(WATCHDOG_USEC=1000000)) as d:
        wait_until(lambda: manager.pings() >= 3, 5, "it says that it is alive")
        with held_thread(worker_tid(d.pid, "worker-1")):
            # One may be on its way, and one look finds the answer of before.
            time.sleep(0.6)
            silent = manager.pings()
            time.sleep(1.2)
            assert manager.pings() == silent
            assert d.count_log("a worker's loop has not turned") == 1
        wait_until(lambda: manager.pings() >= silent + 3, 5, "it says so again")
        with Talk(net, LISTEN, BACK) as talk:
            talk.exchange()
            talk.finish()


def listeners(net):
    found = run(*net.inside(LB), "ss", "-Hltn", f"sport = :{LISTEN[1]}").stdout
    return len(found.splitlines())


def test_listeners_that_are_handed_in_are_used_and_others_named(net, daemon):
    with daemon(config(), wrap=hand_in("web=tcp,%s,%d" % LISTEN, "gone=tcp,10.81.0.1,6871",
                                       "dns=udp,10.81.0.1,6872")) as d:
        assert d.count_log(rf"rule r: the listener at 10.81.0.1:{LISTEN[1]} was handed in") == 1
        assert d.count_log("listener gone, handed in at 10.81.0.1:6871: .*closed") == 1
        assert d.count_log("descriptor dns, handed in: .*closed") == 1
        # One for each worker, of which the first is the one that was handed in: all of them serve.
        assert listeners(net) == 2
        for _ in range(12):
            with Talk(net, LISTEN, BACK) as talk:
                talk.exchange(1000)
                talk.finish()
        with pytest.raises(ConnectionRefusedError):
            net.connect("10.81.0.1", 6871, seconds=1).close()


def test_a_client_that_came_before_the_start_is_served(net, folder, daemon):
    """Its connection stands in the backlog of the listener that is handed in."""
    script = _HAND_IN.replace('os.execv(', 'open(os.environ["LATER"]).read(); os.execv(')
    fifo = folder / "later"
    os.mkfifo(fifo)
    wrap = ["env", f"LATER={fifo}", sys.executable, "-c", script, "1", "web=tcp,%s,%d" % LISTEN]
    d = daemon(config(), wrap=wrap).spawn()
    try:
        wait_until(lambda: listeners(net) == 1, 5, "the listener is open")
        backend = net.call(BACKEND, socket.create_server, BACK)
        with backend, net.connect(*LISTEN, seconds=5) as client:
            client.sendall(b"early")
            fifo.write_text("")
            backend.settimeout(10)
            server = backend.accept()[0]
            with server:
                assert server.recv(5) == b"early"
        d.wait_ready()
        d.held = {}
        d.stop()
    finally:
        d.kill()


def test_a_listener_that_would_take_ipv4_at_an_ipv6_address_is_refused(net, daemon):
    rules = [rule("r", f"[::]:{LISTEN[1]}", ["%s:%d" % BACK], acceleration="relay")]
    d = daemon({"rules": rules}, wrap=hand_in("web=tcp,::,%d" % LISTEN[1])).spawn()
    assert d.process.wait(10) == 3, d.log
    assert "BindIPv6Only=ipv6-only" in d.log, d.log
    d.forget()
    with daemon({"rules": rules}, wrap=hand_in("web=v6only,::,%d" % LISTEN[1])) as d:
        assert re.search(r"the listener at \[::\]:\d+ was handed in", d.log)
