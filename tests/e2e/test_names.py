# SPDX-License-Identifier: MIT
"""Backends that are host names: addresses come and go while flows live, and nobody notices."""
import re
import shutil
import socket
import time
from pathlib import Path

import pytest

from lbtest import dns, lane as lanes, machine
from lbtest.backends import Backend, wait_status
from lbtest.daemon import rule
from lbtest.net import BACKEND, CLIENT, LB_ADDR
from lbtest.process import PATIENCE, SAN, wait_until

LISTEN, BACK = 7240, 8240
ADDRS = [f"10.81.77.{i}" for i in range(1, 9)]
# From a change to the first look-up after it, and some for a busy machine.
SOON = dns.TTL + 1.0
LOOK_UP = 60  # s: how long a look-up may take that nothing shall wait for
ALL = {"addresses": "all", "interval_ms": 1000, "family": "ipv4"}
FIRST = {"interval_ms": 1000, "family": "ipv4"}


@pytest.fixture
def server(net, folder):
    if not shutil.which("dnsmasq"):
        pytest.skip("dnsmasq is not installed")
    made = dns.Dnsmasq(net, folder)
    with dns.addresses(net, *ADDRS):
        yield made
    made.close()


def greets(conn, stop):
    """Says where it is, then echoes."""
    conn.sendall(conn.getsockname()[0].encode() + b"\n")
    conn.settimeout(None)
    while True:
        got = conn.recv(65536)
        if not got:
            return
        conn.sendall(got)


@pytest.fixture
def echo(net, server):
    made = Backend(net, BACK, greets, "0.0.0.0")
    yield made
    made.close()


def config(resolve, names=("a",), **keys):
    return {"graft": {"max_flows": 256},
            "rules": [rule("r", f"{LB_ADDR[4]}:{LISTEN}", [f"{n}.test:{BACK}" for n in names],
                           resolve=resolve, **keys)]}


class Flow:
    """A client's connection; it knows which address serves it."""

    def __init__(self, net):
        self.socket = net.connect(LB_ADDR[4], LISTEN)
        self.at = self.read_line()

    def read_line(self):
        got = b""
        while not got.endswith(b"\n"):
            more = self.socket.recv(1)
            assert more, "closed before it said anything"
            got += more
        return got.decode().strip()

    def exchange(self, size=20000):
        data = bytes(i * 7 & 0xff for i in range(size))
        self.socket.sendall(data)
        got = b""
        while len(got) < size:
            more = self.socket.recv(65536)
            assert more, "the flow was cut"
            got += more
        assert got == data

    def end(self):
        self.socket.shutdown(socket.SHUT_WR)
        assert self.socket.recv(1) == b""
        self.socket.close()


def where(net):
    """Which address serves a new flow."""
    flow = Flow(net)
    flow.end()
    return flow.at


def serves(net, addrs, count=24):
    return {where(net) for _ in range(count)} == set(addrs)


def follow(net, server, addrs, **names):
    """After a change in the name server new flows go there, and nowhere else, soon."""
    server.set(**(names or {"a": addrs}))
    wait_until(lambda: serves(net, addrs), SOON, f"new flows go to {addrs}", every=0.05)


# --- following ----------------------------------------------------------------------------------


@pytest.mark.parametrize("carrier", lanes.CARRIERS)
def test_new_flows_follow_the_name_and_old_ones_live_on(daemon, net, folder, server, echo, carrier):
    server.set(a=ADDRS[:2])
    d = daemon(config(ALL, acceleration=carrier), wrap=dns.wrap(folder)).start()
    lanes.skip_without(carrier, d)
    flows = [Flow(net) for _ in range(4)]
    assert {f.at for f in flows} == set(ADDRS[:2])
    for f in flows:
        f.exchange()
    if carrier == "graft":
        wait_until(lambda: d.grafted() == 4, 5, "all are grafted")
    if carrier == "sockmap":
        wait_until(lambda: d.promoted() == 4, 5, "all are in the map")
    follow(net, server, ADDRS[2:4])
    follow(net, server, ADDRS[4:5])
    # Those that end while they become grafts are written down within a second or two.
    wait_until(lambda: d.metric("l4lb_backend_active_connections", backend=f"a.test:{BACK}") == 4,
               5, "the old ones are left")
    for f in flows:
        f.exchange()
        f.end()
    wait_until(lambda: len([f for f in d.flows("r") if int(f["up"]) == 40000]) == 4, 5, "lines")
    ended = [f for f in d.flows("r") if int(f["up"]) == 40000]
    assert {(f["reason"], f["carrier"], f["backend"]) for f in ended} == {
        ("done", carrier, f"a.test:{BACK}")}, ended
    wait_until(lambda: d.metric("l4lb_backend_active_connections") == 0, 3, "none is left")
    d.stop()


def test_the_first_address_stays_while_the_name_has_it(daemon, net, folder, server, echo):
    server.set(a=ADDRS[:1])
    d = daemon(config(FIRST), wrap=dns.wrap(folder)).start()
    assert where(net) == ADDRS[0]
    server.set(a=ADDRS[:4])
    before = server.queries()
    wait_until(lambda: server.queries() >= before + 4, 8, "four look-ups more")
    assert serves(net, ADDRS[:1])
    assert d.count_log("stands for") == 0
    server.set(a=ADDRS[4:5])
    wait_until(lambda: serves(net, ADDRS[4:5]), SOON, "the next one")
    assert d.count_log(rf"backend a\.test:{BACK} stands for {ADDRS[4]}:{BACK} now") == 1
    d.stop()


def test_a_name_server_that_rotates_changes_nothing(daemon, net, folder, server, echo):
    server.set(a=ADDRS[:4])
    d = daemon(config(ALL), wrap=dns.wrap(folder)).start()
    before = server.queries()
    wait_until(lambda: server.queries() >= before + 4, 8, "four look-ups more")
    assert serves(net, ADDRS[:4])
    assert d.count_log("stands for") == 0
    assert d.metric("l4lb_backend_addresses") == 4
    d.stop()


def test_names_in_the_hosts_file_are_followed(daemon, net, folder, server, echo):
    wrap = dns.wrap(folder)
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{ADDRS[0]} a.test\n")
    d = daemon(config({**FIRST, "interval_ms": 1000}), wrap=wrap).start()
    assert where(net) == ADDRS[0]
    # In place: the mount names the file, not its name.
    hosts.write_text(f"127.0.0.1 localhost\n{ADDRS[1]} a.test\n")
    wait_until(lambda: serves(net, ADDRS[1:2]), SOON, "the other one", every=0.05)
    d.stop()


def test_graft_records_of_an_address_that_left_outlive_the_daemon(daemon, net, folder, server,
                                                                  echo):
    server.set(a=ADDRS[:1])
    d = daemon(config(ALL, acceleration="graft"), wrap=dns.wrap(folder)).start()
    lanes.skip_without("graft", d)
    old = Flow(net)
    old.exchange()
    wait_until(lambda: d.grafted() == 1, 5, "it is grafted")
    follow(net, server, ADDRS[1:2])
    wait_until(lambda: d.grafted() == 1, 5, "the others have ended")
    d.crash()
    d.start()
    assert d.count_log(r"\b1 grafted flows of an earlier run go on") == 1
    # Of the rule, and of no backend that it has.
    assert d.metric("l4lb_active_connections") == 1
    assert d.metric("l4lb_backend_active_connections") == 0
    # Its address comes back: ports that old flows have are not used twice.
    follow(net, server, ADDRS[:1])
    for _ in range(20):
        Flow(net).end()
    old.exchange()
    old.end()
    found = wait_until(lambda: [f for f in d.flows("r") if int(f["up"]) == 40000], 5, "its line")
    assert [(f["reason"], f["carrier"], f["backend"]) for f in found] == [
        ("done", "graft", f"{ADDRS[0]}:{BACK}")]
    d.stop()


# --- servers that fail --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", dns.BAD)
def test_a_bad_name_server_hurts_nobody(daemon, net, folder, server, echo, kind):
    server.set(a=ADDRS[:2])
    d = daemon(config({**ALL, "timeout_ms": 500}), wrap=dns.wrap(folder)).start()
    old = Flow(net)
    server.close()
    bad = dns.BadServer(net, dns.BAD[kind])
    try:
        wait_until(lambda: d.count_log("cannot be looked up") and bad.asked > 4, 10 * PATIENCE,
                   lambda: f"it has noticed: asked {bad.asked}\n{d.log[-1500:]}")
        assert serves(net, ADDRS[:2])
        old.exchange()
        d.check_quiet()
    finally:
        bad.close()
    assert d.count_log(r"cannot be looked up: .+; it stays as it was") == 1, d.log
    assert d.metric("l4lb_backend_lookup_failures_total") >= 1
    server.start()
    server.set(a=ADDRS[2:4])
    wait_until(lambda: serves(net, ADDRS[2:4]), 6 + SOON, "it has recovered", every=0.05)
    assert d.count_log("can be looked up again") == 1
    assert d.count_log("cannot be looked up") == 1
    old.exchange()
    old.end()
    d.stop()


def test_the_daemon_stops_at_once_while_a_look_up_hangs(daemon, net, folder, server, echo):
    server.set(a=ADDRS[:2])
    d = daemon(config({**ALL, "timeout_ms": LOOK_UP * 1000}), wrap=dns.wrap(folder)).start()
    server.close()
    bad = dns.BadServer(net, dns.BAD["silent"])
    try:
        wait_until(lambda: bad.asked, 5, "it asks")
        d.stop(seconds=LOOK_UP / 3)
    finally:
        bad.close()


def test_a_start_that_waits_for_a_name_can_be_ended(daemon, net, folder, server):
    server.close()
    bad = dns.BadServer(net, dns.BAD["silent"])
    try:
        d = daemon(config({**ALL, "timeout_ms": LOOK_UP * 1000}), wrap=dns.wrap(folder)).spawn()
        wait_until(lambda: bad.asked, 5, "it asks")
        d.process.signal(15)
        assert d.process.wait(LOOK_UP / 3) == 3
        d.forget()
    finally:
        bad.close()


def test_a_name_without_address_is_a_clear_error(daemon, net, folder, server):
    d = daemon(config(ALL, names=("nobody",)), wrap=dns.wrap(folder)).spawn()
    assert d.process.wait(10) == 3
    d.forget()
    assert d.count_log(rf"rule r: backend nobody\.test:{BACK}: no address for this name: \w+") == 1
    assert len(re.findall(r"nobody", d.log)) == 1


def test_a_name_that_is_not_required_may_come_later(daemon, net, folder, server, echo):
    server.set(a=ADDRS[:1])
    resolve = {**FIRST, "required": False}
    d = daemon(config(resolve, names=("a", "b")), wrap=dns.wrap(folder)).start()
    assert serves(net, ADDRS[:1])
    assert d.metric("l4lb_backend_health_status", backend=f"b.test:{BACK}") == 0
    server.set(b=ADDRS[1:2])
    wait_until(lambda: serves(net, ADDRS[:2]), 5 + SOON, "both", every=0.05)
    d.stop()


# --- what follows with them ---------------------------------------------------------------------


def test_checks_follow_the_addresses_and_never_double(daemon, net, folder, server):
    interval = 200
    check = {"enabled": True, "interval_ms": interval, "timeout_ms": 150, "rise": 1, "fall": 2}
    each = {addr: Backend(net, BACK, greets, addr) for addr in ADDRS[:4]}
    try:
        server.set(a=ADDRS[:2])
        d = daemon(config(ALL, health_check=check), wrap=dns.wrap(folder)).start()

        def settle(addrs):
            server.set(a=addrs)
            wait_until(lambda: d.metric("l4lb_backend_addresses") == len(addrs), SOON, "it changed")

        # There and back: whatever would pile up does.
        for _ in range(3):
            settle(ADDRS[:4])
            settle(ADDRS[1:2])
        settle(ADDRS[1:4])
        time.sleep(0.3)
        before = {addr: b.connections for addr, b in each.items()}
        time.sleep(3)
        checks = {addr: b.connections - before[addr] for addr, b in each.items()}
        assert checks[ADDRS[0]] == 0, checks
        for addr in ADDRS[1:4]:
            assert 3000 / interval * 0.7 <= checks[addr] <= 3000 / interval * 1.2, checks
        # Each address has a health of its own.
        each[ADDRS[2]].close()
        wait_status(d, 2, 3)
        assert d.count_log(rf"backend a\.test:{BACK} \({ADDRS[2]}:{BACK}\) is down") == 1
        d.stop()
    finally:
        for b in each.values():
            b.close()


def test_limits_hold_for_an_address_that_leaves_and_comes_back(daemon, net, folder, server, echo):
    server.set(a=ADDRS[:1])
    d = daemon(config(FIRST, backend_connection_limit=2), wrap=dns.wrap(folder)).start()
    old = [Flow(net), Flow(net)]
    server.set(a=ADDRS[1:2])
    wait_until(lambda: d.count_log(f"stands for {ADDRS[1]}"), SOON, "it is elsewhere")
    Flow(net).end()
    server.set(a=ADDRS[:1])
    wait_until(lambda: d.count_log(f"stands for {ADDRS[0]}"), SOON, "it is back")
    with pytest.raises(ConnectionResetError):
        net.connect(LB_ADDR[4], LISTEN).recv(1)
    wait_until(lambda: d.flows("r")[-1]["reason"] == "backend_limit", 3, "its line")
    old[0].end()
    wait_until(lambda: d.metric("l4lb_backend_active_connections") == 1, 3, "it has ended")
    assert where(net) == ADDRS[0]
    old[1].end()
    d.stop()


# --- at length ----------------------------------------------------------------------------------

CHANGES, NAMES = 100, 10
NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid;
error_log /dev/null; events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000; client_body_temp_path {folder};
  proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
  scgi_temp_path {folder};
  server {{ listen {port} backlog=4096; location / {{ return 200 "well\\n"; }} }}
}}
"""


def threads(pid):
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def wrk(net, folder, name, *options):
    return net.start(CLIENT, name, ["wrk", "-t1", "-c8", "-d120s", "--timeout", "10s", *options,
                                    f"http://{LB_ADDR[4]}:{LISTEN}/"], folder)


def test_a_hundred_changes_under_load_cost_nothing_and_fail_nobody(daemon, net, folder, server):
    if not (shutil.which("nginx") and shutil.which("wrk")):
        pytest.skip("nginx or wrk is not installed")
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=BACK))
    nginx = net.start(BACKEND, "nginx", ["nginx", "-c", str(folder / "nginx.conf")], folder)
    names = [f"n{i}" for i in range(NAMES)]
    server.set(**{n: [ADDRS[i % 8]] for i, n in enumerate(names)})
    check = {"enabled": True, "interval_ms": 500, "timeout_ms": 400}
    d = daemon(config(ALL, names=names, health_check=check,
                      passive_health={"enabled": True}), wrap=dns.wrap(folder)).start()
    loads = [wrk(net, folder, "kept"), wrk(net, folder, "closing", "-H", "Connection: close")]
    time.sleep(2)
    changes = lambda: d.count_log("stands for")
    at_begin = None
    turn = 0
    while changes() < CHANGES:
        turn += 1
        # One address or two, never the same as before.
        server.set(**{n: [ADDRS[(i + turn + k) % 8] for k in range(1 + (i + turn) % 2)]
                      for i, n in enumerate(names)})
        time.sleep(1.1)
        if at_begin is None and changes() >= CHANGES // 4:
            at_begin = (machine.process_fds(d.pid)["other"], machine.process_rss(d.pid),
                        threads(d.pid))
        assert turn < 60, f"{changes()} changes\n{d.log[-2000:]}"
    for load in loads:
        load.signal(2)  # it prints what it has counted
        assert load.wait(15) == 0
        assert "Socket errors" not in load.stdout, load.stdout
        assert "Non-2xx" not in load.stdout, load.stdout
        assert int(re.search(r"(\d+) requests in", load.stdout).group(1)) > 1000, load.stdout
    wait_until(lambda: machine.process_fds(d.pid)["other"] <= at_begin[0], 3, "descriptors")
    assert threads(d.pid) == at_begin[2]
    if not SAN:
        assert machine.process_rss(d.pid) < at_begin[1] + (4 << 20)
    # One row for each name, whatever it stood for.
    rows = [labels for (name, labels), _ in d.metrics().items()
            if name == "l4lb_backend_connections_total"]
    assert len(rows) == NAMES
    ends = {f["reason"] for f in d.flows("r")}
    assert ends <= {"done", "reset_by_client"}, ends
    nginx.kill()
    d.stop()
