# SPDX-License-Identifier: MIT
"""Rights: the service works without them, keeps few of them, and pins nothing for somebody else."""
import os
import re
import shutil
import stat
from pathlib import Path

import pytest

from lbtest import lane as lanes, machine
from lbtest.daemon import PROGRAM, rule
from lbtest.process import run

LISTEN, BACK = ("10.81.0.1", 6900), ("10.81.1.2", 7900)
CONFIG = {"rules": [rule("r", "%s:%d" % LISTEN, ["%s:%d" % BACK], acceleration="auto")]}
SOCKMAP = {"rules": [{**CONFIG["rules"][0], "acceleration": "sockmap"}]}
EXCHANGE = {"send": 1 << 20, "recv": 1 << 20}

# linux/capability.h
CAP = {"net_bind_service": 10, "net_admin": 12, "sys_admin": 21, "perfmon": 38, "bpf": 39}


def without(*caps):
    dropped = ",".join(f"-{c}" for c in caps)
    return ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}"]


def lane(d, folder, carrier):
    return lanes.Lane(d, folder, "r", LISTEN, BACK, carrier)


@pytest.mark.parametrize("missing", [("bpf", "net_admin", "perfmon", "sys_admin"),
                                     ("net_admin",), ("bpf", "sys_admin"),
                                     ("perfmon", "sys_admin")], ids="-".join)
@pytest.mark.parametrize("config", [CONFIG, SOCKMAP], ids=["auto", "sockmap"])
def test_without_bpf_rights_everything_but_sockmap_works(net, folder, daemon, missing, config):
    with daemon(config, wrap=without(*missing)) as d:
        assert d.refusal("sockmap") == "no_cap", d.log
        # One clear line that names what is missing.
        lines = [line for line in d.log.splitlines() if "not in service" in line]
        assert len(lines) == 1, d.log
        # sys_admin stands in for the other two: it is named through them, or not at all.
        named = [c for c in missing if c != "sys_admin"]
        assert all(f"CAP_{c.upper()}" in lines[0] for c in named), lines
        assert not re.search(r"\b(error|libbpf)\b", d.log), d.log
        exchange = lane(d, folder, lanes.RELAY).run(EXCHANGE, EXCHANGE)
        exchange.assert_identical()
        assert exchange.log[0]["why"] == "no_cap", exchange.log
        assert not d.held and not d.pins()


NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def let_in(d, folder):
    """The folder of the test belongs to root; so must the log's file be made beforehand."""
    for path in (folder, *folder.parents):
        if str(path).startswith("/tmp/"):
            path.chmod(path.stat().st_mode | 0o755)
    d.config.chmod(0o644)
    d.access_log.touch()
    d.access_log.chmod(0o666)


def test_an_unprivileged_user_can_run_it(net, folder, daemon):
    d = daemon(CONFIG, wrap=NOBODY)
    let_in(d, folder)
    with d:
        assert d.refusal("sockmap") == "no_cap", d.log
        lane(d, folder, lanes.RELAY).run(EXCHANGE, EXCHANGE).assert_identical()


@pytest.mark.parametrize("given", [True, False], ids=["given", "not given"])
def test_a_file_with_capabilities_uses_what_its_user_may_have(net, folder, daemon, given):
    """As in a container: no root, the file carries them, the bounding set allows them or not."""
    four = [f"cap_{c}" for c in ("bpf", "net_admin", "perfmon", "net_bind_service")]
    program = folder / "layer4-lb"
    shutil.copy(PROGRAM, program)
    run("setcap", ",".join(four) + "=p", program)
    barred = ["--bounding-set=" + ",".join("-" + c.removeprefix("cap_") for c in four)]
    d = daemon(SOCKMAP, wrap=NOBODY + ([] if given else barred))
    d.command[d.command.index(PROGRAM)] = program
    let_in(d, folder)
    with d:
        assert d.refusal("sockmap") == (None if given else "no_cap"), d.log
        carrier = lanes.SOCKMAP if given else lanes.RELAY
        exchange = {**EXCHANGE, "go": 1} if given else EXCHANGE
        lane(d, folder, carrier).run(exchange, exchange).assert_identical()


def test_everything_but_four_capabilities_is_dropped_after_the_start(daemon):
    keep = sum(1 << CAP[c] for c in ("bpf", "net_admin", "perfmon", "net_bind_service"))
    with daemon(SOCKMAP) as d:
        for task in Path(f"/proc/{d.pid}/task").iterdir():
            status = (task / "status").read_text()
            for kind in ("Prm", "Eff", "Inh", "Bnd", "Amb"):
                caps = int(re.search(rf"^Cap{kind}:\s*(\w+)", status, re.M).group(1), 16)
                assert not caps & ~keep, f"{task.name}: Cap{kind} {caps:x}"
            assert re.search(r"^NoNewPrivs:\s*1$", status, re.M)
        # What a worker cannot do any more is in tests/unit/base/landlock.c.
        if machine.has_landlock() and "LB_SAN" not in os.environ:
            assert "Landlock" not in d.log, d.log


@pytest.fixture
def in_service(daemon):
    """A daemon with sockmap in service."""
    with daemon(SOCKMAP) as d:
        lanes.skip_without(lanes.SOCKMAP, d)
        yield d


def test_programs_and_maps_have_names_and_types_for_bpftool(in_service):
    kinds = {"prog": set(), "map": set()}
    for (kind, number), o in in_service.held.items():
        if o.get("name") in ("libbpf_global",) or o.get("name", "").startswith("."):
            continue
        assert o.get("name"), (kind, number, o)
        kinds[kind].add(o["name"])
        # Socket maps and rings have no key or value types to describe.
        if kind == "prog" or o["type"] in ("hash", "array", "lru_hash"):
            assert o.get("btf_id"), (kind, number, o)
    assert kinds["prog"] == {"sk_verdict"}, kinds
    assert {"lb_socks", "lb_cookies", "lb_gates"} <= kinds["map"], kinds


def test_pins_are_ours_alone_and_go_with_us(in_service):
    if not machine.mount_bpffs():
        pytest.skip("no BPF file system can be mounted here")
    assert in_service.pin_dir.exists(), in_service.log
    st = in_service.pin_dir.lstat()
    assert stat.S_ISDIR(st.st_mode) and stat.S_IMODE(st.st_mode) == 0o700 and st.st_uid == 0
    assert len(in_service.pins()) > 1
    in_service.stop()
    assert not in_service.pins()


@pytest.fixture
def planted(daemon):
    """planted(how) puts something in the pins' place before the start."""
    if not machine.mount_bpffs():
        pytest.skip("no BPF file system can be mounted here")
    made = []
    d = daemon(SOCKMAP)
    elsewhere = machine.BPFFS / f"{d.instance}-elsewhere"

    def make(how):
        if how == "symlink":
            elsewhere.mkdir(0o700)
            made.append(elsewhere)
            d.pin_dir.symlink_to(elsewhere)
        else:
            d.pin_dir.mkdir(0o700)
            if how == "foreign":
                os.chown(d.pin_dir, 65534, 65534)
            elif how == "open":
                d.pin_dir.chmod(0o777)
        made.append(d.pin_dir)
        return d
    yield make
    d.kill()
    for path in made:
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            for pin in path.iterdir():
                pin.unlink()
            path.rmdir()


@pytest.mark.parametrize("how", ["symlink", "foreign", "open"])
def test_a_planted_pin_directory_is_refused_and_left_alone(folder, planted, how):
    d = planted(how)
    d.start()
    assert d.refusal("sockmap") == "pins", d.log
    lines = [line for line in d.log.splitlines() if d.pin_dir.name in line]
    assert len(lines) == 1, d.log
    # Nothing was put there, nor through it.
    assert list(d.pin_dir.iterdir()) == []
    assert d.pin_dir.is_symlink() == (how == "symlink")
    lane(d, folder, lanes.RELAY).run(EXCHANGE, EXCHANGE).assert_identical()
    d.process.signal(15)
    assert d.process.wait(5) == 0, d.log
    d.forget()
    assert d.pin_dir.is_symlink() or d.pin_dir.exists()


def test_pins_of_a_killed_run_are_replaced(folder, daemon):
    d = daemon(SOCKMAP).start()
    lanes.skip_without(lanes.SOCKMAP, d)
    d.process.kill()
    d.forget()
    stale = d.held
    d.start()
    assert d.refusal("sockmap") is None, d.log
    lane(d, folder, lanes.SOCKMAP).run({**EXCHANGE, "go": 1},
                                       {**EXCHANGE, "go": 1}).assert_identical()
    assert not stale.keys() & machine.bpf_objects().keys(), "objects of the killed run live on"
    d.stop()


def test_the_selftest_says_what_this_kernel_can_do(daemon, in_service):
    done = run(in_service.command[0], "--selftest", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "In service: sockmap, relay" in done.stdout
    # It ran beside a daemon and took nothing from it.
    assert in_service.process.alive() and len(in_service.pins()) > 1
