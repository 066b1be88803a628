"""Fragments as a guest's kernel makes them, and as none would."""

from __future__ import annotations

import struct

from guest import ip_frame
from packets import checksum

UDP, FRAGMENT = 17, 44


def fragments(src: str, dst: str, packet: bytes, room: int, ident: int = 1) -> list[bytes]:
    """Ethernet frames of a packet's fragments, each with room bytes of it."""
    out = []
    for offset in range(0, len(packet), room):
        more = offset + room < len(packet)
        out.append(fragment(src, dst, packet[offset : offset + room], offset, more, ident))
    return out


def fragment(src: str, dst: str, piece: bytes, offset: int, more: bool, ident: int = 1) -> bytes:
    """One of them; offset in bytes."""
    if ":" in src:
        return ip_frame(src, dst, FRAGMENT, struct.pack("!BBHI", UDP, 0, offset | more, ident) + piece)
    frame = bytearray(ip_frame(src, dst, UDP, piece, df=False))
    frame[18:22] = struct.pack("!HH", ident, offset // 8 | more << 13)
    frame[24:26] = bytes(2)
    frame[24:26] = struct.pack("!H", checksum(bytes(frame[14:34])))
    return bytes(frame)
