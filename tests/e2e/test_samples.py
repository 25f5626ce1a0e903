# SPDX-License-Identifier: MIT
"""
Every file of samples/ is checked, and run as it is: in a network namespace of its own, with
backends at the addresses that it names. Redis and PostgreSQL are the real ones. For MySQL and Kafka
a stand-in answers: Kafka is no package of Debian's, and MariaDB takes long to set up.
"""
import contextlib
import http.client
import itertools
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from lbtest import machine
from lbtest.daemon import LBCTL, PROGRAM
from lbtest.net import LB, PREFIX, Net
from lbtest.process import BUILD, ROOT, Process, run, wait_until
from test_tls_programs import as_nobody, NOBODY

SAMPLES = sorted((ROOT / "samples").glob("*.yaml")) + [ROOT / "lb_tls_test.yaml"]
_numbers = itertools.count()


class Host(Net):
    """One namespace with nothing but its loopback interface."""

    def __init__(self):
        self.names = {LB: f"{PREFIX}{os.getpid()}h{next(_numbers)}"}
        run("ip", "netns", "add", self.names[LB])
        self.ip(LB, "link set lo up")

    def socket(self, port, host="127.0.0.1", source="127.0.0.1", seconds=5):
        return self.call(LB, socket.create_connection, (host, port), seconds, (source, 0))


class Stage:
    """A host, what runs on it, and the folder that samples name files in."""

    def __init__(self, folder, stack):
        self.folder, self.stack, self.host = folder, stack, Host()
        stack.callback(self.host.close)

    def spawn(self, name, *command, ready=None):
        process = Process(name, self.host.inside(LB) + list(command), self.folder)
        self.stack.callback(process.kill)
        if ready:
            wait_until(lambda: ready in process.stderr + process.stdout or not process.alive(), 20,
                       f"{name} is ready")
            assert process.alive(), process.stderr
        return process

    def backends(self, kind, *ports):
        for port in ports:
            self.spawn(f"backend{port}", BUILD / "lb-demo-backend", "--name", str(port),
                       f"--{kind}", f"127.0.0.1:{port}", ready="ready: ")

    def balancer(self, sample, instance=None):
        """Started as a reader of the sample would; ended by SIGTERM when the test is over."""
        instance = instance or f"{PREFIX}{os.getpid()}s{next(_numbers)}"
        path = ROOT / "samples" / sample
        process = Process(path.stem, self.host.inside(LB) + [
            "env", f"--chdir={self.folder}", PROGRAM, "--instance", instance, "--config", path],
            self.folder)

        def end():
            process.signal(signal.SIGTERM)
            try:
                assert process.wait(20) in (0, 4), process.stderr
            finally:
                process.kill()
                machine.remove_instance(instance)
        self.stack.callback(end)
        wait_until(lambda: "ready: " in process.stderr or not process.alive(), 20, "it is ready")
        assert process.alive(), process.stderr
        return process

    def get(self, port, path="/", source="127.0.0.1", host="127.0.0.1"):
        """The backend that answered, and how many bytes came."""
        connection = http.client.HTTPConnection(host, port)
        with self.host.socket(port, host, source) as connection.sock:
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            body = answer.read()
        assert answer.status == 200
        return answer.getheader("X-Backend"), len(body)


@pytest.fixture
def stage(ready_to_test, folder):
    with contextlib.ExitStack() as stack:
        yield Stage(folder, stack)


@pytest.fixture
def keys(folder):
    run(ROOT / "scripts/generate_certs.sh", "-o", folder / "certs")
    (folder / "cluster.key").write_text("07" * 32 + "\n")
    (folder / "cluster.key").chmod(0o600)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_check_has_nothing_to_say(path, keys, folder):
    done = run("env", f"--chdir={folder}", PROGRAM, "--check", "--config", path)
    assert (done.stdout, done.stderr) == (f"{path}: good\n", "")


@pytest.mark.parametrize("sample", ["simple.yaml", "performance.yaml"])
def test_both_serve(stage, sample):
    stage.backends("http", 9101, 9102)
    stage.balancer(sample)
    assert {stage.get(8080)[0] for _ in range(40)} == {"9101", "9102"}
    assert stage.get(8080, "/bytes/20000000")[1] == 20000000


def test_weights(stage):
    stage.backends("http", 9101, 9102, 9103, 9104)
    stage.balancer("weights.yaml")
    count = Counter(stage.get(8080)[0] for _ in range(80))
    assert count.keys() == {"9101", "9102", "9103"}
    # Each worker counts for itself.
    assert all(abs(count[name] - share) <= 4 for name, share in
               (("9101", 50), ("9102", 20), ("9103", 10))), count


def test_limits(stage):
    stage.backends("http", 9101)
    stage.balancer("limits.yaml")

    def served():
        try:
            stage.get(8080)
            return True
        except OSError:
            return False
        except http.client.HTTPException:
            return False
    begun = time.monotonic()
    got = sum(served() for _ in range(60))
    assert 10 <= got <= 10 + 5 * (time.monotonic() - begun) + 1 and got < 60, got
    begun = time.monotonic()
    assert stage.get(8081, "/bytes/6000000")[1] == 6000000
    # 2 MB/s, and a burst of at most a second.
    assert time.monotonic() - begun > 1.5


def test_acl(stage):
    stage.backends("http", 9101)
    stage.balancer("acl.yaml")
    for port in (8080, 8081):
        assert stage.get(port, source="127.0.0.1") == stage.get(port, source="127.0.0.65")
        with pytest.raises((OSError, http.client.HTTPException)):
            stage.get(port, source="127.0.0.66")


def test_drain(stage):
    stage.backends("http", 9101, 9102)
    stage.balancer("drain.yaml")
    assert {stage.get(8080)[0] for _ in range(20)} == {"9101"}


def test_proxy_protocol(stage):
    stage.spawn("verify", ROOT / "scripts/proxy-verify", "127.0.0.1:9101", ready="ready: ")
    stage.balancer("proxy_protocol.yaml")
    for port, version in ((8080, 2), (8081, 1), (8082, 2)):
        with stage.host.socket(port, source="127.0.0.7" if port != 8082 else "127.0.0.1") as s:
            own, other = "%s:%d" % s.getsockname(), f"127.0.0.1:{port}"
            if port == 8082:
                own, other = "192.0.2.7:1234", "198.51.100.1:80"
                s.sendall(b"PROXY TCP4 192.0.2.7 198.51.100.1 1234 80\r\n")
            told = json.loads(s.makefile().readline())
        assert (told["version"], told["source"], told["destination"]) == (version, own, other)
    with stage.host.socket(9101) as s:
        s.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert "no PROXY header" in s.makefile().readline()


def test_redis(stage):
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    servers = [stage.spawn(f"redis{port}", "redis-server", "--port", str(port), "--save", "",
                           "--bind", "127.0.0.1", "--dir", str(stage.folder),
                           ready="Ready to accept connections") for port in (6379, 6380)]
    stage.balancer("redis.yaml")

    def ask(*words):
        return run(*stage.host.inside(LB), "redis-cli", "-p", "8379", *words, check=False).stdout
    assert ask("set", "who", "primary") == "OK\n"
    assert ask("get", "who") == "primary\n"
    servers[0].kill()
    # The standby knows nothing of it.
    wait_until(lambda: ask("get", "who") == "\n", 20, "the standby answers", every=0.1)


@pytest.fixture
def postgres(stage):
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found or not shutil.which("psql"):
        pytest.skip("postgresql is not installed")
    home = Path("/tmp") / f"lbtest-postgres-{os.getpid()}"
    home.mkdir()
    stage.stack.callback(shutil.rmtree, home)
    os.chown(home, NOBODY.pw_uid, NOBODY.pw_gid)
    run(*as_nobody(found[-1].parent / "initdb", "-D", home / "data", "-A", "trust", "-U", "tester",
                   "-N", "--no-locale", "-E", "UTF8"), seconds=60)
    process = stage.spawn("postgres", *as_nobody(found[-1], "-D", home / "data", "-k", "",
                                                 "-c", "listen_addresses=127.0.0.1"),
                          ready="ready to accept connections")

    def end():
        process.signal(signal.SIGINT)
        process.wait(20)
    stage.stack.callback(end)


def test_postgres(stage, postgres):
    stage.balancer("postgres.yaml")
    done = run(*stage.host.inside(LB), "psql", "-XAt", "-h", "127.0.0.1", "-p", "8432", "-U",
               "tester", "postgres", "-c", "select sum(n) from generate_series(1, 1000) n")
    assert done.stdout == "500500\n"


class StandIn:
    """Greets first, as MySQL does, or not; then returns what it gets, behind its port."""

    def __init__(self, stage, port, greeting=b""):
        self.port, self.greeting = port, greeting
        self.listener = stage.host.call(LB, socket.create_server, ("127.0.0.1", port))
        stage.stack.callback(self.listener.close)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.answer, args=(self.listener.accept()[0],),
                                 daemon=True).start()

    def answer(self, conn):
        with conn, contextlib.suppress(OSError):
            conn.sendall(self.greeting)
            while got := conn.recv(4096):
                conn.sendall(b"%d:" % self.port + got)


def test_mysql_with_a_stand_in_that_speaks_first(stage):
    greeting = b"\x4a\0\0\0\x0a8.0"
    for port in (3306, 3307):
        StandIn(stage, port, greeting)
    stage.balancer("mysql.yaml")
    answered = {8306: set(), 8307: set()}
    with contextlib.ExitStack() as held:
        for port in (8306, 8307) * 6:
            s = held.enter_context(stage.host.socket(port))
            assert s.recv(100) == greeting
            s.sendall(b"?")
            answered[port].add(s.recv(100))
    assert answered == {8306: {b"3306:?"}, 8307: {b"3306:?", b"3307:?"}}


def test_kafka_with_stand_ins(stage):
    for port in (9192, 9193, 9194):
        StandIn(stage, port)
    stage.balancer("kafka.yaml")

    def ask(port):
        with stage.host.socket(port) as s:
            s.sendall(b"?")
            return s.recv(100)
    assert [ask(port) for port in (8193, 8194, 8195)] == [b"9192:?", b"9193:?", b"9194:?"]
    assert len({ask(8192) for _ in range(24)}) == 3


def test_a_cluster_of_three(stage, keys):
    stage.backends("http", 9101, 9102)
    for n in (1, 2, 3):
        stage.balancer(f"cluster-{n}.yaml", f"lb-{n}")
    for n in (1, 2, 3):
        assert stage.get(8080, host=f"127.0.0.{n}")[0] in ("9101", "9102")

        def alive(n=n):
            done = run(LBCTL, "--instance", f"lb-{n}", "--json", "cluster", check=False)
            return [x["state"] for x in json.loads(done.stdout)["members"]] == ["alive"] * 3
        wait_until(alive, 30, f"lb-{n} sees all three", every=0.1)


def test_the_tls_modes(stage, keys):
    stage.backends("http", 9201)
    stage.balancer(ROOT / "lb_tls_test.yaml")

    def fetch(url):
        return run(*stage.host.inside(LB), "curl", "-sS", "--noproxy", "*", "--cacert",
                   stage.folder / "certs/ca.pem", url, check=False).stdout
    for url in ("https://localhost:8443", "https://localhost:8444", "http://localhost:8445",
                "https://localhost:8446", "https://localhost:8447"):
        assert fetch(url).startswith("9201: hello"), url
