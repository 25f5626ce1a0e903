# SPDX-License-Identifier: MIT
"""
Many connections through the load balancer at once, driven by one epoll loop in this process, and
how many bytes of each arrived in some time. For tests and measurements of rates; it compares no
byte (peer.c does).
"""
import contextlib
import select
import socket
import time

from .net import BACKEND, CLIENT
from .process import PATIENCE

CHUNK = bytes(65536)
UP, DOWN = "up", "down"


def _family(addr):
    return socket.AF_INET6 if ":" in addr else socket.AF_INET


class Flow:
    def __init__(self, client, server):
        self.ends = {UP: client, DOWN: server}  # by who sends in that direction
        self.got = {UP: 0, DOWN: 0}
        self.part = {UP: 0, DOWN: 0}  # of a message that has begun to arrive, by the end it is at
        self.asked = None  # when, while the answer is to come
        self.waited = []  # how long each answer took, s


class Traffic:
    """
    Opens <count> flows: client -> listen, backend -> server. A context manager. <sources>:
    addresses of the clients, by turns; None: whatever the route says.
    """

    def __init__(self, net, listen, backend, count, sources=(None,)):
        self.net = net
        self.flows = []
        with contextlib.ExitStack() as opened:
            listener = opened.enter_context(net.call(BACKEND, self._listen, backend))
            for i in range(count):
                source = sources[i % len(sources)]
                client = opened.enter_context(net.call(CLIENT, self._connect, listen, source))
                server = opened.enter_context(listener.accept()[0])
                for s in (client, server):
                    s.setblocking(False)
                    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.flows.append(Flow(client, server))
            listener.close()
            self.opened = opened.pop_all()

    @staticmethod
    def _listen(backend):
        s = socket.create_server(backend, backlog=1024, family=_family(backend[0]))
        s.settimeout(5 * PATIENCE)
        return s

    @staticmethod
    def _connect(listen, source):
        return socket.create_connection(listen, 5 * PATIENCE, (source, 0) if source else None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.opened.close()

    def bulk(self, direction, seconds, busy=None):
        """
        The first <busy> flows (None: all) send as much as they can. Bytes of each that arrived.
        """
        flows = self.flows[:busy]
        other = {UP: DOWN, DOWN: UP}[direction]

        def on_event(flow, end, event):
            if end == direction:
                with contextlib.suppress(BlockingIOError):
                    flow.ends[direction].send(CHUNK)
            else:
                with contextlib.suppress(BlockingIOError):
                    flow.got[direction] += len(flow.ends[other].recv(1 << 18))
        return self._run(flows, seconds, {direction: select.EPOLLOUT, other: select.EPOLLIN},
                         on_event, direction)

    def messages(self, size, seconds, busy=None):
        """
        Clients ask in <size> bytes and servers answer in as many, one after the other: bytes of
        each flow that went up. flow.waited says how long each answer took.
        """
        flows = self.flows[:busy]
        message = bytes(size)

        def ask(flow):
            flow.asked = time.monotonic()
            flow.ends[UP].send(message)

        def on_event(flow, end, _):
            try:
                n = len(flow.ends[end].recv(size - flow.part[end]))
            except BlockingIOError:
                return
            flow.part[end] = (flow.part[end] + n) % size
            # A server reads what goes up.
            flow.got[UP if end == DOWN else DOWN] += n
            if flow.part[end]:
                return
            if end == DOWN:
                flow.ends[DOWN].send(message)
            else:
                flow.waited.append(time.monotonic() - flow.asked)
                ask(flow)
        for f in flows:
            if f.asked is None:
                ask(f)
        return self._run(flows, seconds, {UP: select.EPOLLIN, DOWN: select.EPOLLIN}, on_event, UP)

    @staticmethod
    def _run(flows, seconds, events, on_event, direction):
        before = [f.got[direction] for f in flows]
        with select.epoll() as poll:
            watched = {}
            for f in flows:
                for end, mask in events.items():
                    watched[f.ends[end].fileno()] = (f, end)
                    poll.register(f.ends[end].fileno(), mask)
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                for fd, event in poll.poll(left):
                    on_event(*watched[fd], event)
        return [f.got[direction] - b for f, b in zip(flows, before)]


def error(counts, wanted):
    """How far their sum is from <wanted>, as a fraction."""
    return sum(counts) / wanted - 1


def fairness(counts):
    """The smallest share by the largest."""
    return min(counts) / max(max(counts), 1)
