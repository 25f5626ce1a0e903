# SPDX-License-Identifier: MIT
"""
What scanners of TLS say of the default configuration: nothing above LOW. In short here, in full
with `make scan-tls`. (sslscan's page is read line by line in test_tls.py.)
"""
import json
import os
import shutil
import time

import pytest

from lbtest import backends
from lbtest.net import CLIENT
from lbtest.process import run
from lbtest.tls_rule import (  # fixtures, too
    AT, LISTEN, ca, pair, serve, start)

FULL = os.environ.get("LB_SCAN") == "full"
# Protocols, categories of ciphers, whose order counts. In full: also forward secrecy, the
# certificate, known attacks, what browsers would get. Never HTTP's headers, which are a backend's.
TESTS = ["-p", "-s", "-P"] + (["-f", "-S", "-U", "-c"] if FULL else [])
FINE = ("OK", "INFO", "LOW", "DEBUG")
# Of testssl.sh itself: what its own openssl lacks.
OWN = ("engine_problem",)
# It has its openssl connect to "invalid.", often: there is no name server to wait for here.
NO_NAMES = "chain c { type filter hook output priority 0; meta l4proto { tcp, udp } " \
           "th dport 53 reject; }"


@pytest.mark.parametrize("kind", ["ec", "rsa"] if FULL else ["ec"])
def test_testssl_finds_nothing_above_low(net, start, serve, ca, folder, kind):
    if not shutil.which("testssl"):
        pytest.skip("testssl.sh is not installed")
    serve(backends.good)
    # A certificate as people have them: it says where to ask for revocations, and lasts.
    end = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + 300 * 86400))
    pair = ca.issue("app.example", kind=kind, end=end,
                    more="crlDistributionPoints=URI:http://ca.example/list.crl")
    d = start(pair.config())
    report = folder / "testssl.json"
    with net.nft(CLIENT, NO_NAMES):
        done = run(*net.inside(CLIENT), "testssl", "--quiet", "--color", 0, "--warnings", "off",
                   "--nodns", "none", "--ip", AT[0], "--add-ca", ca.cert, *TESTS, "--jsonfile",
                   report, f"app.example:{LISTEN}", check=False, seconds=400 if FULL else 90)
    found = {f["id"]: f for f in json.loads(report.read_text())}
    print(done.stdout)
    # It has looked, and at what we mean: a scan that got no answers finds nothing either.
    assert found["TLS1_2"]["severity"] == found["TLS1_3"]["severity"] == "OK", done.stdout
    assert found["cipher_order"]["severity"] == "OK", done.stdout
    assert {found[i]["finding"] for i in ("SSLv2", "SSLv3", "TLS1", "TLS1_1")} == {"not offered"}
    if FULL:
        assert found["secure_client_renego"]["severity"] == "OK", done.stdout
        assert found["cert_chain_of_trust"]["severity"] == "OK", done.stdout
    bad = [f for f in found.values() if f["severity"] not in FINE and f["id"] not in OWN]
    assert not bad, json.dumps(bad, indent=1)
    d.stop()
