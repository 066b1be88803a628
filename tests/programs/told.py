"""Asks for what a network tells of itself: DHCP for IPv4, router advertisements for IPv6. Takes nothing of it.

told.py INTERFACE WAIT dhcp|ra...    prints {"dhcp": ..., "ra": ...} of those asked for, null for what does not come within WAIT
                                     seconds. The interface is up.
"""

import ipaddress
import json
import select
import socket
import struct
import sys
import time

XID = 0x7A7A7A7A
BOOTP, MAGIC = struct.Struct("!BBBBIHH4s4s4s4s6s10x64x128x"), b"\x63\x82\x53\x63"  # RFC 2131, 2
ASKED = (1, 3, 6, 15, 26, 119, 121)  # RFC 2132, RFC 3397, RFC 3442
ETH_P_IP = 0x0800


def discover(link: str) -> None:
    packet = BOOTP.pack(1, 1, 6, 0, XID, 0, 0x8000, *([bytes(4)] * 4), mac(link)) + MAGIC
    packet += bytes((53, 1, 1, 55, len(ASKED), *ASKED, 255))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("0.0.0.0", 68))
        sock.sendto(packet, ("255.255.255.255", 67))


def mac(link: str) -> bytes:
    with open(f"/sys/class/net/{link}/address", encoding="ascii") as file:
        return bytes.fromhex(file.read().strip().replace(":", ""))


def offer(packet: bytes) -> dict[str, object] | None:
    """Of an IPv4 packet; None if it is none."""
    udp = packet[(packet[0] & 15) * 4 :]
    if packet[9] != socket.IPPROTO_UDP or struct.unpack_from("!H", udp, 2)[0] != 68:
        return None
    fields, rest = BOOTP.unpack_from(udp, 8), udp[8 + BOOTP.size + len(MAGIC) :]
    if fields[4] != XID:
        return None
    found: dict[int, bytes] = {}
    while rest and rest[0] != 255:
        if rest[0] == 0:
            rest = rest[1:]
            continue
        found[rest[0]] = found.get(rest[0], b"") + rest[2 : 2 + rest[1]]
        rest = rest[2 + rest[1] :]
    return {
        "address": socket.inet_ntoa(fields[8]),
        "mask": addresses(found.get(1, b"")),
        "routers": addresses(found.get(3, b"")),
        "nameservers": addresses(found.get(6, b"")),
        "routes": found.get(121, b"").hex(),
        "search": domains(found.get(119, b"")),
        "mtu": int.from_bytes(found.get(26, b""), "big"),  # bytes; 0: none
    }


def addresses(data: bytes) -> list[str]:
    return [socket.inet_ntoa(data[at : at + 4]) for at in range(0, len(data), 4)]


def domains(data: bytes) -> list[str]:
    """RFC 1035, 3.1, with compression within the option (RFC 3397, 2)."""
    found, at = [], 0
    while at < len(data) and data[at]:
        labels, place, end = [], at, 0
        while data[place]:
            if data[place] >= 0xC0:
                end = end or place + 2
                place = (data[place] & 0x3F) << 8 | data[place + 1]
                continue
            labels.append(data[place + 1 : place + 1 + data[place]].decode())
            place += 1 + data[place]
        found.append(".".join(labels))
        at = end or place + 1
    return found


def advertisement(data: bytes, sender: str) -> dict[str, object] | None:
    """RFC 4861, 4.2; RFC 8106."""
    if data[0] != 134:
        return None
    found: dict[str, object] = {"router": sender.partition("%")[0], "default": data[6:8] != b"\0\0", "mtu": 0}
    prefixes, nameservers, search = [], [], []
    at = 16
    while at < len(data):
        kind, size = data[at], data[at + 1] * 8
        option = data[at : at + size]
        if kind == 3:
            network = ipaddress.ip_network((option[16:32], option[2]), strict=False)
            prefixes.append(f"{network} on-link {option[3] >> 7} autonomous {option[3] >> 6 & 1}")
        elif kind == 5:
            found["mtu"] = int.from_bytes(option[4:8], "big")
        elif kind == 25:
            nameservers += [socket.inet_ntop(socket.AF_INET6, option[i : i + 16]) for i in range(8, size, 16)]
        elif kind == 31:
            search += domains(option[8:])
        at += size
    return {**found, "prefixes": prefixes, "nameservers": nameservers, "search": search}


def listener(kind: str, link: str) -> socket.socket:
    """A socket that gets the answer to what has been asked through it, or because of it."""
    if kind == "dhcp":
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
        sock.bind((link, ETH_P_IP))
        discover(link)
        return sock
    sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    sock.sendto(bytes((133, *bytes(7))), ("ff02::2", 0))  # RFC 4861, 4.1
    return sock


def main(link: str, wait_s: float, *kinds: str) -> None:
    told: dict[str, object] = dict.fromkeys(kinds)
    waiting = {}
    for kind in kinds:
        try:
            waiting[listener(kind, link)] = kind
        except OSError:
            continue  # no such family here
    deadline = time.monotonic() + wait_s
    while waiting and (left := deadline - time.monotonic()) > 0:
        for sock in select.select(list(waiting), [], [], left)[0]:
            data, sender = sock.recvfrom(65536)
            answer = offer(data) if waiting[sock] == "dhcp" else advertisement(data, sender[0])
            if answer:
                told[waiting.pop(sock)] = answer
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), *sys.argv[3:])
