# SPDX-License-Identifier: MIT
"""What a TLS client says first, for those who look at it and decrypt nothing."""
import contextlib
import ssl
import struct

from . import tls


def message(name, padding=0):
    """What OpenSSL says first when it asks for <name>, without its record, and <padding> more."""
    context, out = tls.client_context(verify=False), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    body = bytearray(out.read()[5 + 4:])
    at = 2 + 32
    at += 1 + body[at]
    at += 2 + int.from_bytes(body[at:at + 2], "big")
    at += 1 + body[at]
    # An extension that nobody knows, in front of all others.
    more = struct.pack("!HH", 0xfafa, padding) + bytes(padding)
    size = int.from_bytes(body[at:at + 2], "big") + len(more)
    body[at:at + 2] = size.to_bytes(2, "big") + more
    return b"\x01" + len(body).to_bytes(3, "big") + bytes(body)


def records(text, size=16384):
    return b"".join(b"\x16\x03\x01" + struct.pack("!H", len(piece)) + piece
                    for piece in (text[i:i + size] for i in range(0, len(text), size)))
