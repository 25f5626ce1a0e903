# SPDX-License-Identifier: MIT
"""Grafts where interfaces are named, come and go, and are shared with filters of others."""
import contextlib
import json
import os
import re
import shutil
import socket

import pytest

from lbtest import graft, lane as lanes, machine
from lbtest.daemon import rule
from lbtest.net import BACKEND, LB, PREFIX
from lbtest.process import run, wait_until

LISTEN = ("10.81.0.1", 6960)
BACK = ("10.81.1.2", 7960)
# One more pair of devices between lb and backend, for tests that take it away.
SPARE = ("10.81.9.2", 7961)


def start(daemon, *backs, **keys):
    d = daemon({"graft": {"max_flows": 64}, **keys,
                "rules": [rule("r", "%s:%d" % LISTEN, ["%s:%d" % back for back in backs],
                               acceleration="graft")]}).start()
    lanes.skip_without(lanes.GRAFT, d)
    return d


def ended(d, flow, skip=0):
    flow.close()
    line = d.wait_flows(skip + 1)[skip]
    assert (line["up"], line["down"]) == (str(flow.up), str(flow.down)), line
    return line


def test_a_flow_with_a_leg_elsewhere_is_not_grafted_and_works(net, daemon):
    before = graft.filters(net)
    d = start(daemon, BACK, interfaces=["lb0"])
    now = graft.filters(net)
    assert now["lb1"] == before["lb1"] and now["lo"] == before["lo"]
    assert len(now["lb0"]) == len(before["lb0"]) + 1
    with graft.Site(d, LISTEN, BACK) as to:
        flow = to.open()
        flow.ping(100000)
        line = ended(d, flow)
        assert (line["why"], line["reason"]) == ("route", "done"), line
        assert line["carrier"] != "graft", line
    d.stop()


def test_named_interfaces_are_enough_when_both_legs_use_them(daemon):
    d = start(daemon, BACK, interfaces=["lb0", "lb1"])
    with graft.Site(d, LISTEN, BACK) as to:
        assert ended(d, to.graft())["carrier"] == "graft"
    d.stop()


@contextlib.contextmanager
def spare(net):
    """The spare pair of devices, as a function that makes it (anew)."""
    def make():
        remove()
        run("ip", "link", "add", "lb9", "netns", net.names[LB], "type", "veth",
            "peer", "name", "eth9", "netns", net.names[BACKEND])
        for side, device, host in ((LB, "lb9", 1), (BACKEND, "eth9", 2)):
            net.ip(side, f"addr add 10.81.9.{host}/24 dev {device}")
            net.ip(side, f"link set {device} up")

    def remove():
        with contextlib.suppress(AssertionError):
            net.ip(LB, "link del lb9")
    try:
        yield make
    finally:
        remove()


def own_filters(net, d, device):
    """Those of this daemon: others in the namespace follow interfaces too."""
    ids = [str(key[1]) for key, o in d.held.items() if o["name"] == "tc_graft"]
    return [line for line in graft.filters(net)[device]
            if re.search(r" id (\d+) ", line).group(1) in ids]


@pytest.mark.parametrize("keys", [{}, {"interfaces": ["lb0", "lb9"]}], ids=["auto", "named"])
def test_an_interface_that_comes_again_serves_grafts_again(net, daemon, keys):
    with spare(net) as make:
        make()
        d = start(daemon, SPARE, **keys)
        with graft.Site(d, LISTEN, SPARE) as to:
            assert ended(d, to.graft())["carrier"] == "graft"
        for skip in (1, 2):
            make()
            wait_until(lambda: own_filters(net, d, "lb9"), 3, "the new lb9 has the filter")
            with graft.Site(d, LISTEN, SPARE) as to:
                assert ended(d, to.graft(), skip)["carrier"] == "graft"
        d.stop()
        assert not own_filters(net, d, "lb9")


def test_an_interface_that_comes_after_the_start_serves_grafts(net, daemon):
    with spare(net) as make:
        d = start(daemon, SPARE)
        make()
        wait_until(lambda: own_filters(net, d, "lb9"), 3, "lb9 has the filter")
        with graft.Site(d, LISTEN, SPARE) as to:
            assert ended(d, to.graft())["carrier"] == "graft"
        d.stop()


# --- filters of others ----------------------------------------------------------------------------

FIRST, LAST = 10, 0xfff0  # their priorities; ours is between them

# Without a header: those of BPF belong to the product's own programs.
_SOURCE = """
struct {
	int (*type)[2]; /* an array */
	int (*max_entries)[1];
	unsigned int *key;
	unsigned long long *value;
} seen __attribute__((section(".maps"), used));

static void *(*const look_up)(void *map, const void *key) = (void *)1;

__attribute__((section("tc"), used)) int count(void *packet)
{
	unsigned int zero = 0;
	unsigned long long *n = look_up(&seen, &zero);

	if (n)
		__sync_fetch_and_add(n, 1);
	return -1; /* TC_ACT_UNSPEC: the next filter decides */
}

char _license[] __attribute__((section("license"), used)) = "GPL";
"""


@pytest.fixture(scope="session")
def counter(tmp_path_factory):
    """A program for TC that counts and lets the next filter run."""
    folder = tmp_path_factory.mktemp("counter")
    source, built = folder / "count.bpf.c", folder / "count.bpf.o"
    source.write_text(_SOURCE)
    run("clang", "-target", "bpf", "-g", "-O2", "-c", source, "-o", built)
    return built


@pytest.fixture
def filters_of_others(net, counter):
    """Two filters on lb0, before and after ours: a function that says what each has counted."""
    pins = machine.BPFFS / f"{PREFIX}{os.getpid()}filters"

    def counted():
        found = {}
        for line in run(*net.inside(LB), "tc", "filter", "show", "dev", "lb0",
                        "ingress").stdout.splitlines():
            pref = re.search(r"pref (\d+) bpf .*\bcount\b", line)
            if pref:
                dump = run("bpftool", "-j", "map", "dump", "pinned", pins / pref.group(1) / "seen")
                found[int(pref.group(1))] = json.loads(dump.stdout)[0]["formatted"]["value"]
        return found
    run(*net.inside(LB), "tc", "qdisc", "replace", "dev", "lb0", "clsact")
    try:
        for pref in (FIRST, LAST):
            at = pins / str(pref)
            at.mkdir(parents=True)
            run("bpftool", "prog", "load", counter, at / "count", "type", "tc", "pinmaps", at)
            run(*net.inside(LB), "tc", "filter", "add", "dev", "lb0", "ingress", "pref", pref,
                "bpf", "da", "object-pinned", at / "count")
        yield counted
    finally:
        for pref in (FIRST, LAST):
            run(*net.inside(LB), "tc", "filter", "del", "dev", "lb0", "ingress", "pref", pref,
                check=False)
        shutil.rmtree(pins, ignore_errors=True)


def talk_to_this_host(net, count):
    """So many bytes in packets of their own, on a connection that no load balancer knows."""
    address = ("10.81.0.1", 6961)
    with net.call(LB, socket.create_server, address) as listener:
        client = net.connect(*address)
        server, _ = listener.accept()
        with client, server:
            for _ in range(count):
                client.sendall(b"x")
                assert server.recv(1) == b"x"


@pytest.mark.parametrize("how", ["stop", "unload"])
def test_filters_of_others_see_what_is_not_ours_and_stay(net, daemon, filters_of_others, how):
    counted = filters_of_others
    d = start(daemon, BACK)
    with graft.Site(d, LISTEN, BACK) as to:
        flow = to.graft()
        begin = counted()
        assert set(begin) == {FIRST, LAST}
        for _ in range(100):
            flow.ping()
        grafted = counted()
        # The first sees everything, the last what we do not redirect.
        assert grafted[FIRST] >= begin[FIRST] + 100
        assert grafted[LAST] < begin[LAST] + 50
        talk_to_this_host(net, 50)
        now = counted()
        assert now[FIRST] >= grafted[FIRST] + 50 and now[LAST] >= grafted[LAST] + 50
        flow.close()
    if how == "stop":
        d.stop()
    else:
        d.crash()
        assert d.unload() == 0
    talk_to_this_host(net, 50)
    left = counted()
    assert left[FIRST] >= now[FIRST] + 50 and left[LAST] >= now[LAST] + 50, left
    assert not d.pins()
