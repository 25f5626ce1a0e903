# SPDX-License-Identifier: MIT
"""Each direction of a connection ends by itself, and what was sent before its end arrives."""
import pytest

SIZES = [0, 1, 1 << 20]
# The flow is on its carrier before the first byte.
SETTLED = {"go": 1}


@pytest.mark.parametrize("up", SIZES)
@pytest.mark.parametrize("down", SIZES)
def test_an_answer_comes_after_the_client_closed_its_half(lane, up, down):
    # The server says nothing before it has seen the client's FIN.
    lane.run({"order": "recv", "send": down, "recv": up},
             {"send": up, "recv": down, **SETTLED}).assert_identical()


@pytest.mark.parametrize("up", SIZES)
@pytest.mark.parametrize("down", SIZES)
def test_a_client_goes_on_after_the_server_closed_its_half(lane, up, down):
    lane.run({"send": down, "recv": up, **SETTLED},
             {"order": "recv", "send": up, "recv": down}).assert_identical()


@pytest.mark.parametrize("up", SIZES)
@pytest.mark.parametrize("down", SIZES)
def test_a_half_closed_before_the_backend_is_connected_still_gets_its_answer(lane, up, down):
    lane.run({"order": "recv", "send": down, "recv": up},
             {"order": "send", "send": up, "recv": down}
             ).assert_identical("short", "not_established", "backlog")


def test_an_answer_may_trickle_long_after_the_client_closed_its_half(lane):
    lane.run({"order": "recv", "send": 2000, "recv": 1 << 20, "chunk": 100, "pause_every": 100,
              "pause_ms": 30},
             {"send": 1 << 20, "recv": 2000, **SETTLED}).assert_identical()


@pytest.mark.parametrize("size", [1, 4096, 1 << 20, 8 << 20])
@pytest.mark.parametrize("timing", [{}, SETTLED], ids=["early", "settled"])
def test_what_a_client_sent_before_it_closed_arrives(lane, size, timing):
    exchange = lane.run({"recv": size, "order": "recv"},
                        {"send": size, "order": "send", "end": "close", **timing})
    exchange.assert_identical(*(() if timing else ("short", "not_established", "backlog")))


@pytest.mark.parametrize("size", [1, 4096, 1 << 20, 8 << 20])
def test_what_a_server_sent_before_it_closed_arrives(lane, size):
    exchange = lane.run({"send": size, "order": "send", "end": "close", **SETTLED},
                        {"recv": size, "order": "recv"})
    exchange.assert_identical()


@pytest.mark.parametrize("size", [1 << 20, 4 << 20])
def test_what_was_sent_before_the_close_reaches_a_slow_reader(lane, size):
    slow = {"stall_every": 1 << 17, "stall_ms": 20, "rcvbuf": 16384, "order": "recv"}
    exchange = lane.run({"recv": size, **slow},
                        {"send": size, "order": "send", "end": "close", **SETTLED})
    exchange.assert_identical()


@pytest.mark.parametrize("size", [1 << 20, 4 << 20])
def test_the_second_half_to_end_reaches_a_slow_reader(lane, size):
    """Nothing is left to wait for when its last bytes are still on their way."""
    slow = {"stall_every": 1 << 17, "stall_ms": 20, "rcvbuf": 16384}
    exchange = lane.run({"recv": size, **slow}, {"send": size, "order": "recv", **SETTLED})
    exchange.assert_identical()


def test_a_connection_without_a_byte_ends_cleanly(lane):
    lane.run({}, SETTLED).assert_identical()
