# SPDX-License-Identifier: MIT
"""
Decides how the cells of a run become a report: medians with their extremes, ratios taken pair by
pair within a round (both halves then saw the same machine) and only then their median, and in words
where layer4-lb loses. Reads nothing but the run; must never drop a path or a round that went badly.
"""

import statistics

LOUD = 0.03  # share of the machine other programs may use during a measurement


class Judged:
    """
    Which paths are ours, whom they are compared with, and what the project set out to reach: path,
    workload, metric, measured against, bound. A bound is a ratio, or for "-" the figure itself.
    """

    def __init__(self, ours, references, rivals, goals):
        self.ours, self.references, self.rivals, self.goals = ours, references, rivals, goals


PLAIN = Judged(("relay", "sockmap", "graft", "auto"), ("haproxy30", "direct"), (
    "haproxy30", "haproxy30s", "haproxy26", "haproxy26s", "nginx",
), (
    ("relay", "keepalive", "rate", "haproxy30", 0.95),
    ("relay", "upload1", "cpu", "haproxy30", 1.05),
    ("relay", "download1", "cpu", "haproxy30", 1.05),
    ("relay", "upload8", "cpu", "haproxy30", 1.05),
    ("relay", "download8", "cpu", "haproxy30", 1.05),
    ("sockmap", "keepalive", "rate", "haproxy30", 1.0),
    ("sockmap", "upload1", "cpu", "haproxy30", 1.0),
    ("sockmap", "download1", "cpu", "haproxy30", 1.0),
    ("sockmap", "upload8", "cpu", "haproxy30", 1.0),
    ("sockmap", "download8", "cpu", "haproxy30", 1.0),
    ("graft", "keepalive", "rate", "direct", 0.9),
    ("graft", "keepalive", "rate", "haproxy30", 1.6),
    ("graft", "keepalive", "cpu", "direct", 1.1),
    ("graft", "upload1", "cpu", "direct", 1.15),
    ("graft", "download1", "cpu", "direct", 1.15),
    ("graft", "upload8", "cpu", "direct", 1.15),
    ("graft", "download8", "cpu", "direct", 1.15),
    ("auto", "connections", "rate", "haproxy30", 1.0),
    ("auto", "keepalive", "rate", "relay", 1.0),
    ("auto", "upload1", "cpu", "relay", 1.0),
    ("auto", "download1", "cpu", "relay", 1.0),
    ("relay", "idle", "memory", "-", 2048),
    ("sockmap", "idle", "memory", "-", 2048),
    ("graft", "idle", "memory", "-", 2048),
    ("auto", "idle", "memory", "-", 2048),
))


class Run:
    """cells[round][workload][peer] -> figures; peers and loads in the order of the report."""

    def __init__(self, peers, loads, cells, judged=PLAIN):
        self.peers, self.loads, self.cells, self.judged = peers, loads, cells, judged

    def series(self, load, peer, metric):
        found = (rnd.get(load, {}).get(peer, {}).get(metric) for rnd in self.cells)
        return [value for value in found if value is not None]

    def ratios(self, load, peer, metric, reference):
        out = []
        for rnd in self.cells:
            pair = rnd.get(load, {})
            mine, theirs = (pair.get(key, {}).get(metric) for key in (peer, reference))
            if mine is not None and theirs:
                out.append(mine / theirs)
        return out


def spread(values, digits):
    """'median (min-max)'; the extremes are left out where there is only one value."""
    if not values:
        return "-"
    middle = f"{statistics.median(values):,.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def table(run, key):
    load = run.loads[key]
    references = [ref for ref in run.judged.references
                  if run.series(key, ref, next(iter(load.metrics)))]
    head = ["path"]
    for heading, unit, _digits, _more in load.metrics.values():
        head.append(f"{heading}, {unit}" if unit else heading)
        head += [f"x {run.peers[ref].title.split(' (')[0]}" for ref in references]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for name, peer in run.peers.items():
        if not any(run.series(key, name, metric) for metric in load.metrics):
            continue
        row = [peer.title]
        for metric, (_heading, _unit, digits, _more) in load.metrics.items():
            row.append(spread(run.series(key, name, metric), digits))
            row += [spread(run.ratios(key, name, metric, ref), 2) for ref in references]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def carried(run):
    """For each path of ours that has a choice: the share of flows' bytes not on relay."""
    names = [name for name in run.judged.ours if name in run.peers and run.peers[name].chooses]
    lines = ["| workload | " + " | ".join(run.peers[name].title for name in names) + " |",
             "|---" + "|---:" * len(names) + "|"]
    for key in run.loads:
        row = []
        for name in names:
            shares = [1 - found.get("relay", 0) / sum(found.values())
                      for found in run.series(key, name, "carriers") if sum(found.values())]
            row.append(f"{statistics.median(shares):.0%}" if shares else "-")
        lines.append(f"| {key} | " + " | ".join(row) + " |")
    return lines if names else []


def losses(run):
    """Sentences: every figure in which a path of ours is behind one that people run today."""
    out = []
    for key, load in run.loads.items():
        for metric, (heading, _unit, _digits, more) in load.metrics.items():
            for ours in run.judged.ours:
                for rival in run.judged.rivals:
                    ratios = run.ratios(key, ours, metric, rival)
                    if not ratios:
                        continue
                    middle = statistics.median(ratios)
                    if middle >= 1 if more else middle <= 1:
                        continue
                    always = max(ratios) < 1 if more else min(ratios) > 1
                    out.append(f"{key}, {heading}: {ours} at {middle:.2f} x "
                               f"{run.peers[rival].title}"
                               + ("" if always else " (not in every round)"))
    return out


def goals(run):
    """Rows (sentence, figure, met) for every goal this run has figures for."""
    out = []
    for ours, key, metric, reference, bound in run.judged.goals:
        if key not in run.loads or ours not in run.peers:
            continue
        heading, _unit, _digits, more = run.loads[key].metrics[metric]
        if reference == "-":
            values = run.series(key, ours, metric)
            what = f"{ours}: {heading} on {key} at most {bound}"
        else:
            values = run.ratios(key, ours, metric, reference)
            name = run.peers[reference].title if reference in run.peers else reference
            what = (f"{ours}: {heading} on {key} at {'least' if more else 'most'} "
                    f"{bound:.2f} x {name}")
        if values:
            middle = statistics.median(values)
            met = middle >= bound if more else middle <= bound
            out.append((what, spread(values, 0 if reference == "-" else 2), met))
    return out


def doubts(run):
    """Sentences on what makes the figures of this run less than certain."""
    cells = [(rnd, key, name, cell) for rnd, loads in enumerate(run.cells, 1)
             for key, peers in loads.items() for name, cell in peers.items()]
    out = []
    loud = [f"round {rnd} {key}/{name} {cell['foreign']:.0%}" for rnd, key, name, cell in cells
            if cell["foreign"] > LOUD]
    if loud:
        out.append(f"other programs used more than {LOUD:.0%} of the machine in {len(loud)} of "
                   f"{len(cells)} cells: {', '.join(loud[:6])}" + (" ..." if loud[6:] else ""))
    stolen = sum(cell["steal"] for *_, cell in cells)
    wall = sum(cell["wall"] for *_, cell in cells)
    if wall and stolen / wall > 0.01:
        out.append(f"the hypervisor took {stolen / wall:.1%} of a core away during the run")
    dropped = [f"{key}/{name}" for _, key, name, cell in cells if cell["dropped"]]
    if dropped:
        out.append("connections were dropped by a full queue or TIME_WAIT table in: "
                   + ", ".join(sorted(set(dropped))))
    if len(run.cells) < 3:
        out.append(f"only {len(run.cells)} round(s): there is no spread to judge a ratio by")
    return out


def markdown(run, facts, skipped, failed):
    """The report without its appendix: what docs/benchmarks.md keeps."""
    lines = [f"Measured {facts['date']}, layer4-lb {facts['commit']}: {facts['rounds']} "
             f"interleaved rounds of {facts['seconds']} s, median (lowest-highest). GB is 10^9 "
             "bytes.", ""]
    lines += [f"- {key}: {value}" for key, value in facts["machine"].items()]
    for key, load in run.loads.items():
        if any(run.series(key, name, metric) for name in run.peers for metric in load.metrics):
            lines += ["", f"### {load.title}", "", *table(run, key)]
    choice = carried(run)
    if choice:
        lines += ["", "### Share of the bytes of flows that are not on relay", "", *choice]
    reached = goals(run)
    if reached:
        lines += ["", "### Goals", "", "| goal | measured | |", "|---|---:|---|"]
        lines += [f"| {what} | {value} | {'met' if met else 'missed'} |"
                  for what, value, met in reached]
    if any(name in run.peers for name in run.judged.ours):
        behind = losses(run)
        lines += ["", "### Where we lose", ""]
        lines += [f"- {line}" for line in behind] or ["- nowhere in this run"]
    notes = doubts(run) + [f"{name} was skipped: {why}" for name, why in skipped.items()]
    notes += [f"FAILED: {what}" for what in failed]
    if notes:
        lines += ["", "### Notes on this run", ""] + [f"- {note}" for note in notes]
    return "\n".join(lines) + "\n"


def appendix(run, facts, seconds):
    """Exact commands and configurations."""
    lines = ["", "## Commands and configurations", "",
             "System settings in all three namespaces, and congctl on every route:", "",
             "```", *(f"{key} = {value}" for key, value in facts["sysctls"].items()), "```"]
    some = next(iter(run.peers.values()))
    lines += ["", "Clients:", "", "```"]
    lines += [f"{key}: " + " ".join(load.command(some.target(load.service), seconds))
              for key, load in run.loads.items()] + ["```"]
    for name, peer in run.peers.items():
        if peer.text:
            lines += ["", f"{peer.title} ({peer.version}):", "", "```", peer.text.rstrip(), "```"]
    return "\n".join(lines) + "\n"
