# SPDX-License-Identifier: MIT
"""Another configuration comes into force while flows live: all of it or nothing."""
import signal
import socket
import time

import pytest

from lbtest import backends, dns, lane as lanes, machine
from lbtest.backends import Backend, wait_status
from lbtest.daemon import rule
from lbtest.net import LB, LB_ADDR
from lbtest.process import PATIENCE, run, wait_until
from lbtest.reloading import (  # echo is a fixture
    BACK, LISTEN, Flow, addr, config, echo, is_refused, one, outcomes, reload, shares, wait_carried,
    where)


# --- what changes -------------------------------------------------------------------------------


def test_backends_weights_and_methods_change_live(daemon, net, echo):
    d = daemon(config(one())).start()
    assert shares(net, 8) == {0: 8}
    reload(d, config(one(back=(0, 1))))
    assert shares(net, 20) == {0: 10, 1: 10}
    reload(d, config(one(back=({"addr": addr(0), "weight": 3}, 1))))
    assert shares(net, 40) == {0: 30, 1: 10}
    reload(d, config(one(back=({"addr": addr(0), "drain": True}, 1, 2))))
    assert set(shares(net, 20)) == {1, 2}
    reload(d, config(one(back=(1, {"addr": addr(0), "backup": True}))))
    assert set(shares(net, 20)) == {1}
    for method in ("source_hash", "least_connections", "random_two", "weighted_round_robin"):
        reload(d, config(one(back=(0, 1, 2, 3), balance=method)))
        got = set(shares(net, 40))
        assert len(got) == 1 if method == "source_hash" else len(got) == 4, (method, got)
    d.stop()


@pytest.mark.parametrize("carrier", lanes.CARRIERS)
def test_flows_of_a_backend_that_leaves_live_on(daemon, net, echo, carrier):
    keys = {"acceleration": carrier}
    d = daemon(config(one(**keys))).start()
    lanes.skip_without(carrier, d)
    old = [Flow(net) for _ in range(3)]
    for f in old:
        f.exchange()
    wait_carried(d, carrier, 3)
    reload(d, config(one(back=(1,), **keys)))
    assert set(shares(net, 8)) == {1}
    reload(d, config(one(back=(0, 1), **keys)))
    for f in old:
        f.exchange()
        f.end()
    ended = wait_until(lambda: [f for f in d.flows("r") if int(f["up"]) == 40000][2:] and
                       [f for f in d.flows("r") if int(f["up"]) == 40000], 5, "their lines")
    assert {(f["reason"], f["carrier"], f["backend"]) for f in ended} == {
        ("done", carrier, addr(0))}
    wait_until(lambda: d.metric("l4lb_backend_active_connections") == 0, 5, "none is left")
    d.stop()


def test_a_limit_that_is_raised_serves_those_who_wait(daemon, net, echo):
    queue = {"queue": {"max": 4, "timeout_ms": 10000}}
    d = daemon(config(one(backend_connection_limit=1, **queue))).start()
    first = Flow(net)
    waiting = net.connect(LB_ADDR[4], LISTEN)
    wait_until(lambda: d.metric("l4lb_queue_length") == 1, 3, "it waits")
    reload(d, config(one(backend_connection_limit=2, **queue)))
    waiting.settimeout(3)
    assert waiting.recv(2) == b"0\n"
    # Lowered: those there are stay, nobody else comes.
    reload(d, config(one(backend_connection_limit=1)))
    first.exchange()
    with pytest.raises(ConnectionResetError):
        net.connect(LB_ADDR[4], LISTEN).recv(1)
    first.end()
    waiting.close()
    d.stop()


def test_timeouts_retries_and_the_log_level_change(daemon, net, echo):
    d = daemon(config(one())).start()
    d.configure(config(one(timeouts={"idle_ms": 300}, retries=0), log={"level": "warn"}))
    d.process.signal(signal.SIGHUP)
    wait_until(lambda: d.metric("l4lb_config_generation") == 2, 3, "the second one")
    flow = Flow(net)
    begin = time.monotonic()
    assert flow.socket.recv(1) == b""
    assert 0.25 < time.monotonic() - begin < 20, "by default it would live 10 min"
    assert wait_until(lambda: d.flows("r"), 3, "its line")[-1]["reason"] == "idle"
    # At this level the good end of a reload was not told. It is again.
    assert d.count_log("is in force") == 0
    reload(d, config(one()))
    d.stop()


# --- rules --------------------------------------------------------------------------------------


def test_rules_come_and_go_and_counters_stay_with_their_name(daemon, net, echo):
    d = daemon(config(one("a", 0, (0,)))).start()
    assert shares(net, 5) == {0: 5}
    reload(d, config(one("b", 1, (1,)), one("a", 0, (0,))))
    assert shares(net, 5, 1) == {1: 5}
    assert shares(net, 5) == {0: 5}
    assert d.metric("l4lb_connections_total", rule="a") == 10
    reload(d, config(one("a", 0, (0,)), one("c", 2, (2,))))
    assert is_refused(net, 1)
    assert shares(net, 5, 2) == {2: 5}
    wait_until(lambda: d.count_log("rule b is gone"), 3, "b is gone")
    assert d.metric("l4lb_connections_total", rule="a") == 10
    assert not [k for k in d.metrics() if ("rule", "b") in k[1]]
    # Its place is another one's, which begins at nothing.
    reload(d, config(one("a", 0, (0,)), one("b2", 1, (3,))))
    assert shares(net, 5, 1) == {3: 5}
    assert d.metric("l4lb_connections_total", rule="b2") == 5
    # None is left of those that were there at the start.
    reload(d, config(one("z", 3, (3,))))
    assert shares(net, 5, 3) == {3: 5} and is_refused(net, 0)
    d.stop()


@pytest.mark.parametrize("carrier", lanes.CARRIERS)
def test_flows_of_a_removed_rule_live_until_its_time_is_over(daemon, net, echo, carrier):
    keys = {"acceleration": carrier, "timeouts": {"drain_ms": 1500}}
    d = daemon(config(one("a", 0, **keys), one("b", 1, **keys))).start()
    lanes.skip_without(carrier, d)
    early, late, other = Flow(net), Flow(net), Flow(net, 1)
    for f in (early, late, other):
        f.exchange()
    wait_carried(d, carrier, 3)
    begin = time.monotonic()
    reload(d, config(one("b", 1, **keys)))
    assert is_refused(net, 0)
    for f in (early, late, other):
        f.exchange()
    early.end()
    late.socket.settimeout(5 * PATIENCE)
    with pytest.raises(ConnectionResetError):
        late.socket.recv(1)
    assert 1.2 < time.monotonic() - begin < 4 * PATIENCE
    assert sorted(f["reason"] for f in d.wait_flows(2, "a")) == ["done", "drained"]
    wait_until(lambda: d.count_log("rule a is gone"), 3, "a is gone")
    other.exchange()
    other.end()
    assert d.wait_flows(1, "b")[0]["carrier"] == carrier
    d.stop()


def test_a_rule_of_the_same_name_may_come_back_while_its_flows_live(daemon, net, echo):
    both = config(one("a", 0), one("b", 1))
    d = daemon(both).start()
    old = Flow(net)
    for _ in range(3):
        reload(d, config(one("b", 1)))
        assert is_refused(net, 0)
        reload(d, both)
        assert where(net) == 0
        rows = [k for k in d.metrics() if k[0] == "l4lb_connections_total"]
        assert len(rows) == 2, rows
    old.exchange()
    old.end()
    d.stop()


def test_a_rule_moves_to_another_address(daemon, net, echo):
    d = daemon(config(one("a", 0), one("b", 1, (1,)))).start()
    old = Flow(net)
    reload(d, config(one("a", 2), one("b", 1, (1,))))
    assert is_refused(net, 0) and where(net, 2) == 0
    # Two change places, and a third takes the name of neither.
    reload(d, config(one("a", 1), one("b", 2, (1,))))
    assert where(net, 1) == 0 and where(net, 2) == 1
    reload(d, config(one("c", 1, (2,)), one("b", 2, (1,))))
    assert where(net, 1) == 2
    # The same port, for all addresses, and back.
    reload(d, config(rule("c", f"0.0.0.0:{LISTEN + 1}", [addr(2)]), one("b", 2, (1,))))
    assert where(net, 1) == 2
    reload(d, config(one("c", 1, (2,)), one("b", 2, (1,))))
    assert where(net, 1) == 2
    old.exchange()
    old.end()
    d.stop()


def test_connections_in_a_backlog_that_closes_are_served(daemon, net, echo):
    d = daemon(config(one("a", 0), one("b", 1))).start()
    d.process.signal(signal.SIGSTOP)
    waiting = [net.connect(LB_ADDR[4], LISTEN) for _ in range(40)]
    for s in waiting[:20]:
        s.sendall(b"early")
    d.configure(config(one("a", 2), one("b", 1)))
    d.process.signal(signal.SIGHUP)
    d.process.signal(signal.SIGCONT)
    for s in waiting:
        s.settimeout(5)
        assert s.recv(2) == b"0\n"
        s.close()
    wait_until(lambda: is_refused(net, 0), 3, "its address is closed")
    assert where(net, 2) == 0
    d.stop()


@pytest.mark.parametrize("kind", ["renamed", "same", "moved"])
def test_no_connection_is_lost_while_listeners_change_hands(daemon, net, echo, kind):
    """Connections all the time, to an address that somebody always listens at."""
    variants = {
        "renamed": [config(one("a", 0)), config(one("b", 0))],
        "same": [config(one("a", 0)), config(one("a", 0, (0, 1)))],
        "moved": [config(one("a", 0), one("b", 1)), config(one("b", 0), one("a", 1))],
    }[kind]
    d = daemon(variants[0]).start()
    done = 0
    for i in range(30):
        d.configure(variants[i % 2])
        d.process.signal(signal.SIGHUP)
        for _ in range(15):
            where(net)
            done += 1
    wait_until(lambda: outcomes(d) >= 5, 5, "several have been read")
    assert d.count_log("not in force") == 0
    d.stop()


# --- all or nothing -----------------------------------------------------------------------------

BAD = {
    "no yaml": ("rules: [\n  - {", r"ERROR.*:\d+:\d+: |:\d+:\d+: "),
    "unknown key": (config(one(), tiemouts=1), r":\d+:\d+: tiemouts: "),
    "port taken": (config(one(), one("b", 5, (1,))), r"rule b: cannot listen on \S+: Address al"),
    "address of nobody": (config(one(back=(1,)), rule("b", "192.0.2.77:80", [addr(1)])),
                          r"rule b: cannot listen on 192.0.2.77:80: Cannot assign"),
    "name of nobody": (config(one(back=(1,)),
                              one("b", 6, resolve={"timeout_ms": 300}, back=(
                                  {"addr": f"nobody.test:{BACK}"},))),
                       r"rule b: backend nobody.test:\d+: no address for this name: "),
    "only at a start": (config(one(back=(1,), client_connection_limit=5)),
                        r"client_connection_limit: 0 -> 5 \(needs a restart\)"),
    "bypass": (config(one(back=(1,)), one("b", 6, same_host_bypass=True)),
               r"rule b: same_host_bypass: .*needs a restart"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_done_changes_nothing(daemon, net, folder, echo, kind):
    new, message = BAD[kind]
    wrap = dns.wrap(folder) if kind == "name of nobody" else ()
    d = daemon(config(one())).start() if not wrap else daemon(config(one()), wrap=wrap).start()
    old = Flow(net)
    before = machine.process_fds(d.pid)["other"]
    with net.call(LB, lambda: socket.create_server((LB_ADDR[4], LISTEN + 5))):
        for i in range(3):
            if isinstance(new, str):
                d.config.write_text(new)
                reload(d, None, good=False)
            else:
                reload(d, new, good=False)
            assert d.count_log(message) == i + 1, d.log
    assert d.count_log("everything stays as it was") == 3
    assert shares(net, 6) == {0: 6}
    assert is_refused(net, 6)
    old.exchange()
    old.end()
    wait_until(lambda: machine.process_fds(d.pid)["other"] <= before, 3, "descriptors")
    assert d.metric("l4lb_reloads_total", result="refused") == 3
    assert d.metric("l4lb_config_generation") == 1
    assert d.metric("l4lb_last_reload_applied") == 0
    reload(d, config(one(back=(1,))))
    assert shares(net, 6) == {1: 6}
    assert d.metric("l4lb_config_generation") == 2
    d.stop()


def test_a_file_that_is_gone_changes_nothing(daemon, net, echo):
    d = daemon(config(one())).start()
    d.config.unlink()
    reload(d, None, good=False)
    assert d.count_log(r"cannot be read: No such file") == 1
    assert where(net) == 0
    d.stop()


def test_keys_that_need_a_restart_are_named_each_time(daemon, net, echo):
    d = daemon(config(one(), workers=2)).start()
    for i in range(2):
        reload(d, config(one(back=(i,)), workers=3))
        assert where(net) == i
        assert d.count_log(r"workers: 2 -> 3 \(needs a restart; 2 stays in force\)") == i + 1
    assert d.metric("l4lb_workers") == 2
    d.stop()


def test_without_rights_low_ports_are_refused_and_nothing_else_happens(daemon, net, echo):
    d = daemon(config(one(), acceleration="relay"), wrap=(
        "setpriv", "--inh-caps=-all", "--bounding-set=-all")).start()
    unprivileged = run(*net.inside(LB), "sysctl", "-n",
                       "net.ipv4.ip_unprivileged_port_start").stdout.strip()
    if int(unprivileged) <= 81:
        pytest.skip("every port may be bound here")
    reload(d, config(one(), rule("low", f"{LB_ADDR[4]}:81", [addr(1)]), acceleration="relay"),
           good=False)
    assert d.count_log(r"rule low: cannot listen on \S+:81: Permission denied") == 1
    assert where(net) == 0
    d.stop()


def test_low_ports_may_be_bound_after_the_start(daemon, net, echo):
    d = daemon(config(one())).start()
    reload(d, config(one(), rule("low", f"{LB_ADDR[4]}:81", [addr(1)])))
    net.connect(LB_ADDR[4], 81).close()
    d.stop()


# --- what stays ---------------------------------------------------------------------------------

CHECK = {"enabled": True, "interval_ms": 200, "timeout_ms": 150, "protocol": "http", "rise": 2,
         "fall": 2}


def test_health_outlives_reloads_and_checks_never_double(daemon, net):
    well = Backend(net, BACK, backends.good)
    ill = Backend(net, BACK + 1, backends.http(b"HTTP/1.1 500 No\r\n\r\n"))
    try:
        d = daemon(config(one(back=(0, 1), health_check=CHECK))).start()
        wait_status(d, 0, 3, backend=addr(1))
        for i in range(20):
            reload(d, config(one(back=({"addr": addr(0), "weight": 1 + i % 3}, 1),
                                 retries=i % 3, health_check=CHECK)))
            assert d.metric("l4lb_backend_health_status", backend=addr(1)) == 0
        time.sleep(0.3)
        before = [well.connections, ill.connections]
        time.sleep(3)
        # One that is down is asked twice as often: `rise` answers fit into one interval.
        for b, was, want in zip((well, ill), before, (15, 30)):
            assert want * 0.7 <= b.connections - was <= want * 1.25, b.connections - was
        assert d.count_log("is down") == 1 and d.count_log("is up") == 0
        # Other checks: what is known stays until they say otherwise.
        reload(d, config(one(back=(0, 1), health_check={**CHECK, "expect_status": [500]})))
        wait_status(d, 1, 3, backend=addr(1))
        wait_status(d, 0, 3, backend=addr(0))
        # None: all take flows, and nobody is asked.
        reload(d, config(one(back=(0, 1))))
        wait_status(d, 2, 1)
        time.sleep(0.3)
        before = well.connections + ill.connections
        time.sleep(1)
        assert well.connections + ill.connections == before
        # And again.
        reload(d, config(one(back=(0, 1), health_check=CHECK)))
        wait_status(d, 0, 3, backend=addr(1))
        d.stop()
    finally:
        well.close()
        ill.close()


def test_one_that_is_ejected_stays_so(daemon, net, echo):
    passive = {"enabled": True, "failures": 2, "eject_ms": 60000}
    d = daemon(config(one(back=(0, 9), passive_health=passive))).start()
    for _ in range(8):
        where(net)
    wait_status(d, 0, 3, backend=addr(9))
    reload(d, config(one(back=(0, 9, 1), passive_health=passive)))
    assert d.metric("l4lb_backend_health_status", backend=addr(9)) == 0
    assert set(shares(net, 12)) == {0, 1}
    d.stop()
