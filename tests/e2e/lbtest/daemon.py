# SPDX-License-Identifier: MIT
"""The load balancer under test: configuration, start, readiness, what it says, a clean end."""
import http.client
import itertools
import json
import os
import re
import signal
import time
from pathlib import Path

from . import machine
from .net import LB, PREFIX
from .process import BUILD, PATIENCE, SAN, run, wait_until

PROGRAM = Path(os.environ.get("LB_PROGRAM") or BUILD / "layer4-lb")
LBCTL = BUILD / "lbctl"

# What may stay after load: pipes are pooled per worker; malloc keeps a part of what many stalled
# flows held at once (up to 50 MB were seen, and no growth from one load to the next).
PIPES_KEPT = 256
RSS_KEPT = 64 << 20

_SANITIZER = re.compile(r"ERROR: \w+Sanitizer|runtime error:")
_STOPPED = re.compile(r"stopped after [\d.]+ s: of (\d+) flows (\d+) ended by themselves, "
                      r"(\d+) were cut.*")
_numbers = itertools.count()


# On a way that loses packets a connection may take several tries of 1, 2 and 4 s, and TLS on an
# emulated processor that has other flows takes longer than either.
LOSSY = {"connect_ms": 15000 * PATIENCE, "handshake_ms": 10000 * PATIENCE}


def rule(name, listen, backends, **keys):
    """One rule. Timeouts are short: what a test waits for must come soon."""
    timeouts = {"connect_ms": 2000, "drain_ms": 2000, **keys.pop("timeouts", {})}
    return {"name": name, "listen": listen, "backends": backends, "timeouts": timeouts, **keys}


class Daemon:
    """
    A running daemon, in the lb namespace. `with Daemon(..) as d` waits until it is ready and ends
    it in good order; whatever is left behind then is a failure.
    """
    live = []

    def __init__(self, net, folder, config, instance=None, wrap=(), options=()):
        number = next(_numbers)
        self.net = net
        self.folder = Path(folder)
        self.name = f"daemon{number}"
        self.instance = instance or f"{PREFIX}{os.getpid()}n{number}"
        self.pin_dir = machine.BPFFS / f"layer4-lb-{self.instance}"
        self.admin_socket = Path(f"/run/layer4-lb-{self.instance}/admin.sock")
        self.metrics_addr = ("127.0.0.1", 19000 + number)
        self.access_log = self.folder / f"{self.name}.access"
        self.config = self.folder / f"{self.name}.yaml"
        self.configure(config)
        # wrap: commands that change what the daemon may do (setpriv, prlimit, unshare).
        self.command = [*wrap, PROGRAM, "--config", self.config, "--instance", self.instance,
                        *options]
        self.process = None
        self.pid = None
        self.starts = 0
        self.settled = 0  # flows that open exchanges have in the map, see lane.py

    def configure(self, config):
        """For the next start."""
        config = {
            "access_log": str(self.access_log),
            "admin": {"metrics": "%s:%d" % self.metrics_addr},
            **config,
        }
        # JSON is YAML.
        self.config.write_text(json.dumps(config, indent=1) + "\n")

    # --- life --------------------------------------------------------------------------------

    def spawn(self):
        """Starts it and returns at once."""
        self.held = {}
        self.settled = 0
        name = f"{self.name}.{self.starts}"
        self.starts += 1
        self.process = self.net.start(LB, name, self.command, self.folder)
        self.pid = self.process.pid
        Daemon.live.append(self)
        return self

    def start(self, seconds=10):
        self.spawn()
        try:
            self.wait_ready(seconds)
        except BaseException:
            self.kill()
            raise
        self.held = machine.bpf_held(self.pid)
        self.fds = machine.process_fds(self.pid)
        self.rss = machine.process_rss(self.pid)
        return self

    def wait_ready(self, seconds=10):
        def ready():
            assert self.process.alive(), \
                f"ended with {self.process.popen.returncode} before ready:\n{self.log}"
            return re.search(r'^(\S+ info +)?ready\b|"message":"ready\b', self.log, re.M)
        wait_until(ready, seconds, "the daemon is ready")

    def stop(self, seconds=10):
        """SIGTERM and the gates: a good end, no sanitizer report, nothing left behind."""
        self.process.signal(signal.SIGTERM)
        self.wait_stopped(seconds)
        self.check_gone()

    def wait_stopped(self, seconds=10, cut=None):
        """
        Its end, whose exit code is what its last line says: 4 when it has cut flows, else 0. That
        line. <cut>: it has to be so many.
        """
        code = self.process.wait(seconds)
        self.forget()
        told = _STOPPED.search(self.log)
        assert told, f"exit code {code}\n{self.log[-3000:]}"
        flows, alone, by_us = map(int, told.groups())
        assert code == (4 if by_us else 0) and flows == alone + by_us, (code, told.group())
        assert cut is None or by_us == cut, told.group()
        return told.group()

    def kill(self):
        """For tests that end it their own way, and the last resort of all others."""
        if self.process:
            self.process.kill()
            self.unload()
            machine.remove_instance(self.instance)
        self.forget()

    def crash(self):
        """kill -9, and nothing else: whatever it leaves stays."""
        self.process.kill()
        self.forget()

    def unload(self):
        """What grafted flows need outlives the daemon; --unload removes it. Its exit code."""
        name = f"{self.name}.unload.{self.starts}"
        command = [PROGRAM, "--unload", "--instance", self.instance]
        return self.net.start(LB, name, command, self.folder).wait(10)

    def forget(self):
        if self in Daemon.live:
            Daemon.live.remove(self)

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, value, trace):
        if self.process is None or self not in Daemon.live:
            return
        if kind is None and self.process.alive():
            self.stop()
        else:
            code = self.process.popen.poll()
            self.kill()
            assert kind is not None, f"the daemon had ended with {code}\n{self.log[-3000:]}"

    # --- gates -------------------------------------------------------------------------------

    def check_gone(self, seconds=10):
        """After the end: no BPF object, no pin, no sanitizer report."""
        report = _SANITIZER.search(self.log)
        assert not report, self.log[report.start() - 200:][:6000]
        wait_until(lambda: not self.held.keys() & machine.bpf_objects().keys(), seconds,
                   lambda: "the BPF objects are gone: " + machine.bpf_holders(self.held),
                   every=0.1)
        left = self.pins()
        assert not left, f"pins left behind: {left}"

    def check_idle(self, seconds=2):
        """After load: descriptors and memory back where they were at the start."""
        def fds_back():
            now = machine.process_fds(self.pid)
            return (now["other"] <= self.fds["other"] and
                    now["pipe"] <= self.fds["pipe"] + PIPES_KEPT)
        try:
            wait_until(fds_back, seconds, "descriptors are back")
        except AssertionError:
            raise AssertionError(f"descriptors {self.fds} before, now "
                                 f"{machine.process_fds(self.pid)}: {self.fd_names()}") from None
        if not SAN:  # its allocator keeps what was freed, on purpose
            wait_until(lambda: machine.process_rss(self.pid) <= self.rss + RSS_KEPT, seconds,
                       f"memory is back: {self.rss} bytes before, "
                       f"{machine.process_rss(self.pid)} now")

    def check_quiet(self, seconds=0.5, share=0.05):
        """A daemon without work takes no CPU."""
        begin, cpu = time.monotonic(), machine.process_cpu(self.pid)
        time.sleep(seconds)
        used = (machine.process_cpu(self.pid) - cpu) / (time.monotonic() - begin)
        assert used <= share, f"{used * 100:.0f} % of a CPU without work"

    def refusal(self, carrier):
        """None when sockmap or graft is in service, else the reason's word."""
        for (name, labels), value in self.metrics().items():
            if name == f"l4lb_{carrier}_in_service":
                return None if value else dict(labels)["reason"]
        raise AssertionError(f"l4lb_{carrier}_in_service is missing")

    def grafted(self):
        """Flows that are grafted for good, or were and linger."""
        return int(self.metric("l4lb_graft_flows"))

    def promoted(self):
        """Flows that are on the sockmap carrier now: each has both its sockets in the map."""
        ids = [key[1] for key, o in self.held.items() if o["name"] == "lb_cookies"]
        return sum(machine.map_entries(i) for i in ids) // 2

    def fd_names(self):
        names = {}
        for fd in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                word = os.readlink(fd).split("[")[0]
            except FileNotFoundError:
                continue
            names[word] = names.get(word, 0) + 1
        return names

    def pins(self):
        """What is pinned for this instance, its directory included."""
        if not self.pin_dir.exists():
            return []
        return [str(self.pin_dir), *map(str, self.pin_dir.rglob("*"))]

    # --- what it says ------------------------------------------------------------------------

    @property
    def log(self):
        return self.process.stderr

    def count_log(self, pattern):
        return len(re.findall(pattern, self.log))

    def flows(self, rule=None, skip=0):
        """Lines of the access log as dictionaries, without the first <skip> of them."""
        if not self.access_log.exists():
            return []
        lines = [line for line in self.access_log.read_text().splitlines(keepends=True)
                 if line.endswith("\n") and (rule is None or f" rule={rule} " in line)]
        # There may be a million of them: only what is asked for is taken apart.
        return [dict(word.split("=", 1) for word in line.split() if "=" in word)
                for line in lines[skip:]]

    def wait_flows(self, count, rule=None, skip=0, seconds=5):
        """The next <count> ended flows of a rule."""
        def ended():
            found = self.flows(rule, skip)
            return found if len(found) >= count else None
        found = wait_until(ended, seconds, f"{count} lines of rule {rule} in the access log")
        assert len(found) == count, f"{len(found)} flows instead of {count}: {found}"
        return found

    def lbctl(self, *words):
        """The CompletedProcess of an lbctl that asks this daemon."""
        return run(LBCTL, "--instance", self.instance, *words, check=False, seconds=60)

    def ctl(self, *words, code=0):
        """The daemon's reply, from lbctl, which has to end with <code>."""
        done = self.lbctl("--json", *words)
        assert done.returncode == code, (done.returncode, done.stdout[-2000:], done.stderr)
        return json.loads(done.stdout)

    def living(self, *options):
        """The flows that `lbctl flows` shows."""
        return self.ctl("flows", "--limit", "131072", *options)["flows"]

    def metrics(self):
        """{(name, frozenset of labels): value}."""
        def fetch():
            connection = http.client.HTTPConnection(*self.metrics_addr, timeout=5)
            try:
                connection.request("GET", "/metrics")
                answer = connection.getresponse()
                assert answer.status == 200, answer.status
                return answer.read().decode()
            finally:
                connection.close()
        found = {}
        for line in self.net.call(LB, fetch).splitlines():
            sample = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if sample:
                labels = frozenset(re.findall(r'(\w+)="([^"]*)"', sample.group(2) or ""))
                found[sample.group(1), labels] = float(sample.group(3))
        return found

    def metric(self, name, **labels):
        """The sum of all samples of a name that carry these labels."""
        want = set(labels.items())
        return sum(v for (n, have), v in self.metrics().items() if n == name and want <= have)
