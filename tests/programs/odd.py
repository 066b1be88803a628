"""Frames that few send, put on an interface as they are; the server echoes each datagram that it was given (`answer.py echo`).

odd.py INTERFACE ADDRESS PORT      {"datagrams": NAMES, "answered": NAMES}: what came back, and which SYNs got an answer
"""

import errno
import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from packets import checksum

PATIENCE_S = 30
ETH_P_ALL = 3
UDP, TCP, HOP_OPTIONS, ROUTING, DESTINATION_OPTIONS = 17, 6, 0, 43, 60
SYN, FIN = 2, 1
OPTIONS = b"\x01" * 6  # RFC 9868, 11.2: all NOP, an even number, so that they could be taken for data


class Way:
    """From here to the server: addresses of both layers, and the ports."""

    def __init__(self, interface: str, address: str, port: int) -> None:
        self.v4, self.port, self.address = ":" not in address, port, address
        self.sock = socket.socket(socket.AF_INET if self.v4 else socket.AF_INET6, socket.SOCK_DGRAM)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect((address, port))
        self.own, self.own_port = self.sock.getsockname()[:2]
        self.echo(b"begin")  # the neighbour is known now
        self.raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.raw.bind((interface, ETH_P_ALL))
        self.raw.settimeout(PATIENCE_S)
        self.link = self.neighbour() + self.raw.getsockname()[4]

    def echo(self, data: bytes) -> list[str]:
        """Send a datagram as others do; what has come back by the time it does. An error is an odd frame's, and told once."""
        found: list[str] = []
        sent, came = False, b""
        while came != data:
            try:
                sent = sent or bool(self.sock.send(data))
                came = self.sock.recv(65536)
            except OSError as error:
                if error.errno != errno.EPROTO:
                    raise
                continue
            found.append(came.rstrip(b" \x01").decode())
        return found[:-1]

    def neighbour(self) -> bytes:
        (route,) = json.loads(subprocess.run(["ip", "-j", "route", "get", self.address], capture_output=True, check=True).stdout)
        via = route.get("gateway", self.address)
        entries = json.loads(subprocess.run(["ip", "-j", "neigh", "show", via], capture_output=True, check=True).stdout)
        return bytes.fromhex(next(each["lladdr"] for each in entries if "lladdr" in each).replace(":", ""))

    def pseudo(self, proto: int, length: int) -> bytes:
        family = socket.AF_INET if self.v4 else socket.AF_INET6
        ends = socket.inet_pton(family, self.own) + socket.inet_pton(family, self.address)
        return ends + struct.pack("!II", length, proto)

    def packet(self, proto: int, payload: bytes, chain: bytes = b"", first: int = 0) -> bytes:
        """An Ethernet payload; `chain`: IPv6 extension headers, of which the first is of the type `first`."""
        if not self.v4:
            head = struct.pack("!IHBB", 6 << 28, len(chain) + len(payload), first if chain else proto, 64)
            return head + self.pseudo(0, 0)[:32] + chain + payload
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0x4000, 64, proto, 0) + self.pseudo(0, 0)[:8]
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload

    def datagram(
        self, data: bytes, length: int | None = None, covered: int | None = None, behind: bytes = b"", flaw: int = 0
    ) -> bytes:
        """UDP; `covered` bytes of it make the checksum, with that length in the pseudo-header."""
        length = 8 + len(data) if length is None else length
        whole = struct.pack("!HHHH", self.own_port, self.port, length, 0) + data + behind
        covered = length if covered is None else covered
        value = checksum(self.pseudo(UDP, covered) + whole[:covered]) or 0xFFFF
        return whole[:6] + struct.pack("!H", value ^ flaw) + whole[8:]

    def segment(self, source: int, flags: int) -> bytes:
        head = struct.pack("!HHIIBBHHH", source, self.port, 1000, 0, 5 << 4, flags, 65535, 0, 0)
        return head[:16] + struct.pack("!H", checksum(self.pseudo(TCP, 20) + head)) + head[18:]

    def send(self, packet: bytes, tags: bytes = b"") -> None:
        self.raw.send(self.link + tags + (b"\x08\x00" if self.v4 else b"\x86\xdd") + packet)


def chain_of(types: list[int]) -> bytes:
    """Extension headers of 8 bytes of padding each; a routing header has nowhere left to go."""
    out = b""
    for index, kind in enumerate(types):
        following = types[index + 1] if index + 1 < len(types) else UDP
        out += bytes([following, 0, 0, 0]) + bytes(4) if kind == ROUTING else bytes([following, 0, 1, 4]) + bytes(4)
    return out


def lengths(way: Way) -> Iterator[tuple[str, bytes]]:
    """What the length of UDP says, and what there is."""
    make: Callable[..., bytes] = way.datagram
    for name, data in (
        ("options behind the data", lambda d: make(d, behind=OPTIONS)),
        ("options of odd length", lambda d: make(d, behind=OPTIONS[:5])),
        ("options, and a checksum that covers them", lambda d: make(d, covered=8 + len(d) + 6, behind=OPTIONS)),
        ("options, and a wrong checksum", lambda d: make(d, behind=OPTIONS, flaw=0x100)),
        ("a length beyond the end", lambda d: make(d, length=8 + len(d) + 1)),
        ("a length of 7", lambda d: make(d, length=7, covered=8 + len(d))),
        ("a length of 0", lambda d: make(d, length=0, covered=8 + len(d))),
        ("a wrong checksum", lambda d: make(d, flaw=0x100)),
    ):
        yield name, way.packet(UDP, data(name.ljust(48).encode()))


TAGS = {
    "no tag": b"",
    "a priority tag": b"\x81\x00\xa0\x00",
    "a priority tag of 802.1ad": b"\x88\xa8\xa0\x00",
    "two priority tags": b"\x88\xa8\xa0\x00\x81\x00\x20\x00",
    "fifty priority tags": b"\x81\x00\xa0\x00" * 50,
    "a tag of VLAN 1": b"\x81\x00\xa0\x01",
    "a tag of VLAN 1 in a priority tag": b"\x81\x00\xa0\x00\x81\x00\x00\x01",
}
CHAINS = {
    **{f"{count} extension headers": [DESTINATION_OPTIONS] * count for count in (1, 7, 8, 9, 20, 150)},
    "a routing header": [ROUTING],
    "hop-by-hop options first": [HOP_OPTIONS, DESTINATION_OPTIONS],
    "hop-by-hop options second": [DESTINATION_OPTIONS, HOP_OPTIONS],
    "hop-by-hop options twice": [HOP_OPTIONS, HOP_OPTIONS],
}


def answered(way: Way) -> list[str]:
    """The SYNs that got an answer by the time an ordinary one does."""
    names = {way.own_port ^ 1: "SYN", way.own_port ^ 2: "SYN and FIN"}
    for port, flags in ((way.own_port ^ 2, SYN | FIN), (way.own_port ^ 1, SYN)):
        way.send(way.packet(TCP, way.segment(port, flags)))
    found: list[str] = []
    deadline = time.monotonic() + PATIENCE_S
    while "SYN" not in found and time.monotonic() < deadline:
        frame = way.raw.recv(65536)
        at = 14 + (20 if way.v4 else 40)
        source, target = struct.unpack_from("!HH", frame, at) if len(frame) >= at + 4 else (0, 0)
        if frame[23 if way.v4 else 20] == TCP and source == way.port and target in names:
            found.append(names[target])
    return found


def main(interface: str, address: str, port: int) -> None:
    way = Way(interface, address, port)
    for _name, packet in lengths(way):
        way.send(packet)
    for name, value in TAGS.items():
        way.send(way.packet(UDP, way.datagram(name.encode())), value)
    for name, types in () if way.v4 else CHAINS.items():
        way.send(way.packet(UDP, way.datagram(name.encode()), chain_of(types), types[0]))
    print(json.dumps({"datagrams": sorted(way.echo(b"end")), "answered": answered(way)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
