# SPDX-License-Identifier: MIT
"""TLS with clients: who gets which certificate, who is let in, what the log and backends hear."""
import re
import shutil
import signal
import ssl
import time

import pytest

from lbtest import machine, tls
from lbtest.certs import Authority
from lbtest.daemon import PROGRAM, rule
from lbtest.net import BACKEND_ADDR, CLIENT, LB, LB_ADDR, PREFIX
from lbtest.process import BUILD, PATIENCE, ROOT, run, wait_until
from lbtest.tls_rule import (  # fixtures, too
    AT, BACK, LISTEN, Kept, ca, echo, pair, ping, refused, serve, start)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_bytes_cross_and_the_log_counts_the_payload(net, start, echo, ca, version):
    d = start()
    with tls.connect(net, AT, tls.client_context(ca.cert, version=version)) as c:
        ping(c)
        ping(c, bytes(range(256)) * 4000)
        own = c.getsockname()
        assert c.unwrap().recv(1) == b"", "both say goodbye, then the FIN"
    flow, = d.wait_flows(1)
    assert (flow["carrier"], flow["why"], flow["reason"]) == ("relay", "tls", "done"), flow
    assert flow["up"] == flow["down"] == str(4 + 256 * 4000), flow
    assert flow["client"] == f"{own[0]}:{own[1]}"
    assert d.metric("l4lb_tls_handshakes_total", side="client", result="full") == 1
    assert d.metric("l4lb_tls_certificate_expiry_seconds") > time.time()
    d.check_idle()
    d.stop()


NAMES = {"app.example": "app.example", "APP.example": "app.example", "a.app.example": "app.example",
         "b.a.app.example": "default", "other.example": "other.example",
         "x.other.example": "default",
         "exact.app.example": "exact.app.example", "nobody.example": "default", None: "default"}


def test_the_name_a_client_asks_for_chooses_the_certificate(net, start, echo, ca, pair):
    default = ca.issue("default.example", cn="default")
    others = [ca.issue("app.example", "*.app.example", cn="app.example"),
              ca.issue("other.example", kind="rsa"), ca.issue("exact.app.example")]
    d = start({**default.config(), "certificates": [p.config() for p in others]})
    context = tls.client_context(ca.cert)
    context.check_hostname = False
    for name, want in NAMES.items():
        with tls.connect(net, AT, context, name=name) as c:
            subject = dict(field[0] for field in c.getpeercert()["subject"])
            assert subject["commonName"] == want, name
            ping(c)
    d.stop()


@pytest.mark.parametrize("kind", ["ec", "rsa", "ed25519"])
def test_any_kind_of_key_will_do(net, start, echo, ca, kind):
    d = start(ca.issue("app.example", kind=kind).config())
    with tls.connect(net, AT, tls.client_context(ca.cert)) as c:
        ping(c)
    d.stop()


def test_one_protocol_is_agreed_on_or_the_client_is_told(net, start, echo, ca):
    d = start({"alpn": ["h2", "http/1.1"]})
    for offered, want in ((["http/1.1", "h2"], "h2"), (["spdy", "http/1.1"], "http/1.1"),
                          ([], None)):
        with tls.connect(net, AT, tls.client_context(ca.cert, alpn=offered)) as c:
            assert c.selected_alpn_protocol() == want
            ping(c)
    assert "no application protocol" in refused(net, tls.client_context(ca.cert, alpn=["spdy"]))
    d.stop()


def test_old_versions_and_other_ciphers_are_refused(net, start, echo, ca):
    d = start({"min_version": "1.3"})
    refused(net, tls.client_context(ca.cert, version=ssl.TLSVersion.TLSv1_2))
    with tls.connect(net, AT, tls.client_context(ca.cert)) as c:
        assert c.version() == "TLSv1.3"
        ping(c)
    assert d.wait_flows(2)[0]["reason"] == "tls_failed"
    d.stop()
    two = ssl.TLSVersion.TLSv1_2
    d = start({"ciphers": "ECDHE-ECDSA-AES256-GCM-SHA384:TLS_AES_256_GCM_SHA384",
               "groups": "P-384"})
    with tls.connect(net, AT, tls.client_context(ca.cert, version=two)) as c:
        assert c.cipher()[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"
    with tls.connect(net, AT, tls.client_context(ca.cert)) as c:
        assert c.cipher()[0] == "TLS_AES_256_GCM_SHA384"
    refused(net, tls.client_context(ca.cert, version=two, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256"))
    d.stop()


# --- client certificates ------------------------------------------------------------------------


def test_only_clients_with_a_good_certificate_reach_a_backend(net, start, echo, ca):
    clients = Authority(ca.folder, "clients")
    good, revoked = (clients.issue(cn=n, usage="clientAuth") for n in ("good", "revoked"))
    old = clients.issue(cn="old", usage="clientAuth", start="20200101000000Z",
                        end="20210101000000Z")
    clients.revoke(revoked)
    stranger = ca.issue(cn="stranger", usage="clientAuth")
    d = start({"client_ca": str(clients.cert), "client_crl": str(clients.crl())})
    for cert in (None, revoked, old, stranger):
        refused(net, tls.client_context(ca.cert, cert=cert))
    assert echo.connections == 0
    details = [(f["reason"], f["backend"]) for f in d.wait_flows(4)]
    assert details == [("tls_failed", "-")] * 4
    told = d.access_log.read_text()
    for words in ("peer did not return a certificate", "certificate revoked",
                  "certificate has expired", "self-signed certificate in certificate chain"):
        assert f'detail="{words}"' in told, (words, told)
    with tls.connect(net, AT, tls.client_context(ca.cert, cert=good)) as c:
        ping(c)
    assert d.metric("l4lb_tls_handshakes_total", side="client", result="failed") == 4
    d.stop()


def test_an_optional_certificate_may_be_missing_but_not_wrong(net, start, echo, ca):
    clients = Authority(ca.folder, "clients")
    d = start({"client_ca": str(clients.cert), "client_auth": "optional"})
    for cert in (None, clients.issue(cn="good", usage="clientAuth")):
        with tls.connect(net, AT, tls.client_context(ca.cert, cert=cert)) as c:
            ping(c)
    refused(net, tls.client_context(ca.cert, cert=ca.issue(cn="stranger", usage="clientAuth")))
    d.stop()


# --- sessions -----------------------------------------------------------------------------------


def session_of(net, context, at=AT):
    """Of a connection that has said something: the ticket of TLS 1.3 comes after the handshake."""
    with tls.connect(net, at, context) as c:
        ping(c)
        return c.session


def is_resumed(net, context, session, at=AT):
    with tls.connect(net, at, context, session=session) as c:
        ping(c)
        return c.session_reused


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("tickets", [True, False])
def test_sessions_are_resumed_by_ticket_or_not_at_all(net, start, echo, ca, version, tickets):
    d = start({"session_tickets": tickets})
    context = tls.client_context(ca.cert, version=version)
    session = session_of(net, context)
    if session is None:
        assert not tickets
    else:
        # Any worker opens what another one has sealed.
        assert [is_resumed(net, context, session) for _ in range(8)] == [tickets] * 8
    assert d.metric("l4lb_tls_handshakes_total", side="client", result="resumed") == \
        (8 if tickets else 0)
    d.stop()


def test_a_ticket_opens_no_other_rule(net, daemon, echo, ca, pair):
    clients = Authority(ca.folder, "clients")
    common = {"enabled": True, **pair.config()}
    kinds = {"open": {}, "other": {}, "closed": {"client_ca": str(clients.cert)},
             "optional": {"client_ca": str(clients.cert), "client_auth": "optional"}}
    d = daemon({"rules": [rule(name, f"{LB_ADDR[4]}:{LISTEN + i}", [f"{BACKEND_ADDR[4]}:{BACK}"],
                               tls={**common, **keys})
                          for i, (name, keys) in enumerate(kinds.items())]}).start()
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = tls.client_context(ca.cert, version=version)
        session = session_of(net, context)
        assert is_resumed(net, context, session)
        assert not is_resumed(net, context, session, (AT[0], LISTEN + 1))
        assert not is_resumed(net, context, session, (AT[0], LISTEN + 3))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            is_resumed(net, context, session, (AT[0], LISTEN + 2))
    d.stop()


# --- with programs that people use --------------------------------------------------------------


@pytest.fixture
def http(serve):
    def answer(conn, stop):
        got = b""
        while b"\r\n\r\n" not in got:
            more = conn.recv(4096)
            if not more:
                return
            got += more
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n")
    return serve(answer)


@pytest.mark.parametrize("options", [["--tls-max", "1.2"], ["--tlsv1.3"], ["--http1.1"]])
def test_curl_is_content(net, start, http, ca, options):
    d = start()
    for _ in range(3):
        done = run(*net.inside(CLIENT), "curl", "-sS", "--max-time", 5, "--cacert", ca.cert,
                   *options, "--connect-to", f"app.example:443:{AT[0]}:{LISTEN}",
                   "https://app.example/")
        assert done.stdout == "hello\n"
    assert {f["reason"] for f in d.wait_flows(3)} == {"done"}
    d.stop()


def test_openssl_s_client_is_content(net, start, echo, ca):
    d = start()
    done = run(*net.inside(CLIENT), "openssl", "s_client", "-connect", f"{AT[0]}:{LISTEN}",
               "-servername", "app.example", "-CAfile", ca.cert, "-verify_return_error",
               "-verify_hostname", "app.example", stdin="Q\n")
    assert "Verify return code: 0 (ok)" in done.stdout
    assert "Compression: NONE" in done.stdout
    d.stop()


def test_sslscan_finds_nothing_old(net, start, echo):
    if not shutil.which("sslscan"):
        pytest.skip("sslscan is not installed")
    d = start()
    out = run(*net.inside(CLIENT), "sslscan", "--no-colour", "--sni-name=app.example",
              f"{AT[0]}:{LISTEN}", seconds=60).stdout
    for old in ("SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1"):
        assert re.search(rf"^{re.escape(old)}\s+disabled", out, re.M), out
    for new in ("TLSv1.2", "TLSv1.3"):
        assert re.search(rf"^{re.escape(new)}\s+enabled", out, re.M), out
    # Its own OpenSSL may be built without compression: s_client tells then (above).
    assert re.search("Compression disabled|does not support compression", out), out
    assert "Session renegotiation not supported" in out, out
    assert "not vulnerable to heartbleed" in out and "vulnerable to heartbleed" not in \
        out.replace("not vulnerable to heartbleed", ""), out
    ciphers = re.findall(r"^(?:Preferred|Accepted)\s+TLSv1\.2\s+\d+ bits\s+(\S+)", out, re.M)
    assert ciphers and all(c.startswith("ECDHE-") and ("GCM" in c or "CHACHA20" in c)
                           for c in ciphers), out
    d.stop()


@pytest.mark.parametrize("chain", [False, True])
def test_a_certificate_is_sent_with_what_stands_in_its_file(net, start, echo, ca, folder, chain):
    """Not with an issuer that happens to be among those whom clients are believed for."""
    pair = ca.issue("app.example")
    both = folder / "both.pem"
    both.write_text(pair.cert.read_text() + (ca.cert.read_text() if chain else ""))
    d = start({"cert": str(both), "key": str(pair.key), "client_ca": str(ca.cert),
               "client_auth": "optional"})
    done = run(*net.inside(CLIENT), "openssl", "s_client", "-showcerts", "-connect",
               f"{AT[0]}:{LISTEN}", stdin="Q\n")
    assert done.stdout.count("BEGIN CERTIFICATE") == (2 if chain else 1), done.stdout
    d.stop()


def test_renegotiation_is_refused(net, start, echo):
    d = start()
    done = run(*net.inside(CLIENT), "sh", "-c",
               f"(echo R; sleep 1) | openssl s_client -tls1_2 -connect {AT[0]}:{LISTEN}",
               check=False)
    assert "RENEGOTIATING" in done.stdout + done.stderr
    assert "no renegotiation" in done.stderr, done.stderr
    d.stop()


# --- the sample ---------------------------------------------------------------------------------


def test_the_sample_works_in_all_modes_as_shipped(net, folder):
    run("sh", "-c", f"cd {folder} && {ROOT}/scripts/generate_certs.sh")
    assert (folder / "certs/server.key").stat().st_mode & 0o77 == 0
    demo = net.start(LB, "demo", [BUILD / "lb-demo-backend", "--http", "127.0.0.1:9201"], folder)
    lb = net.start(LB, "sample", [
        "sh", "-c", f"cd {folder} && exec {PROGRAM} --config {ROOT}/lb_tls_test.yaml "
        f"--instance {PREFIX}sample"], folder)
    try:
        wait_until(lambda: " ready" in lb.stderr, 10, lambda: lb.stderr)
        for url in ("https://localhost:8443/", "https://localhost:8444/", "http://localhost:8445/",
                    "https://localhost:8446/", "https://localhost:8447/"):
            done = run(*net.inside(LB), "curl", "-4sS", "--max-time", 5, "--cacert",
                       folder / "certs/ca.pem", url)
            assert done.stdout, url
        lb.signal(signal.SIGTERM)
        assert lb.wait(10) == 0, lb.stderr
    finally:
        demo.kill()
        lb.kill()
        machine.remove_instance(f"{PREFIX}sample")


# --- the PROXY protocol around it ---------------------------------------------------------------


def test_a_proxy_header_comes_before_the_handshake(net, start, serve, ca):
    kept = Kept()
    serve(kept)
    d = start(accept_proxy_protocol=["10.81.0.2"], proxy_protocol="v1")
    header = b"PROXY TCP4 192.0.2.7 192.0.2.8 5 443\r\n"
    with tls.connect(net, AT, tls.client_context(ca.cert), says=header) as c:
        c.sendall(b"payload")
        c.unwrap()
    wait_until(lambda: kept.end, 5, "the end")
    assert (kept.heard, kept.end) == (header + b"payload", "fin")
    assert d.wait_flows(1)[0]["client"] == "192.0.2.7:5"
    d.stop()


def values(data):
    """{type: value} of type-length-values."""
    found = {}
    while data:
        size = int.from_bytes(data[1:3], "big")
        found[data[0]] = data[3:3 + size]
        data = data[3 + size:]
    return found


@pytest.mark.parametrize("certified", [True, False])
def test_a_proxy_header_of_version_2_tells_of_the_clients_tls(net, start, serve, ca, certified):
    kept = Kept()
    serve(kept)
    d = start({"alpn": ["h2"], "client_ca": str(ca.cert), "client_auth": "optional"},
              proxy_protocol="v2")
    cert = ca.issue(cn="alice = b", usage="clientAuth") if certified else None
    context = tls.client_context(ca.cert, cert=cert, alpn=["h2"])
    sessions = [None]
    for _ in range(2):  # in full, and resumed
        with tls.connect(net, AT, context, session=sessions[-1]) as c:
            c.sendall(b"payload")
            version, cipher = c.version(), c.cipher()[0]
            c.unwrap()
            sessions.append(c.session)
        wait_until(lambda: kept.end, 5, "the end")
        size = int.from_bytes(kept.heard[14:16], "big")
        head, payload = kept.heard[:16 + size], kept.heard[16 + size:]
        assert payload == b"payload"
        told = values(head[16 + 12:])
        assert told[0x01] == b"h2" and told[0x02] == b"app.example"
        ssl_told = told[0x20]
        assert ssl_told[0] == (0x07 if certified else 0x01)
        assert int.from_bytes(ssl_told[1:5], "big") == (0 if certified else 1)
        inner = values(ssl_told[5:])
        assert (inner[0x21], inner[0x23]) == (version.encode(), cipher.encode())
        assert inner.get(0x22) == (b"alice = b" if certified else None)
        kept.heard, kept.end = b"", None
    d.wait_flows(2)
    line = d.access_log.read_text()
    assert ('certified="alice = b"' if certified else "client=10.81.0.2") in line, line
    assert certified or "certified=" not in line
    d.stop()


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_bandwidth_limit_holds_for_tls_too(net, start, serve, ca, direction):
    rate, size = 1 << 20, 3 << 20
    key = "upload_per_sec" if direction == "up" else "download_per_sec"
    kept = Kept()

    def send(conn, stop):
        conn.recv(1)
        conn.sendall(bytes(size))
    serve(kept if direction == "up" else send)
    d = start(bandwidth_limit={"enabled": True, "client": {key: rate}})
    with tls.connect(net, AT, tls.client_context(ca.cert)) as c:
        begin = time.monotonic()
        if direction == "up":
            c.sendall(bytes(size))
            wait_until(lambda: len(kept.heard) == size, 20, "all of it")
        else:
            c.sendall(b"x")
            got = 0
            while got < size:
                more = len(c.recv(1 << 16))
                assert more, f"closed after {got}"
                got += more
        took = time.monotonic() - begin
    # docs/limits.md: the rate, and a burst at the beginning.
    assert 0.8 * size / rate - 0.5 < took < 1.3 * size / rate + PATIENCE, took
    assert d.metric("l4lb_bandwidth_limit_waits_total", direction=direction) > 0
    d.stop()
