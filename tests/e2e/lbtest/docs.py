# SPDX-License-Identifier: MIT
"""
What the documents show: fenced blocks, the configurations and the commands in them, and whether an
output has the shape of the one that is printed below a command.

    ```yaml       a configuration, or a part of one: `wrapped` completes it
    ```console    `$ command` or `# command` (as root), `\\` goes on in the next line; its output
    ```text       pictures and log lines
"""
import re

from .process import ROOT

DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

# What would run: outside of ```console nobody would look at it.
_COMMAND = re.compile(r"(\$ |# (?=\S*(lbctl|layer4-lb|bpftool|make|systemctl)\b)|(sudo )?"
                      r"(build/|scripts/|lbctl |layer4-lb -|make |bpftool |systemctl |apt))")
_PARTS_OF_A_RULE = "name: web\nlisten: \"0.0.0.0:80\"\nbackends: [\"10.0.0.1:8080\"]\n"
_TOP_LEVEL = ("log", "access_log", "reload_on_change", "workers", "acceleration", "interfaces",
              "admission", "graft", "admin", "cluster", "rules")


class Block:
    """<info> is what stands behind its fence, <line> where its first line is."""

    def __init__(self, path, line, info, lines):
        self.path, self.line, self.info, self.lines = path, line, info, lines

    @property
    def place(self):
        return f"{self.path.relative_to(ROOT)}:{self.line}"

    @property
    def text(self):
        return "\n".join(self.lines) + "\n"


class Command:
    """A command line and the output that is shown below it."""

    def __init__(self, place, text):
        self.place, self.text, self.output = place, text, []

    @property
    def words(self):
        """Without the remark behind it."""
        return re.sub(r"\s+# .*", "", self.text.replace("\\\n", " ")).strip()


def blocks(path):
    """Of one document. A fence that is not closed is an error."""
    found, lines = [], path.read_text().split("\n")
    fences = [i for i, line in enumerate(lines) if line.startswith("```")]
    assert len(fences) % 2 == 0, f"{path}: a fence is not closed"
    for begin, end in zip(fences[::2], fences[1::2]):
        found.append(Block(path, begin + 2, lines[begin][3:].strip(), lines[begin + 1:end]))
    return found


def all_blocks(*infos):
    return [b for path in DOCUMENTS for b in blocks(path) if b.info in infos]


def stray_commands(path):
    """Places outside of ```console where a command stands, or an indented block."""
    found = [f"{b.place}: `{line}` belongs into a ```console block"
             for b in blocks(path) if b.info in ("", "text")
             for line in b.lines if _COMMAND.match(line)]
    inside, before = False, ""
    for number, line in enumerate(path.read_text().split("\n"), 1):
        inside ^= line.startswith("```")
        if not inside and line.startswith("    ") and not before:
            found.append(f"{path.relative_to(ROOT)}:{number}: an indented block: fence it")
        before = line
    return found


def commands(block):
    """Of a ```console block, in their order."""
    found = []
    for number, line in enumerate(block.lines):
        if found and found[-1].text.endswith("\\"):
            found[-1].text += "\n" + line
        elif re.match(r"[$#] ", line):
            place = f"{block.path.relative_to(ROOT)}:{block.line + number}"
            found.append(Command(place, line[2:]))
        else:
            assert found, f"{block.place}: it begins with no command"
            found[-1].output.append(line)
    return found


def configurations(block):
    """The whole configurations that a ```yaml block stands for; a key again begins the next one."""
    parts, keys = [[]], set()
    for line in block.lines:
        key = re.match(r"\w+(?=:)", line)
        if key and key.group() in keys:
            parts.append([])
            keys.clear()
        keys.update([key.group()] if key else [])
        parts[-1].append(line)
    return [wrapped("\n".join(p) + "\n") for p in parts]


def wrapped(text):
    """A part of a configuration, completed: by a rule, or by what a rule has to have."""
    first = re.search(r"^(\w+):", text, re.M).group(1)
    if re.search(r"^rules:", text, re.M):
        return text
    if first in _TOP_LEVEL and not re.search(r"^backends:|^listen:", text, re.M):
        return text + "rules:\n" + _indented(_PARTS_OF_A_RULE)
    lacking = "".join(line + "\n" for line in _PARTS_OF_A_RULE.splitlines()
                      if not re.search(rf"^{line.split(':')[0]}:", text, re.M))
    return "rules:\n" + _indented(lacking + text)


def _indented(text):
    lines = ["    " + line if line else line for line in text.splitlines()]
    return "  - " + lines[0].lstrip() + "\n" + "\n".join(lines[1:]) + "\n"


# --- shapes -------------------------------------------------------------------------------------


def _is_heads(line):
    """Column heads: words in capitals, at least three of them."""
    words = line.split()
    return len(words) >= 3 and all(re.fullmatch(r"[A-Z][A-Z/]*", w) for w in words)


def _word_pattern(word):
    """A number may be another one, and what is left out (`..`) anything; `layer4-lb` has none."""
    if set(word) == {"."}:
        return ".*"
    if word[0].isdigit():
        return r"\S+"
    return r"\S*".join(re.escape(p) for p in re.split(r"(?<![A-Za-z])\d[\w.:]*", word))


def _pattern(line):
    return r"\s*" + r"\s+".join(map(_word_pattern, line.split())) + r"\s*"


def shape_errors(expected, actual):
    """
    What is missing in <actual>, both lists of lines: each line that is shown, its numbers aside;
    below column heads at least one row; of an object in JSON the names.
    """
    errors, in_table = [], False
    for line in expected:
        if not line.strip():
            in_table = False
        elif in_table:
            continue
        elif _is_heads(line):
            in_table = True
            at = [i for i, a in enumerate(actual) if a.split() == line.split()]
            if not at or len(actual) < at[0] + 2 or not actual[at[0] + 1].strip():
                errors.append(f"no table with the heads {line.split()}")
        elif line.startswith("{"):
            lacking = set(re.findall(r'"(\w+)":', line)) - set(re.findall(
                r'"(\w+)":', "\n".join(actual)))
            errors += [f"no name {name!r} in the object" for name in sorted(lacking)]
        elif not any(re.fullmatch(_pattern(line), a) for a in actual):
            errors.append(f"no line like {line!r}")
    return errors
