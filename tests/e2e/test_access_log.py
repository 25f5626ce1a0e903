# SPDX-License-Identifier: MIT
"""The access log: moved away as logrotate does it, as JSON; and the daemon's own as JSON."""
import json
import signal

from lbtest.daemon import rule
from lbtest.process import wait_until
from lbtest.talk import Talk

LISTEN, BACK = ("10.81.0.1", 6860), ("10.81.1.2", 7860)


def config(**keys):
    return {"rules": [rule("r \"1\"", "%s:%d" % LISTEN, ["%s:%d" % BACK],
                           acceleration="relay")], **keys}


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def reopened(d, times):
    d.process.signal(signal.SIGUSR1)
    wait_until(lambda: d.count_log(r"access_log: .*anew") == times, 5, "it answers SIGUSR1")


def send(net, count):
    """So many flows, one after the other, of 1000 bytes each way."""
    for _ in range(count):
        with Talk(net, LISTEN, BACK) as talk:
            talk.exchange(1000)
            talk.finish()


def test_a_log_that_was_moved_away_is_made_anew_and_no_line_is_lost(net, folder, daemon):
    with daemon(config()) as d:
        moved = [folder / f"access.{n}" for n in (1, 2)]
        for n, to in enumerate(moved, 1):
            send(net, 20)
            # What ends while it has the old name, and before the signal, goes there.
            d.access_log.rename(to)
            send(net, 20)
            reopened(d, n)
        send(net, 20)

        def everywhere():
            return [line for path in (*moved, d.access_log) for line in lines(path)]
        # A line may take a moment from the worker to the file.
        wait_until(lambda: len(everywhere()) == 100, 5, "all flows are written down")
        assert all("reason=done" in line for line in everywhere())
        # Which of two names a line finds that was on its way is left open.
        assert all(lines(path) for path in (*moved, d.access_log))
        assert d.access_log.stat().st_mode & 0o777 == 0o640
        assert d.metric("l4lb_access_log_dropped_total") == 0


def test_a_log_that_cannot_be_made_anew_stays_where_it_is(net, folder, daemon):
    with daemon(config()) as d:
        away = folder / "away"
        d.access_log.rename(away)
        d.access_log.mkdir()
        reopened(d, 1)
        assert "stays in use" in d.log and "Is a directory" in d.log
        send(net, 3)
        wait_until(lambda: len(lines(away)) == 3, 5, "the old file is written")


def test_both_logs_are_json_when_asked(net, folder, daemon):
    path = folder / "access.json"
    with daemon(config(log={"format": "json"},
                       access_log={"path": str(path), "format": "json"})) as d:
        send(net, 1)
        wait_until(lambda: lines(path), 5, "the flow is written down")
        line, = map(json.loads, lines(path))
        assert (line["rule"], line["up"], line["down"]) == ('r "1"', 1000, 1000), line
        assert (line["reason"], line["backend"]) == ("done", "%s:%d" % BACK), line
        assert line["client"].startswith("10.81.0.2:") and line["time"].endswith("Z")
        assert 0 <= line["connect_ms"] and 0 <= line["first_byte_ms"] and line["tries"] == 1
    said = [json.loads(line) for line in d.log.splitlines()]
    assert {"info"} <= {s["level"] for s in said} <= {"info", "warn"}
    assert any(s["message"].startswith("ready: ") for s in said)
