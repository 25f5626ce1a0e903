# SPDX-License-Identifier: MIT
"""`--check`: a bad configuration is refused with file:line:column and a sentence."""
import random
import re

import pytest

from lbtest.daemon import PROGRAM
from lbtest.process import ROOT, run

GOOD = """\
rules:
  - name: web
    listen: "127.0.0.1:8080"
    backends: ["127.0.0.1:8081"]
"""

BAD = {
    "empty": ("", "empty"),
    "only_a_comment": ("# nothing\n", "empty"),
    "garbage": (random.Random(1).randbytes(4096).decode("latin-1").replace("\0", "x"), None),
    "binary_garbage": (bytes(range(256)) * 16, None),
    "nul_byte": (GOOD.encode().replace(b"web", b"w\0b"), None),
    "nothing_but_nuls": (b"\0" * 100, None),
    "ten_megabytes": ("# " + "x" * (10 << 20) + "\n" + GOOD, None),
    "ten_megabytes_of_rules": ("rules:\n" + "  - {name: a}\n" * 740000, None),
    "deeply_nested": ("rules: " + "[" * 100000 + "]" * 100000 + "\n", None),
    "deeply_nested_mappings": ("".join(" " * i + f"k{i}:\n" for i in range(2000)), None),
    "alias_bomb": ("a: &a [x, x]\n" + "".join(
        f"k{i}: &k{i} [{', '.join(['*' + ('a' if not i else f'k{i - 1}')] * 10)}]\n"
        for i in range(12)), None),
    "unfinished": ("rules:\n  - name: 'web\n", None),
    "tab_indented": ("rules:\n\t- name: web\n", None),
    "unknown_key": (GOOD + "    helth_check: {enabled: false}\n", "health_check"),
    "unknown_top_key": (GOOD + "worker: 3\n", "workers"),
    "duplicate_key": (GOOD + "    name: other\n", "name"),
    "duplicate_listener": (GOOD + GOOD.replace("rules:\n", "").replace("web", "two"), "listen"),
    "duplicate_name": (GOOD + GOOD.replace("rules:\n", "").replace(":8080", ":8090"), "name"),
    "self_loop": (GOOD.replace(":8081", ":8080"), "listen"),
    "self_loop_by_any_address": (GOOD.replace("127.0.0.1:8080", "0.0.0.0:8080")
                                 .replace(":8081", ":8080"), "listen"),
    "no_backends": (GOOD.replace('["127.0.0.1:8081"]', "[]"), "backends"),
    "bad_port": (GOOD.replace(":8080", ":80800"), "listen"),
    "no_port": (GOOD.replace(":8080", ""), "listen"),
    "name_for_listen": (GOOD.replace("127.0.0.1:8080", "localhost.example:8080"), "listen"),
    "wrong_type": (GOOD + "workers: many\n", "workers"),
    "out_of_range": (GOOD + "workers: 100000\n", "workers"),
    "negative_time": (GOOD + "    timeouts: {connect_ms: -1}\n", "connect_ms"),
    "bad_acl": (GOOD + "    allow_list: [10.0.0.0/33]\n", "allow_list"),
    "scalar_at_the_top": ("hello\n", None),
    "two_documents": (GOOD + "---\n" + GOOD, None),
}


def check(path):
    return run(PROGRAM, "--config", path, "--check", check=False, seconds=20)


def assert_refused(done, path, word=None):
    assert done.returncode == 1, f"exit code {done.returncode}: {done.stderr[:500]}"
    first = done.stderr.splitlines()[0]
    place = re.match(re.escape(str(path)) + r":(\d+):(\d+): (.+)", first)
    assert place, first[:500]
    assert int(place.group(1)) >= 1 and int(place.group(2)) >= 1, first
    # A sentence, not a dump: several words, printable, of bearable length.
    assert len(place.group(3).split()) >= 3 and first.isprintable() and len(first) < 1000, first
    assert word is None or word in done.stderr, done.stderr[:500]


@pytest.mark.parametrize("name", BAD)
def test_is_refused_with_place_and_reason(folder, name):
    text, word = BAD[name]
    path = folder / f"{name}.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_refused(check(path), path, word)


def test_a_directory_is_refused(folder):
    assert_refused(check(folder), folder)


def test_a_missing_file_is_refused(folder):
    assert_refused(check(folder / "nowhere.yaml"), folder / "nowhere.yaml")


def test_an_endless_file_is_refused():
    assert_refused(check("/dev/zero"), "/dev/zero")


def test_the_place_is_that_of_the_mistake(folder):
    path = folder / "place.yaml"
    path.write_text(GOOD + "    timeouts:\n      idle_ms: 1min\n      conect_ms: 5\n")
    done = check(path)
    assert_refused(done, path, "connect_ms")
    assert done.stderr.startswith(f"{path}:7:7: "), done.stderr


def test_all_mistakes_are_told_at_once(folder):
    path = folder / "three.yaml"
    path.write_text(GOOD + "workers: many\nlog: {level: loud}\nnonsense: 1\n")
    done = check(path)
    assert_refused(done, path)
    for line in (5, 6, 7):
        assert f"{path}:{line}:" in done.stderr, done.stderr


def test_a_good_file_is_good(folder):
    path = folder / "good.yaml"
    path.write_text(GOOD)
    done = check(path)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_the_shipped_file_is_good():
    done = check(ROOT / "lb.yaml")
    assert done.returncode == 0, done.stderr


def test_the_canonical_form_means_the_same(folder):
    path, again = folder / "good.yaml", folder / "again.yaml"
    path.write_text(GOOD + "    timeouts: {idle_ms: 90s}\n")
    first = run(PROGRAM, "--config", path, "--print-config").stdout
    again.write_text(first)
    assert run(PROGRAM, "--config", again, "--print-config").stdout == first
    assert "connect_ms" in first


def test_a_bad_configuration_does_not_start(folder):
    path = folder / "typo.yaml"
    path.write_text(BAD["unknown_key"][0])
    done = run(PROGRAM, "--config", path, check=False)
    assert_refused(done, path)


@pytest.mark.parametrize("arguments", [["--nonsense"], ["stray"], ["--instance", "../x"],
                                       ["--instance", ""], ["--instance", "x" * 200]])
def test_wrong_usage_exits_2(arguments):
    done = run(PROGRAM, *arguments, check=False)
    assert done.returncode == 2 and done.stderr, done
