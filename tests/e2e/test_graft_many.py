# SPDX-License-Identifier: MIT
"""A hundred thousand idle grafts: what they cost, and that they do not hold up the end."""
import re
import time
from pathlib import Path

import pytest

from lbtest import lane as lanes, machine
from lbtest.daemon import rule
from lbtest.net import LB
from lbtest.process import BUILD, SAN, run, wait_until

FILL = BUILD / "tests/e2e/graft_fill"
COUNT = 100000
LIMIT = 64 << 20


def own_memory(pid):
    """Bytes that only this process has; the tables, mapped into it, are counted as maps."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status).group(1)) * 1024


@pytest.fixture
def filled(net, daemon):
    """A daemon that has taken over so many idle grafts."""
    backends = [f"10.81.1.2:{7980 + i}" for i in range(6)]
    d = daemon({"graft": {"max_flows": COUNT},
                "rules": [rule("r", "10.81.0.1:6980", backends, acceleration="graft",
                               timeouts={"drain_ms": 200, "idle_ms": 3600000})]})
    # Resets to the clients have a way out, and nobody there to answer.
    net.ip(LB, "route add 198.18.0.0/15 via 10.81.0.2")
    try:
        run(*net.inside(LB), FILL, d.instance, "r", COUNT, seconds=60)
        d.start(30)
        lanes.skip_without(lanes.GRAFT, d)
        yield d
    finally:
        net.ip(LB, "route del 198.18.0.0/15")


@pytest.mark.skipif(SAN, reason="its allocator keeps memory, and everything takes longer")
def test_a_hundred_thousand_idle_grafts_are_cheap_and_end_promptly(filled):
    d = filled
    assert d.grafted() == d.metric("l4lb_backend_active_connections") == COUNT
    maps = {o["name"]: o["bytes_memlock"] for key, o in d.held.items()
            if key[0] == "map" and o["name"].startswith("lb_graft")}
    own = own_memory(d.pid)
    print(f"maps {sum(maps.values()) >> 10} KiB {maps}, process {own >> 10} KiB")
    assert own + sum(maps.values()) <= LIMIT, (own, maps)
    cpu, begin = machine.process_cpu(d.pid), time.monotonic()
    d.check_quiet(seconds=4)
    print(f"{(machine.process_cpu(d.pid) - cpu) / (time.monotonic() - begin) * 100:.1f} % CPU")
    begin = time.monotonic()
    d.stop(15)
    print(f"ended after {time.monotonic() - begin:.1f} s")
    found = wait_until(lambda: len(d.flows()) == COUNT and d.flows(), 5,
                       lambda: f"{len(d.flows())} lines instead of {COUNT}", every=0.5)
    assert {f["reason"] for f in found} == {"drained"}
