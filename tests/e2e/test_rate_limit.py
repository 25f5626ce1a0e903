# SPDX-License-Identifier: MIT
"""rate_limit: so many new connections of a client, no more and no fewer, wherever it is refused."""
import pytest

from lbtest import clients
from lbtest.backends import Backend
from lbtest.clients import attempt, hammer
from lbtest.daemon import rule
from lbtest.net import BACKEND_ADDR, CLIENT, CLIENT_ADDR, LB_ADDR
from lbtest.process import wait_until

LISTEN, BACK = 7290, 8290
TO = {4: (LB_ADDR[4], LISTEN), 6: (LB_ADDR[6], LISTEN)}
OTHER = {4: "10.81.0.78", 6: "fd81:0:0:1::78"}


def config(hook="auto", family=4, **limit):
    listen = f"[{LB_ADDR[6]}]:{LISTEN}" if family == 6 else f"{LB_ADDR[4]}:{LISTEN}"
    return {"admission": hook, "workers": 2,
            "rules": [rule("r", listen, [clients.backend_addr(BACK, family)],
                           rate_limit={"enabled": True, **limit})]}


@pytest.fixture
def backend(net):
    made = []

    def make(family=4):
        made.append(Backend(net, BACK, clients.says_y, BACKEND_ADDR[family]))
        return made[-1]
    yield make
    for b in made:
        b.close()


def refused(d, hook, reason="rate_limited"):
    return int(d.metric("l4lb_refusals_total", hook=hook, reason=reason))


@pytest.mark.parametrize("hook,family", [("native", 4), ("native", 6), ("generic", 4), ("tc", 4),
                                         ("tc", 6), ("off", 6)])
@pytest.mark.parametrize("rate,burst", [pytest.param(20, 5, marks=pytest.mark.long), (200, 50)])
def test_a_client_gets_its_rate_and_no_more(net, daemon, backend, family, hook, rate, burst):
    b = backend(family)
    d = daemon(config(hook, family, requests_per_second=rate, burst=burst)).start()
    answered, seconds = hammer(net, TO[family], rate * 4, 3)
    most = rate * seconds + burst
    # r t .. r t + b, and 2 % of it either way; one connection is one connection.
    assert rate * seconds * 0.98 - 1 <= answered[None] <= most * 1.02 + 1, \
        f"{answered[None]} of {rate * seconds:.0f}..{most:.0f}"
    assert b.connections == answered[None]
    kernel = refused(d, "xdp") + refused(d, "tc")
    assert kernel > 0 if hook != "off" else kernel == 0
    d.check_idle()
    d.stop()


def test_others_do_not_pay_for_one(net, daemon, backend):
    backend()
    with clients.address(net, CLIENT, OTHER[4]):
        d = daemon(config(requests_per_second=10, burst=10)).start()
        answered, _ = hammer(net, TO[4], 210, 2, [CLIENT_ADDR[4]] * 20 + [OTHER[4]])
        assert answered[CLIENT_ADDR[4]] <= 32
        assert answered[OTHER[4]] == 20
        d.stop()


def test_ipv6_neighbours_share_and_other_networks_do_not(net, daemon, backend):
    backend(6)
    with clients.address(net, CLIENT, "fd81::79"), clients.address(net, CLIENT, OTHER[6]):
        net.ip(CLIENT, f"-6 route replace {LB_ADDR[6]}/128 dev eth0")
        net.ip("lb", f"-6 route replace {OTHER[6]}/128 dev lb0")
        d = daemon(config(family=6, requests_per_second=1, burst=3)).start()
        assert [attempt(net, TO[6], CLIENT_ADDR[6]) for _ in range(2)] == ["y", "y"]
        assert attempt(net, TO[6], "fd81::79") == "y"
        assert attempt(net, TO[6], "fd81::79", 0.3) in ("silence", "reset")
        assert attempt(net, TO[6], OTHER[6]) == "y"
        d.stop()


@pytest.mark.parametrize("hook", ["tc", "off"])
def test_all_clients_together_have_a_rate(net, daemon, backend, hook):
    backend()
    sources = [f"10.81.0.{100 + i}" for i in range(8)]
    for s in sources:
        net.ip(CLIENT, f"addr add {s}/24 dev eth0")
    try:
        d = daemon(config(hook, requests_per_second=1000, burst=1000,
                          rule_requests_per_second=100, rule_burst=20)).start()
        answered, seconds = hammer(net, TO[4], 800, 4, sources)
        total, most = sum(answered.values()), 100 * seconds + 20
        assert 98 * seconds - 1 <= total <= most * 1.02 + 1
        assert min(answered.values()) > 0
        d.stop()
    finally:
        for s in sources:
            net.ip(CLIENT, f"addr del {s}/24 dev eth0")


@pytest.mark.parametrize("hook", ["native", "tc"])
def test_forged_syns_spend_nobodys_tokens(net, daemon, backend, hook):
    backend()
    victim = OTHER[4]
    with clients.address(net, CLIENT, victim):
        d = daemon(config(hook, requests_per_second=1, burst=5)).start()
        frames = clients.syns(net, [victim] * 50 + [f"10.81.0.{i}" for i in range(150, 250)], TO[4])
        # Who really has the address answers the SYN/ACK with a RST; so it is with forged ones.
        assert clients.send_frames(net, frames, 3000, 3000) == 3000
        assert d.metric("l4lb_rate_limit_clients", rule="r") == 0
        assert d.metric("l4lb_map_entries", map="lb_refused") == 0
        assert [attempt(net, TO[4], victim) for _ in range(5)] == ["y"] * 5
        d.stop()


def test_what_is_remembered_can_be_seen_and_goes(net, daemon, backend):
    backend()
    d = daemon(config("tc", requests_per_second=2, burst=1)).start()
    assert attempt(net, TO[4]) == "y"
    assert d.metric("l4lb_rate_limit_clients", rule="r") == 1
    assert attempt(net, TO[4], seconds=0.3) == "reset"
    assert d.metric("l4lb_map_entries", map="lb_refused") == 1
    assert refused(d, "accept") == 1
    wait_until(lambda: d.metric("l4lb_rate_limit_clients", rule="r") == 0, 5, "it is full again")
    assert attempt(net, TO[4]) == "y"
    d.stop()


def test_a_client_whose_syn_was_dropped_comes_through_by_trying_again(net, daemon, backend):
    backend()
    d = daemon(config("tc", requests_per_second=1, burst=1)).start()
    assert attempt(net, TO[4]) == "y"
    assert attempt(net, TO[4], seconds=0.3) == "reset"
    # The kernel sends a SYN again after a second: by then there is a token.
    assert attempt(net, TO[4], seconds=4) == "y"
    assert refused(d, "tc") == 1
    d.stop()
