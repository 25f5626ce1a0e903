# SPDX-License-Identifier: MIT
"""`lbctl top` on a terminal: what it shows, the keys, another size, a daemon that goes, its end."""
import contextlib
import itertools
import os
import re
import shlex
import shutil
import socket
import subprocess
import threading

import pytest

from lbtest.daemon import LBCTL, rule
from lbtest.net import CLIENT
from lbtest.process import PATIENCE, Process, run, wait_until
from lbtest.talk import Talk

LISTEN, BACK = ("10.81.0.1", 6960), ("10.81.1.2", 7960)
AT, TO = "%s:%d" % LISTEN, "%s:%d" % BACK
RULES = [rule("web", AT, [TO], acceleration="relay"),
         rule("closed \u00fc", "10.81.0.1:6961", [TO], acceleration="relay",
              allow_list=["192.0.2.1"]),
         rule("dead", "10.81.0.1:6962", ["10.81.1.2:7969"], acceleration="relay",
              health_check={"enabled": True, "interval_ms": 100, "timeout_ms": 100})]
CONFIG = {"rules": RULES, "admission": "off"}
numbers = itertools.count()


class Terminal:
    """A shell in a terminal of its own that runs one command; tmux is its screen."""

    def __init__(self, folder, command, width=80, height=24):
        number = next(numbers)
        self.socket = folder / f"tmux{number}"
        self.env = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
        self.env.pop("TMUX", None)
        self.server = Process(f"tmux{number}", ("tmux", "-D", "-S", self.socket, "-f", "/dev/null"),
                              folder, self.env)
        wait_until(self.socket.exists, 5, "tmux listens")
        shell = f"stty -g; {command}; echo code=$?; stty -g; exec sleep 1000"
        self.tmux("new-session", "-d", "-x", str(width), "-y", str(height),
                  "sh", "-c", shell)

    def tmux(self, *words):
        return subprocess.run(["tmux", "-S", str(self.socket), *words], env=self.env, check=True,
                              capture_output=True, text=True, timeout=20 * PATIENCE).stdout

    def lines(self):
        return self.tmux("capture-pane", "-p").split("\n")

    def press(self, *keys):
        self.tmux("send-keys", *keys)

    def resize(self, width, height):
        self.tmux("resize-window", "-x", str(width), "-y", str(height))

    def pid(self):
        """Of the lbctl in it."""
        shell = self.tmux("display-message", "-p", "#{pane_pid}").strip()
        return int(run("pgrep", "-P", shell, "lbctl").stdout)

    def sees(self, pattern, seconds=5):
        """Waits until a line matches; the match."""
        def found():
            return next(filter(None, (re.search(pattern, line) for line in self.lines())), None)
        return wait_until(found, seconds, lambda: f"{pattern}\n" + "\n".join(self.lines()), 0.05)

    def ended(self, code):
        """The command has ended so, and has left the terminal as it was."""
        self.sees(rf"^code={code}$")
        modes = self.tmux("display-message", "-p", "#{alternate_on} #{cursor_flag}").split()
        assert modes == ["0", "1"], modes
        # What stty says may be longer than a line is wide.
        before, _, after = "".join(self.lines()).partition(f"code={code}")
        assert ":" in after and before.strip() == after.strip(), self.lines()

    def close(self):
        self.server.kill()


@pytest.fixture
def terminal(folder):
    if not shutil.which("tmux"):
        pytest.skip("no tmux: scripts/install-deps --test brings it")
    opened = []

    def make(d, *options, **size):
        words = [str(LBCTL), "--instance", d.instance, "top", *options]
        opened.append(Terminal(folder, shlex.join(words), **size))
        return opened[-1]
    yield make
    for t in opened:
        t.close()


class Knocks:
    """Connections to the rule that lets nobody in, one after the other."""

    def __init__(self, net):
        self.over = threading.Event()

        def knock():
            with contextlib.suppress(ConnectionResetError):
                with socket.create_connection(("10.81.0.1", 6961), 5) as s:
                    s.recv(1)

        def run_them():
            while not self.over.wait(0.02):
                net.call(CLIENT, knock)
        self.thread = threading.Thread(target=run_them)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def test_one_looks_from_a_rule_into_one_flow(net, daemon, terminal):
    with daemon(CONFIG) as d, Talk(net, LISTEN, BACK) as talk:
        t = terminal(d, "--every", "500ms")
        client = "%s:%d" % talk.client.getsockname()[:2]
        t.sees(r"^layer4-lb \S+ \S+, serving for .*, generation 1")
        t.sees(r"^dead +0/1 ")
        t.sees(r"^closed \u00fc +1/1 ")
        moves = re.compile(r"^web +1/1 +1 +0 +0 +0 +[1-9]\S*[kM] +[1-9]\S*[kM]$", re.M)

        def is_seen_to_move():
            talk.exchange(20000)
            return moves.search("\n".join(t.lines()))
        wait_until(is_seen_to_move, 5, t.lines)
        assert all(len(line) <= 80 for line in t.lines())
        t.press("Home", "Enter")
        t.sees(r"\[2 Backends\]")
        t.sees(r"; rule web$")
        t.sees(rf"^{re.escape(TO)} +web +up +1 ")
        t.press("Enter")
        t.sees(rf"^{re.escape(client)} +{re.escape(TO)} +relay ")
        t.press("Enter")
        t.sees(rf"^client +{re.escape(client)}$")
        for line in (r"carrier +relay", r"why not a faster one +configured",
                     r"RTT client/backend +\S+s/\S+s", r"sent again client/backend +0/0",
                     r"backlog up/down +0/0"):
            t.sees(f"^{line}$")
        t.press("BSpace", "BSpace", "BSpace")
        t.sees(r"\[1 Rules\]")
        t.press("q")
        t.ended(0)


def test_refusals_and_clients_are_shown_by_rate(net, daemon, terminal):
    with daemon(CONFIG) as d, Talk(net, LISTEN, BACK) as talk, Knocks(net):
        t = terminal(d, "--every", "1s")
        t.press("6")
        t.sees(r"^acl_denied +closed \u00fc +[1-9]\S* +[1-9]\d*$")
        t.sees(r"^refused: acl_denied [1-9]\S*/s")
        t.press("4")
        t.sees(rf"^{talk.client.getsockname()[0]} +1 ")
        t.press("5")
        t.sees(r"^relay +yes ")
        t.press("p")
        t.sees("PAUSED")
        t.press("Tab")
        still = t.sees(r"^acl_denied.*$").group(0)
        before = d.ctl("top")["total"]["refusals"]["acl_denied"]
        wait_until(lambda: d.ctl("top")["total"]["refusals"]["acl_denied"] > before + 20, 10,
                   "more are refused")
        assert t.sees(r"^acl_denied.*$").group(0) == still
        t.press("p")
        wait_until(lambda: t.sees(r"^acl_denied.*$").group(0) != still, 5, "it goes on")


def test_it_follows_the_size_of_its_terminal(daemon, terminal):
    with daemon(CONFIG) as d:
        t = terminal(d)
        t.sees(r"^RULE +BACKENDS")
        t.resize(140, 40)
        t.sees(r"^RULE +LISTEN +BACKENDS")
        wait_until(lambda: "q quit" in t.lines()[39], 5, t.lines)
        t.press("h")
        t.sees("^Backspace, Esc +back out")
        t.resize(40, 10)
        wait_until(lambda: "q quit" in t.lines()[9] and "RULE" not in t.lines()[6], 5,
                   t.lines)
        t.press("h")
        for size in ((1, 1), (5, 3), (80, 24)):
            t.resize(*size)
        t.sees(r"^dead +0/1 ")
        t.press("q")
        t.ended(0)


def test_a_daemon_that_dies_is_missed_and_found_again(daemon, terminal):
    d = daemon(CONFIG).start()
    t = terminal(d, "--every", "500ms")
    t.sees(r"^dead +0/1 ")
    d.crash()
    t.sees(r"^the daemon is gone .*asking again every second")
    t.sees(r"^dead +0/1 ")  # what was shown stays
    t.press("h")
    t.sees("^Backspace, Esc")  # and keys work
    t.press("h")
    d.start()
    t.sees(r"^q quit")
    t.sees(r"^layer4-lb .* serving for [0-9]\S*,")
    t.press("q")
    t.ended(0)
    d.stop()


@pytest.mark.parametrize("signal", ("TERM", "INT", "HUP"))
def test_a_signal_ends_it_and_the_terminal_is_as_it_was(daemon, terminal, signal):
    with daemon(CONFIG) as d:
        t = terminal(d)
        t.sees(r"^dead +0/1 ")
        run("kill", f"-{signal}", t.pid())
        t.ended(0)


def test_one_look_is_text_for_scripts(net, daemon):
    with daemon(CONFIG) as d, Talk(net, LISTEN, BACK) as talk:
        talk.exchange(5000)
        done = d.lbctl("top", "--once", "--every", "500ms")
        assert done.returncode == 0 and not done.stderr, done
        heads = re.findall(r"^(RULE|BACKEND|CLIENT|CARRIER|REASON) ", done.stdout, re.M)
        assert heads == ["RULE", "BACKEND", "CLIENT", "CLIENT", "CARRIER", "REASON"], done.stdout
        assert "\x1b" not in done.stdout
        port = talk.client.getsockname()[1]
        assert re.search(rf"^10.81.0.2:{port} +{re.escape(TO)} .*relay", done.stdout, re.M)
        one = d.lbctl("top", "-b", "--every", "500ms", "--rule", "dead", "--limit", "1").stdout
        assert re.search(r"^10.81.1.2:7969 +dead +down", one, re.M) and ":7960" not in one, one
        # The counts behind it agree with the metrics.
        counted = d.ctl("top")
        assert counted["total"]["bytes_up"] == d.metric("l4lb_traffic_bytes_total",
                                                        direction="up") == 5000
        assert [r["rule"] for r in counted["rules"]] == [r["name"] for r in RULES]
        for words in (("top", "--every", "1ms"), ("top", "--limit", "0"), ("top", "--sort", "age"),
                      ("top", "more"), ("--json", "top", "--once"), ("status", "--once"), ("top",)):
            assert d.lbctl(*words).returncode == 2, words
    assert d.lbctl("top", "--once").returncode == 3
