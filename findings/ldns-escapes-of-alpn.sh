#!/bin/sh
# ldns reads the escapes of a list of protocols (alpn) in an SVCB record wrong: two protocols become three, with backslashes in them.
#
# Seen:     ldns 1.8.3 (Debian 12 ldnsutils 1.8.3-1+b1), and 1.9.2 (Debian sid) alike; dnspython 2.9.2 for comparison, Python 3.11.
# Input:    the test vector of RFC 9460 (appendix D.2) with a comma and a backslash in a protocol's name, in its two forms, through
#           ldns-read-zone -u SVCB, which prints a record's bytes.
# Expected: in both forms a list of "f\oo,bar" and "h2": 08 66 5c 6f 6f 2c 62 61 72 02 68 32, as the RFC has it. dnspython
#           reads so, and dig and kdig print such a record in the first of the two forms.
# Observed: a list of "f\\oo\", "bar" and "h2". drill prints a right record of this kind with half of the backslashes, which dnspython
#           refuses.
#
# Needs apt, dpkg and libssl3 of Debian 12, python3 with pip, and pip's index. Exit status 0: it is still so.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
(cd "$work" && apt-get download -q ldnsutils=1.8.3-1+b1 libldns3=1.8.3-1+b1 >/dev/null 2>&1) ||
    { echo "ldnsutils 1.8.3-1+b1 cannot be fetched here" >&2; exit 2; }
for package in "$work"/*.deb; do
    dpkg-deb -x "$package" "$work/root"
done
python3 -m pip install -q --no-compile --target "$work/lib" dnspython==2.9.2 2>/dev/null
cat >"$work/zone" <<'ZONE'
a.example. 300 IN SVCB 16 foo.example.org. alpn="f\\\\oo\\,bar,h2"
b.example. 300 IN SVCB 16 foo.example.org. alpn=f\\\092oo\092,bar,h2
ZONE
export LD_LIBRARY_PATH="$(echo "$work"/root/usr/lib/*-linux-gnu*)"
"$work/root/usr/bin/ldns-read-zone" -v
"$work/root/usr/bin/ldns-read-zone" -u SVCB "$work/zone" >"$work/seen"
PYTHONPATH=$work/lib python3 - "$work/zone" "$work/seen" <<'PY'
import sys

import dns.rdata

START = b"\x00\x10\x03foo\x07example\x03org\x00" + b"\x00\x01"  # priority, target; key 1, alpn


def value(*protocols):
    listed = b"".join(bytes([len(protocol)]) + protocol for protocol in protocols)
    return START + len(listed).to_bytes(2, "big") + listed


with open(sys.argv[1]) as zone, open(sys.argv[2]) as seen:
    right = [dns.rdata.from_text("IN", "SVCB", line.split(None, 4)[4].strip()).to_wire() for line in zone]
    wrong = [bytes.fromhex(line.rsplit(None, 1)[1]) for line in seen]
for name, wires in (("dnspython", right), ("ldns", wrong)):
    print(f"{name}:", *[wire.removeprefix(START).hex(" ") for wire in wires], sep="\n  ")
assert right == [value(rb"f\oo,bar", b"h2")] * 2
assert wrong == [value(b"f\\\\oo\\", b"bar", b"h2")] * 2
PY
