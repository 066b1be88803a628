#!/bin/sh
# The Python library proxy-protocol 0.11.3 refuses a PROXY v2 header of HAProxy for its checksum, which is right.
#
# Seen:     proxy-protocol 0.11.3 with crc32c 2.9.post0 (it checks checksums where crc32c is installed), Python 3.11; HAProxy 2.6.12.
# Input:    the header below: what HAProxy sends with `send-proxy-v2 proxy-v2-options authority,crc32c`, where PP2_TYPE_CRC32C (3) comes
#           before PP2_TYPE_AUTHORITY (2).
# Expected: it is accepted. The PROXY protocol's specification (2.2.3) has the checksum made over the header as it was sent, with zeros
#           in place of the checksum, and prescribes no order of the types.
# Observed: ProxyProtocolChecksumError. The library computes the checksum over a header that it writes anew, with the types in
#           ascending order and each at most once. The same header with the two in ascending order is accepted.
#
# Needs python3 with pip, and pip's index. Exit status 0: it is still so.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install -q --no-compile --target "$work/lib" proxy-protocol==0.11.3 crc32c==2.9.post0 2>/dev/null
PYTHONPATH=$work/lib python3 - <<'PY'
import struct

from crc32c import crc32c
from proxyprotocol import ProxyProtocolChecksumError
from proxyprotocol.v2 import ProxyProtocolV2

AUTHORITY = b"\x02\x00\x0bexample.com"
CHECKSUM = b"\x03\x00\x04"


def header(first, second):
    """A header of TCP over IPv4 with two type-length-values, one of them CHECKSUM, which gets its value here."""
    zeros = CHECKSUM + bytes(4)
    addresses = bytes([192, 0, 2, 1, 192, 0, 2, 2]) + struct.pack("!HH", 1234, 443)
    body = addresses + first.replace(CHECKSUM, zeros) + second.replace(CHECKSUM, zeros)
    whole = b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, 0x11, len(body)) + body
    return whole.replace(zeros, CHECKSUM + struct.pack("!L", crc32c(whole)))


haproxys = header(CHECKSUM, AUTHORITY)
print(haproxys)
print("ascending order:", ProxyProtocolV2().unpack(header(AUTHORITY, CHECKSUM)))
try:
    ProxyProtocolV2().unpack(haproxys)
except ProxyProtocolChecksumError:
    print("HAProxy's order: ProxyProtocolChecksumError")
else:
    raise SystemExit("HAProxy's order is accepted")
PY
