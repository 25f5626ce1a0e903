# SPDX-License-Identifier: MIT
"""Clients that knock at several nodes at chosen rates, and what of it is let in."""
import bisect
import select
import socket
import threading
import time

PATIENCE_S = 0.4


class Crowd:
    """
    Connections to <targets>, opened evenly from <sources> in turn as set_rates() says, however long
    answers take; a backend that echoes is behind. Begins with the first rates, ends with stop().
    """

    def __init__(self, outside, targets, sources):
        self.targets, self.sources = targets, sources
        self.rates = [0.0] * len(targets)
        self.served = []  # (begin, answer), by the monotonic clock
        self.opened = 0
        self._halt = False
        self._error = None
        self._open, self._poll = {}, select.epoll()
        self._thread = threading.Thread(target=self._run, args=(outside,))
        self._thread.start()

    def set_rates(self, *rates):
        assert len(rates) == len(self.targets)
        self.rates = [float(r) for r in rates]

    def stop(self):
        self._halt = True
        self._thread.join()
        if self._error:
            raise self._error
        self.served.sort(key=lambda s: s[1])

    def _run(self, outside):
        try:
            outside.call(None, self._knock)
        except BaseException as error:  # for stop()
            self._error = error

    def _knock(self):
        due = [0.0] * len(self.targets)
        last = time.monotonic()
        while not self._halt or self._open:
            now = time.monotonic()
            for i, rate in enumerate(self.rates):
                due[i] += 0 if self._halt else rate * (now - last)
                while due[i] >= 1:
                    due[i] -= 1
                    self._connect(self.targets[i])
            last = now
            for fd, events in self._poll.poll(0.001, 512):
                self._go_on(fd, events)
            for fd, (s, since) in list(self._open.items()):
                if now - since < PATIENCE_S:
                    break
                self._close(fd, s)
        self._poll.close()

    def _connect(self, to):
        s = socket.socket()
        s.setblocking(False)
        s.bind((self.sources[self.opened % len(self.sources)], 0))
        self.opened += 1
        s.connect_ex(to)
        self._open[s.fileno()] = (s, time.monotonic())
        self._poll.register(s, select.EPOLLOUT)

    def _go_on(self, fd, events):
        s, since = self._open[fd]
        try:
            if events & select.EPOLLOUT:
                s.send(b"y")
                self._poll.modify(fd, select.EPOLLIN)
                return
            if s.recv(1) == b"y":
                self.served.append((since, time.monotonic()))
        except OSError:
            pass  # refused
        self._close(fd, s)

    def _close(self, fd, s):
        self._open.pop(fd)
        # A child that is just being started may have it, too.
        self._poll.unregister(fd)
        # No TIME_WAIT: ports would run out.
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        s.close()

    def count(self, begin, end):
        """Those that were answered in that time."""
        return sum(begin <= answer < end for _, answer in self.served)

    def excess(self, rate, step=0.2):
        """
        The most that was let in beyond the rate, in any time. What was begun and answered within a
        time was let in within it, whatever the machine was busy with.
        """
        most = 0
        starts = sorted(self.served)
        first, last = starts[0][0], self.served[-1][1]
        for i in range(int((last - first) / step) + 1):
            begin = first + i * step
            answers = sorted(a for b, a in starts[bisect.bisect_left(starts, (begin, 0)):])
            for n in range(1, int((last - begin) / step) + 2):
                inside = bisect.bisect_right(answers, begin + n * step)
                most = max(most, inside - rate * n * step)
        return most
