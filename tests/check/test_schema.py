# SPDX-License-Identifier: MIT
"""docs/lb.schema.json takes what the program takes, and finds what editors are to find."""
import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs/lb.schema.json").read_text())
CONFIG = ROOT / "tests/config"


class Loader(yaml.SafeLoader):
    """As YAML 1.2 and editors have it: `off` is a word, and only true and false are no words."""
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag in
                ("tag:yaml.org,2002:null", "tag:yaml.org,2002:float", "tag:yaml.org,2002:merge")]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()}


Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|false", re.I), "tTfF")
# Not 1:30, which YAML 1.1 takes for a number of seconds.
Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?\d+$"), "-+0123456789")


def complaints(path):
    config = yaml.load(path.read_text(), Loader)
    return [e.json_path + ": " + e.message for e in Draft7Validator(SCHEMA).iter_errors(config)]


def test_it_is_a_schema():
    Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", [
    # 11 has words in other case, which a schema cannot say.
    *sorted(p.with_suffix(".yaml") for p in CONFIG.glob("*.ok") if p.stem != "11-off"),
    ROOT / "lb.yaml", ROOT / "lb_tls_test.yaml", *sorted(ROOT.glob("samples/*.yaml"))],
    ids=lambda p: p.stem)
def test_what_loads_is_taken(path):
    assert complaints(path) == []


@pytest.mark.parametrize("name", ["30-unknown-keys", "31-wrong-types", "32-out-of-range",
                                  "33-missing", "46-hosts", "47-nothing-in-lists", "48-no-rules",
                                  "49-not-a-mapping"])
def test_what_is_wrong_is_found(name):
    assert complaints(CONFIG / f"{name}.yaml")


def test_the_package_has_the_version_of_the_program():
    changelog = (ROOT / "debian/changelog").read_text()
    assert re.match(r"layer4-lb \(([^)]*)\)", changelog).group(1) == \
        (ROOT / "VERSION").read_text().strip()
