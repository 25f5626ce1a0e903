# SPDX-License-Identifier: MIT
"""Fixtures of tests that need one rule that terminates TLS, and backends in plain Python."""
import ssl

import pytest

from . import tls
from .backends import Backend
from .certs import Authority
from .daemon import rule
from .net import BACKEND_ADDR, LB_ADDR

LISTEN, BACK = 6960, 7960
AT = (LB_ADDR[4], LISTEN)


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pair(ca):
    return ca.issue("app.example", "*.app.example")


@pytest.fixture
def serve(net):
    """serve(kind): a backend that does as backends.py says."""
    made = []

    def make(kind):
        made.append(Backend(net, BACK, kind))
        return made[-1]
    yield make
    for b in made:
        b.close()


@pytest.fixture
def echo(serve):
    return serve(tls.echo)


@pytest.fixture
def start(daemon, pair):
    """start(tls keys, wrap, **keys of the rule): one rule that terminates TLS."""
    def make(keys=None, wrap=(), **more):
        return daemon({"workers": 2, "rules": [rule(
            "r", f"{LB_ADDR[4]}:{LISTEN}", [f"{BACKEND_ADDR[4]}:{BACK}"],
            tls={"enabled": True, **pair.config(), **(keys or {})}, **more)]}, wrap=wrap).start()
    return make


def ping(c, text=b"ping"):
    c.sendall(text)
    expect(c, text)


def expect(c, text):
    got = b""
    while len(got) < len(text):
        more = c.recv(len(text) - len(got))
        assert more, f"closed after {got!r}"
        got += more
    assert got == text


def refused(net, context, **options):
    """The handshake is refused; TLS 1.3 clients may hear of it only when they read."""
    with pytest.raises((ssl.SSLError, ConnectionError)) as raised:
        with tls.connect(net, AT, context, **options) as c:
            assert c.recv(1) == b"", "it was answered"
            raise ConnectionError("closed")
    return str(raised.value)


class Kept:
    """A backend that keeps what it has heard and how that ended."""

    def __init__(self):
        self.heard, self.end = b"", None

    def __call__(self, conn, stop):
        try:
            while True:
                got = conn.recv(65536)
                if not got:
                    self.end = "fin"
                    return
                self.heard += got
        except ConnectionResetError:
            self.end = "rst"
