"""An echo request that says itself how many hops it may take, 0 too, which ping(8) refuses.

hops.py SOURCE ADDRESS TTL    prints {"type": type of the ICMP message that comes back, "from": its sender}; type null after 20 s
"""

import json
import os
import socket
import struct
import sys
import time

from packets import checksum

PATIENCE_S = 20
ANSWERS = {4: (0, 11), 6: (129, 3)}  # RFC 792, RFC 4443: echo reply, time exceeded


def main(source: str, address: str, ttl: int) -> None:
    six = ":" in address
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
    ident = os.getpid() & 0xFFFF
    echo = struct.pack("!BBHHH", 128 if six else 8, 0, 0, ident, 1)
    echo = echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]
    sock = socket.socket(family, socket.SOCK_RAW, protocol)
    if six:
        sock.bind((source, 0))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        ends = socket.inet_aton(source) + socket.inet_aton(address)
        echo = struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, ttl, protocol, 0) + ends + echo  # the kernel fills in the rest
    sock.sendto(echo, (address, 0))
    deadline = time.monotonic() + PATIENCE_S
    found: dict[str, object] = {"type": None, "from": None}
    while found["type"] is None and (left := deadline - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            data, peer = sock.recvfrom(2000)
        except TimeoutError:
            break
        message = data if six else data[20:]
        if message[0] in ANSWERS[6 if six else 4] and struct.pack("!HH", ident, 1) in message:
            found = {"type": message[0], "from": peer[0]}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
