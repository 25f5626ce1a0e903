# SPDX-License-Identifier: MIT
"""
Draws a run: for each workload its rate and its cost, a bar for each path, median with extremes.
Decides nothing about the figures; an SVG whose text is text, the same bytes for the same run.
"""

import statistics

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402  pylint: disable=wrong-import-position

OURS, THEIRS = "#2b6cb0", "#a0aec0"
ROW_INCHES, HEAD_INCHES, WIDTH_INCHES = 0.26, 0.75, 9.0
COLUMNS = 2  # of metrics: the first two of a workload


def draw_metric(axes, run, key, metric):
    heading, unit, _digits, more = run.loads[key].metrics[metric]
    names = [name for name in run.peers if run.series(key, name, metric)]
    for row, name in enumerate(names):
        values = run.series(key, name, metric)
        middle = statistics.median(values)
        axes.barh(row, middle, height=0.7, color=OURS if name in run.judged.ours else THEIRS,
                  xerr=[[middle - min(values)], [max(values) - middle]],
                  error_kw={"elinewidth": 0.8, "capsize": 2})
    axes.set_yticks(range(len(names)), [run.peers[name].title for name in names], fontsize=7)
    axes.invert_yaxis()
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    what = f"{heading}, {unit}" if unit else heading
    axes.set_title(f"{what}: {'more' if more else 'less'} is better", fontsize=7, loc="left")


def rows_of(run, key):
    return max(1, sum(bool(run.series(key, name, next(iter(run.loads[key].metrics))))
                      for name in run.peers))


def draw(run, path):
    """Writes <path>. False, and nothing is written, when no workload has a figure."""
    keys = [key for key, load in run.loads.items()
            if any(run.series(key, name, metric) for name in run.peers for metric in load.metrics)]
    if not keys:
        return False
    heights = [HEAD_INCHES + ROW_INCHES * rows_of(run, key) for key in keys]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench"}):
        figure = plt.figure(figsize=(WIDTH_INCHES, sum(heights)), layout="constrained")
        parts = figure.subfigures(len(keys), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, key in zip(parts, keys):
            metrics = list(run.loads[key].metrics)[:COLUMNS]
            part.suptitle(run.loads[key].title, fontsize=9, x=0.01, ha="left", weight="bold")
            for axes, metric in zip(part.subplots(1, COLUMNS, squeeze=False)[0], metrics):
                draw_metric(axes, run, key, metric)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
    return True
