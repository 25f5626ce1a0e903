# SPDX-License-Identifier: MIT
"""The dashboard in a browser: it shows what there is, moves with traffic, and lets nobody in."""
import http.client
import json

import pytest

from lbtest import browser
from lbtest.daemon import rule
from lbtest.net import LB
from lbtest.process import wait_until
from lbtest.talk import Talk

LISTEN, BACK = ("10.81.0.1", 6970), ("10.81.1.2", 7970)
AT, TO = "%s:%d" % LISTEN, "%s:%d" % BACK
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
RULES = [rule("web", AT, [TO], acceleration="relay"),
         rule(HOSTILE, "10.81.0.1:6971", ["10.81.1.2:7971"], acceleration="relay",
              health_check={"enabled": True, "interval_ms": 100, "timeout_ms": 100})]


def with_page(d, **config):
    """The same daemon, with its page."""
    d.configure({"rules": RULES, "admission": "off",
                 "admin": {"metrics": "%s:%d" % d.metrics_addr, "page": True}, **config})
    return d


def get(d, path, method="GET", **headers):
    """(status, headers, body)"""
    def fetch():
        connection = http.client.HTTPConnection(*d.metrics_addr, timeout=10)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    return d.net.call(LB, fetch)


@pytest.fixture
def window(net, folder):
    """A browser in the daemon's namespace."""
    why = browser.missing()
    if why:
        pytest.skip(why)
    with browser.Browser(net.inside(LB), folder) as b:
        yield b


def number(text):
    """What "1.2 kB" and "3 per s" begin with, in ones."""
    digits, _, unit = text.partition(" ")
    if digits[-1] in "kMGT":
        digits, unit = digits[:-1], digits[-1]
    return float(digits) * {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}.get(unit[:1], 1)


def test_the_page_shows_rules_and_moves_with_the_traffic(net, daemon, window):
    with with_page(daemon({"rules": RULES})) as d, Talk(net, LISTEN, BACK) as talk:
        def cells(table, column):
            return window.run(f"Array.from(document.querySelectorAll('#{table} tbody tr'), "
                              f"r => r.cells[{column}].textContent)")

        window.go("http://%s:%d/" % d.metrics_addr)
        wait_until(lambda: cells("rules", 0) == ["web", HOSTILE], 10, "the rules are there", 0.1)
        assert cells("backends", 0) == [TO, "10.81.1.2:7971"]
        wait_until(lambda: cells("backends", 2) == ["up", "down"], 10, "so are states", 0.1)
        assert cells("carriers", 0) == ["relay", "sockmap", "graft"]

        # Up, from clients; what the rule says of itself, and the chart.
        def moves():
            talk.exchange(100000)
            tile = window.run("document.querySelectorAll('.tile b')[2].textContent")
            return "–" not in tile and number(tile) > 10000 and number(cells("rules", 7)[0]) > 10000
        wait_until(moves, 15, lambda: (cells("rules", 7), window.complaints), 0.05)
        assert window.run("document.querySelectorAll('#bytes .edge.relay').length") == 1
        assert cells("rules", 3) == ["1", "0"]
        # A name is a name.
        assert window.run("document.title") == "layer4-lb"
        assert window.run("document.querySelectorAll('img, td script').length") == 0
        # Both looks, and a telephone.
        grounds = set()
        for scheme in ("light", "dark"):
            window.prefers(scheme)
            grounds.add(window.run("getComputedStyle(document.body).backgroundColor"))
        assert len(grounds) == 2, grounds
        window.resize(390, 800)
        wide = window.run("[document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1], wide
        # Nobody complained, and nobody else was asked.
        assert not window.complaints, window.complaints
        home = "http://%s:%d/" % d.metrics_addr
        assert set(window.requests) - {"data:,"} == {home, home + "overview.json"}
    # It says so when there is nobody any more.
    wait_until(lambda: "does not answer" in
               window.run("document.getElementById('trouble').textContent"), 10, "it is missed",
               0.1)
    assert cells("rules", 0) == ["web", HOSTILE]


def test_the_page_is_for_those_who_asked_for_it_by_its_address(net, daemon):
    with with_page(daemon({"rules": RULES})) as d:
        status, headers, body = get(d, "/")
        assert status == 200 and body.startswith(b"<!doctype html>")
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none';") and "unsafe" not in policy
        assert not [h for h in headers if h.lower().startswith("access-control")]
        for path in ("/", "/overview.json"):
            assert get(d, path, Host="attacker.example:80")[0] == 403
            assert get(d, path, Host="localhost:1")[0] == 200
            assert get(d, path, "POST")[0] == 405 and get(d, path, "OPTIONS")[0] == 405
        told = json.loads(get(d, "/overview.json", Origin="http://attacker.example")[2])
        assert [r["rule"] for r in told["rules"]] == ["web", HOSTILE]
        # Who the clients are is nobody's business.
        assert "10.81.0.2" not in json.dumps(told)
        assert get(d, "/metrics", Host="prometheus.example")[0] == 200
    with daemon({"rules": RULES, "admission": "off"}) as d:
        assert get(d, "/overview.json")[0] == 404
        assert b"<html" not in get(d, "/")[2]


def test_what_a_browser_is_told_is_bounded(net, daemon):
    many = [rule(f"r{i}", f"10.81.0.1:{20000 + i}", [TO, "10.81.1.2:7971"], acceleration="relay")
            for i in range(500)]
    with with_page(daemon({"rules": many}), rules=many, workers=1) as d:
        told = json.loads(get(d, "/overview.json")[2])
        assert (len(told["rules"]), len(told["backends"]), told["left_out"]) == (500, 500, 500)
        assert len(d.ctl("top")["backends"]) == 1000
