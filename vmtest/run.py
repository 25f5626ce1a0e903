#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Runs what is built in a virtual machine on other kernels: those Debian 12 offers. The guest's root
is this host's, read-only under an overlay in memory, so that what is tested is the very build; its
only network is what the tests make. Prints what the guest prints and, for each kernel, the closing
line `N passed, N failed, N skipped`. Needs root, and /dev/kvm or patience.

    make vmtest                                       both kernels
    make vmtest VMTEST_ARGS='--kernel 6.1 -k integrity'     one, and these end-to-end tests
    make vmtest VMTEST_ARGS='--kernel 6.12 --command "scripts/test --bpf --built -k xdp"'
"""
import argparse
import lzma
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = (ROOT / os.environ.get("LB_BUILD", "build")).resolve()
STORE = BUILD / "vmtest"
# By the version that is tested: the package that depends on the newest of them.
KERNELS = {"6.1": "linux-image-amd64", "6.12": "linux-image-6.12-amd64"}
# What must be there before the root file system is; the rest loads by itself.
EARLY = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
# Two hundred flows of many megabytes are 8 GB for each carrier: emulated, a quarter of an hour.
E2E = "(integrity or same_host or qdisc) and not two_hundred"
# Streams over TLS must not notice that the kernel seals them. With emulation one processor is
# quicker than several, which wait for each other.
KTLS = ("test_ktls or (tls and not both and (what_a_client_sent or slow_reader or any_way_to_send "
        "or answer_comes)) or (tls_both and (half_closed_before or stalled_goes_on))")
BOOT_SECONDS = 20  # until init speaks, under KVM; emulated it takes five
SECONDS = {"kvm": 1800, "tcg": 10800}
# An emulated CPU is ten to twenty times as slow.
PATIENCE = {"kvm": 2, "tcg": 8}
FIRST_WORD = "vmtest: + "


# --- the kernel -----------------------------------------------------------------------------------


def output_of(*command, cwd=None):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"vmtest: {' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def package_of(name):
    """The package of the newest kernel of this series, as apt knows it."""
    depends = re.search(r"Depends: (linux-image-\S+)", output_of("apt-cache", "depends", name))
    if not depends:
        sys.exit(f"vmtest: apt knows no {name}: apt-get update")
    return depends.group(1)


def unpack(package):
    """Fetches and unpacks, never installs. A folder that has its name is complete."""
    folder = STORE / package
    if folder.exists():
        return folder
    STORE.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="unpack", dir=STORE))
    try:
        print(f"vmtest: fetching {package}", flush=True)
        output_of("apt-get", "download", "-qq", package, cwd=work)
        archive, = work.glob("*.deb")
        output_of("dpkg-deb", "-x", str(archive), str(work / "root"))
        release, = (work / "root/lib/modules").iterdir()
        output_of("depmod", "-b", str(work / "root"), release.name)
        (work / "root").rename(folder)
    finally:
        shutil.rmtree(work)
    return folder


class Kernel:
    def __init__(self, name):
        self.root = unpack(package_of(KERNELS[name]))
        self.modules, = (self.root / "lib/modules").iterdir()
        self.release = self.modules.name
        self.image = self.root / "boot" / f"vmlinuz-{self.release}"

    def early_modules(self):
        """Files, each behind what it needs."""
        shown = [line for module in EARLY for line in output_of(
            "modprobe", "-d", str(self.root), "-S", self.release, "--show-depends",
            module).splitlines()]
        # `builtin NAME` needs nothing.
        paths = [line.split()[1] for line in shown if line.startswith("insmod ")]
        return list(dict.fromkeys(Path(p) for p in paths))


def pack_initramfs(kernel, target):
    """busybox, init and modules as a cpio archive."""
    with tempfile.TemporaryDirectory(dir=STORE) as work:
        work = Path(work)
        for folder in ("bin", "dev", "proc", "modules"):
            (work / folder).mkdir()
        shutil.copy("/bin/busybox", work / "bin/busybox")
        shutil.copy(ROOT / "vmtest/init", work / "init")
        for number, path in enumerate(kernel.early_modules()):
            code = path.read_bytes()
            if path.suffix == ".xz":
                code = lzma.decompress(code)
            (work / "modules" / f"{number:02}-{path.name.split('.')[0]}.ko").write_bytes(code)
        names = "\0".join(str(p.relative_to(work)) for p in sorted(work.rglob("*")))
        with open(target, "wb") as archive:
            subprocess.run(["cpio", "--quiet", "-0", "-o", "-H", "newc"], cwd=work, check=True,
                           input=names.encode(), stdout=archive)


# --- the machine ----------------------------------------------------------------------------------


class Machine:
    """One boot. Its output is read line by line; it ends by itself, at <seconds>, or with us."""

    ACCELERATOR = {"kvm": ["-accel", "kvm", "-cpu", "host"],
                   "tcg": ["-accel", "tcg,thread=multi", "-cpu", "max"]}

    def __init__(self, kernel, accelerator, work, options):
        script = work / "commands"
        environment = f"LB_BUILD={BUILD} LB_PATIENCE={PATIENCE[accelerator]}"
        script.write_text("".join(f"{environment} {c}\n" for c in options.command))
        pack_initramfs(kernel, work / "initramfs")
        arguments = {"VMTEST_TREE": ROOT, "VMTEST_MODULES": kernel.modules,
                     "VMTEST_COMMANDS": script}
        append = " ".join(["console=ttyS0 quiet panic=-1 oops=panic",
                           *(f"{key}={value}" for key, value in arguments.items())])
        self.console = work / "console"
        self.child = subprocess.Popen(
            ["qemu-system-x86_64", *self.ACCELERATOR[accelerator], "-smp", str(options.cpus),
             "-m", "4G", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
             "-kernel", kernel.image, "-initrd", work / "initramfs", "-append", append,
             "-serial", f"file:{self.console}", "-serial", "stdio",
             "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,"
             "multidevs=remap"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", preexec_fn=die_with_parent)

    def lines(self, boot_seconds, seconds):
        """What the guest says, until it ends. An alarm ends a guest that takes too long."""
        signal.signal(signal.SIGALRM, lambda *_: self.child.kill())
        signal.alarm(boot_seconds)
        for line in self.child.stdout:
            if line.startswith(FIRST_WORD):
                signal.alarm(seconds)
            yield line.rstrip()
        signal.alarm(0)

    def last_words(self):
        return self.console.read_text(errors="replace")[-3000:] if self.console.exists() else ""

    def end(self):
        signal.alarm(0)
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()


def die_with_parent():
    import ctypes  # pylint: disable=import-outside-toplevel
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def run_once(kernel, accelerator, options, boot_seconds):
    """All lines of one boot; they are printed as they come."""
    with tempfile.TemporaryDirectory(prefix="boot", dir=STORE) as work:
        machine = Machine(kernel, accelerator, Path(work), options)
        said = []
        try:
            for line in machine.lines(boot_seconds, SECONDS[accelerator]):
                said.append(line)
                print(line, flush=True)
        finally:
            machine.end()
        if "vmtest: end" not in said and started(said):
            print(f"vmtest: {kernel.release}: the guest did not end well; its console:\n"
                  f"{machine.last_words()}", flush=True)
    return said


def started(said):
    return any(line.startswith(FIRST_WORD) for line in said)


# --- what came of it ------------------------------------------------------------------------------


def count(said, commands):
    """[passed, failed, skipped]. A command without a closing line failed, a lost guest too."""
    total = [0, 0, 0]
    for line in said:
        closing = re.fullmatch(r"(\d+) passed, (\d+) failed, (\d+) skipped", line)
        if closing:
            total = [a + int(b) for a, b in zip(total, closing.groups())]
    ends = [int(line.split()[-1]) for line in said if re.fullmatch(r"vmtest: exit \d+", line)]
    closings = sum(bool(re.fullmatch(r"\d+ passed, .* skipped", line)) for line in said)
    lost = len(commands) - min(len(ends), closings)
    if lost or ("vmtest: end" not in said) or (any(ends) and not total[1]):
        total[1] += max(1, lost)
    return total


def test_kernel(name, options):
    kernel = Kernel(name)
    for accelerator in ["kvm", "tcg"] if os.access("/dev/kvm", os.W_OK) else ["tcg"]:
        if accelerator not in options.accelerators:
            continue
        began = time.monotonic()
        said = run_once(kernel, accelerator, options,
                        BOOT_SECONDS if accelerator == "kvm" else 10 * BOOT_SECONDS)
        if accelerator == "kvm" and not started(said):
            print("vmtest: /dev/kvm does not boot this kernel; emulating", flush=True)
            options.accelerators = ["tcg"]
            continue
        total = count(said, options.command)
        print(f"\nvmtest: Linux {kernel.release}, {accelerator}, "
              f"{time.monotonic() - began:.0f} s\n"
              "{} passed, {} failed, {} skipped".format(*total), flush=True)
        return total
    return [0, 1, 0]


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.strip(),
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", choices=KERNELS, action="append", help="default: all of them")
    parser.add_argument("-k", metavar="EXPR", help=f"end-to-end tests [{E2E}]")
    parser.add_argument("--short", action="store_true",
                        help="only what loads and runs the BPF programs, on one processor of the "
                        "oldest kernel")
    parser.add_argument("--ktls", action="store_true",
                        help="only end-to-end tests of kTLS, on one processor")
    parser.add_argument("--command", action="append",
                        help="instead of the suites: what to run, ending with the closing line")
    parser.add_argument("--cpus", type=int, help="of the guest [all]")
    parser.add_argument("--emulate", action="store_true", help="do not try /dev/kvm")
    options = parser.parse_args()
    options.accelerators = ["tcg"] if options.emulate else ["kvm", "tcg"]
    options.cpus = options.cpus or (1 if options.ktls or options.short else os.cpu_count())
    options.kernel = options.kernel or list(KERNELS)[:1 if options.short else None]
    options.k = options.k or (KTLS if options.ktls else E2E)
    options.command = options.command or (["scripts/test --bpf --built"] if options.short else [
        *([] if options.ktls else ["scripts/test --unit --bpf --built"]),
        f"scripts/test --e2e --built -k '{options.k}'"])
    return options


def main():
    options = parse_options()
    if os.geteuid():
        sys.exit("vmtest: needs root: the guest reads this root file system")
    # So that what is under way ends with us, and its folder goes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    totals = [test_kernel(name, options) for name in options.kernel]
    sys.exit(any(total[1] for total in totals))


if __name__ == "__main__":
    main()
