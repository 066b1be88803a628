#!/bin/sh
# socksio 1.0.0 takes the length byte of a domain name in a SOCKS5 reply for a part of the name, and refuses names of 128 bytes and more.
#
# Seen:     socksio 1.0.0 (the newest release in November 2026; what httpx[socks] uses), Python 3.11.
# Input:    the reply to a CONNECT of a proxy that gives its bound address as a domain name: 05 00 00 03, a length byte, the name, the
#           port (RFC 1928, 6: a reply may have each of the three address types); names of 11 and of 203 bytes.
# Expected: an address of "example.com", and the long name; as RFC 1928, 5 says, the first octet of the field is the length.
# Observed: "\x0bexample.com". For the long name ProtocolError, "Malformed reply": its length is no text in UTF-8. So a program on
#           httpx cannot connect through such a proxy. The library writes such a field right in a request.
#
# Needs python3 with pip, and pip's index. Exit status 0: it is still so.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install -q --no-compile --target "$work/lib" socksio==1.0.0 2>/dev/null
PYTHONPATH=$work/lib python3 - <<'PY'
from socksio import ProtocolError, socks5

LONG_NAME = ".".join(letter * 50 for letter in "abcd")


def field(name):
    """RFC 1928, 5: address type 3, length, name; and port 80."""
    return b"\x03" + bytes([len(name)]) + name.encode() + b"\x00\x50"


def read(name):
    """The request with `name` that socksio writes, and what it reads from a reply with it."""
    connection = socks5.SOCKS5Connection()
    connection.send(socks5.SOCKS5AuthMethodsRequest([socks5.SOCKS5AuthMethod.NO_AUTH_REQUIRED]))
    connection.data_to_send()
    connection.receive_data(b"\x05\x00")
    connection.send(socks5.SOCKS5CommandRequest.from_address(socks5.SOCKS5Command.CONNECT, (name, 80)))
    request = connection.data_to_send()
    try:
        reply = connection.receive_data(b"\x05\x00\x00" + field(name))
    except ProtocolError as error:
        return request, repr(error)
    return request, (reply.addr, reply.port)


for name, expected in (("example.com", ("\x0bexample.com", 80)), (LONG_NAME, "ProtocolError('Malformed reply')")):
    request, seen = read(name)
    print(f"a name of {len(name)} bytes: {seen!r}")
    assert request == b"\x05\x01\x00" + field(name)
    assert seen == expected
PY
