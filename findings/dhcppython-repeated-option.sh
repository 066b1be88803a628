#!/bin/sh
# dhcppython 0.1.4 keeps the last part of a DHCP option that comes in parts, and drops the others without a word.
#
# Seen:     dhcppython 0.1.4 (the newest release in November 2026), Python 3.11.
# Input:    an ACK with two options 6 (nameservers), of 192.0.2.53 and of 192.0.2.54.
# Expected: both nameservers. RFC 3396, 7: all options of one code are joined, in their order, into one value before it is read
#           (RFC 2131, 4.1 says it for DHCP in general).
# Observed: 192.0.2.54 alone; and the packet, written again, has lost the other. Where the parts meet inside an address (of 6 and of 2
#           bytes), which a receiver has to join too: struct.error. Domains to search (option 119) of more than 255 bytes, which cannot
#           be sent in one part, lose the first 255.
#
# Needs python3 with pip, and pip's index. Exit status 0: it is still so.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install -q --no-compile --target "$work/lib" dhcppython==0.1.4 2>/dev/null
PYTHONPATH=$work/lib python3 - <<'PY'
import socket
import struct

from dhcppython.packet import DHCPPacket

SERVERS = socket.inet_aton("192.0.2.53") + socket.inet_aton("192.0.2.54")


def ack(*parts):
    """A DHCPACK with an option 6 for each of `parts` (RFC 2131, 2; RFC 2132, 2)."""
    fields = struct.pack("!BBBBLHH4s4s4s4s16s64s128s", 2, 1, 6, 0, 1, 0, 0, *[bytes(4)] * 4, b"\x02\0\0\0\0\x01", b"", b"")
    options = b"\x35\x01\x05" + b"".join(struct.pack("BB", 6, len(part)) + part for part in parts)
    return fields + b"\x63\x82\x53\x63" + options + b"\xff"


whole = DHCPPacket.from_bytes(ack(SERVERS))
print("one option: ", whole.options.as_dict()["dns_servers"])
assert whole.options.as_dict()["dns_servers"] == ["192.0.2.53", "192.0.2.54"]

parts = DHCPPacket.from_bytes(ack(SERVERS[:4], SERVERS[4:]))
print("two options:", parts.options.as_dict()["dns_servers"])
assert parts.options.as_dict()["dns_servers"] == ["192.0.2.54"]
assert SERVERS[:4] not in parts.asbytes

try:
    DHCPPacket.from_bytes(ack(SERVERS[:6], SERVERS[6:])).options.as_dict()
except struct.error as error:
    print("six and two bytes: struct.error:", error)
else:
    raise SystemExit("six and two bytes are read")
PY
