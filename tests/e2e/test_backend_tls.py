# SPDX-License-Identifier: MIT
"""TLS with backends: who is believed, who is not and how the log says so, resumption, checks."""
import socket
import ssl
import struct
import time

import pytest

from lbtest import backends, tls
from lbtest.backends import Backend, wait_status
from lbtest.certs import Authority, new_key
from lbtest.daemon import rule
from lbtest.net import BACKEND_ADDR, LB_ADDR
from lbtest.process import run, wait_until

LISTEN, BACK = 6970, 7970
AT = (LB_ADDR[4], LISTEN)


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pair(ca):
    return ca.issue("app.example")


@pytest.fixture
def serve(net):
    """serve(kind, number): a backend that does as backends.py says."""
    made = []

    def make(kind, number=0):
        made.append(Backend(net, BACK + number, kind))
        return made[-1]
    yield make
    for b in made:
        b.close()


@pytest.fixture
def start(daemon, ca):
    """start(backend_tls keys, **keys of the rule)."""
    def make(keys=None, count=1, **more):
        keys = {"enabled": True, "ca": str(ca.cert), "name": "app.example", **(keys or {})}
        return daemon({"workers": 1, "rules": [rule(
            "r", f"{LB_ADDR[4]}:{LISTEN}",
            more.pop("backends", [f"{BACKEND_ADDR[4]}:{BACK + i}" for i in range(count)]),
            backend_tls={k: v for k, v in keys.items() if v is not None}, **more)]}).start()
    return make


def ping(c, text=b"ping"):
    c.sendall(text)
    got = b""
    while len(got) < len(text):
        more = c.recv(len(text) - len(got))
        assert more, f"closed after {got!r}"
        got += more
    assert got == text


def is_refused(net):
    with net.connect(*AT) as c:
        try:
            c.sendall(b"secret")
            assert c.recv(1) == b"", "it was answered"
        except ConnectionError:
            return True
    return False


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_plain_client_reaches_a_backend_that_speaks_tls(net, start, serve, pair, version):
    heard = []

    def keep(conn, stop):
        heard.append(conn.version())
        tls.echo(conn, stop)
    serve(tls.serving(pair, keep, version=version))
    d = start()
    for _ in range(3):
        with net.connect(*AT) as c:
            ping(c)
            ping(c, bytes(range(256)) * 2000)
            c.shutdown(socket.SHUT_WR)
            assert c.recv(1) == b""
    assert heard == [version.name.replace("_", ".")] * 3, heard
    flows = d.wait_flows(3)
    assert {(f["reason"], f["why"], f["up"]) for f in flows} == {("done", "tls", "512004")}, flows
    # The first session is resumed.
    assert d.metric("l4lb_tls_handshakes_total", side="backend", result="full") == 1
    assert d.metric("l4lb_tls_handshakes_total", side="backend", result="resumed") == 2
    d.check_idle()
    d.stop()


def bad_pairs(ca):
    revoked = ca.issue("app.example")
    ca.revoke(revoked)
    other = Authority(ca.folder, "others")
    return {
        "certificate has expired": ca.issue("app.example", start="20200101000000Z",
                                            end="20210101000000Z"),
        "certificate is not yet valid": ca.issue("app.example", start="20400101000000Z",
                                                 end="20410101000000Z"),
        "hostname mismatch": ca.issue("other.example", "*.app.example"),
        "unable to get local issuer certificate": other.issue("app.example"),
        "certificate revoked": revoked,
        "unsuitable certificate purpose": ca.issue("app.example", usage="clientAuth"),
    }


def test_backends_that_cannot_be_believed_get_nothing_and_the_log_says_why(net, start, serve, ca):
    heard = []
    for why, pair in bad_pairs(ca).items():
        b = serve(tls.serving(pair, lambda conn, stop: heard.append(conn.recv(100))))
        d = start({"crl": str(ca.crl())})
        assert is_refused(net), why
        d.wait_flows(1)
        line = d.access_log.read_text()
        assert "reason=backend_tls_failed" in line and f'detail="{why}"' in line, (why, line)
        assert d.metric("l4lb_tls_handshakes_total", side="backend", result="failed") == 1
        assert d.metric("l4lb_backend_connect_failures_total") == 1
        d.stop()
        b.close()
    assert not heard, "a byte of payload reached somebody who was not believed"


def plain(conn, stop):
    conn.recv(1000)
    conn.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")


def resets(conn, stop):
    conn.recv(1)
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


NO_TLS = {"plain": plain, "silent": backends.silent, "closes": backends.closes, "resets": resets}


@pytest.mark.parametrize("kind", NO_TLS)
def test_the_next_backend_is_tried_when_one_will_not_do(net, start, serve, pair, kind):
    serve(NO_TLS[kind], 0)
    good = serve(tls.serving(pair, tls.echo), 1)
    d = start(count=2, timeouts={"connect_ms": 500})
    for _ in range(4):
        with net.connect(*AT) as c:
            ping(c)
    flows = d.wait_flows(4)
    assert {f["reason"] for f in flows} == {"done"}
    second = [f["tries"] for f in flows].count("2")
    assert second and second + [f["tries"] for f in flows].count("1") == 4, flows
    assert all(f["backend"].endswith(str(BACK + 1)) for f in flows)
    assert good.connections == 4
    assert d.metric("l4lb_tls_handshakes_total", side="backend", result="failed") == second
    d.check_idle()
    d.stop()


def test_who_is_asked_for_and_verified(net, start, serve, ca):
    """The rule's name, else the backend's, else its host; an address is verified as one."""
    asked = []

    def server(*names):
        pair = ca.issue(*names)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.cert, pair.key)
        context.sni_callback = lambda sock, name, ctx: asked.append(name)

        def one(conn, stop):
            with context.wrap_socket(conn, server_side=True) as sealed:
                tls.echo(sealed, stop)
        return one
    at = f"{BACKEND_ADDR[4]}:{BACK}"
    cases = [({"name": "app.example"}, [{"addr": at, "tls_name": "x.example"}], "app.example"),
             ({"name": None}, [{"addr": at, "tls_name": "own.example"}], "own.example"),
             ({"name": None}, [at], None)]
    for keys, where, want in cases:
        b = serve(server(want or BACKEND_ADDR[4]))
        d = start(keys, backends=where)
        with net.connect(*AT) as c:
            ping(c)
        assert asked.pop() == want and not asked
        d.stop()
        b.close()


def test_without_verification_anybody_will_do_and_a_warning_says_so(net, start, serve, ca):
    other = Authority(ca.folder, "others")
    serve(tls.serving(other.issue("other.example", start="20200101000000Z",
                                  end="20210101000000Z"), tls.echo))
    d = start({"ignore_verify": True})
    with net.connect(*AT) as c:
        ping(c)
    assert d.count_log(r"warn +rule r: backend_tls.ignore_verify: backends are not verified") == 1
    d.stop()


def test_we_show_our_own_certificate(net, start, serve, ca, pair):
    own = ca.issue(cn="balancer", usage="clientAuth")
    shown = []

    def keep(conn, stop):
        shown.append(dict(f[0] for f in conn.getpeercert()["subject"])["commonName"])
        tls.echo(conn, stop)
    serve(tls.serving(pair, keep, ca=ca.cert))
    d = start({"client_cert": str(own.cert), "client_key": str(own.key)})
    with net.connect(*AT) as c:
        ping(c)
    assert shown == ["balancer"]
    d.stop()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_proxy_header_goes_before_the_handshake(net, start, serve, pair, version):
    heard = []
    inner = tls.serving(pair, tls.echo)

    def keep(conn, stop):
        # Not a byte of TLS must be read.
        size = 28 if version == "v2" else None
        got = b""
        while (len(got) < size) if size else not got.endswith(b"\r\n"):
            got += conn.recv(1)
        heard.append(got)
        inner(conn, stop)
    serve(keep)
    d = start(proxy_protocol=version)
    with net.connect(*AT) as c:
        ping(c)
        port = c.getsockname()[1]
    if version == "v1":
        assert heard == [f"PROXY TCP4 10.81.0.2 10.81.0.1 {port} {LISTEN}\r\n".encode()]
    else:
        assert heard[0][16:] == bytes([10, 81, 0, 2, 10, 81, 0, 1]) + struct.pack("!HH", port,
                                                                                 LISTEN)
    d.stop()


def test_a_backends_stream_that_is_cut_never_looks_whole(net, start, serve, pair):
    def cut(conn, stop):
        conn.sendall(b"half of it")
        raw = socket.socket(fileno=conn.detach())
        raw.shutdown(socket.SHUT_WR)
        stop.wait(1)
        raw.close()
    serve(tls.serving(pair, cut))
    d = start()
    with net.connect(*AT) as c, pytest.raises(ConnectionResetError):
        got = b""
        while True:
            more = c.recv(100)
            assert more, f"a good end after {got}"
            got += more
    assert d.wait_flows(1)[0]["reason"] == "tls_truncated"
    d.stop()


# --- health checks ------------------------------------------------------------------------------

CHECK = {"enabled": True, "interval_ms": 100, "timeout_ms": 500, "tls": True, "fall": 1, "rise": 1}
HTTP = {**CHECK, "protocol": "http"}


@pytest.mark.parametrize("check", [CHECK, HTTP, {**CHECK, "send": "ping", "expect": "HTTP"}],
                         ids=["tcp", "http", "expect"])
def test_a_check_over_tls_finds_a_good_backend_good(start, serve, pair, check):
    def answer(conn, stop):
        if check is not CHECK:
            conn.recv(1000)
            conn.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    serve(tls.serving(pair, answer))
    d = start(health_check={**check, "initial": "unknown"})
    wait_status(d, 1, 5)
    wait_until(lambda: d.metric("l4lb_backend_health_checks_total") >= 5, 5, "checks")
    assert d.metric("l4lb_backend_health_check_failures_total") == 0, d.log
    d.check_idle()
    d.stop()


def test_a_check_over_tls_verifies_as_flows_do(start, serve, ca):
    serve(tls.serving(ca.issue("other.example"), tls.echo))
    d = start(health_check=CHECK)
    wait_status(d, 0, 5)
    assert d.count_log("is down: TLS: hostname mismatch") == 1, d.log
    d.stop()


@pytest.mark.parametrize("kind", NO_TLS)
def test_a_check_over_tls_finds_who_speaks_none(start, serve, kind):
    serve(NO_TLS[kind])
    d = start(health_check=CHECK)
    wait_status(d, 0, 5)
    d.stop()


def test_a_check_over_tls_of_a_rule_that_passes_tls_through(daemon, serve, ca):
    serve(tls.serving(ca.issue("whoever.example"), tls.echo))
    d = daemon({"rules": [rule("r", f"{LB_ADDR[4]}:{LISTEN}", [f"{BACKEND_ADDR[4]}:{BACK}"],
                               health_check={**CHECK, "initial": "unknown"})]}).start()
    wait_status(d, 1, 5)
    d.stop()


# --- files --------------------------------------------------------------------------------------


def test_what_is_wrong_with_files_is_told_where_it_stands(daemon, ca, pair, folder):
    key = new_key(folder / "other.key")
    sealed = folder / "sealed.key"
    run("openssl", "pkey", "-in", pair.key, "-aes128", "-passout", "pass:secret", "-out", sealed)
    broken = folder / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    empty = folder / "empty.pem"
    empty.write_text("nothing\n")
    good = {"enabled": "true", "cert": pair.cert, "key": pair.key}
    cases = [
        ("tls", {**good, "key": sealed}, "key", "is encrypted; store it without a passphrase"),
        ("tls", {**good, "key": key}, "key", "does not belong to the certificate in"),
        ("tls", {**good, "key": empty}, "key", "holds no PEM private key"),
        ("tls", {**good, "cert": empty}, "cert", "holds no PEM certificate"),
        ("tls", {**good, "cert": broken}, "cert", "holds no PEM certificate"),
        ("tls", {**good, "cert": folder / "no"}, "cert", "cannot be read: No such file"),
        ("tls", {**good, "ciphers": "nonsense"}, "ciphers", "OpenSSL knows none of these"),
        ("tls", {**good, "groups": "nonsense"}, "groups", "OpenSSL does not know all of these"),
        ("tls", {**good, "client_ca": empty}, "client_ca", "holds no PEM certificate"),
        ("tls", {**good, "client_ca": ca.cert, "client_crl": empty}, "client_crl",
         "holds no PEM revocation list"),
        ("backend_tls", {"enabled": "true", "ca": empty}, "ca", "holds no PEM certificate"),
        ("backend_tls", {"enabled": "true", "ca": ca.cert, "client_cert": pair.cert,
                         "client_key": key}, "client_key", "does not belong"),
    ]
    d = daemon({"rules": []})
    for block, keys, bad, words in cases:
        lines = ["rules:", "  - name: r", '    listen: "127.0.0.1:1"',
                 '    backends: ["127.0.0.1:2"]', f"    {block}:"]
        lines += [f"      {k}: {v}" for k, v in keys.items()]
        d.config.write_text("\n".join(lines) + "\n")
        number = 1 + next(i for i, line in enumerate(lines) if line.startswith(f"      {bad}:"))
        done = run(*d.command, "--check", check=False)
        assert done.returncode == 1, (bad, done.stderr)
        want = f"{d.config}:{number}:7: rules[0].{block}.{bad}: "
        assert done.stderr.startswith(want) and words in done.stderr, (want, words, done.stderr)
    listed = ["rules:", "  - name: r", '    listen: "127.0.0.1:1"',
              '    backends: ["127.0.0.1:2"]', "    tls:", "      enabled: true",
              "      certificates:", f"        - cert: {pair.cert}", f"          key: {pair.key}",
              f"        - cert: {pair.cert}", f"          key: {key}"]
    d.config.write_text("\n".join(listed) + "\n")
    done = run(*d.command, "--check", check=False)
    assert done.stderr.startswith(f"{d.config}:11:11: rules[0].tls.certificates[1].key: "), \
        done.stderr


def test_a_certificate_that_ends_soon_is_warned_of(daemon, ca, folder):
    soon = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + 3 * 86400 + 600))
    for end, words in ((soon, "a certificate expires in 3 days"),
                       ("20210101000000Z", "a certificate has expired")):
        pair = ca.issue("app.example", start="20200101000000Z", end=end)
        d = daemon({"rules": [rule("r", "127.0.0.1:1", ["127.0.0.1:2"],
                                   tls={"enabled": True, **pair.config()})]})
        done = run(*d.command, "--check")
        assert words in done.stderr, done.stderr
