# SPDX-License-Identifier: MIT
"""
The PROXY protocol: the backend hears who the client is, a proxy in front of us is believed and
nobody else, on every carrier; and who says nothing does not keep others waiting.
"""
import contextlib
import ipaddress
import shutil
import socket
import struct
import time

import pytest

from lbtest import graft, lane as lanes, machine
from lbtest.backends import Backend
from lbtest.daemon import rule
from lbtest.net import BACKEND, BACKEND_ADDR, CLIENT, CLIENT_ADDR, LB_ADDR
from lbtest.process import PATIENCE, run, wait_until
from lbtest.talk import Talk, hears

LISTEN, BACK = 6950, 7950
FAMILIES = (4, 6)
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
NAMED = {4: ("192.0.2.77", "198.51.100.5"), 6: ("2001:db8::77", "2001:db8:5::5")}


def endpoint(addr, port):
    return f"[{addr}]:{port}" if ":" in addr else f"{addr}:{port}"


def v1(source, destination, sport, dport):
    name = "TCP6" if ":" in source else "TCP4"
    return f"PROXY {name} {source} {destination} {sport} {dport}\r\n".encode()


def v2(source, destination, sport, dport, tlvs=b"", command=0x21):
    ends = b"".join(ipaddress.ip_address(a).packed for a in (source, destination))
    body = ends + struct.pack("!HH", sport, dport) + tlvs
    return SIGNATURE + struct.pack("!BBH", command, 0x21 if ":" in source else 0x11,
                                   len(body)) + body


HEADERS = {"v1": v1, "v2": v2}


@pytest.fixture
def start(daemon):
    """start(carrier, family, **keys of the rule) -> a running daemon."""
    def make(carrier="relay", family=4, backends=None, **keys):
        d = daemon({"graft": {"max_flows": 64}, "rules": [
            rule("r", endpoint(LB_ADDR[family], LISTEN),
                 backends or [endpoint(BACKEND_ADDR[family], BACK)], acceleration=carrier,
                 **keys)]}).start()
        lanes.skip_without(carrier, d)
        return d
    return make


def talk(net, family=4, says=b""):
    return Talk(net, (LB_ADDR[family], LISTEN), (BACKEND_ADDR[family], BACK), says=says)


def carry_to_the_end(d, t, carrier, client):
    """Bytes both ways until the flow is on its carrier, more of them, the end, the log's line."""
    for _ in range(20):
        t.exchange(300)
    if carrier == lanes.GRAFT:
        wait_until(lambda: d.grafted() == 1, 5, lambda: f"it is grafted\n{d.log[-2000:]}")
    elif carrier == lanes.SOCKMAP:
        wait_until(lambda: d.promoted() == 1, 5, lambda: f"it is promoted\n{d.log[-2000:]}")
    t.exchange(1 << 20)
    t.finish()
    flow, = d.wait_flows(1)
    assert (flow["carrier"], flow["why"], flow["reason"]) == (carrier, "none" if carrier != "relay"
                                                              else "configured", "done"), flow
    assert int(flow["up"]) == int(flow["down"]) == t.bytes, (flow, t.bytes)
    assert flow["client"] == client, flow
    assert d.metric("l4lb_traffic_bytes_total") == 2 * t.bytes


@pytest.mark.parametrize("carrier", lanes.CARRIERS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("version", HEADERS)
def test_the_backend_hears_who_the_client_is_before_anything_else(net, start, carrier, family,
                                                                  version):
    d = start(carrier, family, proxy_protocol=version)
    with talk(net, family) as t:
        # Although the client has said nothing.
        host, port = t.client.getsockname()[:2]
        hears(t.server, HEADERS[version](host, LB_ADDR[family], port, LISTEN))
        carry_to_the_end(d, t, carrier, endpoint(host, port))
    d.stop()


@pytest.mark.parametrize("carrier", lanes.CARRIERS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("version", HEADERS)
@pytest.mark.parametrize("out", ["off", "v1", "v2"])
def test_a_trusted_proxy_is_believed(net, start, carrier, family, version, out):
    d = start(carrier, family, proxy_protocol=out,
              accept_proxy_protocol=["203.0.113.0/24", "10.81.0.2/32", "fd81::/64"])
    named = (*NAMED[family], 55555, 443)

    with talk(net, family, says=HEADERS[version](*named) + b"early") as t:
        hears(t.server, (HEADERS[out](*named) if out != "off" else b"") + b"early")
        t.server.sendall(b"LATER")  # as many bytes the other way
        hears(t.client, b"LATER")
        t.bytes = len(b"early")
        carry_to_the_end(d, t, carrier, endpoint(named[0], 55555))
    d.stop()


PIECES = {
    "v1": v1(*NAMED[4], 1, 2),
    "v2": v2(*NAMED[4], 1, 2),
    "v2 with type-length-values": v2(*NAMED[4], 1, 2, b"\xee\0\x03abc" + b"\x04\x01\x00" +
                                     bytes(256)),
    "v2 of 4096 bytes": v2(*NAMED[4], 1, 2, b"\xee" + struct.pack("!H", 4096 - 28 - 3) +
                           bytes(4096 - 28 - 3)),
}


@pytest.fixture
def echo(net):
    def serve(conn, stop):
        while True:
            got = conn.recv(65536)
            if not got:
                return
            conn.sendall(got)
    b = Backend(net, BACK, serve)
    yield b
    b.close()


@pytest.mark.parametrize("piece", [1, 7, 5000])
@pytest.mark.parametrize("header", PIECES)
def test_a_header_may_come_in_any_pieces(net, start, echo, header, piece):
    d = start(accept_proxy_protocol=["10.81.0.2"])
    text = PIECES[header] + b"payload"
    with net.connect(LB_ADDR[4], LISTEN) as c:
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(text), piece):
            c.sendall(text[at:at + piece])
        hears(c, b"payload")
    flow, = d.wait_flows(1)
    assert (flow["client"], flow["up"], flow["reason"]) == ("192.0.2.77:1", "7", "done"), flow
    d.stop()


NAMELESS = {
    "LOCAL": v2(*NAMED[4], 1, 2, command=0x20),
    "UNSPEC": SIGNATURE + b"\x21\0\0\0",
    "UNIX": SIGNATURE + b"\x21\x31\0\xd8" + bytes(216),
    "UDP": SIGNATURE + b"\x21\x12" + v2(*NAMED[4], 1, 2)[14:],
    "UNKNOWN": b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n",
}


@pytest.mark.parametrize("header", NAMELESS)
def test_a_header_that_names_nobody_leaves_the_peer_as_the_client(net, start, echo, header):
    d = start(accept_proxy_protocol=["10.81.0.2"])
    with net.connect(LB_ADDR[4], LISTEN) as c:
        c.sendall(NAMELESS[header] + b"payload")
        hears(c, b"payload")
        own = endpoint(*c.getsockname())
    flow, = d.wait_flows(1)
    assert (flow["client"], flow["reason"]) == (own, "done"), flow
    d.stop()


def is_reset(sock, seconds=5):
    with sock:
        sock.settimeout(seconds * PATIENCE)
        try:
            assert sock.recv(1) == b"", "it was answered"
            return False
        except ConnectionResetError:
            return True


REFUSED = {
    "no header": (b"GET / HTTP/1.0\r\n\r\n", "proxy_header"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "proxy_header"),
    "a line that does not end": (b"PROXY UNKNOWN " + b"x" * 100, "proxy_header"),
    "a broken address": (b"PROXY TCP4 192.0.2.256 192.0.2.1 1 2\r\n", "proxy_header"),
    "4097 bytes": (SIGNATURE + b"\x21\0" + struct.pack("!H", 4097 - 16), "proxy_header"),
    "version 3": (SIGNATURE + b"\x31\x11\0\x0c" + bytes(12), "proxy_header"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_begin_with_a_valid_header_is_refused_at_once(net, start, echo, what):
    d = start(accept_proxy_protocol=["10.81.0.2"])
    text, reason = REFUSED[what]
    c = net.connect(LB_ADDR[4], LISTEN)
    c.sendall(text)
    assert is_reset(c)
    flow, = d.wait_flows(1)
    assert (flow["reason"], flow["backend"], flow["up"]) == (reason, "-", "0"), flow
    assert float(flow["duration_ms"]) < 5000, "the time for a header is 10 s"
    assert echo.connections == 0
    d.stop()


@pytest.mark.parametrize("said", [b"", b"PROXY TCP4 192.0", SIGNATURE + b"\x21\x11\0\x0c"],
                         ids=["nothing", "half of v1", "half of v2"])
def test_who_closes_before_the_header_is_whole_is_not_served(net, start, echo, said):
    d = start(accept_proxy_protocol=["10.81.0.2"])
    c = net.connect(LB_ADDR[4], LISTEN)
    c.sendall(said)
    c.shutdown(socket.SHUT_WR)
    assert is_reset(c)
    flow, = d.wait_flows(1)
    assert (flow["reason"], flow["backend"]) == ("proxy_header", "-"), flow
    assert echo.connections == 0
    d.stop()


def test_a_peer_that_is_not_trusted_is_refused_whatever_it_says(net, start, echo):
    d = start(accept_proxy_protocol=["10.81.0.0/31", "fd81::2"])
    for said in (b"", v1(*NAMED[4], 1, 2), b"GET / HTTP/1.0\r\n\r\n"):
        # The reset may be there before it speaks.
        with pytest.raises(ConnectionError), net.connect(LB_ADDR[4], LISTEN) as c:
            c.sendall(said)
            assert c.recv(1) == b"", "it was answered"
    assert {(f["reason"], f["client"].split(":")[0]) for f in d.wait_flows(3)} == \
        {("proxy_untrusted", CLIENT_ADDR[4])}
    assert d.metric("l4lb_ends_total", reason="proxy_untrusted") == 3
    assert echo.connections == 0
    d.stop()


def test_a_header_is_payload_where_none_is_expected(net, start, echo):
    d = start()
    with net.connect(LB_ADDR[4], LISTEN) as c:
        c.sendall(v1(*NAMED[4], 1, 2))
        hears(c, v1(*NAMED[4], 1, 2))
    d.stop()


@pytest.mark.parametrize("carrier", [lanes.RELAY, lanes.GRAFT])
def test_limits_count_whom_the_header_names(net, start, carrier):
    d = start(carrier, accept_proxy_protocol=["10.81.0.2"], client_connection_limit=1)
    site = graft.Site(d, (LB_ADDR[4], LISTEN), (BACKEND_ADDR[4], BACK))

    def open_as(name):
        c = net.connect(LB_ADDR[4], LISTEN)
        c.sendall(v1(name, "192.0.2.254", 7, 443))
        return c

    def served(name):
        c = open_as(name)
        s, _ = site.listener.accept()
        s.settimeout(5 * PATIENCE)
        flow = graft.Flow(c, s)
        for _ in range(70):
            flow.ping(100)
        return flow
    flows = [served(f"192.0.2.{i}") for i in range(3)]
    if carrier == lanes.GRAFT:
        wait_until(lambda: d.grafted() == 3, 5, "all are grafted")
        # Nor does a new daemon forget who they are.
        d.crash()
        d.start()
        assert d.count_log("3 grafted flows of an earlier run go on") == 1
    assert is_reset(open_as("192.0.2.1"))
    assert d.wait_flows(1)[0]["reason"] == "client_limit"
    flows[1].close()
    assert d.wait_flows(2)[1]["client"] == "192.0.2.1:7"
    flows[1] = served("192.0.2.1")
    for f in flows:
        f.ping()
        f.close()
    d.wait_flows(5)
    site.close()
    d.stop()


def test_source_hash_goes_by_whom_the_header_names(net, start):
    heard = []

    def of(name):
        def serve(conn, stop):
            heard.append((conn.recv(100), name))
            conn.sendall(b"!")
        return serve
    backends = [Backend(net, BACK + i, of(i)) for i in range(4)]
    d = start(backends=[endpoint(BACKEND_ADDR[4], BACK + i) for i in range(4)],
              balance="source_hash", accept_proxy_protocol=["10.81.0.0/24"])
    for _ in range(3):
        for client in range(16):
            with net.connect(LB_ADDR[4], LISTEN) as c:
                c.sendall(v2(f"192.0.2.{client}", "192.0.2.254", 1, 2) + b"%d" % client)
                assert c.recv(1) == b"!"
    assert len(heard) == 48
    assert len(set(heard)) == 16, "every client has its backend"
    assert len({name for _, name in heard}) > 1
    for b in backends:
        b.close()
    d.stop()


def test_a_check_begins_with_the_header_that_flows_begin_with(net, start):
    heard = []

    def serve(conn, stop):
        heard.append(conn.recv(4096))
        conn.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    b = Backend(net, BACK, serve)
    d = start(proxy_protocol="v2", health_check={"enabled": True, "interval_ms": 100,
                                                 "protocol": "http", "send_proxy": True})
    wait_until(lambda: heard, 3, "a check")
    assert heard[0].startswith(SIGNATURE + b"\x20\0\0\0GET / HTTP/1.1\r\n"), heard[0]
    b.close()
    d.stop()


@pytest.mark.parametrize("slow", ["silent", "two bytes, then silent"])
def test_slow_clients_are_closed_on_time_and_delay_nobody(net, start, echo, slow):
    count, handshake_s = 1200, 2 * PATIENCE
    d = start(accept_proxy_protocol=["10.81.0.2"], timeouts={"handshake_ms": handshake_s * 1000})
    header = v1(*NAMED[4], 1, 2)

    def connect_all():
        return [socket.create_connection((LB_ADDR[4], LISTEN), 5) for _ in range(count)]
    begin = time.monotonic()
    socks = net.call(CLIENT, connect_all)
    opened = time.monotonic()
    wait_until(lambda: d.metric("l4lb_active_connections") == count, 5, "all are there")
    if slow != "silent":
        for at in range(2):
            for s in socks:
                s.sendall(header[at:at + 1])
            time.sleep(0.2)
    # Somebody who speaks is served at once.
    asked = time.monotonic()
    with net.connect(LB_ADDR[4], LISTEN) as c:
        c.sendall(header + b"payload")
        hears(c, b"payload")
        took = time.monotonic() - asked
    assert took < handshake_s / 2, took
    assert time.monotonic() < begin + handshake_s, "too late to tell"
    cpu = machine.process_cpu(d.pid)
    flows = d.wait_flows(count + 1, seconds=handshake_s + 3)
    over = time.monotonic()
    ends = [f for f in flows if f["reason"] == "handshake_timeout"]
    assert len(ends) == count, {f["reason"] for f in flows}
    durations = sorted(int(f["duration_ms"]) for f in ends)
    assert durations[0] >= handshake_s * 1000 and durations[-1] < handshake_s * 1000 + 500, \
        (durations[0], durations[-1])
    assert over < opened + handshake_s + 1, over - opened
    assert machine.process_cpu(d.pid) - cpu < 0.5 * PATIENCE
    for s in socks:
        assert is_reset(s, 1)
    assert echo.connections == 1
    d.check_idle()
    d.stop()


NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log; events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen {four}:{port} proxy_protocol; listen [{six}]:{port} proxy_protocol;
    location / {{ return 200
      "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr "
      "$proxy_protocol_server_port\\n"; }}
  }}
}}
"""


@pytest.fixture
def nginx(net, folder):
    if not shutil.which("nginx"):
        pytest.skip("nginx is not installed")
    config = folder / "nginx.conf"
    text = NGINX.replace('return 200\n      "', 'return 200 "').replace('"\n      "', "")
    config.write_text(text.format(folder=folder, port=BACK, four=BACKEND_ADDR[4],
                                  six=BACKEND_ADDR[6]))
    process = net.start(BACKEND, "nginx", ["nginx", "-c", str(config)], folder)

    def listens():
        assert process.alive(), process.stderr
        with contextlib.suppress(OSError):
            net.call(BACKEND, lambda: socket.create_connection((BACKEND_ADDR[4], BACK), 1)).close()
            return True
    wait_until(listens, 5, "nginx listens")
    yield process
    process.kill()


def get(net, family=4, port=LISTEN):
    return run(*net.inside(CLIENT), "curl", "-sS", "--max-time", "5", "-w", "%{local_port}",
               f"http://{endpoint(LB_ADDR[family], port)}/").stdout.split()


@pytest.mark.parametrize("carrier", lanes.CARRIERS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("version", HEADERS)
def test_nginx_is_told_who_the_client_is(net, start, nginx, carrier, family, version):
    d = start(carrier, family, proxy_protocol=version)
    for _ in range(5):
        host, port, destination, listen, own = get(net, family)
        assert (host, port) == (CLIENT_ADDR[family], own)
        assert (destination, listen) == (LB_ADDR[family], str(LISTEN))
    d.stop()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sender", ["send-proxy", "send-proxy-v2"])
def test_haproxy_in_front_of_us_is_believed(net, start, nginx, folder, family, sender):
    if not shutil.which("haproxy"):
        pytest.skip("haproxy is not installed")
    port = 6951
    config = folder / "haproxy.cfg"
    config.write_text(f"""
defaults
  mode tcp
  timeout connect 2s
  timeout client 10s
  timeout server 10s
listen front
  bind {endpoint(CLIENT_ADDR[family], port)}
  server us {endpoint(LB_ADDR[family], LISTEN)} {sender}
""")
    d = start("relay", family, proxy_protocol="v2",
              accept_proxy_protocol=[CLIENT_ADDR[family]])
    process = net.start(CLIENT, "haproxy", ["haproxy", "-db", "-f", str(config)], folder)

    def ask():
        done = run(*net.inside(CLIENT), "curl", "-sS", "--max-time", "5", "-w", "%{local_port}",
                   f"http://{endpoint(CLIENT_ADDR[family], port)}/", check=False)
        return not done.returncode and done.stdout.split()
    host, source, destination, listen, own = wait_until(
        ask, 5, lambda: f"an answer\n{process.stderr}")
    assert (host, source) == (CLIENT_ADDR[family], own)
    assert (destination, listen) == (CLIENT_ADDR[family], str(port))
    assert d.wait_flows(1)[0]["client"] == endpoint(host, source)
    process.kill()
    d.stop()
