"""Datagrams to groups, one after the other from one socket, and what comes back.

group_ask.py PORT GROUP/PORT/TTL[/SIZE[/COUNT]]... [-- ADDRESS PORT]    PORT: to send from, 0 for any

A question is COUNT datagrams in one call (UDP_SEGMENT). Then, where given, something is sent to this closed port of a machine,
and only its refusal is waited for; else an answer. {"answer": [ADDRESS, PORT, TEXT] or null, "refused": ERRNO NAME or null}
"""

import errno
import json
import socket
import struct
import sys

ANSWER_S = 20
SO_BROADCAST, IP_RECVERR, IP_MULTICAST_TTL, IP_TTL, IPV6_MULTICAST_HOPS = 6, 11, 33, 2, 18
MSG_ERRQUEUE = 0x2000
UDP_SEGMENT = 103  # linux/udp.h


def ask(sock: socket.socket, group: str, port: int, ttl: int, size: int = 10, count: int = 1) -> None:
    six = ":" in group
    if six:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MULTICAST_HOPS, ttl)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_TTL, ttl)
        sock.setsockopt(socket.IPPROTO_IP, IP_TTL, ttl)
    index = next(index for index, name in socket.if_nameindex() if name != "lo")
    options = [(socket.SOL_UDP, UDP_SEGMENT, size.to_bytes(2, sys.byteorder))] if count > 1 else []
    sock.sendmsg([bytes(size * count)], options, 0, (group, port, 0, index) if six else (group, port))


def main(from_port: int, questions: list[str], closed: list[str]) -> None:
    six = ":" in questions[0]
    result: dict[str, object] = {"answer": None, "refused": None}
    with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(ANSWER_S)
        if not six:
            sock.setsockopt(socket.SOL_SOCKET, SO_BROADCAST, 1)
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        sock.bind(("", from_port))
        for question in questions:
            group, port, ttl, *more = question.split("/")
            ask(sock, group, int(port), int(ttl), *map(int, more))
        if closed:
            sock.sendto(b"?", (closed[0], int(closed[1])))
        try:
            data, address = sock.recvfrom(2000)
            result["answer"] = [address[0].partition("%")[0], address[1], data.decode()]
        except OSError as error:
            result["refused"] = errno.errorcode.get(error.errno or 0, "silence")
        if closed and result["refused"]:  # the first error that came, and about what
            _, control, _, about = sock.recvmsg(2000, 512, MSG_ERRQUEUE)
            ((_, _, entry),) = [c for c in control if c[:2] == (socket.IPPROTO_IP, IP_RECVERR)]
            result["refused"] = [errno.errorcode[struct.unpack_from("=I", entry)[0]], *about[:2]]
    print(json.dumps(result))


if __name__ == "__main__":
    first = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    main(int(sys.argv[1]), sys.argv[2:first], sys.argv[first + 1 :])
