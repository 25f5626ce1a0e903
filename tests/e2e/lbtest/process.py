# SPDX-License-Identifier: MIT
"""Child processes that cannot outlive the tests, and waits that cannot last for ever."""
import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SAN = os.environ.get("LB_SAN") == "1"
BUILD = ROOT / (os.environ.get("LB_BUILD") or ("build/san" if SAN else "build"))
# How much longer everything may take under sanitizers, and on a machine that says it is slow.
PATIENCE = (4 if SAN else 1) * int(os.environ.get("LB_PATIENCE", "1"))

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def die_with_parent():
    # The "parent" is the thread that forked: start processes from the main thread only.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def wait_until(condition, seconds, what, every=0.01):
    """The first true value of condition(), or an AssertionError that tells <what>, text or call."""
    end = time.monotonic() + seconds * PATIENCE
    while True:
        # A look may take long itself: the last one begins when the time is over.
        late = time.monotonic() > end
        value = condition()
        if value:
            return value
        if late:
            told = what() if callable(what) else what
            raise AssertionError(f"not within {seconds * PATIENCE} s: {told}")
        time.sleep(every)


def run(*command, check=True, seconds=20, stdin=None):
    """A command that ends by itself. Returns the CompletedProcess, output as text."""
    done = subprocess.run([str(c) for c in command], input=stdin, capture_output=True, text=True,
                          errors="replace", timeout=seconds * PATIENCE, check=False,
                          preexec_fn=die_with_parent)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n"
                             f"{done.stdout}{done.stderr}")
    return done


class Process:
    """A process in the background. Its output goes to files in <folder>, kept by pytest."""

    def __init__(self, name, command, folder, env=None):
        self.name = name
        self.command = [str(c) for c in command]
        self.out_path = Path(folder) / f"{name}.out"
        self.err_path = Path(folder) / f"{name}.err"
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.popen = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=out,
                                          stderr=err, env=env, preexec_fn=die_with_parent)

    @property
    def pid(self):
        return self.popen.pid

    @property
    def stdout(self):
        return self.out_path.read_text(errors="replace")

    @property
    def stderr(self):
        return self.err_path.read_text(errors="replace")

    def alive(self):
        return self.popen.poll() is None

    def close_stdin(self):
        """What a peer that holds its connections waits for."""
        if not self.popen.stdin.closed:
            self.popen.stdin.close()

    def signal(self, number):
        self.popen.send_signal(number)

    def wait(self, seconds):
        """Exit code; an AssertionError when the process does not end."""
        try:
            return self.popen.wait(seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {seconds * PATIENCE} s\n"
                                 f"{self.stderr[-3000:]}") from None

    def kill(self):
        if self.alive():
            self.popen.kill()
        self.popen.wait()
        self.close_stdin()
