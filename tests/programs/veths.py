"""Makes and deletes pairs of interfaces as a busy container host does: veths.py PAIRS_A_SECOND SECONDS.

Each tenth of a second it makes the pairs of that time and sets them up in one message, and deletes them in another. Says as JSON
how many there were ("pairs") and how long it took ("seconds"), which is more than SECONDS where the kernel is slower.
"""

import itertools
import json
import socket
import struct
import sys
import time

TURN_S = 0.1
GROUP = 7  # of our interfaces, so that one request deletes them all
# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/veth.h, linux/if.h
REQUEST, ACK, EXCL, CREATE = 1, 4, 0x200, 0x400
NEWLINK, DELLINK, ERROR = 16, 17, 2
IFNAME, LINKINFO, IFGROUP, INFO_KIND, INFO_DATA, PEER = 3, 18, 27, 1, 2, 1
UP = 1


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def link(name: str = "", more: bytes = b"", flags: int = 0) -> bytes:
    """struct ifinfomsg and attributes; without a name all of the group are meant."""
    named = attribute(IFNAME, name.encode() + b"\0") if name else b""
    return struct.pack("BxHiII", 0, 0, 0, flags, flags) + named + attribute(IFGROUP, struct.pack("I", GROUP)) + more


def message(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("IHHII", 16 + len(body), kind, REQUEST | flags, 0, 0) + body


def pair(number: int) -> bytes:
    peer = attribute(PEER, link(f"w{number}"))
    info = attribute(LINKINFO, attribute(INFO_KIND, b"veth") + attribute(INFO_DATA, peer))
    return message(NEWLINK, CREATE | EXCL, link(f"v{number}", info))


def ask(sock: socket.socket, messages: list[bytes]) -> None:
    """Send them in one, the last one with a wish for an answer, and wait for it."""
    head = bytearray(messages[-1])
    struct.pack_into("H", head, 6, struct.unpack_from("H", head, 6)[0] | ACK)
    sock.send(b"".join((*messages[:-1], bytes(head))))
    kind, _flags, _number, _port, error = struct.unpack_from("HHIIi", sock.recv(1 << 16), 4)
    if kind != ERROR or error:
        raise OSError(-error, "rtnetlink")


def main() -> None:
    rate, seconds = float(sys.argv[1]), float(sys.argv[2])
    turns, each = round(seconds / TURN_S), round(rate * TURN_S)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        numbers = itertools.count()
        started = time.monotonic()
        for turn in range(turns):
            ask(sock, [*(pair(next(numbers)) for _ in range(each)), message(NEWLINK, 0, link(flags=UP))])
            ask(sock, [message(DELLINK, 0, link())])
            time.sleep(max(0.0, started + (turn + 1) * TURN_S - time.monotonic()))
        print(json.dumps({"pairs": turns * each, "seconds": time.monotonic() - started}))


main()
