#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Measures what docs/production_tuning.md says and prints its tables: one for each word on the command
line (default: all). Needs root and a quiet machine; network and daemon are those of the end-to-end
tests, three rounds of each figure, interleaved; median (lowest-highest).

    scripts/tuning.py memory descriptors backlog ports offloads
"""
import contextlib
import json
import selectors
import signal
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/e2e"))

# pylint: disable=wrong-import-position
from lbtest import machine, net as nets  # noqa: E402
from lbtest.daemon import Daemon, rule  # noqa: E402
from lbtest.net import BACKEND, BACKEND_ADDR, CLIENT, LB, LB_ADDR  # noqa: E402
from lbtest.process import BUILD, run, wait_until  # noqa: E402

CARRIERS = ("relay", "sockmap", "graft")
LISTEN, BACK = 6990, 7990
FLOWS = 5000
ROUNDS = 3
SECONDS = 2
DIRECT = "no load balancer"


def figures(values, form="{:.0f}"):
    told = [form.format(v) for v in (statistics.median(values), min(values), max(values))]
    return f"{told[0]} ({told[1]}-{told[2]})"


def sysctl(net, side, **values):
    run(*net.inside(side), "sysctl", "-qw",
        *(f"{k.replace('__', '.')}={v}" for k, v in values.items()))


@contextlib.contextmanager
def serving(net, carrier, backends=1, keys=None, first=BACK, **top):
    """A daemon of one rule; carrier None: none, the client's packets are routed to the backend."""
    folder = tempfile.mkdtemp(prefix="l4tuning")
    if carrier is None:
        sysctl(net, LB, net__ipv4__ip_forward=1)
        yield None, folder, (BACKEND_ADDR[4], BACK)
        sysctl(net, LB, net__ipv4__ip_forward=0)
        return
    config = {"workers": 2, "access_log": "off", **top, "rules": [
        rule("r", f"{LB_ADDR[4]}:{LISTEN}",
             [f"{BACKEND_ADDR[4]}:{first + i}" for i in range(backends)], acceleration=carrier,
             **(keys or {}))]}
    d = Daemon(net, folder, config)
    d.start()
    try:
        yield d, folder, (LB_ADDR[4], LISTEN)
    finally:
        d.kill()


@contextlib.contextmanager
def idle_program(net, side, folder, *words):
    process = net.start(side, words[0], ["python3", ROOT / "scripts/bench_idle.py", *words], folder)
    try:
        yield process
    finally:
        process.kill()


@contextlib.contextmanager
def idle_flows(net, carrier, count):
    """What <count> idle flows have cost: a function that tells what has grown since before them."""
    with serving(net, carrier) as (d, folder, at), \
            idle_program(net, BACKEND, folder, "echo", BACKEND_ADDR[4], str(BACK)):
        wait_until(lambda: run(*net.inside(BACKEND), "ss", "-Hltn", f"sport = :{BACK}").stdout, 5,
                   "the echo service listens")

        def state():
            m = machine.memory()
            return {"kernel": m["slab"] + m["tcp"], "program": machine.process_rss(d.pid) if d
                    else 0, "descriptors": machine.process_fds(d.pid)["other"] if d else 0}
        before = state()
        with idle_program(net, CLIENT, folder, "hold", at[0], str(at[1]), str(count)) as held:
            wait_until(lambda: "held" in held.stdout, 60, "the flows are there")
            if carrier == "graft":
                wait_until(lambda: d.grafted() == count, 60, "they are grafted")
            elif carrier == "sockmap":
                wait_until(lambda: d.promoted() == count, 60, "they are on sockmap")
            time.sleep(1)
            yield {k: (v - before[k]) / count for k, v in state().items()}


def table_of_memory(net):
    got = {c: [] for c in (None, *CARRIERS)}
    for _ in range(ROUNDS):
        for carrier, found in got.items():
            with idle_flows(net, carrier, FLOWS) as grown:
                found.append(grown)
    yield f"| {FLOWS} idle flows | kernel, B each | of it the balancer's | program, B each |"
    yield "|---|--:|--:|--:|"
    for carrier, found in got.items():
        own = [a["kernel"] - b["kernel"] for a, b in zip(found, got[None])]
        yield f"| {carrier or DIRECT} | {figures([f['kernel'] for f in found])} " \
              f"| {figures(own) if carrier else '-'} " \
              f"| {figures([f['program'] for f in found]) if carrier else '-'} |"


def table_of_descriptors(net):
    yield "| carrier | descriptors of an idle flow |"
    yield "|---|--:|"
    for carrier in CARRIERS:
        with idle_flows(net, carrier, 1000) as grown:
            yield f"| {carrier} | {grown['descriptors']:.1f} |"


def connect_at_once(count, seconds):
    """How many of <count> connections are established <seconds> after the last SYN."""
    poll, made = selectors.DefaultSelector(), 0
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.setblocking(False)
        s.connect_ex((LB_ADDR[4], LISTEN))
        poll.register(s, selectors.EVENT_WRITE)
    begin = time.monotonic()
    while made < count and time.monotonic() < begin + seconds:
        for key, _ in poll.select(0.05):
            made += not key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            poll.unregister(key.fileobj)
    for s in sockets:
        s.close()
    return made


def table_of_backlog(net):
    yield "| `net.core.somaxconn` | handshakes that are done a second later, of 6000 |"
    yield "|--:|--:|"
    for limit in (128, 1024, 4096, 16384):
        sysctl(net, LB, net__core__somaxconn=limit, net__ipv4__tcp_max_syn_backlog=16384)
        with serving(net, "relay", workers=1) as (d, _, _):
            d.process.signal(signal.SIGSTOP)
            made = net.call(CLIENT, connect_at_once, 6000, 1)
            d.process.signal(signal.SIGCONT)
            yield f"| {limit} | {made} |"


def flows_that_find_a_port(net, carrier, backends, first):
    """
    (of 150 clients those that were answered, grafts), with a hundred ports each. Backends from port
    <first> on: ports of ours that were used towards others wait in TIME_WAIT.
    """
    top = {"graft": {"port_min": 20000, "port_max": 20099}} if carrier == "graft" else {}
    sysctl(net, LB, net__ipv4__ip_local_port_range="40000 40099")
    with contextlib.ExitStack() as s:
        d, folder, at = s.enter_context(serving(net, carrier, backends, first=first, **top))
        for i in range(backends):
            s.enter_context(idle_program(net, BACKEND, folder, "echo", BACKEND_ADDR[4],
                                         str(first + i)))
        wait_until(lambda: len(run(*net.inside(BACKEND), "ss", "-Hltn").stdout.splitlines())
                   == backends, 5, "they listen")
        answered = 0
        for _ in range(150):
            with contextlib.suppress(OSError):
                c = s.enter_context(net.connect(*at))
                c.sendall(b"x" * 64)
                answered += len(c.recv(64)) > 0
        time.sleep(2)
        return answered, d.grafted()


def table_of_ports(net):
    yield "| `acceleration` | backends | flows that found a port, of 150 | grafted |"
    yield "|---|--:|--:|--:|"
    first = BACK
    for carrier in ("relay", "graft"):
        for backends in (1, 2):
            answered, grafts = flows_that_find_a_port(net, carrier, backends, first)
            first += backends
            yield f"| {carrier} | {backends} | {answered} | {grafts} |"


def gigabits(net, folder, at, *options):
    """Of one stream through the tool's source and sink."""
    done = run(*net.inside(CLIENT), BUILD / "throughput", "source", f"{at[0]}:{at[1]}", "--json",
               "--seconds", str(SECONDS), *options, seconds=60)
    report = json.loads(done.stdout)
    return report["bytes"] * 8 / report["seconds"] / 1e9


@contextlib.contextmanager
def sink(net, folder):
    process = net.start(BACKEND, "sink", [BUILD / "throughput", "sink",
                                          f"{BACKEND_ADDR[4]}:{BACK}"], folder)
    try:
        wait_until(lambda: "ready" in process.stderr, 5, "the sink listens")
        yield
    finally:
        process.kill()


# What is changed, and what changes it back.
OFFLOADS = {"as veth has them: GSO, TSO": ((), ()),
            "GRO besides": (("gro", "on"), ("gro", "off")),
            "none of them": (("gso", "off", "tso", "off"), ("gso", "on", "tso", "on"))}


def table_of_offloads(net):
    rates = {}
    devices = ((CLIENT, "eth0"), (LB, "lb0"), (LB, "lb1"), (BACKEND, "eth0"))

    def one(name, carrier, **top):
        with serving(net, carrier, **top) as (_, folder, at), sink(net, folder):
            rates.setdefault(name, {}).setdefault(carrier, []).append(gigabits(net, folder, at))

    def switch(words):
        for side, device in devices if words else ():
            run(*net.inside(side), "ethtool", "-K", device, *words)
    for _ in range(ROUNDS):
        for name, ways in OFFLOADS.items():
            switch(ways[0])
            for carrier in (None, *CARRIERS):
                one(name, carrier)
            switch(ways[1])
        for carrier in CARRIERS:
            one("native XDP at both interfaces", carrier, admission="native",
                keys={"deny_list": ["192.0.2.1"]})  # without a list there is no program
    yield "| one stream up, Gbit/s | " + " | ".join(c or DIRECT for c in (None, *CARRIERS)) + " |"
    yield "|---|" + "--:|" * (1 + len(CARRIERS))
    for name, found in rates.items():
        yield f"| {name} | " + " | ".join(
            figures(found[c], "{:.1f}") if c in found else "-" for c in (None, *CARRIERS)) + " |"


TABLES = {name.removeprefix("table_of_"): function for name, function in globals().items()
          if name.startswith("table_of_")}


def main():
    wanted = sys.argv[1:] or list(TABLES)
    unknown = set(wanted) - set(TABLES)
    if unknown:
        sys.exit(f"usage: {sys.argv[0]} [{' | '.join(TABLES)}]..")
    nets.remove_stale()
    machine.mount_bpffs()
    for name in wanted:
        net = nets.Net()
        try:
            for line in TABLES[name](net):
                print(line, flush=True)
        finally:
            net.close()
        print()


if __name__ == "__main__":
    main()
