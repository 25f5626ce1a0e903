# SPDX-License-Identifier: MIT
"""TLS sessions that are resumed at another node than the one they began at."""
import glob
import re

import pytest

from lbtest.backends import Backend
from lbtest.certs import Authority
from lbtest.daemon import Daemon, rule
from lbtest.nodes import PORT, Nodes
from lbtest.process import SAN, run

KEY1, KEY2 = "11" * 32, "22" * 32
VERSIONS = ("tls1_2", "tls1_3")


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pair(ca):
    return ca.issue("app.example")


def says_y_and_goes(conn, _stop):
    conn.sendall(b"y")


def write_keys(folder, number, *keys):
    path = folder / f"cluster-{number}.key"
    path.write_text("".join(f"{k}\n" for k in keys))
    path.chmod(0o600)
    return str(path)


class Pair:
    """Two nodes with the same rule, and a backend each."""

    def __init__(self, folder, pair):
        self.folder, self.pair, self.nodes, self.sessions = folder, pair, Nodes(2), 0
        self.backends = [Backend(n, 7999, says_y_and_goes, "127.0.0.1") for n in self.nodes.nodes]
        self.daemons = []

    def start(self, number, keys=(KEY1,), wrap=(), **tls):
        node = self.nodes.nodes[number]
        d = Daemon(node, self.folder, {
            "cluster": {"enabled": True, "name": f"node-{number}",
                        "bind_addr": f"{node.addr}:{PORT}",
                        "key_file": write_keys(self.folder, number, *keys),
                        "peers": [f"{n.addr}:{PORT}" for n in self.nodes.nodes]},
            "rules": [rule("web", f"{node.addr}:6443", ["127.0.0.1:7999"],
                           tls={"enabled": True, "share_tickets": True, **self.pair.config(),
                                **tls})],
            "workers": 1}, wrap=wrap)
        self.daemons.append(d)
        return d.start()

    def shake_hands(self, number, version, session=None, keep=None, code=0):
        """With a node's rule, by openssl s_client: "New" or "Reused"."""
        files = [*(["-sess_in", session] if session else []),
                 *(["-sess_out", keep] if keep else [])]
        node = self.nodes.nodes[number]
        done = run(*node.inside(None), "openssl", "s_client", "-connect", f"{node.addr}:6443",
                   "-servername", "app.example", f"-{version}", "-ign_eof", *files, check=False,
                   stdin="")
        assert done.returncode == code, done.stdout + done.stderr
        return re.search(r"^(New|Reused), TLSv", done.stdout, re.M).group(1) if not code else None

    def begin(self, number, version):
        """A session that begins at a node."""
        self.sessions += 1
        session = self.folder / f"session-{self.sessions}"
        assert self.shake_hands(number, version, keep=session) == "New"
        return session

    def close(self):
        for d in self.daemons:
            d.kill()
        for b in self.backends:
            b.close()
        self.nodes.close()


@pytest.fixture
def nodes(ready_to_test, folder, pair):
    made = Pair(folder, pair)
    yield made
    made.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_is_resumed_at_the_other_node(nodes, folder, version):
    ds = [nodes.start(0), nodes.start(1)]
    for here, there in ((0, 1), (1, 0)):
        session = nodes.begin(here, version)
        assert nodes.shake_hands(there, version, session) == "Reused"
    # Also by one that has been restarted.
    session = nodes.begin(0, version)
    ds[0].stop()
    ds[0].start()
    assert nodes.shake_hands(0, version, session) == "Reused"
    assert ds[1].metric("l4lb_tls_handshakes_total", result="resumed") == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_keys_are_changed_without_a_gap(nodes, folder, version):
    ds = [nodes.start(0), nodes.start(1)]
    first = nodes.begin(0, version)
    for step in ([KEY1, KEY2], [KEY2, KEY1], [KEY2]):
        session = nodes.begin(0, version)
        for number, d in enumerate(ds):
            write_keys(folder, number, *step)
            assert d.ctl("reload")["ok"]
            # One node has the new keys, the other one not yet; then both.
            for here, there in ((0, 1), (1, 0)):
                assert nodes.shake_hands(there, version, nodes.begin(here, version)) == "Reused"
        # At the last step it was sealed with the key that has stayed.
        assert nodes.shake_hands(1, version, session) == "Reused"
    assert nodes.shake_hands(1, version, first) == "New"


@pytest.mark.parametrize("version", VERSIONS)
def test_hours_are_those_of_the_clock(nodes, version):
    """Each hour has a key. The two nodes cannot even talk to each other: their clocks differ."""
    found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    if not found or SAN:
        pytest.skip("a sanitizer wants to be loaded first" if SAN else "libfaketime is missing")

    def later(hours):
        return ("env", f"LD_PRELOAD={found[0]}", f"FAKETIME=+{hours}h",
                "FAKETIME_DONT_FAKE_MONOTONIC=1")
    nodes.start(0)
    one = nodes.start(1, wrap=later(1))
    session = nodes.begin(0, version)
    assert nodes.shake_hands(1, version, session) == "Reused"
    assert nodes.shake_hands(0, version, nodes.begin(1, version)) == "Reused"
    one.stop()
    nodes.start(1, wrap=later(4))
    assert nodes.shake_hands(1, version, session) == "New"
    assert nodes.shake_hands(0, version, nodes.begin(1, version)) == "New"


@pytest.mark.parametrize("version", VERSIONS)
def test_another_key_opens_nothing_and_harms_nobody(nodes, version):
    nodes.start(0)
    stranger = nodes.start(1, keys=(KEY2,))
    session = nodes.begin(0, version)
    assert nodes.shake_hands(1, version, session) == "New"
    assert nodes.shake_hands(0, version, session) == "Reused"
    assert stranger.metric("l4lb_tls_handshakes_total", result="failed") == 0
    stranger.stop()
    # Nor does one that keeps its tickets to itself.
    nodes.start(1, share_tickets=False)
    assert nodes.shake_hands(1, version, session) == "New"
    assert nodes.shake_hands(0, version, nodes.begin(1, version)) == "New"


@pytest.mark.parametrize("version", VERSIONS)
def test_no_ticket_stands_for_a_certificate(nodes, ca, version):
    """The rule has the same name on both nodes, and asks more of its clients on the second."""
    nodes.start(0)
    strict = nodes.start(1, client_ca=str(ca.cert))
    session = nodes.begin(0, version)
    nodes.shake_hands(1, version, session, code=1)
    assert strict.metric("l4lb_tls_handshakes_total", result="resumed") == 0
    assert strict.metric("l4lb_tls_handshakes_total", result="failed") == 1
    strict.stop()
    # Optional: in full, and without one.
    nodes.start(1, client_ca=str(ca.cert), client_auth="optional")
    assert nodes.shake_hands(1, version, session) == "New"
