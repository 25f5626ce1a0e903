# SPDX-License-Identifier: MIT
"""TLS with clients that mean no good, streams that are cut, and what it all costs."""
import collections
import contextlib
import re
import resource
import socket
import ssl
import struct
import time

import pytest

from lbtest import machine, tls
from lbtest.daemon import rule
from lbtest.faults import Faults
from lbtest.net import BACKEND, BACKEND_ADDR, CLIENT, LB_ADDR
from lbtest.process import BUILD, PATIENCE, SAN, run, wait_until
from lbtest.tls_rule import (  # fixtures, too
    AT, BACK, LISTEN, Kept, ca, echo, pair, ping, serve, start)


# --- those who mean no good ---------------------------------------------------------------------

HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60)
GARBAGE = {
    **tls.NO_HELLO,
    "data before the handshake": b"\x17\x03\x03\x00\x05hello",
}


def ends(sock, seconds):
    """How long until the peer closes; what it says before is an alert or nothing."""
    begin, said = time.monotonic(), b""
    sock.settimeout(seconds * PATIENCE)
    with sock, contextlib.suppress(ConnectionResetError):
        while True:
            got = sock.recv(4096)
            if not got:
                break
            said += got
    assert not said or said[0] == 0x15, said
    return time.monotonic() - begin


@pytest.mark.parametrize("what", GARBAGE)
def test_who_speaks_no_tls_is_closed_at_once_and_reaches_nobody(net, start, echo, what):
    d = start()
    s = net.connect(*AT)
    s.sendall(GARBAGE[what])
    assert ends(s, 5) < 1 * PATIENCE
    flow, = d.wait_flows(1)
    assert flow["reason"] == "tls_failed" and "detail" in flow and flow["up"] == "0", flow
    assert echo.connections == 0
    d.stop()


def test_a_hello_that_stops_in_the_middle_is_closed_on_time(net, start, echo):
    d = start(timeouts={"handshake_ms": 700})
    socks = [net.connect(*AT) for _ in range(20)]
    for s, said in zip(socks, [b"", HELLO[:1], HELLO[:5], HELLO] * 5):
        s.sendall(said)
    for s in socks:
        ends(s, 3)
    flows = d.wait_flows(20)
    assert {f["reason"] for f in flows} == {"handshake_timeout"}
    assert all(700 <= int(f["duration_ms"]) < 1000 * PATIENCE for f in flows), flows
    assert echo.connections == 0
    d.stop()


def test_ten_thousand_bad_handshakes_leave_nothing_behind(net, folder, start, echo):
    """Among them every seventh falls silent in its hello, up to 100 at once."""
    faults = Faults(folder)  # none is asked for: it counts the blocks of the heap
    d = start(wrap=faults.wrap, timeouts={"handshake_ms": 300})
    texts = list(GARBAGE.values()) + [HELLO]
    silent = collections.deque()

    def storm(count):
        for i in range(count):
            s = socket.create_connection(AT, 5 * PATIENCE)
            s.sendall(texts[i % len(texts)])
            if texts[i % len(texts)] is HELLO:
                silent.append(s)
            else:
                ends(s, 5)
            while len(silent) > (100 if i + 1 < count else 0):
                ends(silent.popleft(), 5)

    def cost(count):
        cpu = machine.process_cpu(d.pid)
        net.call(CLIENT, storm, count)
        return (machine.process_cpu(d.pid) - cpu) / count
    def settled():
        wait_until(lambda: d.metric("l4lb_active_connections") == 0, 5, "all are over")
        return faults.blocks
    cost(4000)
    blocks = settled()
    each = [cost(2000) for _ in range(3)]
    print("us of CPU each:", ", ".join(f"{c * 1e6:.0f}" for c in each))
    assert max(each) < 0.001 * PATIENCE, each
    assert each[-1] < 1.5 * each[0], each
    grown = settled() - blocks
    assert echo.connections == 0
    reasons = collections.Counter(f["reason"] for f in d.wait_flows(10000))
    assert set(reasons) == {"tls_failed", "handshake_timeout"}, reasons
    assert reasons["handshake_timeout"] == 571 + 3 * 285, reasons
    if not SAN:
        # A block for every thousandth would be six.
        assert blocks > 100 and grown < 6, f"{blocks} blocks of the heap, {grown} more now"
    d.check_idle()
    d.stop()


FLOODS = {
    "keyupdate": "too many control messages",
    "keyupdate_requested": "too many control messages",
    # OpenSSL answers each of them, and would go on doing so inside one call.
    "hello": "too many control messages",
    # These it counts itself.
    "empty": "record too small",
    "warning": "too many warn alerts",
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_what_is_no_payload_is_ended(net, start, echo, flood):
    d = start()
    cpu = machine.process_cpu(d.pid)
    begin = time.monotonic()
    done = run(*net.inside(CLIENT), BUILD / "tests/e2e/tls_flood", AT[0], LISTEN, flood, 1000000,
               check=False, seconds=30)
    assert done.returncode == 0, done.stderr
    sent = int(re.search(r"(\d+) sent", done.stdout).group(1))
    assert sent < 1000000, "it was ended before"
    assert machine.process_cpu(d.pid) - cpu < 0.5 * PATIENCE and time.monotonic() - begin < 10
    flow, = d.wait_flows(1)
    assert flow["reason"] in ("tls_failed", "reset_by_client"), flow
    assert f'detail="{FLOODS[flood]}"' in d.access_log.read_text(), d.access_log.read_text()
    d.stop()


def test_a_few_key_updates_are_nothing(net, start, echo):
    d = start()
    done = run(*net.inside(CLIENT), BUILD / "tests/e2e/tls_flood", AT[0], LISTEN, "keyupdate_data",
               200)
    assert "200 sent" in done.stdout and "200 echoed" in done.stdout, done.stdout
    assert d.wait_flows(1)[0]["reason"] == "done"
    d.stop()


# --- the end of a stream ------------------------------------------------------------------------


def test_a_stream_that_is_cut_never_looks_whole(net, start, serve, ca):
    kept = Kept()
    serve(kept)
    d = start()
    c = tls.connect(net, AT, tls.client_context(ca.cert))
    c.sendall(b"half of it")
    wait_until(lambda: kept.heard == b"half of it", 5, "the first half")
    # A FIN without close_notify, as anybody on the way can send.
    raw = socket.socket(fileno=c.detach())
    raw.shutdown(socket.SHUT_WR)
    wait_until(lambda: kept.end, 5, "an end")
    assert kept.end == "rst"
    assert d.wait_flows(1)[0]["reason"] == "tls_truncated"
    raw.close()
    d.stop()


def test_a_backend_that_is_reset_is_no_good_end_for_the_client(net, start, serve, ca):
    def resets(conn, stop):
        conn.sendall(b"half")
        conn.recv(1)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    serve(resets)
    d = start()
    with tls.connect(net, AT, tls.client_context(ca.cert)) as c:
        assert c.recv(100) == b"half"
        c.sendall(b"x")
        with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
            assert c.recv(100) != b"", "a good end"
    assert d.wait_flows(1)[0]["reason"] == "reset_by_backend"
    d.stop()


def test_an_idle_flow_is_told_goodbye(net, start, echo, ca):
    d = start(timeouts={"idle_ms": 300})
    with tls.connect(net, AT, tls.client_context(ca.cert)) as c:
        ping(c)
        assert c.recv(1) == b"", "close_notify, not just a FIN"
    assert d.wait_flows(1)[0]["reason"] == "idle"
    d.stop()


# --- cost ---------------------------------------------------------------------------------------


@pytest.mark.skipif(SAN, reason="its allocator keeps memory")
@pytest.mark.parametrize("sealed_twice", [False, True], ids=["termination", "re-encryption"])
def test_an_idle_tls_flow_takes_little_memory(net, daemon, ca, pair, folder, sealed_twice):
    """2000 of them that have each passed some bytes. Those that are re-encrypted count as two."""
    count, listen = 2000, f"{LB_ADDR[4]}:{LISTEN}"
    sealed = {"enabled": True, **pair.config()}
    back = f"{BACKEND_ADDR[4]}:{BACK}"
    ends_tls = rule("r", listen, [back], tls=sealed)
    # What is re-encrypted is terminated once more by a daemon of its own, which is not measured.
    if sealed_twice:
        back = f"{LB_ADDR[4]}:{LISTEN + 1}"
        daemon({"workers": 1, "rules": [rule("behind", back, ends_tls["backends"],
                                             tls=sealed)]}).start()
        ends_tls = rule("r", listen, [back], tls=sealed, backend_tls={
            "enabled": True, "ca": str(ca.cert), "name": "app.example"})
    backend = net.start(BACKEND, "echo", [
        "prlimit", "--nofile=10000", BUILD / "lb-demo-backend", "--echo",
        f"{BACKEND_ADDR[4]}:{BACK}"], folder)
    wait_until(lambda: "ready" in backend.stderr, 5, "the backend is ready")
    d = daemon({"workers": 2, "rules": [ends_tls]}).start()
    context = tls.client_context(ca.cert)

    def some(count):
        made = []
        for _ in range(count):
            made.append(context.wrap_socket(socket.create_connection(AT, 5),
                                            server_hostname="app.example"))
            ping(made[-1])
        return made
    with more_descriptors(2 * count):
        warm = net.call(CLIENT, some, 100)
        before = machine.process_rss(d.pid)
        socks = net.call(CLIENT, some, count)
        each = (machine.process_rss(d.pid) - before) / count
        print(f"{each / 1024:.1f} KiB per idle flow")
        for c in warm + socks:
            c.close()
    assert each <= (2 if sealed_twice else 1) * 40 * 1024, each
    backend.kill()
    d.stop()


@contextlib.contextmanager
def more_descriptors(count):
    was = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(count, was[0]), was[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, was)


def test_established_flows_are_served_while_many_shake_hands(net, start, echo, ca, folder):
    rsa = ca.issue("app.example", kind="rsa")
    d = start(rsa.config())
    c = tls.connect(net, AT, tls.client_context(ca.cert))
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ping(c)
    loads = [net.start(CLIENT, f"load{i}", [
        "openssl", "s_time", "-connect", f"{AT[0]}:{LISTEN}", "-new", "-time", "4", "-tls1_2"],
        folder) for i in range(2)]
    took = []
    end = time.monotonic() + 3
    while time.monotonic() < end:
        begin = time.monotonic()
        ping(c)
        took.append(time.monotonic() - begin)
        time.sleep(0.002)
    for load in loads:
        load.kill()
    took.sort()
    rate = d.metric("l4lb_tls_handshakes_total", result="full") / 3
    print(f"{rate:.0f} handshakes/s; ping median {took[len(took) // 2] * 1e3:.1f} ms, "
          f"99 % {took[len(took) * 99 // 100] * 1e3:.1f} ms")
    assert rate > 50 / PATIENCE
    assert took[len(took) * 99 // 100] < 0.2 * PATIENCE
    c.close()
    d.stop()
