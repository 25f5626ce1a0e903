# SPDX-License-Identifier: MIT
"""
Every rule of scripts/check-house holds its good sample and reports its bad one, to the line:
house/<rule>/good is a tree without findings, house/<rule>/bad one with those of bad.expected.
"""
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SCRIPT = HERE.parents[1] / "scripts/check-house"


RULES = subprocess.run([SCRIPT, "--rules"], stdout=subprocess.PIPE, text=True,
                       check=True).stdout.split()


def check(tree):
    done = subprocess.run([SCRIPT, tree], stdout=subprocess.PIPE, text=True, timeout=30)
    return done.returncode, done.stdout


# Two samples are made here: one would be long, the other would break the rule in this very tree.
MADE = {
    "length": (
        "userspace/flow/session.c", lambda bad: "int i;\n" * (599 + bad),
        "userspace/flow/session.c:601: length: 601 lines, more than 600: "
        "split it by what it decides\n",
    ),
    "path": (
        "docs/a.md", lambda bad: "text\n/etc/layer4-lb " + ("/home" if bad else "") + "/me/here\n",
        "docs/a.md:2: path: path of a home folder: /home" + "/me/\n",
    ),
}


def sample(rule, kind, tmp_path):
    """The tree, and what the checker shall say of it."""
    if rule in MADE:
        name, text, expected = MADE[rule]
        (tmp_path / name).parent.mkdir(parents=True)
        head = "/* SPDX-License-Identifier: MIT */\n" if name.endswith(".c") else ""
        (tmp_path / name).write_text(head + text(kind == "bad"))
        return tmp_path, expected if kind == "bad" else ""
    folder = HERE / "house" / rule
    return folder / kind, (folder / "bad.expected").read_text() if kind == "bad" else ""


@pytest.mark.parametrize("rule", RULES)
def test_good_sample_is_silent(rule, tmp_path):
    tree, expected = sample(rule, "good", tmp_path)
    assert any(tree.rglob("*.*"))
    assert check(tree) == (0, expected)


@pytest.mark.parametrize("rule", RULES)
def test_bad_sample_is_named_with_file_line_and_rule(rule, tmp_path):
    tree, expected = sample(rule, "bad", tmp_path)
    assert check(tree) == (1, expected)


def test_every_sample_belongs_to_a_rule():
    assert {p.name for p in (HERE / "house").iterdir()} | set(MADE) == set(RULES)
