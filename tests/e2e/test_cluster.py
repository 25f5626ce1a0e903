# SPDX-License-Identifier: MIT
"""Nodes that are a cluster: they find, miss and believe each other, and nobody else."""
import os
import random
import re
import signal
import socket
import time

import pytest

from lbtest import takeover
from lbtest.daemon import rule
from lbtest.nodes import PORT, Nodes, captured
from lbtest.process import PATIENCE, wait_until

KEY1, KEY2 = "11" * 32, "22" * 32
# 4 s of suspicion at most for few nodes, when two agree; 24 s when a node is alone with it.
SOON, LATE = 20 * PATIENCE, 60 * PATIENCE


def key_file(folder, *keys, name="cluster.key", mode=0o600):
    path = folder / name
    path.write_text("# keys of a test\n" + "".join(f"{k}\n" for k in keys))
    path.chmod(mode)
    return str(path)


def states(d):
    return {m["node"]: m["state"] for m in d.ctl("cluster")["members"]}


def wait_states(daemons, wanted, seconds=SOON):
    """All of them hold the nodes to be as <wanted> says."""
    last = {}

    def agree():
        last.update({d.name: states(d) for d in daemons})
        return all(last[d.name] == wanted for d in daemons)
    try:
        wait_until(agree, seconds, "they agree", every=0.2)
    except AssertionError:
        raise AssertionError(f"not {wanted}: {last}") from None


def all_alive(count):
    return {f"node-{i}": "alive" for i in range(count)}


@pytest.fixture
def cluster(ready_to_test, folder):
    """cluster(count, ..) starts so many nodes that have the same key."""
    made = []

    def make(count, **keys):
        nodes = Nodes(count)
        made.append((nodes, []))
        keys = keys or {"key_file": key_file(folder, KEY1)}
        made[-1][1].extend(nodes.daemon(i, folder, **keys) for i in range(count))
        for d in made[-1][1]:
            d.start()
        wait_states(made[-1][1], all_alive(count))
        return made[-1]
    yield make
    for nodes, daemons in made:
        for d in daemons:
            d.kill()
        nodes.close()


def test_nodes_come_and_go(cluster):
    nodes, ds = cluster(3)
    reply = ds[0].ctl("cluster")
    assert reply["cluster"]["sealed"] and reply["cluster"]["alive"] == 3
    assert reply["members"][0]["self"] and reply["members"][0]["node"] == "node-0"
    assert {m["addr"] for m in reply["members"]} == {f"{n.addr}:{PORT}" for n in nodes.nodes}
    assert len({m["version"] for m in reply["members"]}) == 1
    table = ds[1].lbctl("cluster").stdout
    assert re.search(r"^3 nodes are there, 0 dead; sealed;", table), table
    assert re.search(r"^node-1 \* +10\.82\.0\.2:7946 +alive ", table, re.M), table
    # One is killed, and dead; it comes back as if nothing had been.
    ds[2].crash()
    wait_states(ds[:2], {**all_alive(2), "node-2": "dead"})
    assert ds[0].metric("l4lb_cluster_members", state="dead") == 1
    assert ds[0].count_log("cluster: node-2 .* is dead; 2 nodes") == 1
    ds[2].start()
    wait_states(ds, all_alive(3))
    # One ends in good order, and is missed by nobody.
    ds[1].stop()
    wait_states([ds[0], ds[2]], {"node-0": "alive", "node-1": "left", "node-2": "alive"})
    assert not ds[0].count_log("node-1 .* is (silent|dead)")
    ds[1].start()
    wait_states(ds, all_alive(3))
    for d in ds:
        d.stop()


def test_a_partition_heals(cluster):
    nodes, ds = cluster(5)
    nodes.split(3, 4)
    wait_states(ds[:3], {**all_alive(3), "node-3": "dead", "node-4": "dead"}, LATE)
    wait_states(ds[3:], {**{f"node-{i}": "dead" for i in range(3)}, "node-3": "alive",
                         "node-4": "alive"}, LATE)
    deaths = [d.count_log("is dead") for d in ds]
    assert deaths == [2, 2, 2, 3, 3]
    nodes.split()
    wait_states(ds, all_alive(5))
    time.sleep(6 * PATIENCE)  # what the halves said of each other must not come to life again
    wait_states(ds, all_alive(5), 1)
    assert [d.count_log("is dead") for d in ds] == deaths


def test_a_node_that_was_stopped_comes_back(cluster):
    _, ds = cluster(3)
    ds[2].process.signal(signal.SIGSTOP)
    try:
        wait_until(lambda: states(ds[0])["node-2"] in ("suspect", "dead"), SOON, "it is missed")
        time.sleep(10)
    finally:
        ds[2].process.signal(signal.SIGCONT)
    wait_states(ds, all_alive(3))
    # It blames nobody for the time it slept.
    assert not ds[2].count_log(r"is (dead|silent)"), ds[2].log


def test_a_takeover_is_no_absence(cluster):
    _, ds = cluster(3)
    new = takeover.take_over(ds[2])
    try:
        takeover.wait_ended(ds[2])
        wait_states([ds[0], ds[1], new], all_alive(3))
        time.sleep(8 * PATIENCE)  # longer than an unheard node would live
        wait_states([ds[0], ds[1], new], all_alive(3), 1)
        # What is silent for as long as a takeover lasts may be asked twice, no more.
        assert not any(d.count_log("is dead|has left") for d in ds[:2])
        new.stop()
    finally:
        new.kill()


def test_who_has_another_key_is_not_heard(cluster, folder):
    nodes, ds = cluster(3)
    ds[2].stop()
    wait_states(ds[:2], {**all_alive(2), "node-2": "left"})
    stranger = nodes.daemon(2, folder, key_file=key_file(folder, KEY2, name="other.key"))
    ds.append(stranger)
    stranger.start()
    wait_until(lambda: ds[0].metric("l4lb_cluster_dropped_total", reason="no_key") >= 3, SOON,
               "it knocks")
    assert states(stranger) == {"node-2": "alive"}
    assert states(ds[0])["node-2"] == "left"
    assert stranger.metric("l4lb_cluster_received_total") == 0


def test_keys_are_changed_while_they_run(cluster, folder):
    _, ds = cluster(3)
    for keys in ([KEY1, KEY2], [KEY2, KEY1], [KEY2]):
        key_file(folder, *keys)
        for d in ds:
            assert d.ctl("reload")["ok"]
            time.sleep(0.5)
        wait_states(ds, all_alive(3), 1)
    time.sleep(8 * PATIENCE)  # longer than an unheard node would live
    wait_states(ds, all_alive(3), 1)
    assert all(d.metric("l4lb_cluster_dropped_total") == 0 for d in ds)
    # A file that lets others in is not read; the keys stay.
    os.chmod(folder / "cluster.key", 0o644)
    assert ds[0].ctl("reload")["ok"]
    assert ds[0].count_log(r"cluster: key_file .*: mode 0644 lets others at the keys "
                           r"\(chmod 600\); the old keys stay"), ds[0].log
    wait_states(ds, all_alive(3), 1)


def test_rubbish_is_counted_and_gets_no_answer(cluster):
    nodes, ds = cluster(3)
    target, stranger = nodes.nodes[0], nodes.nodes[1]
    real = captured(target, 8)
    random.seed(7)

    def mutated():
        for _ in range(20000):
            d = bytearray(random.choice(real))
            kind = random.randrange(4)
            if kind == 0:
                d = random.randbytes(random.randrange(1, 1472))
            elif kind == 1:
                d = d[:random.randrange(len(d))]
            elif kind == 2:
                d[random.randrange(len(d))] ^= 1 << random.randrange(8)
            yield bytes(d)

    def throw():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind((stranger.addr, 0))
            for i, d in enumerate(mutated()):
                s.sendto(d, (target.addr, PORT))
                if i % 50 == 0:
                    time.sleep(0.002)  # what the kernel would drop is not counted
            s.settimeout(2)
            with pytest.raises(TimeoutError):
                s.recv(2000)
    before = ds[0].metric("l4lb_cluster_received_total")
    stranger.call(None, throw)
    dropped = {r: ds[0].metric("l4lb_cluster_dropped_total", reason=r)
               for r in ("malformed", "no_key", "forged", "replayed", "clock")}
    assert dropped["replayed"] > 3000 and dropped["malformed"] > 3000, dropped
    assert dropped["forged"] > 500, dropped
    assert sum(dropped.values()) > 15000, dropped
    wait_states(ds, all_alive(3), 1)
    assert not any(d.count_log("is (silent|dead)") for d in ds)
    assert ds[0].metric("l4lb_cluster_received_total") > before


def test_nobody_starts_open_by_mistake(daemon, folder):
    def config(**keys):
        return {"cluster": {"enabled": True, "bind_addr": "127.0.0.1:7946", **keys},
                "rules": [rule("r", "127.0.0.1:6998", ["127.0.0.1:7998"],
                               acceleration="relay")]}

    def refusal(**keys):
        d = daemon(config(**keys)).spawn()
        assert d.process.wait(10) != 0
        d.forget()
        return d.log
    assert "cluster.key_file: missing; anybody could join (insecure: true allows that)" in \
        refusal()
    assert re.search(r"cluster: key_file .*: No such file", refusal(key_file="/nowhere"))
    assert "mode 0640 lets others at the keys" in \
        refusal(key_file=key_file(folder, KEY1, mode=0o640))
    assert "line 2: a key has 64 hexadecimal digits" in \
        refusal(key_file=key_file(folder, "12345"))
    assert "'two words' is no name of a node" in refusal(insecure=True, name="two words")
    assert "advertise_addr must say where others reach this node" in \
        refusal(insecure=True, bind_addr="0.0.0.0:7946")
    with daemon(config(insecure=True, name="alone")) as d:
        assert states(d) == {"alone": "alive"}
        assert d.count_log("cluster: insecure: whoever reaches the port may join") == 1
        d.check_quiet()
    with daemon({"rules": config()["rules"]}) as d:
        assert "this node is in no cluster" in d.lbctl("cluster").stderr
