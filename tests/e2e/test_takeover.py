# SPDX-License-Identifier: MIT
"""A new daemon takes over from one that serves: nobody is cut, nobody refused, nothing is left."""
import itertools
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from lbtest import lane as lanes, machine, takeover
from lbtest.net import LB, LB_ADDR
from lbtest.process import PATIENCE, SAN, wait_until
from lbtest.reloading import (  # echo is a fixture
    LISTEN, Flow, addr, config, echo, one, wait_carried)
from lbtest.takeover import Peer, successor, take_over, wait_ended

FLOWS = 8
TAKEOVERS = 5
DRAIN = {"drain_ms": 60000}


class Busy:
    """A client that opens one connection after another, until it is stopped."""

    def __init__(self, net, listen=0):
        self.count, self.failed, self.over = 0, [], threading.Event()
        self.thread = threading.Thread(target=self.run, args=(net, listen))
        self.thread.start()

    def run(self, net, listen):
        while not self.over.is_set():
            try:
                flow = Flow(net, listen)
                flow.exchange(500)
                flow.end()
                self.count += 1
            except (OSError, AssertionError) as e:
                self.failed.append(repr(e))

    def stop(self):
        self.over.set()
        self.thread.join()
        assert not self.failed, (len(self.failed), self.count, self.failed[:5])
        return self.count


@pytest.fixture
def busy(net):
    made = []

    def make(listen=0):
        made.append(Busy(net, listen))
        return made[-1]
    yield make
    for b in made:
        b.over.set()
        b.thread.join()


@pytest.fixture
def family(daemon):
    """Everybody who comes of a daemon: started here, killed at the end."""
    made = []

    def make(first):
        made.append(first)
        return first
    yield make
    for d in made:
        d.kill()


def all_carriers():
    return [one(c, n, (n,), acceleration=c, timeouts=DRAIN) for n, c in enumerate(lanes.CARRIERS)]


def skip_without_any(d):
    for c in lanes.CARRIERS:
        lanes.skip_without(c, d)


def test_five_takeovers_cut_and_refuse_nobody(net, daemon, family, echo, busy):
    """Eight flows on each carrier, and new ones all the time, on the same rules."""
    d = daemon(config(*all_carriers(), one("web", 10, (3,), timeouts=DRAIN))).start()
    skip_without_any(d)
    before, rss, first = takeover.footprint(d), machine.process_rss(d.pid), d
    flows = {c: [Flow(net, n) for _ in range(FLOWS)] for n, c in enumerate(lanes.CARRIERS)}

    def exchange_all(when, size):
        for c, f in ((c, f) for c, some in flows.items() for f in some):
            name = f"{c}, port {f.socket.getsockname()[1]}"
            try:
                f.exchange(size)
            except OSError as e:
                pytest.fail(f"{when}: {name}: {e!r}: {d.flows(c)}")
    exchange_all("at first", 20000)
    wait_carried(d, "graft", FLOWS)
    wait_carried(d, "sockmap", FLOWS)
    clients = [busy(10) for _ in range(2)]
    for i in range(TAKEOVERS):
        old, d = d, family(take_over(d))
        assert d.grafted() == FLOWS
        exchange_all(f"takeover {i}", 3000)
        # It has nothing left to wait for, although all of its flows live.
        wait_ended(old)
        wait_carried(d, "sockmap", FLOWS)
    assert sum(b.stop() for b in clients) > 100
    exchange_all("at last", 20000)
    for f in itertools.chain(*flows.values()):
        f.end()
    wait_until(lambda: takeover.footprint(d) == before, 5,
               lambda: f"{before}, now {takeover.footprint(d)}: {d.fd_names()}")
    if not SAN:
        assert machine.process_rss(d.pid) < rss + (8 << 20)
    for c in lanes.CARRIERS:
        ended = d.wait_flows(FLOWS, c)
        assert {(f["reason"], f["carrier"]) for f in ended} == {("done", c)}, ended
    assert {f["reason"] for f in d.flows("web")} == {"done"}
    d.held.update(first.held)
    d.stop()


def test_flows_that_stay_drain_in_the_old_one(net, daemon, family, echo):
    """Of a rule that the new one has not: their counters, too, go on until they have ended."""
    both = config(one("stays", 0, (0,)), one("goes", 1, (1,), timeouts={"drain_ms": 60000}))
    d = daemon(both).start()
    stays, goes = Flow(net, 0), Flow(net, 1)
    for f in (stays, goes):
        f.exchange(1000)
    new = family(take_over(d, config(*both["rules"][:1])))
    wait_until(lambda: new.ctl("status").get("predecessor", {}).get("flows") == 1, 5,
               "one of them has gone over")
    shown = new.lbctl("status").stdout
    assert re.search(rf"1 flows drain in the daemon before, pid {d.pid}, version \S+: cut in \d",
                     shown), shown
    assert d.process.alive()
    for f in (stays, goes):
        f.exchange(1000)
    goes.end()
    wait_ended(d)
    assert "predecessor" not in new.ctl("status")
    stays.end()
    ended = {f["rule"]: f for f in new.wait_flows(2)}
    assert ended["goes"]["reason"] == ended["stays"]["reason"] == "done", ended
    assert ended["goes"]["up"] == ended["stays"]["up"] == "2000", ended
    new.stop()


def test_the_deadline_of_the_old_one_holds(net, daemon, family, echo):
    both = config(one("stays", 0, (0,)), one("goes", 1, (1,), timeouts={"drain_ms": 700}))
    d = daemon(both).start()
    goes = Flow(net, 1)
    new = family(take_over(d, config(*both["rules"][:1])))
    with pytest.raises(ConnectionResetError):
        goes.exchange(10)
        goes.socket.recv(1)
    wait_ended(d, cut=1)
    assert [f["reason"] for f in new.wait_flows(1, "goes")] == ["drained"]
    new.stop()


def counters(d):
    return {key: value for key, value in d.metrics().items()
            if key[0].endswith(("_total", "_count", "_sum", "_bucket")) and
            not key[0].startswith(("l4lb_log", "process_"))}


def test_no_counter_falls(net, daemon, family, echo, busy):
    """Looked at all the time, through takeovers: of rules, of backends, of reloads."""
    d = daemon(config(*all_carriers())).start()
    skip_without_any(d)
    clients = [busy(n) for n in range(len(lanes.CARRIERS))]
    d.process.signal(signal.SIGHUP)
    wait_until(lambda: d.metric("l4lb_reloads_total", result="applied") == 1, 5, "one reload")
    last, fallen = counters(d), []
    for _ in range(3):
        new = family(successor(d).spawn())
        end = time.monotonic() + 60 * PATIENCE
        while not d.count_log("has taken over"):
            assert time.monotonic() < end, d.log + new.log
            now = counters(d)
            fallen += [(k, last[k], now.get(k)) for k in last if now.get(k, 0) < last[k]]
            last = now
        new.wait_ready()
        wait_ended(d)
        new.held = machine.bpf_held(new.pid)
        d = new
    sum(b.stop() for b in clients)
    now = counters(d)
    fallen += [(k, last[k], now.get(k)) for k in last if now.get(k, 0) < last[k]]
    assert not fallen, fallen[:10]
    assert d.metric("l4lb_connections_total") == sum(b.count for b in clients)
    # What is grafted is seen to end a little later.
    wait_until(lambda: d.metric("l4lb_ends_total", reason="done") == sum(b.count for b in clients),
               5, lambda: f"all ends are counted: {d.metric('l4lb_ends_total', reason='done')}")
    assert d.metric("l4lb_config_generation") == 5
    assert d.metric("l4lb_active_connections") == 0
    d.stop()


def test_what_is_known_of_backends_goes_on(net, daemon, family, echo):
    """Down, drained, disabled, weighed: as it was, unless the file says something else."""
    check = {"enabled": True, "interval_ms": 60000, "timeout_ms": 500, "rise": 2, "fall": 1}
    names = [addr(i) for i in range(4)]
    rules = [one("r", 0, (0, 1, 2, 3)), one("checked", 1, (0, 9), health_check=check)]
    d = daemon(config(*rules)).start()
    wait_until(lambda: state(d, "checked", addr(9)) == "down", 5, "one is down")
    d.ctl("drain", "r", names[1], "--deadline", "never")
    d.ctl("disable", "r", names[2])
    d.ctl("weight", "r", names[3], "7")
    new = family(take_over(d))
    wait_ended(d)
    assert [state(new, "r", n) for n in names] == ["up", "draining", "disabled", "up"]
    assert state(new, "checked", addr(9)) == "down" and state(new, "checked", names[0]) == "up"
    assert {b["backend"]: b["weight"] for b in backends(new, "r")} == {
        names[0]: 1, names[1]: 1, names[2]: 1, names[3]: 7}
    new.ctl("undrain", "r", names[1])
    # What the file says anew counts.
    rules[0] = one("r", 0, (0, 1, 2, {"addr": names[3], "weight": 3}))
    last = family(take_over(new, config(*rules)))
    wait_ended(new)
    assert [state(last, "r", n) for n in names] == ["up", "up", "disabled", "up"]
    assert {b["backend"]: b["weight"] for b in backends(last, "r")}[names[3]] == 3
    last.stop()


def served_of(net, count, listen=0):
    """How many of so many clients get a backend."""
    served = 0
    for _ in range(count):
        try:
            Flow(net, listen).end()
            served += 1
        except (OSError, AssertionError):
            pass
    return served


def test_a_client_lacks_its_tokens_at_the_next_one_too(net, daemon, family, echo):
    limit = {"enabled": True, "requests_per_second": 1, "burst": 100}
    d = daemon(config(one("r", 0, rate_limit=limit), admission="off")).start()
    begin = time.monotonic()
    assert served_of(net, 100) == 100
    new = family(take_over(d))
    wait_ended(d)
    served = served_of(net, 50)
    assert served <= time.monotonic() - begin + 1, served
    new.stop()


def backends(d, name):
    return d.ctl("backends", "--rule", name)["backends"]


def state(d, name, backend):
    return {b["backend"]: b["state"] for b in backends(d, name)}[backend]


# --- what may go wrong before the commit: the one that serves goes on as if nothing had happened --


@pytest.fixture
def served(net, daemon, echo):
    """A daemon with a flow on each carrier; afterwards it serves and carries as before."""
    d = daemon(config(*all_carriers())).start()
    skip_without_any(d)
    flows = [Flow(net, n) for n in range(len(lanes.CARRIERS))]
    for f in flows:
        f.exchange()
    wait_carried(d, "graft", 1)
    wait_carried(d, "sockmap", 1)
    pins, before = sorted(d.pins()), takeover.footprint(d)
    yield d
    assert d.process.alive(), d.log
    wait_until(lambda: takeover.footprint(d) == before, 5, lambda: f"{before}, now "
               f"{takeover.footprint(d)}: {d.fd_names()}")
    assert sorted(d.pins()) == pins
    assert d.grafted() == 1 and d.metric("l4lb_active_connections") == len(flows)
    assert d.ctl("status")["state"] == "serving"
    for f in flows:
        f.exchange()
        f.end()
    # What is grafted after it is kept as well.
    late = Flow(net, lanes.CARRIERS.index("graft"))
    late.exchange()
    wait_until(lambda: d.metric("l4lb_flows_total", carrier="graft") == 1, 5, "the first has gone")
    wait_carried(d, "graft", 1)
    late.end()
    wait_until(lambda: d.grafted() == 0, 5, "it is seen to end")
    # And it can still be taken over.
    new = take_over(d)
    wait_ended(d)
    new.held.update(d.held)
    new.stop()


def assert_fails(new, words, code=3):
    assert new.spawn().process.wait(30) == code, new.log
    new.forget()
    assert words in new.log, new.log


def test_a_bad_configuration_changes_nothing(served):
    new = successor(served, config(one(nonsense=1)))
    assert_fails(new, "nonsense", code=1)


def test_an_address_that_is_in_use_changes_nothing(net, served):
    with net.call(LB, socket.create_server, (LB_ADDR[4], LISTEN + 30)):
        new = successor(served, config(*all_carriers(), one("more", 30)))
        assert_fails(new, "in use")
    assert served.count_log("has failed: rule more: cannot listen on .*; this one serves on") == 1


def test_nobody_to_take_over_from_is_an_error(daemon, echo):
    d = daemon(config(one()))
    new = successor(d)
    assert_fails(new, "no daemon of this instance can be taken over from")


# What it has said by then: it has the offer; the old one stands still.
@pytest.mark.parametrize("step", ["takeover: from process", "sockmap is in service"])
def test_a_new_one_that_is_killed_before_the_commit_changes_nothing(served, step):
    new = successor(served).spawn()
    wait_until(lambda: step in new.log, 20, "it is there", every=0.001)
    new.crash()
    wait_until(lambda: served.count_log("has failed: it is gone"), 10, "the old one knows")


def test_a_new_one_that_is_killed_before_its_word_has_arrived_changes_nothing(served):
    """It has said that it has taken over; nobody has read that when it dies."""
    new = successor(served).spawn()
    wait_until(lambda: "sockmap is in service" in new.log, 20, "it stands still", every=0.001)
    served.process.signal(signal.SIGSTOP)
    wait_until(lambda: "admin" in threads(new), 20, "it has come to the last step")
    threading.Event().wait(0.3)
    new.crash()
    served.process.signal(signal.SIGCONT)
    wait_until(lambda: served.count_log("has failed: Broken pipe"), 10, "the old one knows")


def threads(d):
    return {(t / "comm").read_text().strip() for t in Path(f"/proc/{d.pid}/task").iterdir()}


BAD = {
    "nothing": lambda p: None,
    "text": lambda p: p.socket.send(b"GET / HTTP/1.0\r\n\r\n"),
    "empty": lambda p: p.send(takeover.HELLO),
    "large": lambda p: p.socket.send(b"x" * 100000),
    "magic": lambda p: p.send(takeover.HELLO, bytes(136), magic=1),
    "size": lambda p: p.send(takeover.HELLO, bytes(136), size=99),
    "no_pid": lambda p: p.hello(pid=0),
    "no_end": lambda p: p.hello(version=b"x" * 64),
    "unknown": lambda p: p.send(77),
    "too_early": lambda p: p.send(takeover.READY),
    "taken": lambda p: p.send(takeover.TAKEN, bytes(8)),
}


@pytest.mark.parametrize("what", BAD)
def test_a_greeting_that_is_none_changes_nothing(served, what):
    with Peer(served) as p:
        BAD[what](p)
        if what == "nothing":
            p.socket.shutdown(socket.SHUT_RDWR)
        assert p.is_closed()
    wait_until(lambda: served.count_log("takeover") == 1, 5, "it has been noticed")


def test_descriptors_nobody_asked_for_are_closed(served):
    with Peer(served) as p:
        with socket.socket() as one_of, socket.socket() as other:
            fds = [one_of.fileno(), other.fileno()] * 20
            p.send(takeover.HELLO, bytes(136), fds=fds)
        assert p.is_closed()


def test_who_says_nothing_is_not_waited_for(served):
    with Peer(served) as p:
        assert p.is_closed()
    assert served.count_log("it takes too long") == 1, served.log


def test_another_protocol_is_refused(served):
    with Peer(served) as p:
        p.hello(protocol=2)
        kind, body = p.recv()
        assert kind == takeover.REFUSE
        assert b"speaks takeover protocol 1, version 9.9 protocol 2" in body, body
        assert p.is_closed()


def test_another_instance_is_refused(served):
    with Peer(served) as p:
        p.hello(instance="other")
        kind, body = p.recv()
        assert kind == takeover.REFUSE and b"not 'other'" in body, body


STEPS = {
    "offered": [],
    "garbage": [(99, b"")],
    "twice": [(takeover.HELLO, None)],
    "taken_early": [(takeover.TAKEN, bytes(8))],
    "frozen": [(takeover.READY, b"")],
    "frozen_garbage": [(takeover.READY, b""), (98, b"12345")],
    "frozen_twice": [(takeover.READY, b""), (takeover.READY, b"")],
    "keeps": [(takeover.READY, b""), (takeover.KEEPS, bytes(28))],
    "keeps_odd": [(takeover.READY, b""), (takeover.KEEPS, bytes(29))],
}


@pytest.mark.parametrize("step", STEPS)
def test_who_goes_wrong_later_changes_nothing(served, step):
    with Peer(served) as p:
        p.hello()
        kinds = p.take_offer()
        assert kinds[0] == takeover.WELCOME and kinds[-1] == takeover.OFFERED, kinds
        for kind, body in STEPS[step]:
            if body is None:
                p.hello()
            else:
                p.send(kind, body)
        if step in ("offered", "frozen", "keeps"):
            if len(STEPS[step]):
                assert p.recv()[0] == takeover.FROZEN
        else:
            assert p.is_closed()
    wait_until(lambda: served.count_log("has failed"), 5, "it has been noticed")


def test_one_takeover_at_a_time(served):
    with Peer(served) as first, Peer(served) as second:
        first.hello()
        assert first.take_offer()[-1] == takeover.OFFERED
        assert second.is_closed()
    wait_until(lambda: served.count_log("has failed"), 5, "it has been noticed")


# --- lbctl upgrade --------------------------------------------------------------------------------


class Upgraded:
    """The daemon that `lbctl upgrade` has started, seen as <d> was."""

    def __init__(self, d, pid):
        self.d, self.pid = d, pid

    def stop(self):
        os.kill(self.pid, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{self.pid}/exe").exists(), 10, "it has ended")


def upgrade(d, *words, code=0):
    return d.lbctl("upgrade", *words) if code is None else d.ctl("upgrade", *words, code=code)


def test_lbctl_upgrade_starts_the_next_one(net, daemon, echo):
    d = daemon(config(*all_carriers())).start()
    skip_without_any(d)
    flows = [Flow(net, n) for n in range(len(lanes.CARRIERS))]
    for f in flows:
        f.exchange()
    wait_carried(d, "graft", 1)
    reply = upgrade(d)
    assert reply["before"] == d.pid and reply["pid"] != d.pid, reply
    status = d.ctl("status")
    assert status["pid"] == reply["pid"], status
    # It got nothing of ours but what it took itself, and nobody's message for the first one.
    environment = Path(f"/proc/{reply['pid']}/environ").read_bytes().split(b"\0")
    assert not [v for v in environment if v.startswith((b"WATCHDOG_PID", b"LISTEN_"))]
    wait_ended(d)
    wait_until(lambda: "predecessor" not in d.ctl("status"), 5, "the first one is gone")
    for f in flows:
        f.exchange()
        f.end()
    again = upgrade(d)
    assert again["before"] == reply["pid"], (reply, again)
    last = Upgraded(d, again["pid"])
    last.stop()
    d.check_gone()


def test_an_upgrade_that_fails_says_why(served, folder):
    refused = served.lbctl("upgrade", "--binary", "/nonexistent/layer4-lb")
    assert refused.returncode == 1 and "No such file" in refused.stderr, refused
    refused = served.lbctl("upgrade", "--binary", "layer4-lb")
    assert refused.returncode == 1 and "expected an absolute path" in refused.stderr, refused
    refused = served.lbctl("upgrade", "--binary", "/bin/false")
    assert refused.returncode == 1 and "this one serves on" in refused.stderr, refused
    slow = folder / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    refused = served.lbctl("upgrade", "--binary", str(slow), "--timeout", "300ms")
    assert refused.returncode == 1 and "took too long; this one serves on" in refused.stderr
    good = served.config.read_text()
    served.configure(config(one(nonsense=1)))
    refused = served.lbctl("upgrade")
    assert refused.returncode == 1 and "refuses its configuration" in refused.stderr, refused
    served.config.write_text(good)


def test_an_upgrade_tells_what_the_new_one_could_not_do(net, served):
    good = served.config.read_text()
    with net.call(LB, socket.create_server, (LB_ADDR[4], LISTEN + 30)):
        served.configure(config(*all_carriers(), one("more", 30)))
        refused = served.lbctl("upgrade")
    assert refused.returncode == 1, refused
    assert f"rule more: cannot listen on {LB_ADDR[4]}:{LISTEN + 30}" in refused.stderr, refused
    served.config.write_text(good)
