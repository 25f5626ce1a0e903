# SPDX-License-Identifier: MIT
"""TLS clients and backends of plain Python, for tests that look at single connections."""
import contextlib
import socket
import ssl

from .net import CLIENT
from .process import PATIENCE


# What comes to a TLS port and is no ClientHello.
NO_HELLO = {
    "plain HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "random bytes": bytes(range(7, 256)) * 4,
    "an SSLv2 hello": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(40),
    "a record that is too long": b"\x16\x03\x01\xff\xff" + bytes(1000),
    "an alert": b"\x15\x03\x01\x00\x02\x02\x28",
}


def client_context(ca=None, cert=None, alpn=(), version=None, ciphers=None, verify=True):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca:
        context.load_verify_locations(ca)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert:
        context.load_cert_chain(cert.cert, cert.key)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if version:
        context.minimum_version = context.maximum_version = version
    if ciphers:
        context.set_ciphers(ciphers)
    return context


def connect(net, address, context, name="app.example", session=None, says=b"", side=CLIENT):
    """A client that has shaken hands; <says> goes before that, in clear."""
    def make():
        raw = socket.create_connection(address, 5 * PATIENCE)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.sendall(says)
        try:
            # An end without close_notify is an error to us.
            return context.wrap_socket(raw, server_hostname=name, session=session,
                                       suppress_ragged_eofs=False)
        except BaseException:
            raw.close()
            raise
    return net.call(side, make)


def serving(pair, serve, ca=None, version=None, alpn=()):
    """A kind of backend (see backends.py) that speaks TLS and then does what <serve> does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    if version:
        context.minimum_version = context.maximum_version = version
    if ca:
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
    if alpn:
        context.set_alpn_protocols(list(alpn))

    def one(conn, stop):
        with context.wrap_socket(conn, server_side=True) as sealed:
            serve(sealed, stop)
            # Its close_notify, unless the stream is over already.
            with contextlib.suppress(OSError, ValueError):
                sealed.unwrap()
    return one


def echo(conn, stop):
    while True:
        got = conn.recv(65536)
        if not got:
            return
        conn.sendall(got)
