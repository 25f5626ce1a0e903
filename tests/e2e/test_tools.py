# SPDX-License-Identifier: MIT
"""
The tools of docs/tools.md, on loopback and without a load balancer: what the demo backend answers,
and that throughput finds every way in which bytes can go wrong between its two ends.
"""
import contextlib
import http.client
import json
import os
import random
import re
import resource
import signal
import socket
import struct
import threading
import time

import pytest

from lbtest.machine import process_cpu, process_fds, process_rss
from lbtest.process import BUILD, PATIENCE, Process, run, wait_until

DEMO = BUILD / "lb-demo-backend"
THROUGHPUT = BUILD / "throughput"
HOST = "127.0.0.1"
SECONDS = 20 * PATIENCE
MANY = 3000
PERIOD = 1048573
HELLO_BYTES = 24  # what a throughput source sends before the pattern


def free_ports(count):
    """Ports nobody uses at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind((HOST, 0))
        return [s.getsockname()[1] for s in sockets]


def started(name, command, folder):
    process = Process(name, command, folder)
    try:
        wait_until(lambda: "ready" in process.stderr or not process.alive(), 10, f"{name} is ready")
        assert process.alive(), process.stderr
    except BaseException:
        process.kill()
        raise
    return process


def end_well(process, *codes):
    """Ends by SIGTERM: a sanitizer looks for leaks only at an orderly end."""
    try:
        assert process.alive(), f"{process.name} died\n{process.stderr}"
        process.signal(signal.SIGTERM)
        assert process.wait(10) in codes, process.stderr
        assert "Sanitizer" not in process.stderr, process.stderr
    finally:
        process.kill()


@pytest.fixture(scope="module", name="demo")
def demo_fixture(tmp_path_factory):
    """A demo backend: .http and .echo are its ports."""
    web, echo = free_ports(2)
    process = started("demo", [DEMO, "--name", "web-1", "--http", f"{HOST}:{web}",
                               "--echo", f"{HOST}:{echo}"], tmp_path_factory.mktemp("demo"))
    process.http, process.echo = web, echo
    yield process
    end_well(process, 0)


@pytest.fixture(scope="module", name="sink")
def sink_fixture(tmp_path_factory):
    """A throughput sink: .port"""
    port, = free_ports(1)
    process = started("sink", [THROUGHPUT, "sink", f"{HOST}:{port}"],
                      tmp_path_factory.mktemp("sink"))
    process.port = port
    yield process
    end_well(process, 0, 1)  # 1: tests send it wrong bytes


@pytest.fixture(scope="module", name="many")
def many_fixture():
    """Room for MANY descriptors in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < MANY + 200:
        pytest.skip(f"the hard limit of descriptors is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield MANY
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(port):
    return socket.create_connection((HOST, port), SECONDS)


def read_all(s):
    """To the end of the stream. A reset ends it as well: what came before counts."""
    got = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := s.recv(1 << 18):
            got += piece
    return bytes(got)


def exchange(port, request):
    with connect(port) as s:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            s.sendall(request)
        return read_all(s)


def get(path, *headers):
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: demo", *headers, "", ""]).encode()


def responses(raw):
    """[(status, headers, body)] of a byte string of answers, all with Content-Length or none."""
    found = []
    while raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        length = int(headers.get("content-length", 0))
        found.append((int(lines[0].split()[1]), headers, raw[:length]))
        raw = raw[length:]
    return found


def pattern(offset, count):
    """The stream of tools/common/pattern.c."""
    if not hasattr(pattern, "period"):
        x, period = 0, bytearray(PERIOD)
        for i in range(PERIOD):
            x = (x * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
            period[i] = x >> 56
        pattern.period = bytes(period)
    start = offset % PERIOD
    return (pattern.period * ((start + count) // PERIOD + 1))[start:start + count]


# --- the demo backend: HTTP ---------------------------------------------------------------------

def test_every_answer_names_the_backend_the_peer_and_the_request(demo):
    with contextlib.closing(http.client.HTTPConnection(HOST, demo.http, SECONDS)) as c:
        for number in (1, 2, 3):
            c.request("GET", "/")
            answer = c.getresponse()
            body = answer.read().decode()
            assert answer.status == 200
            assert answer.headers["X-Backend"] == "web-1"
            own = "{}:{}".format(*c.sock.getsockname())
            assert re.fullmatch(rf"web-1: hello {own}, request {number} of this connection, "
                                r"\d+ of this backend\n", body)


@pytest.mark.parametrize("path, status", [
    ("/health", 200), ("/status/204", 204), ("/status/304", 304), ("/status/503", 503),
    ("/status/199", 404), ("/status/600", 404), ("/status/", 404), ("/nowhere", 404),
    ("/bytes/-1", 404), ("/bytes/1073741825", 404), ("/bytes/5x", 404), ("/slow/x", 404)])
def test_path_has_its_status(demo, path, status):
    (got, headers, _), = responses(exchange(demo.http, get(path, "Connection: close")))
    assert (got, headers["x-backend"]) == (status, "web-1")


def test_pipelined_requests_are_answered_in_order(demo):
    paths = ["/bytes/3", "/slow/20", "/status/404", "/bytes/100000", "/"] * 20
    raw = exchange(demo.http, b"".join(map(get, paths)) + get("/", "Connection: close"))
    answers = responses(raw)
    assert [a[0] for a in answers] == [200, 200, 404, 200, 200] * 20 + [200]
    lengths = [len(a[2]) for a in answers]
    assert lengths[0::5][:20] == [3] * 20 and lengths[3::5] == [100000] * 20
    assert b"request 101 of this connection" in answers[-1][2]


def test_request_that_arrives_byte_by_byte_is_answered(demo):
    request = (b"POST / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n"
               b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
    with connect(demo.http) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request:
            s.sendall(bytes([byte]))
            time.sleep(0.001)
        (status, _, body), = responses(read_all(s))
    assert status == 200 and body.endswith(b"\nreceived 11 bytes\n")


@pytest.mark.parametrize("chunked", [False, True], ids=["content_length", "chunked"])
def test_a_body_of_10_MB_is_read_and_counted(demo, chunked):
    piece = os.urandom(100000)
    with contextlib.closing(http.client.HTTPConnection(HOST, demo.http, SECONDS)) as c:
        for _ in range(2):  # the second finds the connection in order
            c.request("POST", "/", body=(piece for _ in range(100)), encode_chunked=chunked,
                      headers={"Transfer-Encoding": "chunked"} if chunked
                      else {"Content-Length": "10000000"})
            answer = c.getresponse()
            assert answer.status == 200
            assert answer.read().endswith(b"\nreceived 10000000 bytes\n")


def test_head_has_the_length_but_no_body(demo):
    request = b"HEAD /bytes/5000 HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n"
    head, _, body = exchange(demo.http, request).partition(b"\r\n\r\n")
    assert b"Content-Length: 5000" in head and body == b""


def test_http_1_0_ends_after_one_answer_unless_asked_to_stay(demo):
    assert len(responses(exchange(demo.http, b"GET / HTTP/1.0\r\n\r\n"))) == 1
    stay = b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"
    assert len(responses(exchange(demo.http, stay + b"GET / HTTP/1.0\r\n\r\n"))) == 2


def test_close_closes_after_the_answer(demo):
    answers = responses(exchange(demo.http, get("/close") + get("/")))
    assert len(answers) == 1 and answers[0][1]["connection"] == "close"


def test_slow_answer_does_not_hold_up_others(demo):
    with connect(demo.http) as s:
        begin = time.monotonic()
        s.sendall(get("/slow/500", "Connection: close"))
        assert responses(exchange(demo.http, get("/health", "Connection: close")))[0][0] == 200
        s.settimeout(0.05)
        with pytest.raises(TimeoutError):
            s.recv(1)
        s.settimeout(SECONDS)
        assert responses(read_all(s))[0][0] == 200
        assert time.monotonic() - begin >= 0.5


def test_bytes_are_the_pattern_beyond_its_period(demo):
    (status, headers, body), = responses(
        exchange(demo.http, get("/bytes/3000000", "Connection: close")))
    assert (status, headers["x-backend"]) == (200, "web-1")
    assert body == pattern(0, 3000000)


def test_headers_of_8_KiB_pass_and_more_gets_431_and_the_end(demo):
    def ask(header_bytes):
        empty = get("/", "Connection: close", "X: ")
        padding = "a" * (header_bytes - len(empty))
        return exchange(demo.http, get("/", "Connection: close", f"X: {padding}") + get("/"))

    assert [a[0] for a in responses(ask(8000))] == [200]
    for header_bytes in (8300, 20000, 100000):
        answers = responses(ask(header_bytes))
        # A reset for what was still on its way may overtake the answer to a very long header.
        assert [a[0] for a in answers] == [431] or not answers and header_bytes > 20000


def test_garbage_is_refused_and_the_backend_lives(demo):
    rnd = random.Random(1)
    samples = [bytes(rnd.randrange(256) for _ in range(rnd.randrange(1, 3000))) + b"\r\n\r\n"
               for _ in range(100)]
    samples += [b"\r\n\r\n\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 4000,
                b"GET / HTTP/1.1\r\n\r\n",
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"]
    for sample in samples:
        with connect(demo.http) as s:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                s.sendall(sample)
                s.shutdown(socket.SHUT_WR)
            answer = read_all(s)
        assert answer == b"" or int(answer.split()[1]) >= 400, (sample[:80], answer[:80])
    assert responses(exchange(demo.http, get("/health", "Connection: close")))[0][0] == 200


@pytest.mark.parametrize("path", ["/", "/health", "/bytes/3000000"])
def test_half_close_with_the_request_is_answered_and_ended(demo, path):
    with connect(demo.http) as s:
        s.sendall(get(path))
        s.shutdown(socket.SHUT_WR)
        assert [a[0] for a in responses(read_all(s))] == [200]


def test_reader_that_stalls_costs_no_memory_and_no_time(demo):
    before = process_rss(demo.pid)
    with connect(demo.http) as s:
        s.sendall(get("/bytes/200000000", "Connection: close"))
        s.shutdown(socket.SHUT_WR)
        assert s.recv(1000)
        time.sleep(0.3)
        cpu = process_cpu(demo.pid)
        time.sleep(0.5)
        assert process_cpu(demo.pid) - cpu < 0.1
        assert process_rss(demo.pid) - before < 8 << 20
        total = 0
        while piece := s.recv(1 << 20):
            total += len(piece)
    assert total > 199999000


def test_thousands_of_connections_stay_open_and_are_answered(demo, many):
    with contextlib.ExitStack() as stack:
        conns = [stack.enter_context(connect(demo.http)) for _ in range(many)]
        for number in (1, 2):
            for s in conns:
                s.sendall(get("/"))
            for s in conns:
                assert f"request {number} of this connection".encode() in s.recv(4096)
        assert process_fds(demo.pid)["other"] >= many
    wait_until(lambda: process_fds(demo.pid)["other"] < 100, 10, "the backend closes them too")


# --- the demo backend: echo ---------------------------------------------------------------------

def send_in_background(s, data):
    def work():
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("size", [0, 1, 65536, 1 << 20, 20000001])
def test_echo_returns_every_byte_after_a_half_close(demo, size):
    data = random.Random(size).randbytes(size)
    with connect(demo.echo) as s:
        sender = send_in_background(s, data)
        assert read_all(s) == data
        sender.join()


def test_echo_does_not_read_from_a_peer_that_does_not_read(demo):
    before = process_rss(demo.pid)
    data = random.Random(2).randbytes(1 << 20)
    with connect(demo.echo) as s:
        s.settimeout(1)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 200 << 20:
                sent += s.send(data[sent % len(data):])
        assert process_rss(demo.pid) - before < 4 << 20
        s.settimeout(SECONDS)
        s.shutdown(socket.SHUT_WR)
        back = read_all(s)
    assert len(back) == sent and back == (data * (sent // len(data) + 1))[:sent]


def test_echo_of_thousands_of_connections_does_not_mix_them(demo, many):
    with contextlib.ExitStack() as stack:
        conns = [stack.enter_context(connect(demo.echo)) for _ in range(many)]
        for i, s in enumerate(conns):
            s.sendall(b"%08d" % i)
        for i, s in enumerate(conns):
            assert s.recv(100) == b"%08d" % i
    wait_until(lambda: process_fds(demo.pid)["other"] < 100, 10, "the backend closes them too")


def test_echo_survives_resets(demo):
    for _ in range(50):
        with connect(demo.echo) as s:
            s.sendall(b"x" * 100000)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with connect(demo.echo) as s:
        s.sendall(b"alive")
        assert s.recv(100) == b"alive"


# --- the demo backend: start and end ------------------------------------------------------------

def test_demo_ends_by_signal_with_open_connections_and_waiting_requests(tmp_path):
    web, echo = free_ports(2)
    process = started("demo", [DEMO, "--http", f"{HOST}:{web}", "--echo", f"{HOST}:{echo}"],
                      tmp_path)
    try:
        with connect(web) as slow, connect(web), connect(echo) as e:
            slow.sendall(get("/slow/60000"))
            e.sendall(b"x")
            assert e.recv(1) == b"x"
            process.signal(signal.SIGTERM)
            assert process.wait(5) == 0, process.stderr
    finally:
        process.kill()


def test_demo_says_which_address_is_in_use(demo):
    done = run(DEMO, "--http", f"{HOST}:{demo.http}", check=False)
    assert done.returncode == 3
    assert f"{HOST}:{demo.http}: Address already in use" in done.stderr


@pytest.mark.parametrize("arguments", [
    [], ["--http"], ["--http", "nowhere"], ["--echo", "1.2.3.4"], ["--what"], ["stray"],
    ["--name", "a b", "--http", "127.0.0.1:1"], ["--name", "", "--http", "127.0.0.1:1"]])
def test_demo_refuses_a_wrong_command_line(arguments):
    done = run(DEMO, *arguments, check=False)
    assert done.returncode == 2 and done.stderr and not done.stdout


# --- throughput -----------------------------------------------------------------------------------

class Proxy:
    """
    One TCP proxy for the tests to go wrong in: <harm>(direction, offset, piece) returns what to
    forward instead of <piece>, or None to end the connection. Directions: "up" and "down".
    """

    def __init__(self, upstream, harm):
        self.upstream, self.harm = upstream, harm
        self.listener = socket.create_server((HOST, 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = connect(self.upstream)
                for direction, a, b in (("up", client, server), ("down", server, client)):
                    threading.Thread(target=self.pump, args=(direction, a, b), daemon=True).start()

    def pump(self, direction, source, target):
        offset = 0
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                harmed = self.harm(direction, offset, piece)
                offset += len(piece)
                if harmed is None:
                    with contextlib.suppress(OSError):  # it may be over already
                        source.shutdown(socket.SHUT_RDWR)
                    break
                target.sendall(harmed)
            target.shutdown(socket.SHUT_WR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


def flip(direction, at):
    """Inverts one bit of the byte at offset <at>."""
    def harm(way, offset, piece):
        if way != direction or not offset <= at < offset + len(piece):
            return piece
        harmed = bytearray(piece)
        harmed[at - offset] ^= 1
        return bytes(harmed)
    return harm


def drop(direction, at):
    """Leaves out one byte."""
    def harm(way, offset, piece):
        if way != direction or not offset <= at < offset + len(piece):
            return piece
        return piece[:at - offset] + piece[at - offset + 1:]
    return harm


def end(direction, at):
    """A clean end in mid-stream."""
    return lambda way, offset, piece: None if way == direction and offset > at else piece


def source(port, *options):
    done = run(THROUGHPUT, "source", f"{HOST}:{port}", "--json", *options, check=False, seconds=60)
    assert "Sanitizer" not in done.stderr, done.stderr
    done.report = json.loads(done.stdout) if done.stdout else None
    return done


# name: (the other end, its options, where the pattern runs: direction and offset on the wire)
MODES = {"up": ("sink", [], "up", HELLO_BYTES), "reverse": ("sink", ["--reverse"], "down", 0),
         "echo": ("demo", ["--echo"], "down", 0)}


@pytest.fixture(name="mode", params=MODES)
def mode_fixture(request, sink, demo):
    class Mode:
        name = request.param
        port = sink.port if MODES[name][0] == "sink" else demo.echo
        options, direction, first = MODES[name][1:]
    return Mode


@pytest.mark.parametrize("size", ["1", "4095", "64KiB", "3MB"])
def test_source_counts_and_verifies_every_connection(mode, size):
    done = source(mode.port, *mode.options, "--verify", "--bytes", size, "--connections", "7")
    assert done.returncode == 0, done.stderr
    size = {"1": 1, "4095": 4095, "64KiB": 65536, "3MB": 3000000}[size]
    expected = {"mode": mode.name, "connections": 7, "completed": 7, "broken": 0, "refused": 0,
                "bytes": 7 * size, "verify": True, "mismatch": None}
    assert {k: done.report[k] for k in expected} == expected


def test_source_stops_after_its_seconds(mode):
    done = source(mode.port, *mode.options, "--verify", "--seconds", "1", "--connections", "3")
    assert done.returncode == 0, done.stderr
    assert done.report["completed"] == 3 and done.report["bytes"] > 1000000
    assert 1 <= done.report["seconds"] < 4 * PATIENCE


@pytest.mark.parametrize("at", [0, 1500000, 2999999])
def test_verify_finds_a_flipped_bit_at_its_offset(mode, at):
    with Proxy(mode.port, flip(mode.direction, mode.first + at)) as proxy:
        options = [*mode.options, "--bytes", "3000000"]
        done = source(proxy.port, *options, "--verify")
        assert done.returncode == 1
        assert done.report["mismatch"] == {"connection": 0, "offset": at}
        # It was --verify that found it: the number of bytes is right.
        assert source(proxy.port, *options).returncode == 0


def test_missing_byte_is_found_without_verify(mode):
    with Proxy(mode.port, drop(mode.direction, mode.first + 1000)) as proxy:
        done = source(proxy.port, *mode.options, "--bytes", "3000000")
    assert done.returncode == 1 and done.report["completed"] == 0


def test_clean_end_in_mid_stream_is_not_taken_for_the_end(mode):
    with Proxy(mode.port, end(mode.direction, 1000000)) as proxy:
        done = source(proxy.port, *mode.options, "--bytes", "3000000")
        assert done.returncode == 1 and done.report["completed"] == 0
        assert done.report["broken"] == 1
        done = source(proxy.port, *mode.options, "--seconds", "2")
        assert done.returncode == 1 and done.report["completed"] == 0


def test_source_gives_up_when_nothing_moves(tmp_path):
    with socket.create_server((HOST, 0)) as silent:
        done = source(silent.getsockname()[1], "--bytes", "100MB", "--stall", "1")
    assert done.returncode == 1 and done.report["broken"] == 1
    assert "no byte moved" in done.stderr


def test_source_says_that_nobody_listens():
    port, = free_ports(1)
    done = source(port, "--connections", "3", "--bytes", "1")
    assert done.returncode == 3 and done.report["refused"] == 3
    assert "Connection refused" in done.stderr


def test_source_runs_thousands_of_connections(sink, many):
    done = source(sink.port, "--connections", str(many), "--bytes", "10000", "--verify")
    assert done.returncode == 0, done.stderr
    assert done.report["completed"] == many and done.report["bytes"] == many * 10000
    wait_until(lambda: process_fds(sink.pid)["other"] < 20, 10, "the sink closes them too")


def test_source_prints_a_line_each_second_and_a_total(sink):
    done = run(THROUGHPUT, "source", f"{HOST}:{sink.port}", "--seconds", "2", "--verify")
    lines = done.stdout.splitlines()
    assert len([x for x in lines if re.match(r" +\d\.\d s +[\d.]+ \wB/s +[\d.]+ Gbit/s", x)]) >= 1
    assert re.fullmatch(r"total: .*; 1 of 1 connections complete, every byte verified", lines[-1])


def test_sink_takes_any_program_and_reports_at_its_end(tmp_path):
    port, = free_ports(1)
    process = started("sink", [THROUGHPUT, "sink", f"{HOST}:{port}", "--json"], tmp_path)
    try:
        with connect(port) as s:
            s.sendall(b"z" * 1000000)
            s.shutdown(socket.SHUT_WR)
            assert read_all(s) == b""
        with connect(port) as s:
            s.sendall(b"short")
        assert source(port, "--bytes", "500").returncode == 0
        process.signal(signal.SIGINT)
        assert process.wait(5) == 0
        report = json.loads(process.stdout)
        assert report["connections"] == 3 and report["bytes"] == 1000000 + 5 + 500
        assert report["mismatches"] == 0
    finally:
        process.kill()


def test_sink_that_saw_wrong_bytes_ends_with_1(tmp_path):
    port, = free_ports(1)
    process = started("sink", [THROUGHPUT, "sink", f"{HOST}:{port}"], tmp_path)
    try:
        with Proxy(port, flip("up", HELLO_BYTES + 77)) as proxy:
            assert source(proxy.port, "--bytes", "500", "--verify").returncode == 1
        process.signal(signal.SIGTERM)
        assert process.wait(5) == 1
        assert "wrong byte at offset 77" in process.stderr
    finally:
        process.kill()


@pytest.mark.parametrize("arguments", [
    [], ["drain"], ["sink"], ["source"], ["source", "nowhere"], ["sink", "127.0.0.1:1", "--verify"],
    ["source", "127.0.0.1:1", "--bytes", "0"], ["source", "127.0.0.1:1", "--bytes", "5 MB"],
    ["source", "127.0.0.1:1", "--bytes", "99999999999GiB"],
    ["source", "127.0.0.1:1", "--seconds", "1", "--bytes", "1"],
    ["source", "127.0.0.1:1", "--reverse", "--echo"],
    ["source", "127.0.0.1:1", "--connections", "0"], ["source", "127.0.0.1:1", "more"]])
def test_throughput_refuses_a_wrong_command_line(arguments):
    done = run(THROUGHPUT, *arguments, check=False)
    assert done.returncode == 2 and done.stderr and not done.stdout
