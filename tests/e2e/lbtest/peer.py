# SPDX-License-Identifier: MIT
"""The peer program (peer.c): a client or a server that checks every byte of a patterned stream."""
import itertools
import json

from .net import BACKEND, CLIENT
from .process import BUILD, PATIENCE, wait_until

PEER = BUILD / "tests/e2e/peer"
_numbers = itertools.count()


class Peer:
    """One run of the program. Options are those of `peer`'s usage text."""

    def __init__(self, net, side, role, folder, **options):
        options.setdefault("deadline_ms", 20000)
        options["deadline_ms"] *= PATIENCE
        options.setdefault("quiet_ms", 30000 * PATIENCE)
        self.options = options
        words = [f"{k}={v}" for k, v in options.items() if v is not None]
        self.process = net.start(side, f"{role}{next(_numbers)}", [PEER, role, *words], folder)

    def wait_for(self, word, seconds=20):
        """Until the program printed <word> ("listening", "holding")."""
        def said():
            assert word in self.process.stdout or self.process.alive(), \
                f"peer {self.options} ended: {self.process.stdout}{self.process.stderr}"
            return word in self.process.stdout
        wait_until(said, seconds, f"peer {self.options} says {word}", every=0.002)

    def release(self):
        self.process.close_stdin()

    def result(self, seconds=None):
        """The report, with "exit" added. Waits for the program to end."""
        code = self.process.wait(seconds or self.options["deadline_ms"] / 1000 + 5)
        lines = self.process.stdout.strip().splitlines()
        assert lines and lines[-1].startswith("{"), \
            f"peer {self.options}: exit code {code}, no report\n{self.process.stderr}"
        return dict(json.loads(lines[-1]), exit=code)

    def stop(self):
        self.process.kill()


def server(net, folder, side=BACKEND, **options):
    """A listening server."""
    peer = Peer(net, side, "server", folder, **options)
    try:
        peer.wait_for("listening")
    except BaseException:
        peer.stop()
        raise
    return peer


def client(net, folder, side=CLIENT, **options):
    return Peer(net, side, "client", folder, **options)
