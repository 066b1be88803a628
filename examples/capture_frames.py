"""Capture the frames of a command, and look at them: which addresses did it ask for?

A capture in pcap's format is a header of 24 bytes, then records: 16 bytes of which the third word is the length, and the frame.
"""

import struct
import sys
import tempfile
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pasta_py

ETHERTYPE_IPV4 = 0x0800
HOST = "192.0.2.200"  # where the command finds the host's loopback
# It is answered before it ends: what a command has only just sent can end with its network.
CONNECT = f"import socket; socket.socket().connect_ex(('{HOST}', 9))"


def frames(capture: bytes) -> Iterator[bytes]:
    """The Ethernet frames of a capture."""
    at = 24
    while at < len(capture):
        (length,) = struct.unpack_from("=I", capture, at + 8)
        yield capture[at + 16 : at + 16 + length]
        at += 16 + length


def destinations(capture: bytes) -> set[str]:
    """Where the IPv4 packets of a capture go."""
    found = set()
    for frame in frames(capture):
        (ethertype,) = struct.unpack_from("!H", frame, 12)
        if ethertype == ETHERTYPE_IPV4:
            found.add(str(IPv4Address(frame[30:34])))
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        capture = Path(directory, "out.pcap")
        pasta_py.run([sys.executable, "-c", CONNECT], pcap=capture, ipv4_only=True, map_host_loopback=HOST, check=True)
        print(f"sent to {HOST}:", HOST in destinations(capture.read_bytes()))


if __name__ == "__main__":
    main()
