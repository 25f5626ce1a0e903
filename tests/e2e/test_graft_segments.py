# SPDX-License-Identifier: MIT
"""
Grafted flows, seen as segments: how large they are, what they carry, and what a stranger's must not
be able to do.
"""
import pytest

from lbtest.grafting import (ACK, FIN, PSH, RST, SYN, forge, mtu, offloads, own_address, router,
                             sysctls)
from lbtest.net import BACKEND, BACKEND_ADDR, CLIENT, LB
from lbtest.process import wait_until
from lbtest.talk import positions

# --- sizes, checksums, options ------------------------------------------------------------------


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("off", [("tso", "gso"), ("gro",), ("tx",), ("tx", "gro"), ("rx",)],
                         ids=" ".join)
@pytest.mark.parametrize("where", ["the peers", "everywhere"])
def test_offloads_may_be_off(grafting, net, off, where, family):
    sides = (CLIENT, BACKEND) if where == "the peers" else (CLIENT, LB, BACKEND)
    with offloads(net, "off", *off, sides=sides):
        g = grafting(family)
        with g.talk() as talk:
            talk.exchange(2 << 20)
            g.end(talk)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("side,bytes_", [(CLIENT, 9000), (BACKEND, 9000), (CLIENT, 1400),
                                         (BACKEND, 1400)])
def test_the_legs_may_carry_segments_of_different_sizes(grafting, net, side, bytes_, family):
    with mtu(net, [side], bytes_):
        g = grafting(family)
        with g.talk() as talk:
            talk.exchange(2 << 20)
            g.end(talk)


def test_a_client_that_was_promised_too_large_segments_is_not_grafted(grafting, net):
    g = grafting()
    # Behind the daemon's back: it has looked at the routes at its start.
    with mtu(net, [BACKEND], 1400), g.talk(grafted=False) as talk:
        talk.exchange(1 << 20)
        g.end(talk, why="mss")


OPTIONS = {
    "timestamps": "net.ipv4.tcp_timestamps=0",
    "sack": "net.ipv4.tcp_sack=0",
    "window_scaling": "net.ipv4.tcp_window_scaling=0",
    "ecn": "net.ipv4.tcp_ecn=1",
}


@pytest.mark.parametrize("which", OPTIONS)
@pytest.mark.parametrize("where", ["client", "backend", "both"])
def test_legs_are_grafted_when_their_options_agree(grafting, net, which, where):
    name, value = OPTIONS[which].split("=")
    sides = [CLIENT, BACKEND] if where == "both" else [where]
    settings = [(side, name, value) for side in sides]
    agree = where == "both" or which == "window_scaling"
    if which == "ecn":
        # Who opens a connection asks for it: that is us on the backend's leg.
        settings = [(side, name, value) for side in
                    {"client": [CLIENT], "backend": [LB], "both": [CLIENT, LB]}[where]]
    with sysctls(net, settings):
        g = grafting()
        with g.talk(grafted=agree) as talk:
            talk.exchange(2 << 20)
            g.end(talk, why="none" if agree else "tcp_options")


@pytest.mark.parametrize("rmem", ["4096 8192 16384", "4096 131072 33554432"])
@pytest.mark.parametrize("side", [CLIENT, LB, BACKEND])
def test_the_legs_may_scale_their_windows_differently(grafting, net, side, rmem):
    with sysctls(net, [(side, "net.ipv4.tcp_rmem", rmem)]):
        g = grafting()
        with g.talk() as talk:
            talk.exchange(4 << 20)
            g.end(talk)


# --- strangers ----------------------------------------------------------------------------------

# {what: (flags, distance from the number that is expected next, payload)}
HARMLESS = {
    "reset just ahead": (RST, 1, b""),
    "reset in the window": (RST | ACK, 20000, b""),
    "reset behind": (RST, -1, b""),
    "reset far away": (RST, 1 << 30, b""),
    "fin behind": (FIN | ACK, -70000, b""),
    "fin far ahead": (FIN | ACK, 1 << 29, b""),
    "data behind": (PSH | ACK, -5000, b"x" * 1000),
    "data far ahead": (PSH | ACK, 1 << 30, b"x" * 1000),
    "syn in the window": (SYN, 1000, b""),
    "syn at the exact number": (SYN, 0, b""),
    "syn far away": (SYN, -(1 << 30), b""),
    "syn-ack": (SYN | ACK, 0, b""),
}


@pytest.mark.parametrize("from_side", [CLIENT, BACKEND])
@pytest.mark.parametrize("as_whom", ["client", "server"])
@pytest.mark.parametrize("what", HARMLESS)
def test_a_stranger_does_no_more_harm_than_to_a_direct_connection(grafting, net, what, as_whom,
                                                                  from_side):
    flags, distance, payload = HARMLESS[what]
    g = grafting()
    with g.talk() as talk:
        talk.exchange(200000)
        before = g.packets()
        end = getattr(talk, as_whom)
        sends, expects = positions(end)
        for _ in range(3):
            forge(net, from_side, end.getsockname(), end.getpeername(), flags, sends + distance,
                  expects, payload)
        # It was a packet of this flow, and was judged by the one it is for.
        wait_until(lambda: g.packets() >= before + 3, 2, "the forged packets are forwarded")
        talk.exchange(200000)
        assert g.daemon.grafted() == 1
        g.end(talk)


@pytest.mark.parametrize("as_whom", ["client", "server"])
def test_a_reset_with_the_exact_number_ends_the_flow_for_both(grafting, net, as_whom):
    g = grafting()
    with g.talk() as talk:
        talk.exchange(200000)
        sender = getattr(talk, as_whom)
        receiver = talk.server if as_whom == "client" else talk.client
        sends, expects = positions(sender)
        forge(net, CLIENT, sender.getsockname(), sender.getpeername(), RST, sends, expects)
        assert talk.ends(receiver) == "rst"
        # Who was impersonated learns of it when it speaks next, as ever.
        sender.send(b"x")
        assert talk.ends(sender) == "rst"
        flow, = g.daemon.wait_flows(1, "r")
        assert flow["reason"] == f"reset_by_{'client' if as_whom == 'client' else 'backend'}", flow


# --- a router with a narrow way behind it -------------------------------------------------------


@pytest.mark.parametrize("family", [4, 6])
def test_a_backend_learns_what_the_way_to_the_client_carries(grafting, net, family):
    with router(net, 1300):
        g = grafting(listen=own_address(family, 9), backend=BACKEND_ADDR[family])
        with g.talk() as talk:
            talk.exchange(1 << 20)
            assert g.packets("icmp") >= 1
            g.end(talk)
        net.ip(BACKEND, f"-{family} route flush cache")
