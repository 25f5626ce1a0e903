# SPDX-License-Identifier: MIT
"""`lbctl reload` says what changes, does it, and says what came of it."""
import json
import threading

import pytest

from lbtest.reloading import (  # echo is a fixture
    config, echo, is_refused, one, shares)


def generation(d):
    return int(d.metric("l4lb_config_generation"))


def test_a_dry_run_tells_and_changes_nothing(daemon, net, echo):
    d = daemon(config(one())).start()
    before = generation(d)
    d.configure(config(one(back=(1,)), one("more", 1)))
    done = d.lbctl("reload", "--dry-run")
    assert done.returncode == 0 and not done.stderr, done
    assert "rule r: backends" in done.stdout and "rule more: added" in done.stdout, done.stdout
    assert "in force" not in done.stdout
    assert generation(d) == before and shares(net, 4) == {0: 4} and is_refused(net, 1)
    d.stop()


def test_a_reload_is_in_force_when_it_says_so(daemon, net, echo):
    d = daemon(config(one())).start()
    before = generation(d)
    d.configure(config(one(back=(1,)), one("more", 1, (2,))))
    done = d.lbctl("reload")
    assert done.returncode == 0, done
    assert f"in force: generation {before + 1}" in done.stdout, done.stdout
    assert shares(net, 4) == {1: 4} and shares(net, 4, listen=1) == {2: 4}
    again = json.loads(d.lbctl("--json", "reload").stdout)
    assert again["applied"] and "nothing would change" in again["changes"]
    d.stop()


@pytest.mark.parametrize("words", [["reload"], ["reload", "--dry-run"]], ids="-".join)
def test_what_is_wrong_is_said_and_changes_nothing(daemon, net, echo, words):
    d = daemon(config(one())).start()
    before = generation(d)
    d.configure(config(one(back=(1,), tiemouts={})))
    done = d.lbctl(*words)
    assert done.returncode == 1 and "tiemouts: unknown key" in done.stderr, done
    assert generation(d) == before and shares(net, 4) == {0: 4}
    d.stop()


def test_many_who_ask_at_once_are_all_answered(daemon, net, echo):
    d = daemon(config(one())).start()
    codes = []
    threads = [threading.Thread(target=lambda: codes.append(d.lbctl("reload").returncode))
               for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert codes == [0] * 8
    d.check_idle()
    d.stop()
