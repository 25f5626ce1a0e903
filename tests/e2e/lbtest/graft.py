# SPDX-License-Identifier: MIT
"""
Flows of plain sockets for tests that need to know or to break what the peer program hides: sequence
numbers, ports, hosts that vanish; and what the graft carrier leaves in the kernel.
"""
import contextlib
import errno
import json
import re
import select
import socket

from .net import BACKEND, CLIENT, LB
from .process import PATIENCE, run, wait_until

_SECONDS = 5 * PATIENCE

# include/uapi/linux/tcp.h
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ = 19, 20, 21
_REPAIR_ON, _REPAIR_OFF_NO_WP, _RECV_QUEUE = 1, -1, 1


PASS = 1  # include/lb/graft.h


def next_expected(sock):
    """The sequence number that a socket expects next."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, _REPAIR_ON)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, _RECV_QUEUE)
    seq = sock.getsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ) & 0xffffffff
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, _REPAIR_OFF_NO_WP)
    return seq


def vanish(sock):
    """As when its host lost power: no packet says so."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, _REPAIR_ON)
    sock.close()


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def wait_reset(sock, seconds):
    """Fails unless the socket is told of a reset in time; bytes before it are dropped."""
    def told():
        try:
            return not sock.recv(1 << 16, socket.MSG_DONTWAIT) and "fin"
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return "rst"
    how = wait_until(told, seconds, "the socket hears of a reset", every=0.002)
    assert how == "rst", how


class Flow:
    """One connection through the load balancer; <client> and <server> are its ends."""

    def __init__(self, client, server):
        self.client, self.server = client, server
        self.up = self.down = 0

    def send(self, count=1, down=False):
        """Bytes that arrive within the bound, or an error."""
        (self.server if down else self.client).sendall(b"x" * count)
        self.take(count, down)

    def take(self, count, down=False):
        """Bytes that were sent arrive within the bound, or an error."""
        sink = self.client if down else self.server
        left = count
        while left:
            got = len(sink.recv(left))
            assert got, f"closed with {left} of {count} bytes to come"
            left -= got
        self.up += 0 if down else count
        self.down += count if down else 0

    def ping(self, count=1):
        self.send(count)
        self.send(count, down=True)

    def close(self):
        """In good order, the client first."""
        self.client.shutdown(socket.SHUT_WR)
        assert self.server.recv(1) == b""
        self.server.close()
        assert self.client.recv(1) == b""
        self.client.close()


class Site:
    """Where flows of plain sockets go: a rule's address and a listening backend."""

    def __init__(self, daemon, listen, backend):
        self.daemon, self.net = daemon, daemon.net
        self.listen = listen
        self.family = socket.AF_INET6 if ":" in listen[0] else socket.AF_INET
        self.flows = []
        self.listener = self.net.call(BACKEND, lambda: socket.create_server(
            backend, family=self.family, backlog=1024))
        self.listener.settimeout(_SECONDS)

    def _connect(self, port):
        sock = socket.socket(self.family)
        sock.settimeout(_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", port))
        sock.connect(self.listen)
        return sock

    def open(self, port=0):
        """A flow, from <port>."""
        client = self.net.call(CLIENT, self._connect, port)
        server, _ = self.listener.accept()
        server.settimeout(_SECONDS)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.flows.append(Flow(client, server))
        return self.flows[-1]

    def graft(self, port=0):
        """A flow that is grafted for good. Whatever lingers must be gone before."""
        before = self.daemon.grafted()
        flow = self.open(port)
        wait_until(lambda: self.daemon.grafted() > before, 5, "the flow is grafted")
        flow.ping()
        return flow

    def open_busy(self, count):
        """Flows that have said enough for any carrier: 7000 bytes each way."""
        flows = [self.open() for _ in range(count)]
        for flow in flows:
            for _ in range(70):
                flow.ping(100)
        return flows

    def close(self):
        for flow in self.flows:
            for sock in (flow.client, flow.server):
                with contextlib.suppress(OSError):
                    reset(sock)
        self.listener.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# --- what is in the kernel ------------------------------------------------------------------------


def _dump(daemon, name):
    return json.loads(run("bpftool", "-j", "map", "dump", "pinned", daemon.pin_dir / name).stdout)


def keys(daemon):
    """Entries of both key tables."""
    return len(_dump(daemon, "lb_graft_v4")) + len(_dump(daemon, "lb_graft_v6"))


def stages(daemon):
    """{stage: pairs} of the pairs that are somebody's. For small tables."""
    found = {}
    for entry in _dump(daemon, "lb_grafts"):
        stage = entry["formatted"]["value"]["stage"]
        if stage:
            found[stage] = found.get(stage, 0) + 1
    return found


def wait_empty(daemon, seconds=4):
    """Every graft is gone with all that is known of it; a lingering one takes a second."""
    wait_until(lambda: not daemon.grafted() and not keys(daemon), seconds,
               lambda: f"{daemon.grafted()} grafts and {keys(daemon)} keys are left", every=0.1)


def filters(net, side=LB):
    """{device: lines that name a BPF filter at its ingress}."""
    found = {}
    for device in json.loads(net.ip(side, "-j link").stdout):
        out = run(*net.inside(side), "tc", "filter", "show", "dev", device["ifname"],
                  "ingress").stdout
        found[device["ifname"]] = [line.strip() for line in out.splitlines() if " bpf " in line
                                   and "handle" in line]
    return found


def kernel_count(net, side, name):
    """A TcpExt counter of a namespace."""
    def read():
        with open("/proc/thread-self/net/netstat", encoding="ascii") as file:
            names, values = [line.split() for line in file if line.startswith("TcpExt:")]
        return int(values[names.index(name)])
    return net.call(side, read)


@contextlib.contextmanager
def counting_resets(net, side, port, expected):
    """Yields a function: (RST packets from <port>, those of them with the number <expected>)."""
    rules = (f"chain c {{ type filter hook input priority 0; "
             f"tcp sport {port} tcp flags & rst == rst tcp sequence {expected} counter; "
             f"tcp sport {port} tcp flags & rst == rst counter; }}")
    with net.nft(side, rules):
        def read():
            out = run(*net.inside(side), "nft", "list", "table", "inet", "l4e").stdout
            exact, every = map(int, re.findall(r"counter packets (\d+)", out))
            return every, exact
        yield read


def stall(sock):
    """Sends until nothing is taken any more for a while. Bytes sent."""
    sent = 0
    chunk = b"x" * 65536
    while select.select([], [sock], [], 0.7 * PATIENCE)[1]:
        try:
            sent += sock.send(chunk, socket.MSG_DONTWAIT)
        except OSError as error:
            assert error.errno == errno.EAGAIN, error
    return sent
