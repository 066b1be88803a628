"""TLS ClientHellos as clients send them, and HTTP requests: bytes for tests of what names a server."""

from __future__ import annotations

import ssl
import struct
from contextlib import suppress
from pathlib import Path

CLIENT_HELLO, SERVER_NAME, ECH, KEY_SHARE, PADDING = 1, 0, 0xFE0D, 51, 21
RECORD_BYTES = 16384  # RFC 8446, 5.1
#: RFC 8701: values that servers have to ignore.
GREASE = 0x3A3A


def vector(size: int, data: bytes) -> bytes:
    """Bytes behind their length, which has `size` bytes."""
    return len(data).to_bytes(size, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(2, data)


def server_name(name: str | bytes) -> bytes:
    """RFC 6066, 3."""
    encoded = name.encode() if isinstance(name, str) else name
    return extension(SERVER_NAME, vector(2, b"\0" + vector(2, encoded)))


def handshake(extensions: bytes | None, *, session: bytes = bytes(32), ciphers: bytes = b"\x13\x01\x13\x02") -> bytes:
    """RFC 8446, 4.1.2; None: without a list of extensions."""
    body = b"\x03\x03" + bytes(range(32)) + vector(1, session) + vector(2, ciphers) + b"\x01\0"
    body += b"" if extensions is None else vector(2, extensions)
    return bytes((CLIENT_HELLO,)) + vector(3, body)


def records(message: bytes, size: int = RECORD_BYTES) -> bytes:
    """The message in records of this many bytes."""
    return b"".join(b"\x16\x03\x01" + vector(2, message[at : at + size]) for at in range(0, len(message), size))


def chromium(name: str, *, key_share: int = 1216) -> bytes:
    """The shape of Chromium's: GREASE at both ends, a post-quantum key share, ECH as GREASE, extensions in any order."""
    parts = (
        extension(GREASE, b""), extension(KEY_SHARE, vector(2, struct.pack("!H", 0x11EC) + vector(2, bytes(key_share)))),
        extension(16, vector(2, vector(1, b"h2") + vector(1, b"http/1.1"))), server_name(name),
        extension(ECH, b"\0\0\1\0\1\x2a" + vector(2, bytes(32)) + vector(2, bytes(144))), extension(GREASE + 0x1010, b"\0"),
    )  # fmt: skip
    return records(handshake(b"".join(parts), ciphers=struct.pack("!HHH", GREASE, 0x1301, 0xC02B)))


def firefox(name: str) -> bytes:
    """The shape of Firefox's: the name first, a record version of TLS 1.0, padding at the end."""
    parts = server_name(name), extension(23, b""), extension(43, vector(1, b"\x03\x04\x03\x03")), extension(PADDING, bytes(200))
    return records(handshake(b"".join(parts)))


def openssl(name: str) -> bytes:
    """What OpenSSL writes, as this interpreter is linked to it."""
    context, incoming, outgoing = ssl.create_default_context(), ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def recorded(browser: str) -> bytes:
    """What a browser (chromium-156, firefox-153) sent for a.test, as tests/e2e/applications_under_rules.py gets it."""
    return bytes.fromhex((Path(__file__).parent / f"hello-{browser}.hex").read_text())


def large(name: str, size: int = 17 << 10) -> bytes:
    """One of more than a record."""
    return records(handshake(extension(PADDING, bytes(size)) + server_name(name)))


def request(host: str, *, target: str = "/", method: str = "GET", more: str = "User-Agent: test\r\n") -> bytes:
    return f"{method} {target} HTTP/1.1\r\n{more}Host: {host}\r\nAccept: */*\r\n\r\n".encode()
