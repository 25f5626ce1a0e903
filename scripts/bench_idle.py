# SPDX-License-Identifier: MIT
"""
Idle flows for the memory measurement, both ends of them.

    bench_idle.py echo ADDR PORT         accept and echo, until killed
    bench_idle.py hold ADDR PORT COUNT   open COUNT flows, pass 64 bytes through each, print "held",
                                         hold them until standard input closes; for each line of it
                                         pass 64 bytes again, and print how many flows still can

A flow that has never carried a byte would flatter whoever allocates buffers late: each one has done
its round trip before it goes idle.
"""

import resource
import selectors
import socket
import sys

PIECE = b"x" * 64


def lift_descriptor_limit():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def echo(addr, port):
    listener = socket.create_server((addr, port), backlog=16384)
    listener.setblocking(False)
    poll = selectors.DefaultSelector()
    poll.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in poll.select():
            if key.fileobj is listener:
                conn, _peer = listener.accept()
                conn.setblocking(False)
                poll.register(conn, selectors.EVENT_READ)
                continue
            conn = key.fileobj
            try:
                data = conn.recv(4096)
                if data:
                    conn.sendall(data)
                    continue
            except OSError:
                pass
            poll.unregister(conn)
            conn.close()


def echoes(flow):
    """One round trip; False when the flow is no more."""
    try:
        flow.sendall(PIECE)
        got = 0
        while got < len(PIECE):
            data = flow.recv(4096)
            if not data:
                return False
            got += len(data)
    except OSError:
        return False
    return True


def hold(addr, port, count):
    flows = []
    for _ in range(count):
        flows.append(socket.create_connection((addr, port), timeout=10))
        if not echoes(flows[-1]):
            sys.exit(f"flow {len(flows)} of {count} was closed before its echo came back")
    print("held", flush=True)
    for _ in sys.stdin:
        print(sum(map(echoes, flows)), flush=True)


def main():
    lift_descriptor_limit()
    if sys.argv[1] == "echo":
        echo(sys.argv[2], int(sys.argv[3]))
    else:
        hold(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))


if __name__ == "__main__":
    main()
