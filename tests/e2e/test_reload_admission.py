# SPDX-License-Identifier: MIT
"""Access lists and rates change by a reload: for new clients at once, for living flows if asked."""
import pytest

from lbtest import clients, lane as lanes
from lbtest.clients import attempt, hammer
from lbtest.net import CLIENT, CLIENT_ADDR, LB_ADDR
from lbtest.process import wait_until
from lbtest.reloading import (  # echo is a fixture
    LISTEN, Flow, config, echo, one, reload, wait_carried)
from lbtest.tls_rule import ca, pair  # fixtures

TO = (LB_ADDR[4], LISTEN)
STRANGER = "10.81.0.77"


@pytest.fixture(autouse=True)
def stranger(net):
    with clients.address(net, CLIENT, STRANGER):
        yield STRANGER


def is_served(net, source):
    return attempt(net, TO, source).startswith("0")


def is_denied(net, source, how):
    return attempt(net, TO, source) == how


@pytest.mark.parametrize("hook,denied", [("tc", "silence"), ("native", "silence"),
                                         ("off", "reset")])
def test_lists_come_change_and_go(daemon, net, echo, hook, denied):
    at_first = config(one(deny_list=["192.0.2.0/24"]), admission=hook)
    d = daemon(at_first).start()
    assert is_served(net, STRANGER)
    reload(d, config(one(deny_list=[STRANGER]), admission=hook))
    assert is_denied(net, STRANGER, denied) and is_served(net, CLIENT_ADDR[4])
    reload(d, config(one(allow_list=[STRANGER]), admission=hook))
    assert is_denied(net, CLIENT_ADDR[4], denied) and is_served(net, STRANGER)
    reload(d, config(one(), admission=hook))
    assert is_served(net, STRANGER) and is_served(net, CLIENT_ADDR[4])
    reload(d, config(one(deny_list=[STRANGER]), admission=hook))
    assert is_denied(net, STRANGER, denied)
    d.check_idle()
    d.stop()


def test_a_list_where_there_was_none_holds_after_accept(daemon, net, echo):
    """The programs are not there: at the start nothing asked for them."""
    d = daemon(config(one())).start()
    reload(d, config(one(deny_list=[STRANGER])))
    assert attempt(net, TO, STRANGER) == "reset" and is_served(net, CLIENT_ADDR[4])
    assert d.count_log("clients are refused after they are accepted") == 1
    d.stop()


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("carrier", lanes.CARRIERS)
def test_flows_of_clients_that_are_denied_live_on_or_are_reset(daemon, net, echo, carrier, cut):
    keys = {"acceleration": carrier, "acl_cut_existing": cut}
    d = daemon(config(one(deny_list=["192.0.2.1"], **keys))).start()
    lanes.skip_without(carrier, d)
    flows = [Flow(net) for _ in range(3)]
    for f in flows:
        f.exchange()
    wait_carried(d, carrier, 3)
    reload(d, config(one(deny_list=[CLIENT_ADDR[4]], **keys)))
    assert attempt(net, TO, CLIENT_ADDR[4]) == "silence" and is_served(net, STRANGER)
    assert d.count_log(r"3 flows of clients that may not come any more") == 1
    if cut:
        for f in flows:
            with pytest.raises(ConnectionResetError):
                f.socket.recv(1)
        reasons = [f["reason"] for f in d.wait_flows(4)]
        assert reasons.count("acl_denied") == 3
    else:
        for f in flows:
            f.exchange()
            f.end()
    d.check_idle()
    d.stop()


@pytest.mark.parametrize("says", [b"", b"\x16\x03\x01"])
def test_who_is_denied_in_its_tls_handshake_is_reset(daemon, net, echo, pair, says):
    """It has been admitted, and has no backend yet."""
    def rules(foe):
        return config(one(deny_list=[foe], tls={"enabled": True, **pair.config()},
                          acl_cut_existing=True), admission="off")
    d = daemon(rules("192.0.2.1")).start()
    with net.connect(*TO) as c:
        c.sendall(says)
        wait_until(lambda: d.metric("l4lb_active_connections") == 1, 5, "it is there")
        reload(d, rules(CLIENT_ADDR[4]))
        with pytest.raises(ConnectionResetError):
            c.recv(1)
    assert d.wait_flows(1)[0]["reason"] == "acl_denied"
    d.check_idle()
    d.stop()


def test_what_a_file_lists_is_read_again(daemon, net, echo, folder):
    listed = folder / "foes.txt"
    listed.write_text("# nobody yet\n")
    d = daemon(config(one(deny_list_file=str(listed), allow_list=["10.0.0.0/8"]))).start()
    assert is_served(net, STRANGER)
    listed.write_text(f"{STRANGER}\n")
    reload(d)
    assert attempt(net, TO, STRANGER) == "silence"
    listed.write_text("10.81.0.77\nnonsense\n")
    reload(d, good=False)
    assert d.count_log(r"deny_list_file: \S+:2: 'nonsense'") == 1
    assert attempt(net, TO, STRANGER) == "silence" and is_served(net, CLIENT_ADDR[4])
    d.stop()


def test_rates_change_for_clients_that_are_known(daemon, net, echo):
    def limit(rate, burst):
        return config(one(rate_limit={"enabled": True, "requests_per_second": rate,
                                      "burst": burst}))
    d = daemon(limit(1, 2)).start()
    assert [attempt(net, TO, seconds=0.2).startswith("0") for _ in range(3)] == [True, True, False]
    reload(d, limit(200, 50))
    answered, seconds = hammer(net, TO, 800, 2, answer=b"0")
    assert 200 * seconds * 0.98 - 2 <= answered[None] <= 200 * seconds + 52
    reload(d, config(one()))
    assert all(is_served(net, CLIENT_ADDR[4]) for _ in range(20))
    d.stop()
