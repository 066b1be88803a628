"""Asks for each ICMP error that icmp_answer.py makes, with TCP, UDP and ping, and prints what the own kernel makes of it.

icmp_ask.py [EXPECTED...]    {"PROTOCOL/FAMILY/TYPE/CODE": [ERRNO NAME, ERROR QUEUE ENTRY or null]}, without what was silent

An entry is [origin, type, code, info, offender's address] (struct sock_extended_err, ip(7)); TCP has none. Waits for what
is expected, and until nothing more has come for QUIET_S.
"""

import errno
import json
import selectors
import socket
import struct
import sys
import time

QUIET_S = 4  # a SYN is repeated after 1 s, and after 2 s more (RFC 6298, 2.1)
LONGEST_S = 45
ERRORS = {
    4: [(3, code) for code in range(17)] + [(4, 0), (11, 0), (11, 1), (12, 0), (12, 1), (12, 2)],
    6: [(1, c) for c in range(9)] + [(2, 0), (3, 0), (3, 1)] + [(4, c) for c in range(4)] + [(5, 0), (100, 0), (127, 0)],
}
MSG_ERRQUEUE = 0x2000
RECVERR = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}  # IP_RECVERR, IPV6_RECVERR
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM, "ping": socket.SOCK_DGRAM}
PING = {4: (socket.IPPROTO_ICMP, 8), 6: (socket.IPPROTO_ICMPV6, 128)}  # protocol and type of an echo request


def begin(protocol: str, family: int, kind: int, code: int) -> socket.socket:
    """A socket to which that error will come."""
    where = f"198.18.{kind}.{code}" if family == 4 else f"2001:db8:3::{kind:x}:{code:x}"
    sock = socket.socket(
        socket.AF_INET if family == 4 else socket.AF_INET6,
        KINDS[protocol] | socket.SOCK_NONBLOCK,
        PING[family][0] if protocol == "ping" else 0,
    )
    if protocol != "tcp":
        sock.setsockopt(*RECVERR[family], 1)
    failed = sock.connect_ex((where, 7))
    assert failed in (0, errno.EINPROGRESS), errno.errorcode[failed]
    if protocol == "udp":
        sock.send(b"anyone?")
    elif protocol == "ping":
        sock.send(struct.pack("!BBHHH", PING[family][1], 0, 0, 0, 1) + b"anyone?")
    return sock


def from_queue(sock: socket.socket, family: int) -> list[object]:
    _, control, _, _ = sock.recvmsg(2000, 512, MSG_ERRQUEUE)
    ((_, _, data),) = [c for c in control if c[:2] == RECVERR[family]]
    _, origin, kind, code, _, info, _ = struct.unpack_from("=IBBBBII", data)
    address = data[20:24] if family == 4 else data[24:40]
    return [origin, kind, code, info, socket.inet_ntop(sock.family, address)]


def main(expected: set[str]) -> None:
    results: dict[str, list[object]] = {}
    with selectors.DefaultSelector() as selector:
        for family, errors in ERRORS.items():
            for protocol in KINDS:
                for kind, code in errors:
                    name = f"{protocol}/{family}/{kind}/{code}"
                    events = selectors.EVENT_READ | (selectors.EVENT_WRITE if protocol == "tcp" else 0)
                    selector.register(begin(protocol, family, kind, code), events, (name, protocol, family))
        started = last = time.monotonic()
        while (now := time.monotonic()) < started + LONGEST_S and (now < last + QUIET_S or expected - set(results)):
            for key, _ in selector.select(0.1):
                sock, (name, protocol, family) = key.fileobj, key.data
                assert isinstance(sock, socket.socket)
                failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                entry = None if protocol == "tcp" else from_queue(sock, family)
                results[name] = [errno.errorcode[failed], entry]
                selector.unregister(sock)
                last = time.monotonic()
    print(json.dumps(results))


if __name__ == "__main__":
    main(set(sys.argv[1:]))
