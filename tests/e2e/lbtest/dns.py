# SPDX-License-Identifier: MIT
"""
Name servers in the load balancer's namespace, a real one and bad ones, and a daemon that asks them:
it sees a resolv.conf and a hosts file of the test's own.
"""
import contextlib
import signal
import socket
import threading

from .net import BACKEND, LB
from .process import run, wait_until

SERVER = "127.0.0.1"
TTL = 1  # s; a name is asked for again as often as the daemon allows


class Dnsmasq:
    """Answers with what set() says; order rotates from answer to answer, as dnsmasq does it."""

    def __init__(self, net, folder):
        self.net, self.folder = net, folder
        self.hosts = folder / "dns-hosts"
        self.hosts.write_text("")
        self.log = folder / "dns-log"
        self.process = None
        self.names = {}
        self.starts = 0
        self.start()

    def start(self):
        self.starts += 1
        self.process = self.net.start(LB, f"dnsmasq{self.starts}", [
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
            f"--addn-hosts={self.hosts}", f"--listen-address={SERVER}", "--bind-interfaces",
            f"--local-ttl={TTL}", "--user=root", "--pid-file=", "--local=/test/", "--log-queries",
            f"--log-facility={self.log}"], self.folder)
        wait_until(lambda: ":53 " in run(*self.net.inside(LB), "ss", "-Hlun").stdout, 5,
                   "dnsmasq listens")

    def set(self, **names):
        """set(a=["10.0.0.1", ..]): a.test has these addresses from now on. Others stay."""
        self.names.update(names)
        text = "".join(f"{addr} {name}.test\n" for name, addrs in self.names.items()
                       for addr in addrs)
        new = self.hosts.with_suffix(".new")
        new.write_text(text)
        new.rename(self.hosts)
        self.process.signal(signal.SIGHUP)

    def queries(self):
        return self.log.read_text().count(" query[")

    def close(self):
        if self.process:
            self.process.kill()
        self.process = None


class BadServer:
    """On the server's port: answers each question with what <answer> makes of it; None: nothing."""

    def __init__(self, net, answer):
        self.answer, self.asked, self.stop = answer, 0, threading.Event()

        def opened():
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.bind((SERVER, 53))
            s.settimeout(0.05)
            return s
        self.socket = net.call(LB, opened)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while not self.stop.is_set():
            try:
                question, who = self.socket.recvfrom(2048)
            except socket.timeout:
                continue
            self.asked += 1
            for answer in self.answer(question):
                self.socket.sendto(answer, who)

    def close(self):
        self.stop.set()
        self.thread.join()
        self.socket.close()


def _answer(code, question, count=0, rest=b""):
    return (question[:2] + bytes([0x81, 0x80 | code]) + question[4:6] +
            count.to_bytes(2, "big") + bytes(4) + question[12:] + rest)


BAD = {
    "silent": lambda q: [],
    "garbage": lambda q: [b"\xff" * 40, q[:2] + b"\x81\x80" + b"\xff" * 500, b"", q[:11]],
    "refusing": lambda q: [_answer(5, q)],
    "failing": lambda q: [_answer(2, q)],
    "unknown": lambda q: [_answer(3, q)],
    "empty": lambda q: [_answer(0, q)],
    # Says that there are many, and ends in the middle of the first.
    "cut": lambda q: [_answer(0, q, 60000, b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x0a")],
    # A name that points at itself.
    "loop": lambda q: [_answer(0, q, 1, b"\xc0" + bytes([len(q)]) + b"\0\1\0\1\0\0\0\1\0\4abcd")],
    # What filters answer with: it would mean this host.
    "zero": lambda q: [_answer(0, q, 1, b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\0\0\0\0")],
}


def wrap(folder, resolv=f"nameserver {SERVER}\noptions timeout:1 attempts:1\n"):
    """For Daemon(wrap=..): it finds these files in the place of the machine's."""
    files = {"/etc/resolv.conf": folder / "resolv.conf", "/etc/hosts": folder / "hosts"}
    files["/etc/resolv.conf"].write_text(resolv)
    files["/etc/hosts"].write_text("127.0.0.1 localhost\n")
    mounts = "".join(f"mount --bind {ours} {theirs} && " for theirs, ours in files.items())
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c",
            f'{mounts} exec "$@"', "sh"]


@contextlib.contextmanager
def addresses(net, *addrs):
    """More addresses for the backend's machine."""
    for addr in addrs:
        net.ip(BACKEND, f"addr add {addr}/32 dev eth0")
        net.ip(LB, f"route add {addr}/32 via 10.81.1.2 dev lb1")
    try:
        yield
    finally:
        for addr in addrs:
            net.ip(LB, f"route del {addr}/32")
            net.ip(BACKEND, f"addr del {addr}/32 dev eth0")
