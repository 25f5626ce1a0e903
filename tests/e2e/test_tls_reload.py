# SPDX-License-Identifier: MIT
"""Certificates, authorities and OCSP responses that are replaced while clients come and go."""
import os
import shutil
import ssl
import threading
import time

import pytest

from lbtest import tls
from lbtest.backends import wait_status
from lbtest.certs import Authority, Pair
from lbtest.daemon import rule
from lbtest.net import BACKEND_ADDR, CLIENT, LB_ADDR
from lbtest.process import run
from lbtest.reloading import reload
from lbtest.tls_rule import (  # fixtures, too
    AT, BACK, LISTEN, ca, echo, pair, ping, refused, serve, start)


def put(pair, place):
    """<pair>'s files at <place>, each replaced as a whole."""
    for what in ("key", "cert"):
        new = place.with_suffix(".new")
        shutil.copy(getattr(pair, what), new)
        os.replace(new, place.with_suffix("." + what))
    return Pair(place.with_suffix(".cert"), place.with_suffix(".key"))


def common_name(c):
    return dict(field[0] for field in c.getpeercert()["subject"])["commonName"]


class Clients(threading.Thread):
    """Handshakes, <rate> a second, until it is stopped; who was met, and what failed."""

    def __init__(self, net, context, rate):
        super().__init__()
        self.net, self.context, self.rate = net, context, rate
        self.met, self.failed, self.going = [], [], True
        self.start()

    def run(self):
        due = time.monotonic()
        while self.going:
            try:
                with tls.connect(self.net, AT, self.context) as c:
                    ping(c)
                    self.met.append(common_name(c))
            except (OSError, AssertionError) as e:
                self.failed.append(repr(e))
            due += 1 / self.rate
            time.sleep(max(0, due - time.monotonic()))

    def stop(self):
        self.going = False
        self.join()


def test_a_certificate_is_replaced_ten_times_and_no_handshake_fails(net, start, echo, ca, folder):
    pairs = [ca.issue("app.example", cn=f"number {i}", kind="rsa" if i % 2 else "ec")
             for i in range(11)]
    kept = put(pairs[0], folder / "own")
    d = start(kept.config())
    context = tls.client_context(ca.cert)
    with tls.connect(net, AT, context) as old:
        crowd = [Clients(net, context, 100) for _ in range(2)]
        try:
            for i in range(1, 11):
                put(pairs[i], folder / "own")
                reload(d)
                with tls.connect(net, AT, context) as c:
                    assert common_name(c) == f"number {i}"
                time.sleep(0.3)
        finally:
            for c in crowd:
                c.stop()
        ping(old, b"still here" * 1000)
    failed = [e for c in crowd for e in c.failed]
    assert not failed, (len(failed), failed[:3])
    met = [name for c in crowd for name in c.met]
    assert len(met) > 200 and set(met) == {f"number {i}" for i in range(11)}
    assert d.count_log("rule r: tls: the files as they were -> files that have changed") == 10
    d.check_idle()
    d.stop()


def test_files_that_do_not_belong_together_keep_the_old_ones_in_force(net, start, echo, ca, folder):
    first, second = (ca.issue("app.example", cn=n) for n in ("first", "second"))
    kept = put(first, folder / "own")
    d = start(kept.config())
    context = tls.client_context(ca.cert)

    def served():
        with tls.connect(net, AT, context) as c:
            ping(c)
            return common_name(c)

    for harm, words in (
            (lambda: shutil.copy(second.cert, kept.cert), "does not belong to the certificate"),
            (lambda: kept.cert.write_text("garbage"), "holds no PEM certificate"),
            (kept.cert.unlink, "cannot be read: No such file or directory"),
            (lambda: os.mkfifo(kept.cert), "cannot be read: not a regular file")):
        harm()
        reload(d, good=False)
        assert words in d.log, d.log[-500:]
        assert served() == "first"
    kept.cert.unlink()
    put(second, folder / "own")
    reload(d)
    assert served() == "second"
    # Nothing has changed since: nothing is made anew.
    reload(d)
    assert d.count_log("files that have changed") == 1
    d.stop()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tickets_outlive_a_reload_unless_other_clients_may_come(net, start, echo, ca, folder,
                                                                version):
    authority, other = (Authority(folder, n) for n in ("authority", "other"))
    own = authority.issue(cn="own", usage="clientAuth")
    believed = folder / "believed.pem"
    shutil.copy(authority.cert, believed)
    kept = put(ca.issue("app.example"), folder / "own")
    d = start({**kept.config(), "client_ca": str(believed)})
    context = tls.client_context(ca.cert, cert=own, version=version)

    def connected(session=None):
        with tls.connect(net, AT, context, session=session) as c:
            ping(c)
            return c.session, c.session_reused

    session, _ = connected()
    put(ca.issue("app.example"), folder / "own")
    reload(d)
    assert connected(session)[1], "another certificate of ours does not matter"
    believed.write_bytes(authority.cert.read_bytes() + other.cert.read_bytes())
    reload(d)
    session, resumed = connected(session)
    assert not resumed
    shutil.copy(other.cert, believed)
    reload(d)
    refused(net, context, session=session)
    d.stop()


def test_what_a_rule_speaks_it_speaks_until_it_has_another_name(net, daemon, echo, ca, pair):
    back = [f"{BACKEND_ADDR[4]}:{BACK}"]
    keys = {"tls": {"enabled": True, **pair.config()}}
    plain = rule("plain", f"{LB_ADDR[4]}:{LISTEN}", back, timeouts={"drain_ms": 60000})
    sealed = rule("sealed", f"{LB_ADDR[4]}:{LISTEN}", back, timeouts={"drain_ms": 60000}, **keys)
    context = tls.client_context(ca.cert)
    d = daemon({"rules": [plain]}).start()
    for change in (keys, {"backend_tls": {"enabled": True, "ca": str(ca.cert)}},
                   {"sni": [{"names": ["a.example"], "backends": back}]}):
        reload(d, {"rules": [{**plain, **change}]}, good=False)
        assert d.count_log(f"rule plain: {list(change)[0]}.*needs a restart"), d.log[-500:]
    with net.connect(*AT) as clear, net.connect(*AT) as silent:
        ping(clear)
        reload(d, {"rules": [sealed]})
        with tls.connect(net, AT, context) as c:
            ping(c)
            ping(clear)
            reload(d, {"rules": [plain]})
            with net.connect(*AT) as another:
                ping(another)
            ping(c, b"x" * 100000)
            assert c.unwrap().recv(1) == b""
        ping(clear)
        ping(silent)
    d.stop()


def test_other_authorities_and_checks_over_tls_come_with_a_reload(net, daemon, serve, ca, pair,
                                                                  folder):
    other, believed = Authority(folder, "other"), folder / "believed.pem"
    shutil.copy(ca.cert, believed)
    serve(tls.serving(pair, tls.echo))
    checks = {"enabled": True, "interval_ms": 100, "timeout_ms": 1000, "rise": 1, "fall": 1,
              "protocol": "tcp"}

    def config(tls_checks):
        return {"rules": [rule("r", f"{LB_ADDR[4]}:{LISTEN}", [f"{BACKEND_ADDR[4]}:{BACK}"],
                               backend_tls={"enabled": True, "ca": str(believed),
                                            "name": "app.example"},
                               health_check={**checks, "tls": tls_checks})]}

    d = daemon(config(True)).start()
    wait_status(d, 1, 5)
    with net.connect(*AT) as c:
        ping(c)
        shutil.copy(other.cert, believed)
        reload(d)
        wait_status(d, 0, 5)
        ping(c)
    reload(d, config(False))
    wait_status(d, 1, 5)
    with net.connect(*AT) as c, pytest.raises(ConnectionError):
        if c.recv(1) == b"":  # nobody believes it
            raise ConnectionError("closed")
    shutil.copy(ca.cert, believed)
    reload(d, config(True))
    wait_status(d, 1, 5)
    with net.connect(*AT) as c:
        ping(c)
    d.stop()


# --- OCSP ---------------------------------------------------------------------------------------


def stapled(net, ca, version):
    r = run(*net.inside(CLIENT), "openssl", "s_client", "-connect", f"{AT[0]}:{AT[1]}",
            "-servername", "app.example", "-CAfile", ca.cert, "-status", version, stdin="Q\n")
    if "OCSP response: no response sent" in r.stdout:
        return None
    assert "Cert Status: good" in r.stdout, r.stdout
    return "OCSP Response Status: successful (0x0)" in r.stdout


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_response_is_stapled_to_its_own_certificate_while_it_is_valid(net, start, echo, ca,
                                                                        folder, version):
    default, own = ca.issue("default.example"), ca.issue("app.example")
    response = folder / "own.ocsp"
    shutil.copy(ca.ocsp(own), response)
    d = start({**default.config(), "certificates": [{**own.config(), "ocsp": str(response)}]})
    assert stapled(net, ca, version)
    end = d.metric("l4lb_tls_ocsp_expiry_seconds")
    assert time.time() < end < time.time() + 3601
    shutil.copy(ca.ocsp(own, hours=-1), response)
    reload(d)
    assert d.count_log("an OCSP response has expired") == 1
    assert stapled(net, ca, version) is None
    shutil.copy(ca.ocsp(own, hours=5), response)
    reload(d)
    assert stapled(net, ca, version)
    assert d.metric("l4lb_tls_ocsp_expiry_seconds") > end + 3600
    d.stop()


def test_a_response_that_clients_must_not_see_is_refused(net, start, echo, ca, folder):
    own, other = ca.issue("app.example"), ca.issue("app.example")
    # With its authority in the chain more than the serial number is compared.
    own.cert.write_bytes(own.cert.read_bytes() + ca.cert.read_bytes())
    response = folder / "own.ocsp"
    shutil.copy(ca.ocsp(own), response)
    d = start({**own.config(), "ocsp": str(response)})
    assert stapled(net, ca, "-tls1_3")
    for bad, words in ((ca.ocsp(other), "is about another certificate"),
                       (Authority(folder, "other").ocsp(own), "is about another certificate"),
                       (ca.ocsp(own, status="REVOKED"), "says that the certificate is revoked"),
                       (ca.ocsp(own, status="UNKNOWN"), "does not know the certificate"),
                       (ca.ocsp(own, hours=None), "does not say how long it is good"),
                       (ca.ocsp(own, hours=9, since=-2), "is not valid yet"),
                       (own.cert, "is no OCSP response (DER)")):
        shutil.copy(bad, response)
        reload(d, good=False)
        assert words in d.log, d.log[-500:]
        assert stapled(net, ca, "-tls1_3")
    d.stop()
