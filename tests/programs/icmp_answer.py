"""A machine that answers each packet to 198.18.T.C, or 2001:db8:3::T:C, with the ICMP error of type T and code C.

icmp_answer.py INTERFACE ADDRESS4 ADDRESS6    from these addresses, until its input ends; needs CAP_NET_RAW
"""

import json
import select
import socket
import struct
import sys

from packets import checksum

ETH_IPV4, ETH_IPV6 = 0x0800, 0x86DD
ICMP, ICMPV6 = 1, 58
QUOTE_BYTES = 128
PREFIX4, PREFIX6 = bytes([198, 18]), socket.inet_pton(socket.AF_INET6, "2001:db8:3::")[:12]
MTU = 1400  # told in "fragmentation needed" and "too big"
POINTER = 6  # told in a parameter problem


def with_checksum(message: bytes, pseudo: bytes = b"") -> bytes:
    return message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]


def answer4(packet: bytes, own: bytes) -> bytes | None:
    kind, code = packet[18], packet[19]
    if packet[16:18] != PREFIX4:
        return None
    rest = POINTER << 24 if kind == 12 else MTU if (kind, code) == (3, 4) else 0
    message = with_checksum(struct.pack("!BBHI", kind, code, 0, rest) + packet[:QUOTE_BYTES])
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(message), 0, 0, 64, ICMP, 0) + own + packet[12:16]
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + message


def answer6(packet: bytes, own: bytes) -> bytes | None:
    kind, code = packet[37], packet[39]
    if packet[24:36] != PREFIX6:
        return None
    rest = MTU if kind == 2 else POINTER if kind == 4 else 0
    message = struct.pack("!BBHI", kind, code, 0, rest) + packet[:QUOTE_BYTES]
    addresses = own + packet[8:24]
    message = with_checksum(message, addresses + struct.pack("!II", len(message), ICMPV6))
    return struct.pack("!IHBB", 6 << 28, len(message), ICMPV6, 64) + addresses + message


def main(interface: str, address4: str, address6: str) -> None:
    own4, own6 = socket.inet_pton(socket.AF_INET, address4), socket.inet_pton(socket.AF_INET6, address6)
    answered = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as wire:
        wire.bind((interface, 3))
        print("ready", flush=True)
        while sys.stdin not in (found := select.select([wire, sys.stdin], [], [])[0]):
            frame, address = wire.recvfrom(70000)
            if not found or address[2] == socket.PACKET_OUTGOING:
                continue
            kind = int.from_bytes(frame[12:14], "big")
            error = None
            if kind == ETH_IPV4:
                error = answer4(frame[14:], own4)
            elif kind == ETH_IPV6:
                error = answer6(frame[14:], own6)
            if error:
                wire.send(frame[6:12] + frame[:6] + frame[12:14] + error)
                answered += 1
    print(json.dumps({"answered": answered}))


if __name__ == "__main__":
    main(*sys.argv[1:])
