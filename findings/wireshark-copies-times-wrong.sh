#!/bin/sh
# Wireshark 4.6's editcap changes times in pcapng files that it copies: those of interfaces with an offset or with a very fine unit.
#
# Seen:     editcap of Wireshark 4.6.9 (Debian sid 4.6.9-1+b1); `tshark -r IN -w OUT` alike. Right in editcap 4.0.17 (Debian 12) and in
#           mergecap 4.6.9. dpkt 1.9.8 reads the times here; tshark reads the same.
# Input:    editcap IN OUT, with a packet at 1700000000.25 s (1) on an interface with if_tsoffset 1700000000, (2) on one with
#           if_tsresol 10, units of 10**-10 s.
# Expected: the same times in OUT (editcap(1): without options it copies). pcapng (draft-ietf-opsawg-pcapng, 4.2, options 9 and 14): a
#           packet's time is its count of the interface's units, and the offset is added to it.
# Observed: (1) 3400000000.25 s, since OUT has both the whole time in the packet and the offset in the interface; a copy of the copy is
#           later once more. (2) 170000000.025 s: a count of nanoseconds, and if_tsresol is still 10.
#
# Needs apt, dpkg, patchelf, python3 with pip, and pip's index; fetches about 100 MB. Exit status 0: it is still so.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
sh "$here/../tests/sid.sh" "$work/sid" wireshark-common=4.6.9-1+b1
editcap=$work/sid/usr/bin/editcap
"$editcap" --version 2>/dev/null | head -n 1
"$editcap" --version 2>/dev/null | grep -q 'Editcap (Wireshark) 4.6.9' || { echo "the archive has another version now" >&2; exit 2; }
python3 -m pip install -q --no-compile --target "$work/lib" dpkt==1.9.8 2>/dev/null
PYTHONPATH=$work/lib python3 - "$editcap" "$work" <<'PY'
import struct
import subprocess
import sys

import dpkt

EDITCAP, WORK = sys.argv[1:]
SECONDS, FRACTION = 1_700_000_000, 4  # and a quarter
IF_TSRESOL, IF_TSOFFSET = 9, 14


def block(kind, body):
    body += bytes(-len(body) % 4)
    length = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + length + body + length


def capture(path, option, ticks):
    """A file with one packet, `ticks` of the interface's unit after its offset."""
    with open(path, "wb") as file:
        file.write(block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)))
        file.write(block(1, struct.pack("<HHI", 1, 0, 0) + option + bytes(4)))
        file.write(block(6, struct.pack("<5I", 0, ticks >> 32, ticks & 0xFFFFFFFF, 60, 60) + bytes(60)))


def time_s(path):
    with open(path, "rb") as file:
        [(seconds, _)] = dpkt.pcapng.Reader(file)
    return round(seconds, 6)


def copied(path, times):
    """The packet's time in the file, in its copy, in the copy's copy, ..."""
    seen = [time_s(path)]
    for number in range(times):
        copy = f"{path}.{number}"
        subprocess.run([EDITCAP, path, copy], check=True, stderr=subprocess.DEVNULL)
        seen.append(time_s(copy))
        path = copy
    return seen


offset, fine = f"{WORK}/offset.pcapng", f"{WORK}/fine.pcapng"
capture(offset, struct.pack("<HHq", IF_TSOFFSET, 8, SECONDS), 10**6 // FRACTION)
capture(fine, struct.pack("<HHB3x", IF_TSRESOL, 1, 10), SECONDS * 10**10 + 10**10 // FRACTION)
seen = {"if_tsoffset 1700000000": copied(offset, 2), "if_tsresol 10": copied(fine, 1)}
for what, times in seen.items():
    print(what + ":", *times)
assert list(seen.values()) == [[SECONDS + 0.25, 2 * SECONDS + 0.25, 3 * SECONDS + 0.25], [SECONDS + 0.25, SECONDS / 10 + 0.025]]
PY
