# SPDX-License-Identifier: MIT
"""allow_list, deny_list: who is refused, and where: at XDP, at TC, after accept."""
import contextlib
import socket

import pytest

from lbtest import clients
from lbtest.backends import Backend
from lbtest.clients import attempt
from lbtest.daemon import rule
from lbtest.net import BACKEND_ADDR, CLIENT, CLIENT_ADDR, LB, LB_ADDR
from lbtest.process import run, wait_until

LISTEN, BACK = 7190, 8190
STRANGER = {4: "10.81.0.77", 6: "fd81::77"}
# How each hook is asked for, and what is in service then at a veth.
HOOKS = {"native": "xdp_native", "generic": "xdp_generic", "tc": "tc", "auto": "tc", "off": None}


def config(hook="auto", family=4, listen=None, **keys):
    listen = listen or LB_ADDR[family]
    listen = f"[{listen}]:{LISTEN}" if ":" in listen else f"{listen}:{LISTEN}"
    return {"admission": hook,
            "rules": [rule("r", listen, [clients.backend_addr(BACK, family)], **keys)]}


@pytest.fixture(params=[4, 6], ids=["v4", "v6"])
def family(request):
    return request.param


@pytest.fixture
def backend(net):
    made = []

    def make(family=4):
        made.append(Backend(net, BACK, clients.says_y, BACKEND_ADDR[family]))
        return made[-1]
    yield make
    for b in made:
        b.close()


@pytest.fixture
def stranger(net):
    """The client has a second address of either family."""
    with clients.address(net, CLIENT, STRANGER[4]), clients.address(net, CLIENT, STRANGER[6]):
        yield STRANGER


def refused(d, hook, reason="acl_denied"):
    return int(d.metric("l4lb_refusals_total", hook=hook, reason=reason))


@pytest.mark.parametrize("hook", HOOKS)
def test_a_denied_client_is_refused_where_it_was_asked_for(net, daemon, backend, stranger, family,
                                                           hook):
    backend(family)
    d = daemon(config(hook, family, deny_list=[STRANGER[family]])).start()
    to = (LB_ADDR[family], LISTEN)
    where = HOOKS[hook]
    assert d.metric("l4lb_admission_in_service", interface="lb0", hook=str(where)) == bool(where)
    assert attempt(net, to, CLIENT_ADDR[family]) == "y"
    if where:
        assert attempt(net, to, stranger[family]) == "silence"
        # No socket, no session: only its SYN was seen.
        assert d.metric("l4lb_connections_total") == 1
        assert refused(d, where.split("_", maxsplit=1)[0]) >= 1 and refused(d, "accept") == 0
        assert d.metric("l4lb_admission_passed_total") == 1
    else:
        assert attempt(net, to, stranger[family]) == "reset"
        assert refused(d, "accept") == 1
        # In whatever order their workers come to write them down.
        flow, = (f for f in d.wait_flows(2) if f["reason"] != "done")
        assert (flow["reason"], flow["backend"], flow["client"].rsplit(":", 1)[0].strip("[]")) == \
            ("acl_denied", "-", stranger[family])
    d.check_idle()
    d.stop()
    links = run(*net.inside(LB), "ip", "link", "show", "lb0").stdout
    filters = run(*net.inside(LB), "tc", "filter", "show", "dev", "lb0", "ingress").stdout
    assert "xdp" not in links and "tc_admit" not in filters


def test_who_is_not_on_the_allow_list_is_refused(net, daemon, backend, stranger, family):
    backend(family)
    d = daemon(config(family=family, allow_list=[STRANGER[family], "192.0.2.0/24"])).start()
    to = (LB_ADDR[family], LISTEN)
    assert attempt(net, to, stranger[family]) == "y"
    assert attempt(net, to, CLIENT_ADDR[family]) == "silence"
    d.stop()


def test_deny_wins_over_allow(net, daemon, backend, stranger):
    backend()
    d = daemon(config(allow_list=["10.81.0.0/24"], deny_list=["10.81.0.64/26"])).start()
    assert attempt(net, (LB_ADDR[4], LISTEN), CLIENT_ADDR[4]) == "y"
    assert attempt(net, (LB_ADDR[4], LISTEN), stranger[4]) == "silence"
    d.stop()


def test_a_rule_for_any_address_is_judged_at_every_one_of_them(net, daemon, backend, stranger):
    backend()
    d = daemon(config(listen="0.0.0.0", deny_list=[STRANGER[4]])).start()
    for to in (LB_ADDR[4], "10.81.1.1"):
        assert attempt(net, (to, LISTEN), CLIENT_ADDR[4]) == "y"
        assert attempt(net, (to, LISTEN), stranger[4]) == "silence"
    entries = d.metric("l4lb_map_entries", map="lb_listeners")
    with clients.address(net, LB, "10.81.0.9", "lb0"):
        wait_until(lambda: d.metric("l4lb_map_entries", map="lb_listeners") == entries + 1, 5,
                   "the new address is judged")
        assert attempt(net, ("10.81.0.9", LISTEN), CLIENT_ADDR[4]) == "y"
        assert attempt(net, ("10.81.0.9", LISTEN), stranger[4]) == "silence"
    wait_until(lambda: d.metric("l4lb_map_entries", map="lb_listeners") == entries, 5,
               "the address that went is not judged any more")
    assert d.metric("l4lb_connections_total") == 3
    d.stop()


@pytest.mark.parametrize("hook", ["native", "tc"])
def test_what_is_routed_through_this_host_is_not_judged(net, daemon, backend, stranger, hook):
    backend()
    forward = ["sysctl", "-qw", "net.ipv4.ip_forward=1"]
    with contextlib.closing(Backend(net, LISTEN, clients.says_y)):
        d = daemon(config(hook, listen="0.0.0.0", deny_list=["0.0.0.0/0"])).start()
        run(*net.inside(LB), *forward)
        try:
            assert attempt(net, (LB_ADDR[4], LISTEN), stranger[4]) == "silence"
            assert attempt(net, (BACKEND_ADDR[4], LISTEN), stranger[4]) == "y"
        finally:
            run(*net.inside(LB), "sysctl", "-qw", "net.ipv4.ip_forward=0")
        d.stop()


@pytest.mark.parametrize("hook", ["native", "generic", "tc"])
def test_a_denied_client_may_do_whatever_is_not_the_rules(net, daemon, backend, hook):
    backend()
    d = daemon(config(hook, deny_list=["10.81.0.0/24"])).start()
    assert attempt(net, (LB_ADDR[4], LISTEN)) == "silence"
    assert attempt(net, (LB_ADDR[4], LISTEN + 1)) == "refused"
    d.stop()


@pytest.mark.parametrize("hook", ["native", "tc"])
def test_a_daemon_that_is_gone_refuses_nobody(net, daemon, backend, stranger, hook):
    backend()
    d = daemon(config(hook, deny_list=[STRANGER[4]])).start()
    assert attempt(net, (LB_ADDR[4], LISTEN), stranger[4]) == "silence"
    d.crash()

    def serve():
        s = socket.create_server((LB_ADDR[4], LISTEN), reuse_port=True)
        s.settimeout(20)
        return s
    with net.call(LB, serve):  # who takes the port next
        wait_until(lambda: clients.connects(net, (LB_ADDR[4], LISTEN), stranger[4]), 10,
                   "the stranger is let in")
    assert d.unload() == 0
    filters = run(*net.inside(LB), "tc", "filter", "show", "dev", "lb0", "ingress").stdout
    assert "tc_admit" not in filters


@pytest.mark.parametrize("hook", ["native", "tc"])
def test_a_restart_after_a_crash_takes_over(net, daemon, backend, stranger, hook):
    backend()
    d = daemon(config(hook, deny_list=[STRANGER[4]]))
    for _ in range(5):
        d.start()
        assert attempt(net, (LB_ADDR[4], LISTEN), stranger[4]) == "silence"
        assert attempt(net, (LB_ADDR[4], LISTEN), CLIENT_ADDR[4]) == "y"
        d.crash()
    d.start()
    filters = run(*net.inside(LB), "tc", "filter", "show", "dev", "lb0", "ingress").stdout
    assert filters.count("tc_admit:[") == (hook == "tc")
    d.stop()


def test_interfaces_that_come_are_judged_too(net, daemon, backend, stranger):
    backend()
    d = daemon(config("auto", listen="0.0.0.0", deny_list=["10.82.0.2"])).start()
    run("ip", "link", "add", "lb9", "netns", net.names[LB], "type", "veth", "peer", "name", "eth9",
        "netns", net.names[CLIENT])
    try:
        for side, device, host in ((LB, "lb9", 1), (CLIENT, "eth9", 2)):
            net.ip(side, f"addr add 10.82.0.{host}/24 dev {device}")
            net.ip(side, f"link set {device} up")
        net.ip(CLIENT, "addr add 10.82.0.3/24 dev eth9")
        wait_until(lambda: d.metric("l4lb_admission_in_service", interface="lb9") == 1, 5,
                   "the new interface is in service")
        assert attempt(net, ("10.82.0.1", LISTEN), "10.82.0.2") == "silence"
        assert attempt(net, ("10.82.0.1", LISTEN), "10.82.0.3") == "y"
    finally:
        net.ip(LB, "link del lb9")
    wait_until(lambda: d.metric("l4lb_admission_in_service", interface="lb9") == 0, 5,
               "the interface that went is not listed")
    d.stop()


def test_without_bpf_rights_clients_are_refused_after_accept(net, daemon, backend, stranger):
    backend()
    d = daemon(config(deny_list=[STRANGER[4]]),
               wrap=["setpriv", "--bounding-set=-bpf,-net_admin,-perfmon,-sys_admin"]).start()
    assert d.count_log(r"admission in the kernel is not in service \(no_cap\)") == 1
    assert attempt(net, (LB_ADDR[4], LISTEN), stranger[4]) == "reset"
    assert attempt(net, (LB_ADDR[4], LISTEN), CLIENT_ADDR[4]) == "y"
    d.stop()


def test_a_flood_of_refusals_is_not_one_of_log_lines(net, daemon, backend):
    backend()
    d = daemon({"workers": 1, **config("off", deny_list=["10.81.0.0/24"])}).start()
    clients.hammer(net, (LB_ADDR[4], LISTEN), 1000, 1)
    wait_until(lambda: refused(d, "accept") == 1000, 5, "all were refused")
    lines = len(d.flows())
    assert 100 <= lines <= 350
    assert d.metric("l4lb_refusals_unlogged_total") == 1000 - lines
    d.stop()
