# SPDX-License-Identifier: MIT
"""
Backends good and bad, in threads of the test: each kind is a function that has one connection to
deal with. They live in the backend's namespace because their listener does.
"""
import socket
import struct
import threading

from .net import BACKEND, BACKEND_ADDR
from .process import wait_until

_HEAD = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 0\r\n\r\n"


def _reset(conn):
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def read_request(conn):
    """All of a request that has no body."""
    got = b""
    while b"\r\n\r\n" not in got:
        more = conn.recv(4096)
        if not more:
            break
        got += more
    return got


def http(text):
    def answer(conn, stop):
        read_request(conn)
        conn.sendall(text)
    return answer


good = http(_HEAD)


def bytewise(conn, stop):
    read_request(conn)
    for byte in _HEAD:
        conn.sendall(bytes([byte]))
        stop.wait(0.001)


def huge(conn, stop):
    read_request(conn)
    conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n" + bytes(10 << 20))


def silent(conn, stop):
    stop.wait(5)


def closes(conn, stop):
    pass


def resets(conn, stop):
    _reset(conn)


def garbage(conn, stop):
    conn.sendall(b"\x16\x03\x01\x02\x00\x01\x00" * 1000)


def endless_headers(conn, stop):
    read_request(conn)
    conn.sendall(b"HTTP/1.1 100 Continue\r\nX: ")
    while not stop.is_set():
        conn.sendall(b"y" * 1000)


class Backend:
    """Listens until closed; <serve> may be replaced while it runs. Counts what comes."""

    def __init__(self, net, port, serve, addr=None):
        self.serve, self.stop, self.connections = serve, threading.Event(), 0
        self.said = []  # what it has heard, by kinds that keep it
        self.listener = net.call(BACKEND, lambda: socket.create_server(
            (addr or BACKEND_ADDR[4], port), backlog=1024,
            family=socket.AF_INET6 if addr and ":" in addr else socket.AF_INET))
        self.listener.settimeout(0.05)
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _one(self, conn):
        with conn:
            try:
                conn.settimeout(5)
                self.serve(conn, self.stop)
            except OSError:
                pass  # the other side went: that is its right

    def _accept(self):
        while not self.stop.is_set():
            try:
                conn, _ = self.listener.accept()
            except socket.timeout:
                continue
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._one, args=(conn,), daemon=True).start()

    def close(self):
        self.stop.set()
        self.listener.close()
        self.thread.join()


def wait_status(daemon, want, seconds, **labels):
    """Until l4lb_backend_health_status is as <want> says."""
    wait_until(lambda: daemon.metric("l4lb_backend_health_status", **labels) == want, seconds,
               lambda: f"status {want} of {labels}\n{daemon.log[-3000:]}")
