# SPDX-License-Identifier: MIT
"""
kTLS: the kernel seals what is sent, where it can, and the daemon says so either way. Kernels
without it skip what needs it; `make vmtest-ktls` runs all of it.
"""
import json
import re
import socket
import ssl

import pytest

from lbtest import tls
from lbtest.net import CLIENT, LB
from lbtest.process import BUILD, run, wait_until
from lbtest.reloading import reload
from lbtest.tls_rule import (  # fixtures, too
    AT, LISTEN, ca, echo, pair, ping, serve, start)

TCP_ULP = 31  # linux/tcp.h
# The kernel's other help is not wanted here: emulated it takes seconds to come up.
PLAIN = {"acceleration": "relay"}


def kernel_has_it():
    with socket.create_server(("127.0.0.1", 0)) as listener, \
            socket.create_connection(listener.getsockname()) as s:
        try:
            s.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
            return True
        except FileNotFoundError:
            return False


needs_ktls = pytest.mark.skipif(not kernel_has_it(), reason="this kernel has no kTLS")


def sealed_by_kernel(net):
    """Connections in the load balancer's namespace for which the kernel has taken keys so far."""
    text = run(*net.inside(LB), "cat", "/proc/net/tls_stat").stdout
    assert re.search(r"^TlsRxSw\s+0$", text, re.M), text
    return int(re.search(r"^TlsTxSw\s+(\d+)", text, re.M).group(1))


def sends(size):
    """A backend that sends <size> bytes that never repeat, to be told by their place."""
    def serve_one(conn, stop):
        conn.recv(1)
        conn.sendall(stream(size))
    return serve_one


def stream(size):
    return b"".join(n.to_bytes(4, "big") for n in range(size // 4))


def read_all(sock):
    found = bytearray()
    while True:
        got = sock.recv(1 << 16)
        if not got:
            return bytes(found)
        found += got


def test_the_daemon_says_once_whether_the_kernel_seals(net, start, echo, ca):
    d = start(**PLAIN)
    with tls.connect(net, AT, tls.client_context(ca.cert)) as c:
        ping(c)
        c.unwrap()
    assert d.wait_flows(1)[0]["reason"] == "done"
    assert d.count_log(r"kTLS is (not )?in service: ") == 1, d.log
    there = kernel_has_it()
    assert d.count_log(r"kTLS is in service: ") == there, d.log
    assert d.metric("l4lb_tls_ktls_total", side="client") == there
    assert d.metric("l4lb_tls_ktls_total", side="backend") == 0
    d.stop()


@needs_ktls
def test_it_is_left_alone_where_it_is_off(net, start, echo, ca):
    before = sealed_by_kernel(net)
    d = start({"ktls": "off"}, **PLAIN)
    with tls.connect(net, AT, tls.client_context(ca.cert)) as c:
        ping(c)
    assert "kTLS" not in d.log
    assert d.metric("l4lb_tls_ktls_total", side="client") == 0
    assert sealed_by_kernel(net) == before
    d.stop()


WAYS = {
    "1.3": (ssl.TLSVersion.TLSv1_3, None),
    "1.2 AES-128": (ssl.TLSVersion.TLSv1_2, "ECDHE+AESGCM+AES128"),
    "1.2 AES-256": (ssl.TLSVersion.TLSv1_2, "ECDHE+AESGCM+AES256"),
    "1.2 ChaCha20": (ssl.TLSVersion.TLSv1_2, "ECDHE+CHACHA20"),
}


@needs_ktls
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [4, 3000000])
def test_what_the_kernel_seals_is_what_was_sent(net, start, serve, ca, way, size):
    """Large streams go by splice(2)."""
    version, ciphers = WAYS[way]
    serve(sends(size))
    d = start(**PLAIN)
    before = sealed_by_kernel(net)
    with tls.connect(net, AT, tls.client_context(ca.cert, version=version,
                                                 ciphers=ciphers)) as c:
        assert sealed_by_kernel(net) == before + 1
        c.sendall(b"x")
        assert read_all(c) == stream(size)
    flow, = d.wait_flows(1)
    assert flow["reason"] == "done" and flow["down"] == str(size), flow
    assert d.metric("l4lb_tls_ktls_total", side="client") == 1
    d.stop()


@needs_ktls
def test_a_backend_that_is_cut_is_no_good_end_under_ktls(net, start, serve, ca):
    def half(conn, stop):
        conn.recv(1)
        conn.sendall(b"half")
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    serve(half)
    d = start(**PLAIN)
    with tls.connect(net, AT, tls.client_context(ca.cert)) as c:
        c.sendall(b"x")
        with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
            read_all(c)
    assert d.wait_flows(1)[0]["reason"] == "reset_by_backend"
    d.stop()


def test_new_keys_are_agreed_or_the_flow_ends(net, start, echo):
    """The kernel cannot change its keys, and nothing may be sent under the old ones."""
    d = start(**PLAIN)
    done = run(*net.inside(CLIENT), BUILD / "tests/e2e/tls_flood", AT[0], LISTEN,
               "keyupdate_requested_data", 20)
    flow, = d.wait_flows(1)
    if d.metric("l4lb_tls_ktls_total", side="client"):
        assert "0 echoed" in done.stdout, done.stdout
        assert flow["reason"] == "tls_failed" and flow["down"] == "0", flow
        assert 'detail="kTLS cannot update keys"' in d.access_log.read_text()
    else:
        assert "20 sent, 20 echoed" in done.stdout, done.stdout
        assert flow["reason"] == "done", flow
    d.stop()


@needs_ktls
def test_a_reload_can_bring_the_first_rule_that_wants_it(net, start, echo, ca):
    d = start({"ktls": "off"}, **PLAIN)
    config = json.loads(d.config.read_text())
    config["rules"][0]["tls"]["ktls"] = "auto"
    reload(d, config)
    assert d.count_log(r"kTLS is in service: ") == 1, d.log
    with tls.connect(net, AT, tls.client_context(ca.cert)) as c:
        ping(c)
    wait_until(lambda: d.metric("l4lb_tls_ktls_total", side="client") == 1, 5, "it is in use")
    d.stop()
