# SPDX-License-Identifier: MIT
"""
The Makefile rebuilds what must be rebuilt and nothing else: the real Makefile, BPF programs and
contract headers, with a few small sources of its own, in a tree of its own.
"""
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    "userspace/main.c": "int main(void)\n{\n\treturn 0;\n}\n",
    "userspace/base/plain.c": "int plain;\n",
    "userspace/flow/reader.c": "#include <lb/flow.h>\nint reader = sizeof(struct lb_gate);\n",
    "userspace/kernel/skeleton.c": '#include "probe.skel.h"\nint skeleton;\n',
    "tests/unit/flow/reader.c": "#include <lb/flow.h>\nint main(void)\n{\n\treturn 0;\n}\n",
    "tests/unit/base/plain.c": "int main(void)\n{\n\treturn 0;\n}\n",
    "bpf/probe.bpf.c": "#include <lb/flow.h>\nint count = sizeof(struct lb_gate);\n",
    "bpf/other.bpf.c": "int other = 1;\n",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    top = tmp_path_factory.mktemp("tree")
    for name in ("Makefile", "VERSION"):
        shutil.copy(ROOT / name, top / name)
    shutil.copytree(ROOT / "include", top / "include")
    for name, text in SOURCES.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    make(top)
    return top


def clean_env():
    return {k: v for k, v in os.environ.items() if not k.startswith(("LB_", "MAKE", "MFLAGS"))}


def make(top, *args):
    """What was made, as `make` names it."""
    done = subprocess.run(["make", "all", "tests", *args], cwd=top, env=clean_env(), text=True,
                          timeout=120, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return set(re.findall(r"^  [A-Z]+ +(\S+)$", done.stdout, re.M))


def compiled(made):
    """Programs, the archive and skeletons follow from the objects: what was read is the claim."""
    return {m for m in made if m.endswith(".o") or m.startswith("tests/")}


TESTS = {"tests/unit/flow/reader", "tests/unit/base/plain"}
READERS = {"bpf/probe.bpf.o", "userspace/flow/reader.o", "userspace/kernel/skeleton.o"}
ALL = READERS | {"userspace/main.o", "userspace/base/plain.o"}


def test_a_second_make_makes_nothing(tree):
    make(tree)
    assert make(tree) == set()


def test_touching_a_contract_header_rebuilds_exactly_its_readers(tree):
    make(tree)
    (tree / "include/lb/flow.h").touch()
    # The archive changed, so every test is linked anew; no other object is compiled.
    assert compiled(make(tree)) == READERS | TESTS
    (tree / "include/lb/limits.h").touch()
    assert make(tree) == set()


@pytest.mark.parametrize("variable", ["WARN=-Wall", "CLANG=clang -DOTHER"])
def test_changing_a_flag_rebuilds_all(tree, variable):
    make(tree)
    unread = {"bpf/other.bpf.o"}
    assert compiled(make(tree, variable)) == ALL | TESTS | unread
    assert make(tree, variable) == set()


def test_a_source_that_goes_away_leaves_the_archive(tree):
    source = tree / "userspace/flow/gone.c"
    source.write_text("int gone;\n")
    make(tree)
    source.unlink()
    assert "liblb.a" in make(tree)
    members = subprocess.run(["ar", "t", tree / "build/liblb.a"], stdout=subprocess.PIPE, text=True)
    assert "gone.o" not in members.stdout and "reader.o" in members.stdout


def test_the_sanitizer_build_has_a_folder_of_its_own(tree):
    make(tree)
    assert "liblb.a" in make(tree, "SAN=1")
    assert make(tree) == set()


def test_without_tools_make_says_how_to_get_them(tree, tmp_path):
    for tool in ("sh", "mkdir", "cmp", "cat", "find", "nproc", "make"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    done = subprocess.run(["make", f"O={tmp_path}/o"], cwd=tree, env={"PATH": str(tmp_path)},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    assert done.returncode != 0
    assert done.stdout.startswith("Build tools or libraries are missing: scripts/install-deps")


def test_a_test_case_that_is_not_registered_does_not_compile(tree):
    source = tree / "tests/unit/base/forgotten.c"
    source.write_text("static void forgotten(void **state)\n{\n}\n\nint main(void)\n{\n"
                      "\treturn 0;\n}\n")
    done = subprocess.run(["make", "tests"], cwd=tree, env=clean_env(), text=True, timeout=120,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    source.unlink()
    assert done.returncode != 0
    assert "defined but not used" in done.stdout
