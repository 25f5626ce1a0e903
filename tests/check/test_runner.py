# SPDX-License-Identifier: MIT
"""scripts/test counts what happened: every way a program can end, each in a tree of its own."""
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

HEAD = """
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>
static void good(void **state) { (void)state; }
static void other(void **state) { (void)state; %s }
int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(good), cmocka_unit_test(other)};
	return cmocka_run_group_tests(tests, NULL, NULL)%s;
}
"""


def clean_environment():
    """The runner that runs these tests tells them where its build is; theirs is another one."""
    return {k: v for k, v in os.environ.items() if not k.startswith("LB_")}


@pytest.fixture
def tree(tmp_path):
    """A project of one script and whatever programs a test puts into it."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/test", tmp_path / "scripts/test")

    def add(name, body="", ending="", binary=True):
        source = tmp_path / "tests/unit" / f"{name}.c"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(HEAD % (body, ending))
        if binary:
            out = tmp_path / "build/tests/unit" / name
            out.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["gcc", "-o", out, source, "-lcmocka"], check=True)

    def run(*args):
        done = subprocess.run([tmp_path / "scripts/test", "--built", *args], text=True,
                              env=clean_environment(), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=60)
        return done.returncode, done.stdout, done.stdout.splitlines()[-1]

    return add, run


def test_passes_are_counted_and_exit_is_zero(tree):
    add, run = tree
    add("flow/a")
    add("b")
    assert run()[::2] == (0, "4 passed, 0 failed, 0 skipped")


def test_a_failure_is_told_with_its_place(tree):
    add, run = tree
    add("a", 'printf("seen: 7\\n"); assert_int_equal(1, 2);')
    code, text, last = run()
    assert (code, last) == (1, "1 passed, 1 failed, 0 skipped")
    assert "FAILED unit/a:other" in text and "seen: 7" in text and "a.c:11: error" in text


def test_a_skip_tells_its_reason_and_does_not_fail(tree):
    add, run = tree
    add("a", 'print_message("no such kernel\\n"); skip();')
    code, text, last = run()
    assert (code, last) == (0, "1 passed, 0 failed, 1 skipped")
    assert "unit/a:other: no such kernel" in text


@pytest.mark.parametrize("body, ending, said", [
    ("abort();", "", "died of SIGABRT, 1 of 2 cases"),
    ("exit(0);", "", "ended with exit code 0, 1 of 2 cases"),
    ("", " + 23", "ended with exit code 23, 2 of 2 cases"),
])
def test_a_bad_end_is_a_failure(tree, body, ending, said):
    add, run = tree
    add("a", body, ending)
    code, text, last = run()
    assert code == 1 and last.endswith(" 1 failed, 0 skipped")
    assert said in text


def test_a_hang_is_a_failure_when_the_time_is_over(tree, tmp_path):
    add, run = tree
    add("a", "pause();")
    script = tmp_path / "scripts/test"
    text = script.read_text()
    assert '"unit": 60' in text
    script.write_text(text.replace('"unit": 60', '"unit": 2'))
    code, text, last = run()
    assert (code, last) == (1, "1 passed, 1 failed, 0 skipped")
    assert "did not end within 2 s, 1 of 2 cases" in text


def test_a_signal_ends_the_programs_too(tree, tmp_path):
    add, _run = tree
    add("a", 'FILE *f = fopen("pid", "w"); fprintf(f, "%d\\n", getpid()); fclose(f); pause();')
    runner = subprocess.Popen([tmp_path / "scripts/test", "--built"], stdout=subprocess.PIPE,
                              env=clean_environment())
    told = tmp_path / "pid"
    deadline = time.monotonic() + 60
    while not (told.exists() and told.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    runner.terminate()
    assert runner.wait(timeout=60) == 143
    status = Path("/proc") / told.read_text().strip() / "status"
    assert not status.exists() or "State:\tZ" in status.read_text()


def test_a_program_that_was_not_built_is_a_failure(tree):
    add, run = tree
    add("a")
    add("forgotten", binary=False)
    code, text, last = run()
    assert (code, last) == (1, "2 passed, 1 failed, 0 skipped")
    assert "FAILED unit/forgotten: the program was not built" in text


def test_k_selects_cases_by_their_names(tree):
    add, run = tree
    add("flow/a")
    add("b", "abort();")
    assert run("-k", "flow and not other")[::2] == (0, "1 passed, 0 failed, 0 skipped")


def test_without_rights_bpf_programs_are_skipped_with_the_reason(tree, tmp_path):
    add, run = tree
    add("../bpf/a", "abort();")
    if os.geteuid() != 0:
        pytest.skip("needs root to take rights away")
    done = subprocess.run(["setpriv", "--bounding-set=-bpf,-perfmon,-net_admin", "--inh-caps=-all",
                           tmp_path / "scripts/test", "--built", "--bpf"], text=True,
                          stdout=subprocess.PIPE, timeout=60)
    assert done.stdout.splitlines()[-1] == "0 passed, 0 failed, 1 skipped"
    assert "needs CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON" in done.stdout
    assert done.returncode == 0
