# SPDX-License-Identifier: MIT
"""
Fixtures and the gates that are always on: the kernel log stays silent, descriptors, memory and
BPF objects come back, a daemon without work is idle, nothing outlives the run.
"""
import shutil
import signal
from collections import Counter

import pytest

from lbtest import lane as lanes
from lbtest import machine, net as nets
from lbtest.certs import Authority
from lbtest.daemon import LOSSY, PROGRAM, Daemon, rule
from lbtest.grafting import Grafting, bad_checksums
from lbtest.net import BACKEND_ADDR, LB_ADDR
from lbtest.peer import PEER

LANES = 4

# What other tests beside it would spoil: it measures rates, times or the whole machine's memory,
# changes what belongs to the machine, or uses ports of the host's own namespace. The parts of a
# file, or all of it; `-m alone` and `-m "not alone"` tell them apart.
ALONE = {
    "test_admin": ["test_ten_thousand"],
    "test_backpressure": [],
    "test_bandwidth_limit": [],
    "test_cluster_flood": [],
    "test_cluster_limits": [],
    "test_docs": [],
    "test_failover": [],
    "test_graft_many": [],
    "test_ha": [],
    "test_rate_limit": [],
    "test_reload_load": [],
    "test_same_host": ["test_a_reader_that_never_reads"],
    "test_samples": ["test_limits"],
    "test_slow_clients": [],
    "test_soak": [],
    "test_syn_flood": [],
    "test_tls_abuse": [],
}


def pytest_collection_modifyitems(items):
    for item in items:
        parts = ALONE.get(item.module.__name__)
        if parts is not None and (not parts or item.name.startswith(tuple(parts))):
            item.add_marker(pytest.mark.alone)


def pytest_configure(config):
    config.addinivalue_line("markers", "alone: other tests beside it would spoil it")
    config.addinivalue_line("markers", "long: takes seconds, and is like one that is always run")

    def stop(number, _):
        raise KeyboardInterrupt(signal.Signals(number).name)
    # So that fixtures clean up when whoever runs the tests loses patience.
    signal.signal(signal.SIGTERM, stop)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for d in item.funcargs.get("daemons_seen", Daemon.live):
            report.sections.append((f"{d.name} log, last lines", d.log[-4000:]))
            # How the last ones ended, and of those that are few the lines.
            flows = d.flows()[-1000:]
            kinds = Counter((f["carrier"], f["why"], f["reason"]) for f in flows)
            rare = [f for f in flows if kinds[f["carrier"], f["why"], f["reason"]] <= 5]
            report.sections.append((f"{d.name} access log", "\n".join(
                [str(kinds.most_common()), *map(str, rare[-20:])])))


@pytest.fixture(scope="session")
def ready_to_test():
    assert PROGRAM.exists() and PEER.exists(), f"build first: {PROGRAM} and {PEER}"
    lacking = [p for p in ("ip", "nsenter", "nft", "ss", "bpftool", "ethtool", "setpriv", "prlimit")
               if not shutil.which(p)]
    assert not lacking, f"install first: {lacking}"
    nets.remove_stale()
    machine.remove_stale_instances(nets.PREFIX)
    machine.mount_bpffs()


@pytest.fixture(scope="session")
def net(ready_to_test):
    net = nets.Net()
    yield net
    net.close()


@pytest.fixture(autouse=True)
def kernel_stays_silent():
    log = machine.KernelLog()
    yield
    complaints = log.complaints()
    log.close()
    assert not complaints, "\n".join(complaints)


@pytest.fixture
def folder(tmp_path):
    return tmp_path


@pytest.fixture
def daemon(net, folder):
    """daemon(config, ..) makes a Daemon for this test and sees to its end."""
    made = []

    def make(config, **options):
        made.append(Daemon(net, folder, config, **options))
        return made[-1]
    yield make
    for d in made:
        d.kill()


@pytest.fixture
def grafting(daemon, net, folder):
    """
    grafting(..) starts a daemon for flows that are to be grafted. It ends in good order, and no
    kernel has seen a bad checksum, or the test has failed.
    """
    made, before = [], bad_checksums(net)

    def make(family=4, listen=None, backend=None, acceleration="graft", **graft):
        made.append(Grafting(daemon, net, folder, listen or LB_ADDR[family],
                             backend or BACKEND_ADDR[family], acceleration, graft))
        return made[-1]
    yield make
    assert bad_checksums(net) == before
    for g in made:
        if g.daemon.process.alive():
            g.daemon.stop()


# --- lanes: one daemon per carrier serves all integrity tests -----------------------------------


def _endpoint(family, port, addr):
    return f"[{addr[family]}]:{port}" if family == 6 else f"{addr[family]}:{port}"


# The peers speak no TLS: rules in a row do, the first one towards the next, .. the last one again
# plain to the backend. One in the middle does both.
SEALED = {"tls": 2, "tls_both": 3}


def sealed_rules(carrier, first, pair, ca):
    """<first> with TLS to its backend, and the rules behind it."""
    _, _, port = first["listen"].rpartition(":")
    count = SEALED[carrier]
    sealed = {"enabled": True, "ca": str(ca), "name": "lane.example"}
    hops = [{**first, "backend_tls": sealed}]
    for hop in range(1, count):
        address = f"127.0.0.1:{int(port) + 2000 * hop}"
        hops[-1]["backends"] = [address]
        hops.append({**first, "name": f"{first['name']}-{hop}", "listen": address,
                     "tls": {"enabled": True, **pair.config()}})
        if hop + 1 < count:
            hops[-1]["backend_tls"] = sealed
    hops[-1]["backends"] = first["backends"]
    return hops


def lane_rules(carrier):
    """{name: (rule, listen, backend)}: plain lanes, and one per other pair of families."""
    base = 6000 + 100 * [*lanes.CARRIERS, *SEALED].index(carrier)
    families = [(f"v4n{i}", 4, 4) for i in range(LANES)]
    families += [("v6", 6, 6), ("v4to6", 4, 6), ("v6to4", 6, 4)]
    found = {}
    for number, (name, front, back) in enumerate(families):
        listen, backend = base + number, base + 1000 + number
        found[name] = (rule(name, _endpoint(front, listen, LB_ADDR),
                            [_endpoint(back, backend, BACKEND_ADDR)],
                            acceleration=lanes.RELAY if carrier in SEALED else carrier,
                            timeouts=LOSSY),
                       (LB_ADDR[front], listen), (BACKEND_ADDR[back], backend))
    return found


class CarrierDaemon:
    """The daemon all lanes of one carrier share. One that died is replaced for the next test."""

    def __init__(self, net, folder, carrier):
        self.net, self.folder, self.carrier = net, folder, carrier
        self.rules = lane_rules(carrier)
        self.daemon = None

    def lane(self, name, folder):
        if self.daemon is None or not self.daemon.process.alive():
            if self.daemon is not None:
                self.daemon.kill()
            self.daemon = Daemon(self.net, self.folder, {"rules": self.all_rules()}).start()
        carrier = lanes.RELAY if self.carrier in SEALED else self.carrier
        lanes.skip_without(carrier, self.daemon)
        _, listen, backend = self.rules[name]
        return lanes.Lane(self.daemon, folder, name, listen, backend, carrier)

    def all_rules(self):
        plain = [r for r, _, _ in self.rules.values()]
        if self.carrier not in SEALED:
            return plain
        ca = Authority(self.folder)
        pair = ca.issue("lane.example")
        return [r for first in plain for r in sealed_rules(self.carrier, first, pair, ca.cert)]

    def close(self):
        if self.daemon is None or self.daemon not in Daemon.live:
            return
        try:
            self.daemon.check_quiet()
            self.daemon.stop()
        finally:
            self.daemon.kill()


@pytest.fixture(scope="session")
def carrier_daemons(net, tmp_path_factory):
    daemons = {c: CarrierDaemon(net, tmp_path_factory.mktemp(c), c)
               for c in (*lanes.CARRIERS, *SEALED)}
    yield daemons
    for d in daemons.values():
        d.close()


@pytest.fixture(params=[*lanes.CARRIERS, *SEALED])
def carrier(request):
    """What moves the bytes of a lane: a carrier, or one of SEALED."""
    return request.param


@pytest.fixture
def lane_of(carrier, carrier_daemons, folder):
    """lane_of(name) is a lane on the test's carrier; afterwards the daemon must be itself again."""
    used = []

    def get(name="v4n0"):
        used.append(carrier_daemons[carrier].lane(name, folder))
        return used[-1]
    yield get
    for lane in used[:1]:
        code = lane.daemon.process.popen.poll()
        assert code is None, f"the daemon ended with {code}\n{lane.daemon.log[-3000:]}"
        try:
            lane.daemon.check_idle()
        except AssertionError:
            lane.daemon.kill()  # the next test shall not pay for this one
            raise


@pytest.fixture
def lane(lane_of):
    return lane_of()
