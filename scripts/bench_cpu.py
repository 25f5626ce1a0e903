# SPDX-License-Identifier: MIT
"""
Decides what a measurement cost: busy time of the whole machine from /proc/stat, less what the idle
machine spends on itself. A proxy cannot hide work in softirq, kworkers or the peer's stack this
way. Must never count what it can see to be somebody else's without saying so: `foreign` is the CPU
time of programs outside this run, kept beside every figure.
"""

import os
import time

TICKS = os.sysconf("SC_CLK_TCK")
CORES = len(os.sched_getaffinity(0))
PF_KTHREAD = 0x00200000


def read_stat():
    """Seconds since boot, all cores: (busy, stolen by the hypervisor)."""
    with open("/proc/stat", encoding="ascii") as stat:
        field = [int(word) for word in stat.readline().split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = field[:8]
    return (user + nice + system + irq + softirq) / TICKS, steal / TICKS


def read_processes():
    """pid -> (session, CPU seconds with those of reaped children, is it a kernel thread)."""
    table = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
                # The command may contain anything, spaces and brackets too: count from its end.
                field = stat.read().rpartition(")")[2].split()
        except OSError:
            continue
        spent = sum(int(field[i]) for i in (11, 12, 13, 14)) / TICKS
        table[int(pid)] = (int(field[3]), spent, bool(int(field[6]) & PF_KTHREAD))
    return table


def foreign_seconds(table, ours):
    """
    CPU seconds of all programs that are not ours, ever: the difference of two readings is what they
    used in between. A program that ends moves its time to the parent that reaps it, so the sum
    loses nothing; kernel threads are left out, they work for the flow under test.
    """
    return sum(spent for pid, (session, spent, kernel) in table.items()
               if not kernel and session not in ours and pid != os.getpid())


class Window:
    """with Window(background, sessions) as w: ...; then w.wall, w.busy, w.foreign, w.steal."""

    def __init__(self, background, sessions):
        self.background = background  # share of one core the idle machine uses
        self.sessions = sessions  # callable: session ids of our own programs, asked at the end
        self.wall = self.busy = self.foreign = self.steal = 0.0

    def __enter__(self):
        self.table = read_processes()
        self.stat, self.start = read_stat(), time.monotonic()
        return self

    def __exit__(self, *exc):
        stat, self.wall = read_stat(), time.monotonic() - self.start
        self.busy = max(0.0, stat[0] - self.stat[0] - self.background * self.wall)
        self.steal = stat[1] - self.stat[1]
        ours = self.sessions() | {os.getsid(0)}
        # Our own session is this program and the clients it waits for; what else a terminal runs
        # in that session cannot be told apart and is not counted as foreign.
        self.foreign = max(0.0, foreign_seconds(read_processes(), ours)
                           - foreign_seconds(self.table, ours))


def busy_share(seconds):
    """Busy cores right now, averaged over this time (0.0 .. number of cores)."""
    before, start = read_stat()[0], time.monotonic()
    time.sleep(seconds)
    return (read_stat()[0] - before) / (time.monotonic() - start)


def idle_background(seconds=20.0, most=0.1):
    """
    Busy cores of the idle machine, the least of several looks. A machine that is never idle has no
    background that could be subtracted: then None, after this many seconds of waiting.
    """
    deadline = time.monotonic() + seconds
    looks = [busy_share(1.0)]
    while len(looks) < 4 or (min(looks) > most and time.monotonic() < deadline):
        looks.append(busy_share(1.0))
    return min(looks) if min(looks) <= most else None


def settle(background, seconds=6.0):
    """Waits for the machine to calm down; returns the busy cores it ended with above background."""
    deadline = time.monotonic() + seconds
    while True:
        above = max(0.0, busy_share(0.25) - background)
        if above < 0.08 or time.monotonic() > deadline:
            return above


def resident_bytes(session, share="Rss:"):
    """
    Resident memory of all processes of a session; smaps, because VmRSS is counted lazily. "Pss:"
    counts once what several of them share.
    """
    total = 0
    for pid, (sid, _spent, kernel) in read_processes().items():
        if kernel or sid != session:
            continue
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
                total += 1024 * next(int(line.split()[1]) for line in rollup
                                     if line.startswith(share))
        except (OSError, StopIteration):
            continue
    return total


def tcp_trouble(pid):
    """Listen drops and TIME_WAIT overflows in the namespace of this process, since it was made."""
    with open(f"/proc/{pid}/net/netstat", encoding="ascii") as table:
        lines = [line.split() for line in table]
    for names, values in zip(lines[::2], lines[1::2]):
        if names[0] == "TcpExt:":
            value = dict(zip(names, values))
            return sum(int(value[key]) for key in ("ListenDrops", "TCPTimeWaitOverflow"))
    return 0
