#!/bin/sh
# dnslib 0.9.26 reads a zone's escapes wrong: "\065" in a TXT record as octal, and "\." in a name as the end of a label.
#
# Seen:     dnslib 0.9.26 (the newest release in November 2026), dnspython 2.9.2 for comparison, Python 3.11.
# Input:    x.example. 300 IN TXT "\065bc", and x.example. 300 IN MX 10 first\.last.example.
# Expected: the string "Abc", and a name whose first label is "first.last". RFC 1035, 5.1: \DDD is the octet of a decimal number, and a
#           backslash before a dot takes its meaning away. dnspython and BIND read and write zones so.
# Observed: "5bc" (0o65 is "5"), without an error where all three digits are below 8; ValueError for "\009". The name has the labels
#           "first\" and "last". \DDD in a name is decimal in dnslib too, so one zone has both.
#
# Needs python3 with pip, and pip's index. Exit status 0: it is still so.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install -q --no-compile --target "$work/lib" dnslib==0.9.26 dnspython==2.9.2 2>/dev/null
PYTHONPATH=$work/lib python3 - <<'PY'
import dns.rdata
import dnslib


def both(kind, text):
    """The record's data on the wire as dnspython and as dnslib read them from its text."""
    buffer = dnslib.DNSBuffer()
    dnslib.RR.fromZone(f"x.example. 300 IN {kind} {text}")[0].rdata.pack(buffer)
    wires = dns.rdata.from_text("IN", kind, text).to_wire(), bytes(buffer.data)
    print(kind, text, *wires)
    return wires


assert both("TXT", r'"\065bc"') == (b"\x03Abc", b"\x035bc")
assert both("MX", r"10 first\.last.example.") == (
    b"\x00\x0a\x0afirst.last\x07example\x00",
    b"\x00\x0a\x06first\\\x04last\x07example\x00",
)
assert both("MX", r"10 \065bc.example.") == (b"\x00\x0a\x03Abc\x07example\x00",) * 2
try:
    dnslib.RR.fromZone(r'x.example. 300 IN TXT "\009"')
except ValueError as error:
    print("TXT", r'"\009"', error)
else:
    raise SystemExit("it is read")
PY
