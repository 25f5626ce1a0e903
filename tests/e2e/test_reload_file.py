# SPDX-License-Identifier: MIT
"""reload_on_change: however the file is changed, it is read again, once."""
import json
import os
import shutil
import signal
import time

import pytest

from lbtest import machine
from lbtest.process import run, wait_until
from lbtest.reloading import (  # echo is a fixture
    config, echo, one, outcomes, reload, where)


def in_place(d, text):
    d.config.write_text(text)


def renamed_over(d, text):
    new = d.config.with_suffix(".new")
    new.write_text(text)
    new.rename(d.config)


def as_vim(d, text):
    """backupcopy=no: the old one is moved away, a new one is written, the backup goes."""
    backup = d.config.with_suffix(".yaml~")
    d.config.rename(backup)
    fd = os.open(d.config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(fd, text.encode())
    os.fsync(fd)
    os.close(fd)
    backup.unlink()


def as_sed(d, text):
    d.config.with_suffix(".text").write_text(text)
    run("sed", "-i", "-n", "-e", f"1r {d.config.with_suffix('.text')}", d.config)
    assert json.loads(d.config.read_text()) == json.loads(text)


def made_anew(d, text):
    d.config.unlink()
    time.sleep(0.5)
    d.config.write_text(text)


def written_slowly(d, text):
    with open(d.config, "w") as f:
        for i in range(0, len(text), 1 + len(text) // 4):
            f.write(text[i:i + 1 + len(text) // 4])
            f.flush()
            time.sleep(0.05)


@pytest.mark.parametrize("way", [in_place, renamed_over, as_vim, as_sed, made_anew,
                                 written_slowly])
def test_each_change_of_the_file_is_read_once(daemon, net, echo, way):
    keys = {"reload_on_change": True}
    d = daemon(config(one(), **keys)).start()
    before = machine.process_fds(d.pid)["other"]
    text = [None, None]
    for i in (1, 0):
        d.configure(config(one(back=(i,)), **keys))
        text[i] = d.config.read_text()
    d.process.signal(signal.SIGHUP)
    wait_until(lambda: outcomes(d) == 1, 3, "begin")
    time.sleep(0.5)
    assert outcomes(d) == 1
    for i in range(4):
        way(d, text[(i + 1) % 2])
        wait_until(lambda: outcomes(d) >= i + 2, 3, lambda: f"change {i}\n{d.log[-1500:]}")
        time.sleep(0.5)
        assert outcomes(d) == i + 2, d.log[-1500:]
        assert where(net) == (i + 1) % 2
    assert d.count_log("not in force") == 0
    wait_until(lambda: machine.process_fds(d.pid)["other"] <= before, 3,
               lambda: f"descriptors: {before} before, now {d.fd_names()}")
    d.check_quiet()
    d.stop()


def test_a_config_map_that_is_swapped_is_read_once(daemon, net, folder, echo):
    """As Kubernetes does it: name -> ..data/name, ..data -> ..<time>, which is swapped."""
    keys = {"reload_on_change": True}
    home = folder / "map"
    home.mkdir()
    d = daemon(config(one(), **keys))

    def fill(number, back):
        d.configure(config(one(back=(back,)), **keys))
        (home / f"..{number}").mkdir()
        (home / f"..{number}" / "lb.yaml").write_text(d.config.read_text())
        (home / "..next").symlink_to(f"..{number}")
        (home / "..next").rename(home / "..data")

    fill(0, 0)
    (home / "lb.yaml").symlink_to("..data/lb.yaml")
    d.command[d.command.index(d.config)] = home / "lb.yaml"
    d.start()
    assert where(net) == 0
    for i in range(1, 5):
        fill(i, i % 2)
        shutil.rmtree(home / f"..{i - 1}")
        wait_until(lambda: outcomes(d) >= i, 3, lambda: f"swap {i}\n{d.log[-1500:]}")
        time.sleep(0.5)
        assert outcomes(d) == i
        assert where(net) == i % 2
    assert d.count_log("not in force") == 0
    d.stop()


@pytest.mark.parametrize("what", ["pipe", "folder"])
def test_what_is_no_file_any_more_keeps_nobody_waiting(daemon, net, echo, what):
    d = daemon(config(one())).start()
    text = d.config.read_text()
    d.config.unlink()
    os.mkfifo(d.config) if what == "pipe" else d.config.mkdir()
    r = d.lbctl("reload")
    assert r.returncode == 1 and "not a regular file" in r.stderr, r
    reload(d, good=False)
    assert d.count_log("not a regular file") == 1
    d.config.unlink() if what == "pipe" else d.config.rmdir()
    d.config.write_text(text)
    reload(d)
    assert where(net) == 0
    d.stop()
