# SPDX-License-Identifier: MIT
"""
A Chromium without a screen, in a namespace. It is told what to do over two pipes, in the words of
its DevTools protocol: a JSON object, a NUL, and so on.
"""
import base64
import json
import os
import select
import shutil
import subprocess
import time

from .process import PATIENCE, die_with_parent

OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
           "--disable-background-networking", "--disable-component-update", "--no-first-run",
           "--disable-extensions", "--disable-sync", "--mute-audio", "--remote-debugging-pipe")


def missing():
    """Why there is none, or None."""
    return None if shutil.which("chromium") else \
        "no chromium: scripts/install-deps --test brings it where Debian has it"


class Browser:
    """One page. `complaints` holds what the console, the network and the policy had to say."""

    def __init__(self, inside, folder, width=1280, height=900):
        """<inside>: the words that run a command in the namespace."""
        ours, its_out = os.pipe()
        its_in, self.out = os.pipe()
        self.inbox, self.buffer, self.number, self.session = ours, b"", 0, None
        self.complaints, self.requests = [], []

        def prepare():
            die_with_parent()
            # Both may be in the other one's place.
            a, b = os.dup(its_in), os.dup(its_out)
            os.dup2(a, 3)
            os.dup2(b, 4)
            os.set_inheritable(3, True)
            os.set_inheritable(4, True)
        command = [*map(str, inside), "chromium", *OPTIONS, f"--user-data-dir={folder}/chromium"]
        with open(folder / "chromium.log", "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, close_fds=False, preexec_fn=prepare,
                                            env={**os.environ, "HOME": str(folder)})
        os.close(its_in)
        os.close(its_out)
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.tell("Target.attachToTarget", targetId=target,
                                 flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.tell(f"{domain}.enable")
        self.resize(width, height)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10 * PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.inbox)
        os.close(self.out)

    def note(self, event):
        method, said = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(said["exceptionDetails"])
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning"):
            self.complaints.append(said["args"])
        elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(said["entry"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])

    def receive(self, end):
        while b"\0" not in self.buffer:
            left = end - time.monotonic()
            ready = left > 0 and select.select([self.inbox], [], [], left)[0]
            piece = os.read(self.inbox, 1 << 16) if ready else b""
            assert piece, "the browser says nothing"
            self.buffer += piece
        line, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(line)

    def tell(self, method, seconds=30, **params):
        """Its answer; what else it says meanwhile is noted."""
        self.number += 1
        order = {"id": self.number, "method": method, "params": params}
        if self.session:
            order["sessionId"] = self.session
        os.write(self.out, json.dumps(order).encode() + b"\0")
        end = time.monotonic() + seconds * PATIENCE
        while True:
            said = self.receive(end)
            if said.get("id") == self.number:
                assert "error" not in said, (method, said["error"])
                return said["result"]
            self.note(said)

    def go(self, url):
        self.tell("Page.navigate", url=url)

    def run(self, expression):
        """The value of some JavaScript in the page."""
        said = self.tell("Runtime.evaluate", expression=expression, returnByValue=True,
                         awaitPromise=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def resize(self, width, height):
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)

    def prefers(self, scheme):
        """light or dark"""
        self.tell("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path):
        path.write_bytes(base64.b64decode(
            self.tell("Page.captureScreenshot", captureBeyondViewport=True)["data"]))
