# SPDX-License-Identifier: MIT
"""The machine around the tests: kernel complaints, BPF objects, memory, descriptors."""
import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from .process import run

BPFFS = Path("/sys/fs/bpf")

_COMPLAINT = re.compile(
    r"recvmsg seq #|WARNING:|BUG:|Oops|Call Trace|general protection|refcount_t:|use-after-free"
    r"|hung task|blocked for more than|soft lockup|segfault|traps:|Out of memory|TCP: .*bug", re.I)


class KernelLog:
    """New lines of the kernel log since the last look."""

    def __init__(self):
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.fd, 0, os.SEEK_END)

    def complaints(self):
        found = []
        while True:
            try:
                record = os.read(self.fd, 8192).decode(errors="replace")
            except BlockingIOError:
                return found
            except OSError as e:
                # EPIPE: overwritten before we read it; the next read goes on behind the gap.
                if e.errno != errno.EPIPE:
                    raise
                continue
            text = record.split(";", 1)[-1].strip()
            if _COMPLAINT.search(text):
                found.append(text)

    def close(self):
        os.close(self.fd)


def mount_bpffs():
    """Pins need a BPF file system. One that stays mounted hurts nobody."""
    if not os.path.ismount(BPFFS):
        run("mount", "-t", "bpf", "bpf", BPFFS, check=False)
    return os.path.ismount(BPFFS)


def remove_instance(name):
    """What a daemon that was killed cannot remove itself: its pins and its lock."""
    for path in (BPFFS / f"layer4-lb-{name}", Path(f"/run/layer4-lb-{name}")):
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)


def remove_stale_instances(prefix):
    """Instances <prefix><pid>n.. of test runs that are no more."""
    for path in (*BPFFS.glob(f"layer4-lb-{prefix}*"), *Path("/run").glob(f"layer4-lb-{prefix}*")):
        run_of = re.fullmatch(rf"layer4-lb-({prefix}(\d+)n\d+)", path.name)
        if run_of and not Path(f"/proc/{run_of.group(2)}").exists():
            remove_instance(run_of.group(1))


def bpf_objects():
    """{("prog"|"map", id): what bpftool says of it}, of the whole machine."""
    found = {}
    for kind in ("prog", "map"):
        out = subprocess.run(["bpftool", "-j", kind, "show"], capture_output=True, text=True,
                             timeout=20, check=False).stdout
        found.update({(kind, o["id"]): o for o in json.loads(out or "[]")})
    return found


def _bpf_ids(pid):
    """{("prog"|"map", id)} that a process holds descriptors of."""
    ids = set()
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed in between
            ids |= set(re.findall(r"^(prog|map)_id:\s+(\d+)", path.read_text(), re.M))
    return {(kind, int(number)) for kind, number in ids}


def bpf_held(pid):
    """The part of bpf_objects() that a process holds descriptors of."""
    ids = _bpf_ids(pid)
    return {key: o for key, o in bpf_objects().items() if key in ids}


def bpf_holders(keys):
    """What is there of these objects, and which processes have it open; for a message."""
    told = [f"{kind} {number} {o.get('name')}" for (kind, number), o in bpf_objects().items()
            if (kind, number) in keys]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if _bpf_ids(process.name) & set(keys):
                told.append(f"held by {process.name} {(process / 'comm').read_text().strip()}")
    return "; ".join(told)


def map_entries(number):
    return len(json.loads(run("bpftool", "-j", "map", "dump", "id", number).stdout or "[]"))


def has_landlock():
    """landlock_create_ruleset(2), 444 on every architecture, asked for its version."""
    return ctypes.CDLL(None).syscall(444, None, 0, 1) > 0


TCP_MEM = Path("/proc/sys/net/ipv4/tcp_mem")


@contextlib.contextmanager
def tcp_memory(*pages):
    """
    net.ipv4.tcp_mem for a while. It is the whole machine's: a guard puts back what was there when
    we are done, and also when we are killed, for then the pipe it reads from closes.
    """
    # A session of its own: it survives a signal to our process group.
    guard = subprocess.Popen(
        ["sh", "-c", 'was=$(cat "$0"); echo ready; read -r _; echo "$was" > "$0"', TCP_MEM],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert guard.stdout.readline() == b"ready\n"
        TCP_MEM.write_text(" ".join(map(str, pages)))
        yield
    finally:
        guard.stdin.close()
        guard.wait(20)
        guard.stdout.close()


def process_fds(pid):
    """{"pipe": n, "other": n}: pipes are pooled by the daemon, nothing else may be."""
    count = {"pipe": 0, "other": 0}
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            count["pipe" if os.readlink(fd).startswith("pipe:") else "other"] += 1
        except FileNotFoundError:
            pass
    return count


def process_rss(pid):
    """Bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024


def process_cpu(pid):
    """Seconds of CPU so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory():
    """Bytes that are gone: to anybody, to slabs and to TCP's buffers."""
    meminfo = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M))
    tcp = re.search(r"^TCP:.* mem (\d+)", Path("/proc/net/sockstat").read_text(), re.M)
    return {"used": -int(meminfo["MemAvailable"]) * 1024,
            "slab": int(meminfo["SUnreclaim"]) * 1024,
            "tcp": int(tcp.group(1)) * os.sysconf("SC_PAGE_SIZE")}
