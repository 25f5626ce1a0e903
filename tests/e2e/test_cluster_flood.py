# SPDX-License-Identifier: MIT
"""Whatever is thrown at the port of the gossip: dropped, counted, not answered, and not felt."""
import random
import socket
import statistics
import time

from lbtest.nodes import OUTSIDE, PORT, Nodes, captured
from lbtest.daemon import rule
from lbtest.process import BUILD, PATIENCE, run, wait_until

LISTEN, BACK = 7360, 8360
PER_SECOND = 100_000
ROUNDS, SECONDS = 5, 2


def key_file(folder):
    path = folder / "cluster.key"
    path.write_text("44" * 32)
    path.chmod(0o600)
    return str(path)


def wrong_key(datagram):
    return datagram[:2] + random.randbytes(4) + datagram[6:]


def waits(outside, to, seconds):
    """How long each answer took, of a client that asks about a thousand times a second."""
    def ask():
        took = []
        with socket.create_connection(to, 5) as s:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end = time.monotonic() + seconds
            while (begin := time.monotonic()) < end:
                s.sendall(b"x" * 100)
                got = 0
                while got < 100:
                    got += len(s.recv(100))
                took.append(time.monotonic() - begin)
                time.sleep(0.0005)
        return took
    return outside.call(None, ask)


def sink_at(at):
    """Datagrams end here: its buffer is full at once."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(at)
    return s


def p99(took):
    return sorted(took)[len(took) * 99 // 100]


def test_a_flood_of_datagrams_is_not_felt_by_flows(ready_to_test, folder):
    nodes = Nodes(3)
    outside, target = nodes.outside, nodes.nodes[0]
    backend = outside.start(None, "backend", [BUILD / "lb-demo-backend", "--echo",
                                              f"{OUTSIDE}:{BACK}"], folder)
    key = key_file(folder)
    daemons = [nodes.daemon(i, folder, [rule("r", f"{n.addr}:{LISTEN}", [f"{OUTSIDE}:{BACK}"],
                                             acceleration="relay")], key_file=key)
               for i, n in enumerate(nodes.nodes)]
    try:
        for d in daemons:
            d.start()
        wait_until(lambda: all(d.ctl("cluster")["cluster"]["alive"] == 3 for d in daemons),
                   20 * PATIENCE, "they meet")
        real = captured(target, 16)
        real += [wrong_key(d) for d in real[:8]]
        (folder / "real").write_bytes(b"".join(len(d).to_bytes(2, "big") + d for d in real))
        to = (target.addr, LISTEN)
        quiet, elsewhere, flooded, sent, answered = [], [], [], 0, 0
        before = daemons[0].metric("l4lb_cluster_received_total")
        sink = target.call(None, sink_at, (target.addr, PORT + 1))
        for _ in range(ROUNDS):
            quiet.append(waits(outside, to, SECONDS))
            for port, took in ((PORT + 1, elsewhere), (PORT, flooded)):
                flood = outside.start(None, "flood", [
                    "sh", "-c", f"exec {BUILD}/tests/e2e/gossip_flood {OUTSIDE} {target.addr} "
                    f"{port} {PER_SECOND} {SECONDS + 1} < {folder}/real"], folder)
                time.sleep(0.5)
                took.append(waits(outside, to, SECONDS))
                assert flood.wait(20) == 0
            numbers = flood.stdout.split()
            sent, answered = sent + int(numbers[0]), answered + int(numbers[1])
        sink.close()
        dropped = {r: daemons[0].metric("l4lb_cluster_dropped_total", reason=r)
                   for r in ("malformed", "no_key", "forged", "replayed", "clock", "overflow")}
        print(f"{sent} sent, {sent / ROUNDS / (SECONDS + 1):.0f} a second, dropped: {dropped}")
        us = [[round(p99(r) * 1e6) for r in rounds] for rounds in (quiet, elsewhere, flooded)]
        print(f"p99 by round in us: {us[0]} quiet, {us[1]} while as much goes to a socket nobody "
              f"reads, {us[2]} in the flood")
        assert answered == 0
        # What is real and new for this node is opened, once: 16 at most.
        assert sent - 16 <= sum(dropped.values()) <= sent + 16
        assert all(dropped[r] > sent / 100 for r in ("malformed", "no_key", "forged", "replayed"))
        # Whoever floods takes a processor of this machine, and so does its network: what we add.
        # Round by round, for the machine may have been slow in one of them.
        ratios = [b / a for a, b in zip(us[1], us[2])]
        assert statistics.median(ratios) < 2, us
        # Those who are real are heard all the while.
        assert daemons[0].metric("l4lb_cluster_received_total") > before + ROUNDS * SECONDS
        assert not any(d.count_log("is dead") for d in daemons)
    finally:
        for d in daemons:
            d.kill()
        backend.kill()
        nodes.close()
