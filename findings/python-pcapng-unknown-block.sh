#!/bin/sh
# python-pcapng 2.1.1 recurses until RecursionError where a program asks a block that it does not know for an attribute.
#
# Seen:     python-pcapng 2.1.1 (the newest release in November 2026), Python 3.11.
# Input:    a pcapng file with a Decryption Secrets Block (type 10), as Wireshark writes it for TLS keys; a program that picks the
#           packets with hasattr(block, "packet_data").
# Expected: False for that block: Python's hasattr() takes an AttributeError for "no". A block of another known type gives False.
# Observed: RecursionError. UnknownBlock never sets the attribute in which __getattr__ looks for names, so each look-up asks __getattr__
#           again. isinstance() is the way around.
#
# Needs python3 with pip, and pip's index. Exit status 0: it is still so.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install -q --no-compile --target "$work/lib" python-pcapng==2.1.1 2>/dev/null
PYTHONPATH=$work/lib python3 - <<'PY'
import io
import struct

import pcapng

KEYS = b"# no key\n"


def block(kind, body):
    body += bytes(-len(body) % 4)
    length = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + length + body + length


file = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
file += block(10, struct.pack("<4sI", b"KSLT", len(KEYS)) + KEYS)
file += block(1, struct.pack("<HHI", 1, 0, 0))
seen = {}
for each in pcapng.FileScanner(io.BytesIO(file)):
    try:
        seen[type(each).__name__] = hasattr(each, "packet_data")
    except RecursionError:
        seen[type(each).__name__] = "RecursionError"
print(seen)
assert seen == {"SectionHeader": False, "UnknownBlock": "RecursionError", "InterfaceDescription": False}
PY
