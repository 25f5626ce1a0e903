# SPDX-License-Identifier: MIT
"""
The documents: every configuration in them is accepted, every command is run and says what is shown
below it (numbers aside), or stands in NOT_RUN with a reason. lbtest/docs.py has the form.
"""
import contextlib
import os
import re
import shutil
import socket
import ssl

import pytest

from lbtest import docs
from lbtest.backends import Backend
from lbtest.certs import Authority
from lbtest.daemon import LBCTL, PROGRAM
from lbtest.net import LB, LB_ADDR
from lbtest.process import ROOT, run, wait_until
from lbtest.stage import Stage, documented_network

MIGRATION = ROOT / "docs/migration.md"
ORIGINALS = {"haproxy": "haproxy -c -f {}",
             "nginx": "nginx -t -c {} -g 'error_log stderr; pid /tmp/nginx.pid;'"}

# What a command begins with, and why nobody runs it here.
NOT_RUN = {
    r"make (test|churn|coverage|soak|nth-failure|scan-tls|vmtest\S*|cluster-sim|fuzz)"
    r"|\S*scripts/test":
        "tests, this one among them",
    r"make (bench\S*|limits)|scripts/(bench-profile|tuning\.py)":
        "minutes to hours on an idle machine",
    r"make run|scripts/run": "test_make_run.py runs it",
    r"make (install|deb)|apt|dpkg|editor|systemctl|modprobe": "changes the host",
    r"ip addr add": "test_ha.py does it",
    r"ssh |kubectl |helm ": "asks another machine",
    r"docker |podman |buildah ": "an image's own test builds and runs it",
    r"make k8s-check": "fetches what it compares with",
    r"make (image|compose)": "minutes; they build the image and run it",
    r"scripts/proxy-verify": "test_samples.py runs it",
    r"openssl ocsp": "asks the responder of a public authority",
}
# Whatever begins otherwise is run by nobody: it fails.
RUN = (r"lbctl |build/|layer4-lb |curl |throughput ", r"bpftool (prog|map|net) (show|dump)",
       r"scripts/generate_certs", r"\(umask \d+; openssl rand", r"kill -HUP \$\(pidof layer4-lb\)",
       r"tc (-s )?(filter|qdisc) show", r"ss -", r"nstat -az ", r"sysctl net\.\S+$",
       r"ethtool (-\S )?eth0$", r"socat UNIX-RECV", r"echo '[^']*' \| socat - UNIX:", r"setpriv ",
       r"grep -E '[^']*' /proc/\$\(pidof layer4-lb\)/(status|limits)$",
       r"stat -c '[^']*' [^;|&]*$")

TWO_BACKENDS = """
access_log: off
acceleration: sockmap
rules:
  - name: web
    listen: "127.0.0.1:28080"
    backends: [{addr: "127.0.0.1:28081", weight: 5}, "127.0.0.1:28082"]
    health_check: {enabled: true}
"""
RATES = """
rules:
  - name: web
    listen: "127.0.0.1:28080"
    backends: ["127.0.0.1:28081"]
    rate_limit: {enabled: true, requests_per_second: 10}
"""
NODE = """
cluster: {{enabled: true, name: lb-{0}, bind_addr: "127.0.0.{0}:7946",
          peers: ["127.0.0.1:7946"], key_file: /etc/layer4-lb/cluster.key}}
admin: {{metrics: "127.0.0.{0}:9091"}}
rules: [{{name: web, listen: "127.0.0.{0}:28080", backends: ["127.0.0.1:28081"]}}]
"""


def serve(configuration, clients=0):
    """What to do before a document's commands: two backends, a daemon, clients that stay."""
    def begin(stage):
        stage.backend(28081, 28082, side=LB, addr="127.0.0.1")
        stage.serve(configuration)
        stage.clients_of(("127.0.0.1", 28080), clients)
    return begin


def three_nodes(stage):
    for number in (1, 2, 3):
        stage.serve(NODE.format(number), more=number > 1)
    wait_until(lambda: stage.run("lbctl cluster")[1][0].startswith("3 nodes are there"), 10,
               "the nodes have met")


def sample(stage):
    stage.start("build/lb-demo-backend --name echo-2 --echo 127.0.0.1:9112")
    stage.serve((ROOT / "lb.yaml").read_text())


def first_example(stage):
    stage.backend(8081)
    stage.serve(next(b.text for b in docs.blocks(MIGRATION) if b.info == "yaml"))


PREPARED = {
    "docs/operations.md": serve(TWO_BACKENDS, 6),
    "docs/limits.md": serve(RATES),
    "docs/reload.md": serve(TWO_BACKENDS),
    "docs/upgrade.md": serve(TWO_BACKENDS),
    "docs/security.md": serve(TWO_BACKENDS),
    "docs/production_tuning.md": serve(TWO_BACKENDS),
    "docs/kernel.md": serve(TWO_BACKENDS.replace("sockmap", "auto")),
    "docs/cluster.md": three_nodes,
    "docs/tools.md": sample,
    "docs/install.md": sample,
    "docs/migration.md": first_example,
}


@contextlib.contextmanager
def address_in_use(stage):
    """A rule is added that cannot listen, and taken away again."""
    own = stage.etc / "layer4-lb/lb.yaml"
    before = own.read_text()
    own.write_text(before + '  - {name: mail, listen: "127.0.0.1:25", backends: ["127.0.0.1:1"]}\n')
    with stage.net.call(LB, socket.create_server, ("127.0.0.1", 25)):
        yield
    own.write_text(before)


# What has to be so that a command says this.
ARRANGED = {"Address already in use": address_in_use}

# Commands that go on until they are ended, and by what one knows that they have begun.
READY = {
    r"(build/)?layer4-lb (--config \S+( &| --takeover)?)$": r"\bready\b",
    r"setpriv ": r"\bready\b",
    r"build/lb-demo-backend ": r"\bready\b",
    r"build/throughput sink ": r"\bready\b",
    r"build/tests/e2e/peer server ": r"listening",
    r"socat UNIX-RECV": r"",
}

CONSOLES = {path: [c for b in docs.blocks(path) if b.info == "console" for c in docs.commands(b)]
            for path in docs.DOCUMENTS}


def not_run(command):
    words = re.sub(r"^(\w+=\S+ )*", "", command.words)
    return next((why for p, why in NOT_RUN.items() if re.match(p, words)), None)


@pytest.fixture(scope="module", name="papers")
def papers_fixture(tmp_path_factory):
    ca = Authority(tmp_path_factory.mktemp("papers"))
    return ca, ca.issue("www.example.org", "shop.example.org", "app.internal")


@pytest.fixture
def stage(net, folder, papers):
    with documented_network(net):
        made = Stage(net, folder, papers)
        yield made
        made.close()


@pytest.mark.parametrize("path", docs.DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_stand_where_somebody_runs_them(path):
    stray = docs.stray_commands(path)
    assert not stray, "\n".join(stray)


def test_every_configuration_is_accepted(stage):
    refused = []
    for block in docs.all_blocks("yaml"):
        for text in docs.configurations(block):
            (stage.tree / "it.yaml").write_text(stage.substituted(text))
            done = run(PROGRAM, "--check", "--config", stage.tree / "it.yaml", check=False)
            refused += [f"{block.place}: {done.stderr}"] if done.returncode else []
    assert not refused, "\n".join(refused)


def test_lbctl_is_asked_for_what_it_knows():
    known = set(re.findall(r"^  ([a-z]+)", run(LBCTL, "--help").stdout, re.M))
    unknown = {f"{path.name}: lbctl {word}" for path in docs.DOCUMENTS
               for word in re.findall(r"`lbctl (?:--\S+ )*([a-z]+)\b", path.read_text())
               if word not in known}
    assert not unknown


def run_command(stage, command):
    words = re.sub(r"^(\w+=\S+ )*", "", command.words)
    assert any(re.match(p, words) for p in RUN), \
        f"{command.place}: {command.words}: neither in RUN nor in NOT_RUN"
    ready = next((r for p, r in READY.items() if re.match(p, words)), None)
    if ready is not None:
        stage.start(command.words, ready)
        return
    with contextlib.ExitStack() as stack:
        for text, arrange in ARRANGED.items():
            if any(text in line for line in command.output):
                stack.enter_context(arrange(stage))
        code, said = stage.run(command.words)
    wrong = docs.shape_errors([stage.substituted(line) for line in command.output], said)
    failure = code and not any("lbctl: " in line for line in command.output)
    assert not wrong and not failure, "\n".join([
        f"{command.place}: {command.words}: exit code {code}", *wrong, "it says:", *said])


@pytest.mark.parametrize("path", [p for p, c in CONSOLES.items() if not all(map(not_run, c))],
                         ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_does_what_is_shown(stage, path):
    PREPARED.get(str(path.relative_to(ROOT)), lambda _: None)(stage)
    for command in CONSOLES[path]:
        if not not_run(command):
            run_command(stage, command)


# --- docs/migration.md --------------------------------------------------------------------------


def by_place(found):
    return pytest.mark.parametrize("block", found, ids=lambda b: b.place.rsplit("/", 1)[1])


@by_place(docs.all_blocks(*ORIGINALS))
def test_the_original_is_accepted_by_its_program(stage, block):
    if not shutil.which(block.info, path=f"{os.environ['PATH']}:/usr/sbin"):
        pytest.skip(f"{block.info} is not installed")
    (stage.tree / "original").write_text(stage.substituted(block.text))
    code, said = stage.run(ORIGINALS[block.info].format('"$PWD/original"'))
    assert code == 0 and not any("WARNING" in line for line in said), "\n".join(said)


class Named:
    """
    A backend that says which address it was asked at, and what it has heard before: a PROXY
    header. Checks over HTTP are answered too.
    """

    def __init__(self, net, port, sealed):
        self.context = sealed
        self.backend = Backend(net, port, self.serve, addr="0.0.0.0")

    def serve(self, conn, stop):
        if self.context:
            conn = self.context.wrap_socket(conn, server_side=True)
        heard = b""
        while not heard.endswith(b"\r\n\r\n"):
            more = conn.recv(4096)
            if not more:
                return
            heard += more
        body = f"{conn.getsockname()[0]} {heard.splitlines()[0].decode()}".encode()
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        conn.close()


def ask(stage, port, name=None):
    """(address of the backend, the first line it has heard), of one flow from 10.81.0.2."""
    with stage.net.connect(LB_ADDR[4], port) as s:
        if name:
            context = ssl.create_default_context(cafile=str(stage.ca.cert))
            s = context.wrap_socket(s, server_hostname=name)
        s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while piece := s.recv(4096):
            answer += piece
    address, _, heard = answer.decode().rpartition("\r\n\r\n")[2].partition(" ")
    return address, heard


@by_place([b for b in docs.blocks(MIGRATION) if b.info == "yaml"])
def test_the_counterpart_serves(stage, block):
    def found(pattern):
        return re.findall(pattern, block.text)
    routes = found(r"names: \[(\S+)\]\s+backends: \[(.*)\]")
    sealed = bool(routes or found(r"\btls:"))
    context = None
    if routes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(stage.etc / "lb/default.pem", stage.etc / "lb/default.key")
    backend = Named(stage.net, int(found(r"10\.\d+\.\d+\.\d+:(\d+)")[0]), context)
    try:
        stage.serve(block.text)
        port = int(found(r'listen: "\S+:(\d+)"')[0])
        for name, own in routes:
            assert ask(stage, port, name)[0] in own
        address, heard = ask(stage, port, "www.example.org" if sealed else None)
        assert f"{address}:" in block.text and not any(address in own for _, own in routes)
        wanted = r"PROXY TCP4 10\.81\.0\.2 .*" if "proxy_protocol:" in block.text else "GET / .*"
        assert re.fullmatch(wanted, heard)
    finally:
        backend.backend.close()
