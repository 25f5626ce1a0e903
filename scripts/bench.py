#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
The benchmark: layer4-lb beside what people run today, in one run on one machine. Decides the order
of the measurements and the exit code: 0 unless something failed to run. Speed is reported, not
judged.

bench_net makes the namespaces, bench_peers the paths, bench_loads the workloads, bench_cpu the
cost, bench_report the words. docs/benchmarks.md explains the method.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time

import bench_chart
import bench_cpu
import bench_loads
import bench_net
import bench_peers
import bench_report

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DOCUMENT = os.path.join(ROOT, "docs", "benchmarks.md")


class Suite:
    """
    What one run measures and how it is judged. `name` marks its report in the document, `programs`
    are those that it needs: (program, Debian package). `versions` are commands that name clients.
    """

    def __init__(self, name, peers, loads, judged, programs, versions):
        self.name, self.peers, self.loads, self.judged = name, peers, loads, judged
        self.versions = versions
        self.programs = (*programs, ("nsenter", "util-linux"), ("ip", "iproute2"),
                         ("sysctl", "procps"))


PLAIN = Suite("report", bench_peers.PEERS, bench_loads.LOADS, bench_report.PLAIN,
              (("wrk", "wrk"), ("iperf3", "iperf3"), ("nginx", "nginx")),
              (["wrk", "-v"], ["iperf3", "-v"]))


def one_of(known):
    def parse(text):
        names = [name for name in text.split(",") if name]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of: {', '.join(known)}")
        return names
    return parse


def options(suite):
    parser = argparse.ArgumentParser(description="Measures layer4-lb beside other balancers.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--only", type=one_of(suite.peers), default=list(suite.peers),
                        metavar="PATH,..", help="paths: " + ", ".join(suite.peers))
    parser.add_argument("--workloads", type=one_of(suite.loads), default=list(suite.loads),
                        metavar="NAME,..", help="workloads: " + ", ".join(suite.loads))
    parser.add_argument("--workers", type=int, default=bench_cpu.CORES,
                        help="threads or workers of every path (default: cores)")
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "layer4-lb"))
    parser.add_argument("--out", default=os.path.join(ROOT, "build", "bench"))
    parser.add_argument("--trixie",
                        help="chroot with HAProxy 3.0, made if absent (default: in --out)")
    parser.add_argument("--retries", type=int, default=2,
                        help="of a measurement during which other programs were busy")
    parser.add_argument("--publish", action="store_true",
                        help="put the report into docs/benchmarks.md")
    parsed = parser.parse_args()
    if parsed.rounds < 1 or parsed.seconds < 1 or parsed.workers < 1:
        parser.error("rounds, seconds and workers start at 1")
    parsed.out = os.path.abspath(parsed.out)
    parsed.program = os.path.abspath(parsed.program)
    parsed.trixie = os.path.abspath(parsed.trixie or os.path.join(parsed.out, "trixie"))
    return parsed


def get_ready(suite, out):
    """What every measurement needs; exits with a sentence when it is not there."""
    if os.geteuid() != 0:
        sys.exit("bench: network namespaces need root")
    for program, package in suite.programs:
        if not shutil.which(program):
            sys.exit(f"bench: {program} is not installed (Debian package {package})")
    # A kill must run the clean-up too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        bench_net.sweep()
        with bench_net.Net(os.path.join(out, "run", "trial")):
            pass
    except RuntimeError as error:
        sys.exit(f"bench: {error}")


def prepare(suite, opt):
    """Returns (peers that can run, name -> why not). Ours missing is no skip but a failure."""
    peers, skipped = {}, {}
    for name in opt.only:
        peer = suite.peers[name](name, opt)
        try:
            peer.prepare()
            peers[name] = peer
        except bench_peers.Unavailable as why:
            if peer.ours:
                sys.exit(f"bench: {why}")
            skipped[name] = str(why)
            print(f"  SKIP {name}: {why}", flush=True)
    if not peers:
        sys.exit("bench: no path left to measure")
    return peers, skipped


def shown(load, figures):
    return ", ".join(f"{figures[key]:,.{digits}f} {heading} {unit}".rstrip()
                     for key, (heading, unit, digits, _more) in load.metrics.items())


def measure_all(opt, peers, loads, background):
    """Interleaved: within a round every workload visits all paths in turn, seconds apart."""
    cells, failed = [], []
    names = list(peers)
    for number in range(opt.rounds):
        cells.append({key: {} for key in loads})
        # Who goes first rotates: no path always runs on a machine just left by the same other one.
        shift = number % len(names)
        for key, load in loads.items():
            for name in names[shift:] + names[:shift]:
                if not bench_loads.applies(peers[name], load):
                    continue
                run_dir = os.path.join(opt.out, "run", f"{number + 1}-{key}-{name}")
                start = time.monotonic()
                try:
                    figures = measure_quietly(opt, peers[name], load, background, run_dir)
                except (RuntimeError, subprocess.SubprocessError, OSError, ValueError) as error:
                    failed.append(f"round {number + 1} {key}/{name}: {error}")
                    print(f"  FAIL {failed[-1]}", flush=True)
                    continue
                cells[-1][key][name] = figures
                print(f"  {number + 1}/{opt.rounds} {key:<12} {name:<10} {shown(load, figures)}"
                      f"  [{time.monotonic() - start:.0f} s]", flush=True)
    return cells, failed


def measure_quietly(opt, peer, load, background, run_dir):
    """
    Measures again when other programs were busy meanwhile, and keeps the quietest. What is looked
    at is their CPU time, never the figure: anything else would be choosing results.
    """
    best = None
    for attempt in range(opt.retries + 1):
        figures = bench_loads.measure(peer, load, opt, background, run_dir, opt.seconds)
        figures["attempts"] = attempt + 1
        if best is None or figures["foreign"] < best["foreign"]:
            best = figures
        if best["foreign"] <= bench_report.LOUD:
            break
    best["attempts"] = figures["attempts"]
    return best


def describe(suite, opt, peers, background):
    git = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], check=False,
                         capture_output=True, text=True)
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        text = info.read()
    model = next((line.partition(":")[2].strip() for line in text.splitlines()
                  if line.startswith("model name")), platform.machine())
    machine = {
        # The number alone: what a builder appended says where, not what.
        "kernel": f"{platform.release().split('-')[0]} {platform.machine()}",
        "CPU": f"{bench_cpu.CORES} cores, {model}" +
               (", virtual machine" if " hypervisor" in text else ""),
        "threads or workers of every path": opt.workers,
        "idle machine": f"{background:.3f} of a core, subtracted" if background is not None
                        else "it was not idle before the run; nothing subtracted",
        "clients": ", ".join(bench_peers.first_line(argv).split(" Copyright")[0]
                             for argv in suite.versions),
    }
    for peer in peers.values():
        if peer.version and not peer.bulk_only:  # the same program with another setting
            machine[peer.title] = peer.version
    return {"date": time.strftime("%Y-%m-%d", time.gmtime()), "rounds": opt.rounds,
            "seconds": opt.seconds, "commit": git.stdout.strip() or "unknown commit",
            "machine": machine, "sysctls": {**bench_net.SYSCTLS, "congctl": bench_net.CONGESTION}}


def publish(suite, run, report):
    """
    Replaces what stands between the two marks of the document, and nothing else of it; the picture
    is a file beside it.
    """
    chart = f"benchmarks-{suite.name}.svg"
    if bench_chart.draw(run, os.path.join(os.path.dirname(DOCUMENT), chart)):
        report = f"![every workload, by path]({chart})\n\n{report}"
    marks = f"<!-- {suite.name}: begin -->", f"<!-- {suite.name}: end -->"
    with open(DOCUMENT, encoding="utf-8") as old:
        text = old.read()
    head, _, rest = text.partition(marks[0])
    _, _, foot = rest.partition(marks[1])
    with open(DOCUMENT, "w", encoding="utf-8") as new:
        new.write(f"{head}{marks[0]}\n{report}{marks[1]}{foot}")


def main(suite):
    opt = options(suite)
    os.makedirs(opt.out, exist_ok=True)
    shutil.rmtree(os.path.join(opt.out, "run"), ignore_errors=True)
    get_ready(suite, opt.out)
    peers, skipped = prepare(suite, opt)
    loads = {key: suite.loads[key] for key in opt.workloads}
    background = bench_cpu.idle_background()
    print("  the machine is not idle, nothing will be subtracted" if background is None
          else f"  idle machine: {background:.3f} of a core busy", flush=True)
    cells, failed = measure_all(opt, peers, loads, background or 0.0)
    run = bench_report.Run(peers, loads, cells, suite.judged)
    facts = describe(suite, opt, peers, background)
    report = bench_report.markdown(run, facts, skipped, failed)
    with open(os.path.join(opt.out, f"{suite.name}.md"), "w", encoding="utf-8") as out:
        out.write("# Benchmark\n\n" + report + bench_report.appendix(run, facts, opt.seconds))
    with open(os.path.join(opt.out, f"{suite.name}.json"), "w", encoding="utf-8") as out:
        json.dump({"facts": facts, "skipped": skipped, "failed": failed, "rounds": cells,
                   "configurations": {name: peer.text for name, peer in peers.items()},
                   "medians": medians(run)}, out, indent=1)
        out.write("\n")
    print("\n" + report)
    bench_chart.draw(run, os.path.join(opt.out, f"{suite.name}.svg"))
    if opt.publish and not failed:
        publish(suite, run, report)
    return 1 if failed else 0


def medians(run):
    return {key: {name: {metric: statistics.median(series) for metric in load.metrics
                         if (series := run.series(key, name, metric))} for name in run.peers}
            for key, load in run.loads.items()}


if __name__ == "__main__":
    try:
        sys.exit(main(PLAIN))
    except KeyboardInterrupt:
        sys.exit(130)
