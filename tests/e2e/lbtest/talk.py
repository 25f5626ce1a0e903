# SPDX-License-Identifier: MIT
"""
One connection through the load balancer with both its ends in this process: for tests that do
things to a flow while it lives, and then want to know that its streams are whole.
"""
import contextlib
import os
import select
import socket
import time

from .net import BACKEND, CLIENT
from .process import PATIENCE

# include/uapi/linux/tcp.h; the socket module lacks them.
_TCP_REPAIR, _TCP_REPAIR_QUEUE, _TCP_QUEUE_SEQ = 19, 20, 21
_NO_QUEUE, _RECV_QUEUE, _SEND_QUEUE = 0, 1, 2


def _family(addr):
    return socket.AF_INET6 if ":" in addr else socket.AF_INET


class Talk:
    """
    client -> listen, backend -> server, as a context manager. The namespaces may be any; `source`
    is the client's own address. `says`: what the client begins with, in one piece or a list of
    some; it is nobody's to check.
    """

    def __init__(self, net, listen, backend, client=CLIENT, server=BACKEND, source=None,
                 seconds=5, says=b""):
        with contextlib.ExitStack() as opened:
            def open_listener():
                s = socket.socket(_family(backend[0]))
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind(backend)
                s.listen()
                s.settimeout(seconds * PATIENCE)
                return s

            listener = opened.enter_context(net.call(server, open_listener))
            self.client = opened.enter_context(net.call(
                client, lambda: socket.create_connection(
                    listen, seconds * PATIENCE, (source, 0) if source else None)))
            self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in [says] if isinstance(says, bytes) else says:
                self.client.sendall(piece)
            self.server = opened.enter_context(listener.accept()[0])
            listener.close()
            self.opened = opened.pop_all()
        for s in (self.client, self.server):
            s.setblocking(False)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.bytes = 0  # each way, so far

    def clog(self, quiet=0.3):
        """Sends what nobody reads until none goes for so long, not just now: how many bytes."""
        sent, end = 0, time.monotonic() + 2
        while time.monotonic() < end:
            try:
                sent += self.client.send(b"x" * 65536)
                end = time.monotonic() + quiet * PATIENCE
            except BlockingIOError:
                time.sleep(0.01)
        return sent

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.opened.close()

    def exchange(self, size=100000, seconds=10):
        """<size> random bytes each way at once; an AssertionError unless exactly they arrive."""
        self.bytes += size
        ends = (self.client, self.server)
        sent = {s: os.urandom(size) for s in ends}
        left = {s: memoryview(sent[s]) for s in ends}
        got = {s: bytearray() for s in ends}
        end = time.monotonic() + seconds * PATIENCE
        while any(len(got[s]) < size for s in ends):
            wait = end - time.monotonic()
            assert wait > 0, (f"standing still: client got {len(got[self.client])}, server "
                              f"{len(got[self.server])} of {size}")
            readable, writable, _ = select.select(ends, [s for s in ends if left[s]], [], wait)
            for s in writable:
                left[s] = left[s][s.send(left[s]):]
            for s in readable:
                piece = s.recv(1 << 18)
                assert piece, "the stream has ended"
                got[s] += piece
        assert got[self.client] == sent[self.server], "the client got other bytes"
        assert got[self.server] == sent[self.client], "the server got other bytes"

    def finish(self):
        """Both close in good order, and nothing more had come."""
        for s in (self.client, self.server):
            s.shutdown(socket.SHUT_WR)
        for s in (self.client, self.server):
            s.settimeout(5 * PATIENCE)
            assert s.recv(1) == b""

    def ends(self, s, seconds=5):
        """What <s> ends with: "rst", "fin", or "" when it goes on for so long."""
        if not select.select([s], [], [], seconds * PATIENCE)[0]:
            return ""
        try:
            return "bytes" if s.recv(1) else "fin"
        except ConnectionResetError:
            return "rst"


def positions(s):
    """(what <s> sends next, what it expects next), when it has no byte under way."""
    found = []
    s.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
    for queue in (_SEND_QUEUE, _RECV_QUEUE):
        s.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_QUEUE, queue)
        found.append(s.getsockopt(socket.IPPROTO_TCP, _TCP_QUEUE_SEQ) & 0xffffffff)
    s.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_QUEUE, _NO_QUEUE)
    s.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, -1)  # no window probe
    return tuple(found)


def hears(sock, want):
    """Exactly <want> is what comes first; nothing of what follows is read."""
    sock.settimeout(5 * PATIENCE)
    got = b""
    while len(got) < len(want):
        more = sock.recv(len(want) - len(got))
        assert more, f"closed after {got!r}"
        got += more
    sock.setblocking(False)
    assert got == want
