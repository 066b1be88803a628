#!/bin/sh
# scapy 2.8.0 and python-pcapng 2.1.1 leave out a pcapng interface's offset of time (if_tsoffset); dpkt and tshark add it.
#
# Seen:     scapy 2.8.0 and python-pcapng 2.1.1 (the newest releases in November 2026), dpkt 1.9.8 for comparison, Python 3.11.
# Input:    an interface with if_tsoffset 1700000000, and a packet at 250000 microseconds.
# Expected: 1700000000.25 s. pcapng (draft-ietf-opsawg-pcapng, 4.2, option 14): the offset in seconds is added to the time of each
#           packet.
# Observed: 0.25 s from both. python-pcapng shows the option in the interface's options; scapy does not keep it.
#
# Needs python3 with pip, and pip's index. Exit status 0: it is still so.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install -q --no-compile --target "$work/lib" scapy==2.8.0 python-pcapng==2.1.1 dpkt==1.9.8 2>/dev/null
HOME=$work PYTHONPATH=$work/lib python3 - "$work/offset.pcapng" <<'PY'
import struct
import sys

import dpkt
import pcapng
from scapy.utils import rdpcap

OFFSET_S = 1_700_000_000
IF_TSOFFSET = 14


def block(kind, body):
    body += bytes(-len(body) % 4)
    length = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + length + body + length


frame = bytes(60)
with open(sys.argv[1], "wb") as file:
    file.write(block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)))
    file.write(block(1, struct.pack("<HHI", 1, 0, 0) + struct.pack("<HHqHH", IF_TSOFFSET, 8, OFFSET_S, 0, 0)))
    file.write(block(6, struct.pack("<5I", 0, 0, 250_000, len(frame), len(frame)) + frame))

seen = {"scapy": float(rdpcap(sys.argv[1])[0].time)}
with open(sys.argv[1], "rb") as file:
    [packet] = [each for each in pcapng.FileScanner(file) if isinstance(each, pcapng.blocks.EnhancedPacket)]
    seen["python-pcapng"] = float(packet.timestamp)
with open(sys.argv[1], "rb") as file:
    [(seen["dpkt"], _)] = dpkt.pcapng.Reader(file)
print(seen)
assert seen == {"scapy": 0.25, "python-pcapng": 0.25, "dpkt": OFFSET_S + 0.25}
PY
