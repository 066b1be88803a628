#!/bin/sh
# scapy 2.8.0 reads the packets of a pcapng file's second section with the interfaces of the first: wrong times, wrong link type.
#
# Seen:     scapy 2.8.0 (the newest release in November 2026), Python 3.11; python-pcapng 2.1.1 for comparison.
# Input:    two pcapng files one after the other (cat a b): the first of Ethernet with microseconds, the second of raw IPv4 with
#           nanoseconds (if_tsresol 9), one packet each, both at 1700000000.25 s.
# Expected: both packets at 1700000000.25 s, Ethernet and IPv4. pcapng (draft-ietf-opsawg-pcapng, 4.2): interfaces are numbered from 0
#           in each section, and the same number means different interfaces in two sections. python-pcapng and tshark do this.
# Observed: the second packet has 1700000000250 s, and is taken for an Ethernet frame.
#
# Needs python3 with pip, and pip's index. Exit status 0: it is still so.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install -q --no-compile --target "$work/lib" scapy==2.8.0 python-pcapng==2.1.1 2>/dev/null
HOME=$work PYTHONPATH=$work/lib python3 - "$work/two.pcapng" <<'PY'
import struct
import sys

import pcapng
from scapy.layers.inet import IP
from scapy.layers.l2 import ARP, Ether
from scapy.utils import rdpcap

SECONDS = 1_700_000_000.25
ETHERNET, RAW_IPV4 = 1, 228
IF_TSRESOL = 9


def block(kind, body):
    body += bytes(-len(body) % 4)
    length = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + length + body + length


def section(link_type, decimals, packet):
    """A whole pcapng file: header, one interface with 10**-decimals s, one packet."""
    ticks = int(SECONDS * 10**decimals)
    options = struct.pack("<HHB3xHH", IF_TSRESOL, 1, decimals, 0, 0)
    start = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    interface = block(1, struct.pack("<HHI", link_type, 0, 0) + options)
    return start + interface + block(6, struct.pack("<5I", 0, ticks >> 32, ticks & 0xFFFFFFFF, len(packet), len(packet)) + packet)


frame = bytes(Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="192.0.2.1", pdst="192.0.2.2"))
datagram = bytes(IP(src="192.0.2.1", dst="192.0.2.2") / b"data")
with open(sys.argv[1], "wb") as file:
    file.write(section(ETHERNET, 6, frame) + section(RAW_IPV4, 9, datagram))

with open(sys.argv[1], "rb") as file:
    packets = [each for each in pcapng.FileScanner(file) if isinstance(each, pcapng.blocks.EnhancedPacket)]
    right = [(round(float(each.timestamp), 2), each.interface.link_type) for each in packets]
print("python-pcapng:", right)
seen = [(round(float(each.time), 2), type(each).__name__) for each in rdpcap(sys.argv[1])]
print("scapy:        ", seen)
assert right == [(SECONDS, ETHERNET), (SECONDS, RAW_IPV4)]
assert seen == [(SECONDS, "Ether"), (SECONDS * 1000, "Ether")]
PY
