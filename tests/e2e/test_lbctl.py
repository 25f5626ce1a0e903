# SPDX-License-Identifier: MIT
"""What comes with lbctl: its manual page and its completion know what the program knows."""
import os
import re
import subprocess

import pytest

from lbtest.daemon import LBCTL, rule
from lbtest.process import ROOT, SAN, run

MANUAL = ROOT / "docs/lbctl.1"
COMPLETION = ROOT / "userspace/tools/lbctl/completion.bash"


@pytest.fixture(scope="module")
def words():
    """(commands, options) that `lbctl --help` tells of."""
    text = run(LBCTL, "--help").stdout
    commands, _, options = text.partition("--socket")
    return (set(re.findall(r"^  ([a-z]+)", commands, re.M)),
            set(re.findall(r"^  (--[a-z-]+)", "  --socket" + options, re.M)))


def test_the_manual_page_knows_every_command_and_option_and_no_other(words):
    commands, options = words
    assert len(commands) >= 12 and len(options) >= 12
    text = MANUAL.read_text().replace("\\-", "-")
    body = text[text.index(".SH COMMANDS"):text.index(".SH OPTIONS")]
    assert set(re.findall(r"^\.BI? ([a-z]+)", body, re.M)) == commands
    assert set(re.findall(r"^\.BI? (--[a-z-]+)", text, re.M)) == options


def test_the_manual_page_is_well_formed():
    done = run("man", "--warnings", "-l", MANUAL)
    assert "LBCTL(1)" in done.stdout and not done.stderr, done.stderr


def complete(line, *connection):
    """What the completion offers at the end of <line>."""
    line = line.replace("lbctl", str(LBCTL), 1)
    script = f"""
source /usr/share/bash-completion/bash_completion
source {COMPLETION}
COMP_LINE={line!r}; COMP_POINT={len(line)}
COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
read -ra COMP_WORDS <<<"$COMP_LINE"; [[ $COMP_LINE == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_lbctl
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30,
                          check=False)
    assert not done.stderr, done.stderr
    return set(done.stdout.split("\n")) - {""}


def test_the_completion_knows_every_command_and_option(words):
    commands, options = words
    assert complete("lbctl ") == commands
    assert complete("lbctl --") == options
    assert complete("lbctl dr") == {"drain"}
    assert complete("lbctl log ") == {"error", "warn", "info", "debug"}
    assert complete("lbctl flows --carrier ") == {"relay", "sockmap", "graft"}


def test_the_completion_asks_the_daemon_for_names(daemon):
    rules = [rule("web", "10.81.0.1:6981", ["10.81.1.2:7981", "localhost:7982"]),
             rule("my mail", "10.81.0.1:6982", ["10.81.1.2:7983"])]
    with daemon({"rules": rules}) as d:
        at = f"lbctl --instance {d.instance} "
        assert complete(at + "drain ") == {"web", "my mail"}
        assert complete(at + "drain w") == {"web"}
        assert complete(at + "drain web ") == {"10.81.1.2:7981", "localhost:7982"}
        assert complete(at + "backends --rule ") == {"web", "my mail"}
    assert complete(at + "drain ") == set()


def test_install_brings_them_along(tmp_path):
    # The folder as it was called when it was built: by another name all would be built again.
    run("make", "-C", ROOT, "-s", f"O={os.path.relpath(LBCTL.parent, ROOT)}", f"SAN={int(SAN)}",
        f"DESTDIR={tmp_path}", "PREFIX=/usr", "install", seconds=300)
    for path in ("bin/lbctl", "bin/layer4-lb", "share/man/man1/lbctl.1",
                 "share/bash-completion/completions/lbctl"):
        assert (tmp_path / "usr" / path).is_file(), path
