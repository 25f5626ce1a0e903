# SPDX-License-Identifier: MIT
"""`make run`: what scripts/run shows, and that nothing of it is left behind, however it ends."""
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from lbtest.machine import BPFFS
from lbtest.process import BUILD, ROOT, Process, run, wait_until

INSTANCE = f"run{os.getpid()}"
# Ports of its own: lb.yaml names fixed ones.
IN_NAMESPACE = ["unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def command(*options, build=BUILD):
    return [*IN_NAMESPACE, "env", f"LB_BUILD={build}", ROOT / "scripts/run",
            "--instance", INSTANCE, *options]


def pids(text):
    """Of everything the script said it started."""
    return [int(pid) for pid in re.findall(r"process (\d+)", text)]


def running(pid):
    """Not a zombie that somebody else has yet to reap."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.fixture(autouse=True, name="temporary")
def temporary_fixture(tmp_path, monkeypatch):
    """Where the script puts its logs. Empty again afterwards, as are its pins."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert not (BPFFS / f"layer4-lb-{INSTANCE}").exists()
    assert not list(folder.iterdir())


@pytest.fixture(name="up")
def up_fixture(tmp_path, temporary):
    """The script in its last stage: everything shown, waiting for Ctrl-C."""
    process = Process("run", command(), tmp_path)
    try:
        wait_until(lambda: "From here on" in process.stdout or not process.alive(), 60, "it is up")
        assert process.alive(), process.stdout + process.stderr
        yield process
    finally:
        process.kill()
        wait_until(lambda: not any(map(running, pids(process.stdout))), 40, "all have ended")
        shutil.rmtree(temporary)  # of a killed script; the tests that are about it look earlier
        temporary.mkdir()


def test_once_shows_the_spread_by_weight_and_the_carriers():
    done = run(*command("--once"), seconds=60)
    spread = dict(re.findall(r"^ +(web-\d+) +\d+ +[\d.]+ +(\d+)$", done.stdout, re.M))
    assert spread.keys() == {"web-9101", "web-9102", "web-9103"}
    for backend, share in {"web-9101": 50, "web-9102": 10, "web-9103": 10}.items():
        assert abs(int(spread[backend]) - share) <= 2
    assert re.search(r"^ +20 web-910\d$", done.stdout, re.M)
    assert "4 of 4 connections complete, every byte verified" in done.stdout
    carried = re.findall(r"^ +(web|echo) +(relay|sockmap|graft) +(\d+) +(\d+)$", done.stdout, re.M)
    assert sum(int(flows) for rule, _, flows, _ in carried if rule == "echo") == 4
    assert sum(int(size) for rule, _, _, size in carried if rule == "web") > 100000000
    if "graft is in service" in done.stdout:
        assert "echo" in {rule for rule, carrier, _, _ in carried if carrier == "graft"}
    assert re.search(r"^ +time=[^/]* carrier=", done.stdout, re.M)
    assert not any(map(running, pids(done.stdout))) and len(pids(done.stdout)) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stays_up_until_a_signal_and_then_all_is_gone(up, number, temporary):
    assert len(pids(up.stdout)) == 6 and all(map(running, pids(up.stdout)))
    answer = run("nsenter", f"--net=/proc/{up.pid}/ns/net", "--",
                 "curl", "-sS", "--max-time", "5", "http://127.0.0.1:8080/")
    assert re.match(r"web-910[123]: hello", answer.stdout)
    wait_until(lambda: "rule=web" in up.stdout.partition("From here on")[2], 5,
               "the flow's line is shown")
    up.signal(number)
    assert up.wait(20) == 0, up.stderr
    assert not any(map(running, pids(up.stdout))) and not list(temporary.iterdir())


def test_open_connections_do_not_hold_up_the_end(up):
    client = subprocess.Popen(["nsenter", f"--net=/proc/{up.pid}/ns/net", "--", "curl", "-s",
                               "http://127.0.0.1:8080/slow/60000"])
    try:
        wait_until(lambda: run("nsenter", f"--net=/proc/{up.pid}/ns/net", "--", "ss", "-Htn",
                               "state", "established", "sport = :8080").stdout, 5, "it is open")
        up.signal(signal.SIGINT)
        assert up.wait(15) == 0, up.stderr
    finally:
        client.kill()
        client.wait()


def test_when_a_backend_is_killed_the_others_answer(up):
    os.kill(pids(up.stdout)[0], signal.SIGKILL)
    answers = run("nsenter", f"--net=/proc/{up.pid}/ns/net", "--", "curl", "-sS", "--max-time",
                  "20", "-H", "Connection: close", "http://127.0.0.1:8080/?[1-20]").stdout
    assert answers.count("web-9102") + answers.count("web-9103") == 20
    assert up.alive()


def test_when_the_load_balancer_dies_it_says_so_and_ends(up):
    balancer = pids(up.stdout)[-1]
    os.kill(balancer, signal.SIGTERM)
    assert up.wait(20) == 3
    assert "the load balancer ended by itself" in up.stderr


def test_killed_it_still_leaves_no_process_behind(up):
    up.signal(signal.SIGKILL)
    up.wait(5)
    wait_until(lambda: not any(map(running, pids(up.stdout))), 45, "the kernel ended the others")


def test_port_in_use_is_named_with_its_holder():
    taken = ("import socket, subprocess, sys; s = socket.create_server(('127.0.0.1', 9102)); "
             "sys.exit(subprocess.run(sys.argv[1:]).returncode)")
    script = command("--once")[len(IN_NAMESPACE):]
    done = run(*IN_NAMESPACE, "/usr/bin/python3", "-c", taken, *script, check=False)
    assert done.returncode == 3
    assert re.search(r"port 9102, which lb.yaml needs for 127.0.0.1:9102, is in use "
                     r"\(python3.*, process \d+\)", done.stderr)


def test_bad_configuration_is_refused_with_its_line(tmp_path):
    config = tmp_path / "bad.yaml"
    config.write_text("rules:\n  - name: web\n    lissen: 127.0.0.1:1\n")
    done = run(*command("--once", "--config", config), check=False)
    assert done.returncode == 1 and f"{config}:3:" in done.stderr


def test_bytes_that_do_not_come_back_are_a_failure(tmp_path):
    for name in ("layer4-lb", "lb-demo-backend"):
        (tmp_path / name).symlink_to(BUILD / name)
    (tmp_path / "throughput").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "throughput").chmod(0o755)
    done = run(*command("--once", build=tmp_path), check=False, seconds=60)
    assert done.returncode == 1 and "that is not what was sent" in done.stderr


def test_wrong_spread_is_a_failure(tmp_path):
    """All backends say they are web-9101."""
    for name in ("layer4-lb", "throughput"):
        (tmp_path / name).symlink_to(BUILD / name)
    (tmp_path / "lb-demo-backend").write_text(
        f'#!/bin/sh\nshift 2\nexec {BUILD / "lb-demo-backend"} --name web-9101 "$@"\n')
    (tmp_path / "lb-demo-backend").chmod(0o755)
    done = run(*command("--once", build=tmp_path), check=False, seconds=60)
    assert done.returncode == 1 and "not the spread the weights ask for" in done.stderr


@pytest.mark.parametrize("options, code", [(["--what"], 2), (["--config"], 2),
                                           (["--config", "/nowhere.yaml"], 1)])
def test_wrong_command_line_is_refused(options, code):
    done = run(*command(*options), check=False)
    assert done.returncode == code and done.stderr


def test_make_run_installs_builds_and_runs():
    plan = run("make", "-C", ROOT, "-n", "run", "RUN_ARGS=--once", seconds=60).stdout
    steps = [plan.find(step) for step in ("scripts/install-deps", "scripts/run --once")]
    assert -1 < steps[0] < steps[1]
