# SPDX-License-Identifier: MIT
"""
Where the commands of a document are run: a folder that looks like the source tree, in the load
balancer's namespace, with the programs of the build and an instance of its own. The documents'
addresses 10.0.0.0/16 are in the backend's namespace.
"""
import contextlib
import itertools
import os
import re
import signal
import socket
from pathlib import Path

from . import machine
from .daemon import LBCTL, PROGRAM
from .net import BACKEND, LB, PREFIX
from .process import BUILD, ROOT, run, wait_until

DEMO = BUILD / "lb-demo-backend"
_numbers = itertools.count()
_OWN_INSTANCE = """#!/bin/sh
case " $* " in
*' --instance '*) exec {program} "$@" ;;
*) exec {program} "$@" --instance {instance} ;;
esac
"""
# Who lives where in the documents: their HTTP services are ours.
NETWORK = "10.0.0.0/16"


@contextlib.contextmanager
def documented_network(net):
    """Every address of NETWORK is the backend's."""
    net.ip(LB, f"route add {NETWORK} via 10.81.1.2")
    net.ip(BACKEND, f"route add local {NETWORK} dev lo")
    try:
        yield
    finally:
        net.ip(BACKEND, f"route del local {NETWORK} dev lo")
        net.ip(LB, f"route del {NETWORK}")


class Stage:
    """<papers>: (authority, pair) for all that the documents' configurations name below /etc."""

    def __init__(self, net, folder, papers):
        self.net, self.folder = net, Path(folder)
        self.ca, self.pair = papers
        self.instance = f"{PREFIX}{os.getpid()}n{900 + next(_numbers)}"
        self.tree = self.folder / "tree"
        self.instances = [self.instance]
        self.background = []
        self.clients = []
        self.serving = False
        for path in (self.folder, *self.folder.parents):
            if str(path).startswith("/tmp/"):  # for a daemon that is not root's
                path.chmod(path.stat().st_mode | 0o755)
        self.tree.mkdir()
        (self.tree / "build").mkdir()
        for name in (*BUILD.iterdir(), ROOT / "scripts", ROOT / "lb.yaml",
                     ROOT / "lb_tls_test.yaml"):
            at = self.tree / ("build" if name.parent == BUILD else "") / name.name
            if name in (PROGRAM, LBCTL):
                at.write_text(_OWN_INSTANCE.format(program=name, instance=self.instance))
                at.chmod(0o755)
            else:
                at.symlink_to(name)
        self._make_etc()

    def _make_etc(self):
        self.etc = self.folder / "etc"
        for name in ("layer4-lb", "lb", "haproxy", "nginx"):
            (self.etc / name).mkdir(parents=True)
        (self.etc / "layer4-lb/cluster.key").write_text("a5" * 32 + "\n")
        (self.etc / "layer4-lb/cluster.key").chmod(0o600)
        cert, key = self.pair.cert.read_text(), self.pair.key.read_text()
        for text, *names in (
                (cert, "lb/default.pem", "lb/shop.pem", "lb/own.pem", "layer4-lb/site.pem",
                 "nginx/site.pem"),
                (key, "lb/default.key", "lb/shop.key", "lb/own.key", "layer4-lb/site.key",
                 "nginx/site.key"),
                (self.ca.cert.read_text(), "lb/backends-ca.pem"), (cert + key, "haproxy/site.pem")):
            for name in names:
                (self.etc / name).write_text(text)
                (self.etc / name).chmod(0o600)

    # The small table: what the documents say, and what it is here.
    def substituted(self, text):
        table = ((r"/etc/(?:layer4-lb|lb|haproxy|nginx)/", None),
                 (r"/run/layer4-lb/", f"/run/layer4-lb-{self.instance}/"),
                 (r"/sys/fs/bpf/layer4-lb/", f"/sys/fs/bpf/layer4-lb-{self.instance}/"),
                 (r"/var/log/layer4-lb/|/tmp/", f"{self.folder}/"),
                 (r"\$\(pidof layer4-lb\)", lambda: str(self.daemon_pid())),
                 (r"--reuid lb --regid lb", "--reuid nobody --regid nogroup"),
                 (r"(?<![/\w])(?:build/)?layer4-lb(?: --config lb\.yaml)?$", self._sample),
                 (r"/sys/fs/bpf/layer4-lb$", f"/sys/fs/bpf/layer4-lb-{self.instance}"),
                 (r"\beth0\b", "lb0"))

        def here(match):
            text = next(h for p, h in table if re.fullmatch(p, match.group()))
            if text is None:
                return str(self.folder) + match.group()
            return text() if callable(text) else text
        return re.sub("|".join(p for p, _ in table), here, text)

    def _sample(self):
        """The daemon of the tree's lb.yaml, or one that runs beside the one that serves."""
        if not self.serving:
            return "layer4-lb --config lb.yaml"
        instance = f"{self.instance}-{len(self.instances)}"
        self.instances.append(instance)
        (self.tree / "beside.yaml").write_text(
            'rules: [{name: web, listen: "127.0.0.1:28090", backends: ["127.0.0.1:28081"]}]\n'
            "admin: {metrics: off}\n")
        return f"layer4-lb --config beside.yaml --instance {instance}"

    def _command(self, text):
        path = f"{self.tree}/build:{os.environ['PATH']}:/usr/sbin:/sbin"
        return ["env", f"PATH={path}", "LC_ALL=C.UTF-8", "bash", "-o", "pipefail", "-c",
                f"cd {self.tree} && {text}"]

    def run(self, text, seconds=20):
        """(exit code, lines of both outputs)."""
        done = run(*self.net.inside(LB), *self._command(self.substituted(text)), check=False,
                   seconds=seconds)
        return done.returncode, (done.stdout + done.stderr).splitlines()

    def start(self, text, ready=r"\bready\b", side=LB):
        """In the background, until the end. Waits for a line that matches <ready>."""
        text = re.sub(r"\s*&$", "", self.substituted(text))
        process = self.net.start(side, f"background{len(self.background)}",
                                 self._command(text), self.folder)
        self.background.append(process)
        wait_until(lambda: not process.alive() or re.search(
            ready, process.stdout + process.stderr), 20, lambda: f"{text}\n{process.stderr}")
        assert process.alive(), f"{text}: {process.popen.returncode}\n{process.stderr}"
        return process

    def serve(self, configuration, more=False):
        """The daemon, with this text for lb.yaml; <more>: one beside it."""
        instance = f"{self.instance}-{len(self.instances)}"
        self.serving = True
        name = f"{instance}.yaml" if more else "lb.yaml"
        (self.etc / "layer4-lb" / name).write_text(self.substituted(configuration))
        self.instances += [instance] if more else []
        return self.start(f"layer4-lb --config /etc/layer4-lb/{name}" +
                          f" --instance {instance}" * more)

    def backend(self, *ports, side=BACKEND, addr="0.0.0.0", name="demo"):
        """An HTTP service on these ports."""
        self.start(" ".join([str(DEMO), "--name", name,
                             *(f"--http {addr}:{p}" for p in ports)]), side=side)

    def clients_of(self, addr, count, path="/bytes/40000000"):
        """Clients that read slowly: their flows live until the end."""
        for _ in range(count):
            c = self.net.call(LB, socket.create_connection, addr, 5)
            c.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert c.recv(1000)
            self.clients.append(c)

    def daemon_pid(self):
        """Of who serves now."""
        found = re.search(r"pid (\d+)", run(LBCTL, "--instance", self.instance, "status",
                                            check=False).stdout)
        return int(found.group(1)) if found else 0

    def close(self):
        for c in self.clients:
            c.close()
        # One that an upgrade has started is nobody's child here.
        pid = self.background and self.daemon_pid()
        if pid:
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not self.daemon_pid(), 10, "the daemon is gone")
        for process in self.background:
            process.kill()
        for instance in self.instances if self.background else ():
            run(*self.net.inside(LB), PROGRAM, "--unload", "--instance", instance, check=False)
            machine.remove_instance(instance)
