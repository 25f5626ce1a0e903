#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Measures connection rates and bandwidth limits and prints what docs/limits.md shows: target,
measured and error, per hook or carrier, and the smallest share by the largest. Needs root. One rule
and one daemon (two workers) for each line; network and daemon are those of the end-to-end tests.

    make limits                          everything; the tables of docs/limits.md
    make limits LIMITS_ARGS='--carrier sockmap --seconds 2'
    make limits LIMITS_ARGS=--publish    .. and puts them into the document
"""
import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/e2e"))

# pylint: disable=wrong-import-position
from lbtest import clients, lane as lanes, machine, net as nets, traffic  # noqa: E402
from lbtest.backends import Backend  # noqa: E402
from lbtest.daemon import Daemon, rule  # noqa: E402
from lbtest.net import BACKEND, BACKEND_ADDR, CLIENT, LB_ADDR  # noqa: E402
from lbtest.process import BUILD  # noqa: E402

CARRIERS = (lanes.RELAY, lanes.SOCKMAP)
LISTEN, BACK = 6980, 7980
BULK, MESSAGES = 1000000, 50000  # bytes per second
MESSAGE = 40
AMPLE = 10 ** 11  # far above any demand
DOCUMENT = ROOT / "docs/limits.md"
MARKS = {"connections": ("<!-- connections -->", "<!-- /connections -->"),
         "rates": ("<!-- measured -->", "<!-- /measured -->")}
HOOKS = ("native", "generic", "tc", "off")


class Site:
    """A daemon with one rule, and its end."""

    def __init__(self, net, carrier, limit=None, admission="auto", rate_limit=None):
        keys = {"acceleration": carrier}
        if limit:
            keys["bandwidth_limit"] = {"enabled": True, **limit}
        if rate_limit:
            keys["rate_limit"] = {"enabled": True, **rate_limit}
        config = {"workers": 2, "admission": admission,
                  "rules": [rule("r", f"{LB_ADDR[4]}:{LISTEN}", [f"{BACKEND_ADDR[4]}:{BACK}"],
                                 **keys)]}
        self.net = net
        self.daemon = Daemon(net, tempfile.mkdtemp(prefix="l4limits"), config)

    def __enter__(self):
        self.daemon.start()
        return self

    def __exit__(self, *_):
        self.daemon.kill()

    def traffic(self, count):
        return traffic.Traffic(self.net, (LB_ADDR[4], LISTEN), (BACKEND_ADDR[4], BACK), count)

    def waits(self, direction):
        return self.daemon.metric("l4lb_bandwidth_limit_waits_total", direction=direction)


def table_of_connections(net, seconds):
    """A client that asks for three times its rate, evenly."""
    yield "| refused at | rate | burst | s | r t .. r t + b | measured | outside by |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for hook in HOOKS:
        for rate, burst in ((20, 5), (200, 50)):
            backend = Backend(net, BACK, clients.says_y)
            limit = {"requests_per_second": rate, "burst": burst}
            try:
                with Site(net, lanes.RELAY, admission=hook, rate_limit=limit):
                    got, took = clients.hammer(net, (LB_ADDR[4], LISTEN), 3 * rate, seconds)
            finally:
                backend.close()
            least, most, got = rate * took, rate * took + burst, got[None]
            beyond = max(got - most, least - got, 0)
            yield f"| {hook if hook != 'off' else 'accept'} | {rate} | {burst} | {took:.1f} " \
                  f"| {least:.0f} .. {most:.0f} | {got} | {100 * beyond / most:.1f} % |"


def limit_of(side, direction, rate):
    word = {traffic.UP: "upload_per_sec", traffic.DOWN: "download_per_sec"}[direction]
    return {side: {word: rate}}


def settle(flows):
    """Flows go to sockmap at their first quiet moment."""
    time.sleep(0.2)
    return flows


def measure(net, carrier, side, direction, kind, count, seconds):
    """One line of the table: (target, measured bytes per second, share)."""
    rate = BULK if kind == "bulk" else MESSAGES
    with Site(net, carrier, limit_of(side, direction, rate)) as site, \
            site.traffic(count) as flows:
        settle(flows)
        parts = []
        # Shares without the first half second: the burst is theirs who come first.
        for part in (0.5, seconds - 0.5):
            if kind == "bulk":
                parts.append(flows.bulk(direction, part))
            else:
                before = [f.got[direction] for f in flows.flows]
                flows.messages(MESSAGE, part)
                parts.append([f.got[direction] - b for f, b in zip(flows.flows, before)])
        return rate, sum(map(sum, parts)) / seconds, traffic.fairness(parts[1])


def table_of_rates(net, carriers, seconds):
    yield "| carrier | limit of | way | traffic | flows | target B/s | measured B/s | error | " \
          "smallest by largest share |"
    yield "|---|---|---|---|--:|--:|--:|--:|--:|"
    for carrier in carriers:
        for side in ("client", "backend"):
            for direction in (traffic.UP, traffic.DOWN):
                for kind in ("bulk", "messages"):
                    for count in (1, 10, 200):
                        rate, got, share = measure(net, carrier, side, direction, kind, count,
                                                   seconds)
                        what = kind if kind == "bulk" else f"{MESSAGE} bytes, asked and answered"
                        yield f"| {carrier} | {side} | {direction} | {what} | {count} | {rate} " \
                              f"| {got:.0f} | {100 * (got / rate - 1):+.1f} % | {share:.2f} |"


def idle_beside_busy(net, carrier, seconds):
    with Site(net, carrier, limit_of("client", traffic.UP, BULK)) as site, \
            site.traffic(200) as flows:
        settle(flows)
        got = flows.bulk(traffic.UP, seconds, busy=10)
        return (f"10 busy flows beside 190 idle ones, limit {BULK} B/s",
                f"{sum(got) / seconds:.0f} B/s, {100 * traffic.error(got, BULK * seconds):+.1f} %")


def small_requests(net, carrier, seconds):
    with Site(net, carrier, limit_of("client", traffic.UP, 10 ** 7)) as site, \
            site.traffic(64) as flows:
        settle(flows)
        got = flows.messages(MESSAGE, seconds)
        return (f"{MESSAGE}-byte requests below a limit of 10 MB/s",
                f"{sum(got) / seconds / MESSAGE:.0f} requests/s, "
                f"{site.waits(traffic.UP):.0f} of them waited")


def waiting_costs(net, carrier, seconds):
    with Site(net, carrier, limit_of("client", traffic.UP, 10000)) as site, \
            site.traffic(200) as flows:
        settle(flows)
        flows.bulk(traffic.UP, 1)
        begin = machine.process_cpu(site.daemon.pid)
        flows.bulk(traffic.UP, seconds)
        cpu = (machine.process_cpu(site.daemon.pid) - begin) / seconds
        return ("CPU of 200 flows that wait for 10 kB/s together", f"{100 * cpu:.1f} % of a core")


def requests_per_second(net, carrier, limit, seconds):
    with Site(net, carrier, limit):
        out = subprocess.run([*net.inside(CLIENT), "wrk", "-t1", "-c64", f"-d{seconds}s",
                              f"http://{LB_ADDR[4]}:{LISTEN}/"], check=True, text=True,
                             capture_output=True).stdout
    return float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))


def beside_no_limit(net, carrier, rounds, seconds):
    """The same requests with a limit far above them and without one, in turns."""
    ample = {side: {"upload_per_sec": AMPLE, "download_per_sec": AMPLE}
             for side in ("client", "backend")}
    backend = subprocess.Popen([*net.inside(BACKEND), BUILD / "lb-demo-backend", "--http",
                                f"{BACKEND_ADDR[4]}:{BACK}"], stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        pairs = []
        for i in range(rounds):
            # Whoever is first has the cooler machine.
            order = (ample, None) if i % 2 else (None, ample)
            found = {bool(limit): requests_per_second(net, carrier, limit, seconds)
                     for limit in order}
            pairs.append((found[True], found[False]))
    finally:
        backend.kill()
        backend.wait()
    limited, free = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    ratio = statistics.median(a / b for a, b in pairs)
    return ("HTTP requests/s on 64 connections, all four limits at 100 GB/s / without limits",
            f"{limited:.0f} / {free:.0f}, median of the ratios {ratio:.2f}")


def table_of_costs(net, carriers, seconds, rounds):
    yield "| carrier | what | measured |"
    yield "|---|---|---|"
    for carrier in carriers:
        for what, found in (idle_beside_busy(net, carrier, seconds),
                            small_requests(net, carrier, seconds),
                            waiting_costs(net, carrier, seconds),
                            beside_no_limit(net, carrier, rounds, 3)):
            yield f"| {carrier} | {what} | {found} |"


def publish(marks, lines):
    text = DOCUMENT.read_text()
    head, rest = text.split(marks[0] + "\n", 1)
    tail = rest.split(marks[1], 1)[1]
    DOCUMENT.write_text("\n".join([head + marks[0], "", *lines, "", marks[1]]) + tail)


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--carrier", choices=CARRIERS, action="append")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=5, help="of requests beside no limit")
    parser.add_argument("--only", choices=("connections", "rates", "costs"))
    parser.add_argument("--publish", action="store_true", help="into docs/limits.md")
    options = parser.parse_args()
    carriers = options.carrier or CARRIERS
    nets.remove_stale()
    machine.mount_bpffs()
    net = nets.Net()
    tables = {"connections": table_of_connections(net, options.seconds),
              "rates": table_of_rates(net, carriers, options.seconds),
              "costs": table_of_costs(net, carriers, options.seconds, options.rounds)}
    found = {}
    try:
        for name, rows in tables.items():
            if options.only not in (None, name):
                continue
            found[name] = []
            for line in rows:
                print(line, flush=True)
                found[name].append(line)
            print(flush=True)
    finally:
        net.close()
    if options.publish and "connections" in found:
        publish(MARKS["connections"], found["connections"])
    # These two stand together.
    if options.publish and "rates" in found and "costs" in found:
        publish(MARKS["rates"], [*found["rates"], "", *found["costs"]])
    return 0


if __name__ == "__main__":
    sys.exit(main())
