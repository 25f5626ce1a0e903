# SPDX-License-Identifier: MIT
"""Calls of a daemon that fail when a test says so: the other half of preload/faults.c."""
import errno
import mmap
import os
import struct

from .process import BUILD, SAN

LIBRARY = BUILD / "tests/e2e/preload/faults.so"

# call -> (its number in faults.c, how it fails)
CALLS = {
    "malloc": (1, errno.ENOMEM),
    "accept4": (2, errno.EMFILE),
    "connect": (3, errno.EADDRNOTAVAIL),
    "epoll_ctl": (4, errno.ENOMEM),
    "bpf": (5, errno.ENOMEM),
    "setsockopt": (6, errno.ENOBUFS),
}
# A sanitizer's heap is its own.
SEEN = [call for call in CALLS if not (SAN and call == "malloc")]

_CONTROL = struct.Struct("iiiiq")


class Faults:
    """For one daemon: give <wrap> to it."""

    def __init__(self, folder, number=0):
        path = folder / f"faults{number}"
        path.write_bytes(bytes(_CONTROL.size))
        with open(path, "r+b") as f:
            self.memory = mmap.mmap(f.fileno(), _CONTROL.size)
        # The library has no part of a sanitizer, and may come before it.
        options = ":".join(filter(None, [os.environ.get("ASAN_OPTIONS"),
                                         "verify_asan_link_order=0"]))
        self.wrap = ["env", f"LB_FAULTS_FILE={path}", f"LD_PRELOAD={LIBRARY}",
                     *([f"ASAN_OPTIONS={options}"] if SAN else [])]

    def _write(self, call, left, error):
        # The call comes last: from then on it is counted.
        struct.pack_into("i", self.memory, 0, 0)
        struct.pack_into("iii", self.memory, 4, left, error, 0)
        struct.pack_into("i", self.memory, 0, call)

    def arm(self, call, n):
        """From now on the <n>-th is the one that fails, once."""
        number, error = CALLS[call]
        self.call = call
        self.error = os.strerror(error)
        self._write(number, n, error)

    def disarm(self):
        """Whether it has failed."""
        fired = self.fired
        self._write(0, 0, 0)
        return fired

    @property
    def fired(self):
        return bool(struct.unpack_from("i", self.memory, 12)[0])

    @property
    def blocks(self):
        """Of the heap, that are in use (and were taken since the program began)."""
        return struct.unpack_from("q", self.memory, 16)[0]
