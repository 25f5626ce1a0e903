# SPDX-License-Identifier: MIT
"""Clients with addresses of their own, and frames that come from nobody."""
import contextlib
import json
import random
import select
import socket
import struct
import time

from .net import BACKEND_ADDR, CLIENT, LB
from .process import run


@contextlib.contextmanager
def address(net, side, addr, device="eth0"):
    """<side> has <addr>, too, for a while."""
    bits = "64" if ":" in addr else "24"
    nodad = " nodad" if ":" in addr else ""
    net.ip(side, f"addr add {addr}/{bits} dev {device}{nodad}")
    try:
        yield addr
    finally:
        run("ip", "-n", net.names[side], "addr", "del", f"{addr}/{bits}", "dev", device,
            check=False)


def _family(addr):
    return socket.AF_INET6 if ":" in addr else socket.AF_INET


def attempt(net, to, source=None, seconds=0.7):
    """What a connection is answered: its first bytes, or "reset", "refused", "silence"."""
    def client():
        with socket.socket(_family(to[0])) as s:
            s.settimeout(seconds)
            if source:
                s.bind((source, 0))
            try:
                s.connect(to)
                s.sendall(b"?")
                return s.recv(100).decode() or "closed"
            except ConnectionRefusedError:
                return "refused"
            except ConnectionResetError:
                return "reset"
            except TimeoutError:
                return "silence"
    return net.call(CLIENT, client)


def connects(net, to, source=None, seconds=0.3):
    """Whether a handshake is completed."""
    def client():
        with socket.socket(_family(to[0])) as s:
            s.settimeout(seconds)
            s.bind((source or "", 0))
            return s.connect_ex(to) == 0
    return net.call(CLIENT, client)


def hammer(net, to, rate, seconds, sources=(None,), patience=0.4, answer=b"y"):
    """
    Opens <rate> connections a second, evenly, from <sources> in turn, and gives up on each after
    <patience>. How many were answered (what begins with <answer>), by source, and the time from the
    first to the last.
    """
    def clients():
        answered = dict.fromkeys(sources, 0)
        open_now, poll = {}, select.epoll()
        begin = time.monotonic()
        number, total, last = 0, int(rate * seconds), begin
        while number < total or open_now:
            now = time.monotonic()
            while number < total and begin + number / rate <= now:
                source = sources[number % len(sources)]
                s = socket.socket(_family(to[0]))
                s.setblocking(False)
                if source:
                    s.bind((source, 0))
                s.connect_ex(to)
                open_now[s.fileno()] = (s, source, now)
                poll.register(s, select.EPOLLIN)
                number, last = number + 1, now
            for fd, _ in poll.poll(0.001, 256):
                s, source, _ = open_now.pop(fd)
                try:
                    answered[source] += s.recv(1) == answer
                except OSError:
                    pass
                s.close()
            for fd, (s, source, since) in list(open_now.items()):
                if now - since < patience:
                    break
                open_now.pop(fd)
                s.close()
        poll.close()
        return answered, last - begin
    return net.call(CLIENT, clients)


def says_y(conn, stop):
    """A backend that speaks first: who reads that has been let in."""
    conn.sendall(b"y")
    conn.recv(1)


# --- frames -------------------------------------------------------------------------------------


def _sum16(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def syn_frame(source, source_port, to, macs):
    """An Ethernet frame with the first segment of a connection."""
    a, b = socket.inet_aton(source), socket.inet_aton(to[0])
    tcp = struct.pack("!HHIIBBHHH", source_port, to[1], random.getrandbits(32), 0, 5 << 4, 2,
                      65535, 0, 0)
    check = _sum16(a + b + struct.pack("!BBH", 0, 6, len(tcp)) + tcp)
    tcp = tcp[:16] + struct.pack("!H", check) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0) + a + b
    ip = ip[:10] + struct.pack("!H", _sum16(ip)) + ip[12:]
    return macs + b"\x08\x00" + ip + tcp


def _mac(net, side, device):
    link = json.loads(net.ip(side, f"-j link show dev {device}").stdout)[0]
    return bytes.fromhex(link["address"].replace(":", ""))


def syns(net, sources, to, other_host=False):
    """Frames from the client's side, one of each source; <other_host>: to nobody's card."""
    macs = _mac(net, LB, "lb0") if not other_host else b"\x02\0\0\0\0\x99"
    macs += _mac(net, CLIENT, "eth0")
    return [syn_frame(s, random.randrange(1024, 65535), to, macs) for s in sources]


def send_frames(net, frames, count, per_second=None, device="eth0", stop=None):
    """<count> frames, in turn, at most so many a second. How many were sent."""
    def send():
        sent, begin = 0, time.monotonic()
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
            s.bind((device, 0))
            while sent < count and not (stop and stop.is_set()):
                if per_second and sent > (time.monotonic() - begin) * per_second:
                    time.sleep(0.001)
                    continue
                for _ in range(min(64, count - sent)):
                    try:
                        s.send(frames[sent % len(frames)])
                    except OSError:  # ENOBUFS: the queue is full
                        time.sleep(0.0005)
                        continue
                    sent += 1
        return sent
    return net.call(CLIENT, send)


def backend_addr(port, family=4):
    return f"[{BACKEND_ADDR[6]}]:{port}" if family == 6 else f"{BACKEND_ADDR[4]}:{port}"
