"""wire/: what is checked once never fails afterwards, and what is emitted parses back to the same."""

from __future__ import annotations

import ipaddress
import struct

import internals
import pytest
from guest import ip_frame, mapped
from hypothesis import example, given
from hypothesis import strategies as st

module = internals.build()
ffi, lib = module.ffi, module.lib

u8, u16, u32 = st.integers(0, 255), st.integers(0, 65535), st.integers(0, 2**32 - 1)
ports = st.integers(1, 65535)
v6_addresses = st.ip_addresses(v=6).filter(lambda a: a.ipv4_mapped is None)
pairs = st.one_of(st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)), st.tuples(v6_addresses, v6_addresses))
Pair = tuple[ipaddress.IPv4Address, ipaddress.IPv4Address] | tuple[ipaddress.IPv6Address, ipaddress.IPv6Address]


def addr(text: object) -> object:
    return ffi.new("struct addr *", [list(mapped(str(text)))])


class Exact:
    """Bytes in memory of exactly their size, so that a sanitizer sees a read beyond them."""

    def __init__(self, data: bytes) -> None:
        self.data, self.len = ffi.from_buffer(bytearray(data)), len(data)


def inside(view: object, buf: Exact, field: str, length: int) -> bool:
    start = int(ffi.cast("uintptr_t", getattr(view, field))) - int(ffi.cast("uintptr_t", buf.data))
    return start >= 0 and start + length <= buf.len


@given(pairs, u8, u8, u8, st.booleans(), st.integers(0, 65495))
def test_emitted_ip_headers_parse_back(pair: Pair, proto: int, ttl: int, tos: int, df: bool, payload: int) -> None:
    src, dst = pair
    v4 = src.version == 4
    if not v4 and proto in (0, 43, 44, 60):
        return  # extension headers, not a transport
    buf = bytearray(40 + payload)
    length = lib.ip_emit(ffi.from_buffer(buf), addr(src), addr(dst), proto, ttl, tos, df, payload)
    view = ffi.new("struct ip_view *")
    assert lib.ip_parse(ffi.from_buffer(buf), length + payload, v4, view)
    assert bytes(view.src.b) == mapped(str(src)) and bytes(view.dst.b) == mapped(str(dst))
    assert (view.proto, view.ttl, view.tos, view.payload_len, view.header_len) == (proto, ttl, tos, payload, length)
    assert view.df == (df or not v4) and not view.fragment


@given(st.binary(max_size=200), st.booleans())
@example(bytes.fromhex("45000014000000004006") + bytes(10), True)
def test_any_bytes_as_ip_stay_inside(data: bytes, v4: bool) -> None:
    buf, view = Exact(data), ffi.new("struct ip_view *")
    if lib.ip_parse(buf.data, buf.len, v4, view):
        assert inside(view, buf, "payload", view.payload_len)
        assert view.header_len + view.payload_len <= buf.len


@given(st.integers(0, 39), u8, st.booleans())
def test_one_wrong_byte_in_an_ipv4_header_is_noticed(position: int, value: int, df: bool) -> None:
    packet = bytearray(ip_frame("192.0.2.1", "192.0.2.2", 17, bytes(20), df=df)[14:])
    before = packet[position]
    packet[position] = value
    view = ffi.new("struct ip_view *")
    accepted = lib.ip_parse(ffi.from_buffer(packet), len(packet), True, view)
    if position < 20 and value != before and (value ^ before) != 0xFF:
        assert not accepted
    elif value == before or position >= 20:
        assert accepted


def v6_with(chain: bytes, first: int, payload: bytes = b"\0" * 20) -> bytes:
    return ip_frame("2001:db8::1", "2001:db8::2", first, chain + payload)[14:]


@pytest.mark.parametrize(
    ("chain", "first", "accepted"),
    [
        (b"", 6, True),
        (bytes([6, 0]) + bytes(6), 0, True),
        (bytes([60, 0]) + bytes(6) + bytes([6, 1]) + bytes(14), 0, True),
        (bytes([6, 9]) + bytes(6), 0, False),  # longer than the packet
        (bytes([60, 0, 0, 0, 0, 0, 0, 0]) * 9, 60, False),  # nothing but a chain
        (bytes([60, 0, 0, 0, 0, 0, 0, 0]) * 7 + bytes([6]) + bytes(7), 60, True),
        (bytes([60, 0, 0, 0, 0, 0, 0, 0]) * 8000 + bytes([6]) + bytes(7), 60, True),
        (bytes([0, 0]) + bytes(6) + bytes([6, 0]) + bytes(6), 60, False),  # hop-by-hop options are the first
        (bytes([6, 0, 0, 1]) + bytes(4), 43, False),  # segments left
        (bytes([6, 0, 0, 0]) + bytes(4), 43, True),
    ],
)
def test_ipv6_extension_headers(chain: bytes, first: int, accepted: bool) -> None:
    packet, view = v6_with(chain, first), ffi.new("struct ip_view *")
    assert lib.ip_parse(packet, len(packet), False, view) == accepted
    if accepted:
        assert view.proto == 6 and view.payload_len == 20 and not view.fragment


def test_fragments_are_recognised() -> None:
    view = ffi.new("struct ip_view *")
    packet = v6_with(bytes([6, 0]) + struct.pack("!HI", 8 << 3 | 1, 7), 44)
    assert lib.ip_parse(packet, len(packet), False, view) and view.fragment
    packet = v6_with(bytes([6, 0]) + struct.pack("!HI", 0, 7), 44)
    assert lib.ip_parse(packet, len(packet), False, view) and not view.fragment  # atomic, RFC 6946
    four = bytearray(ip_frame("192.0.2.1", "192.0.2.2", 17, bytes(20))[14:])
    four[6:8] = b"\x20\x00"
    four[10:12] = b"\0\0"
    from packets import checksum

    four[10:12] = struct.pack("!H", checksum(bytes(four[:20])))
    assert lib.ip_parse(bytes(four), len(four), True, view) and view.fragment


def test_v4_mapped_addresses_do_not_pass_for_ipv4() -> None:
    packet = ip_frame("2001:db8::1", "::ffff:127.0.0.1", 6, bytes(20))[14:]
    assert not lib.ip_parse(packet, len(packet), False, ffi.new("struct ip_view *"))


@given(ports, ports, u32, u32, st.integers(0, 63), u16, st.integers(1, 65535), st.integers(0, 14))
def test_emitted_tcp_headers_parse_back(
    sport: int, dport: int, seq: int, ack: int, flags: int, window: int, mss: int, wscale: int
) -> None:
    buf = ffi.new("uint8_t[64]")
    length = lib.x_tcp_emit(buf, sport, dport, seq, ack, flags, window, mss, wscale)
    view = ffi.new("struct tcp_view *")
    assert lib.tcp_parse(buf, length + 4, view) and view.payload_len == 4
    assert (view.src_port, view.dst_port, view.seq.v, view.ack.v) == (sport, dport, seq, ack)
    assert (view.flags, view.window) == (flags, window)
    assert (view.mss, view.wscale) == ((mss, wscale) if flags & 2 else (0, 255))


@given(st.binary(max_size=100))
@example(b"\0\1\0\2" + bytes(8) + b"\x60\x02" + bytes(6) + b"\x02\x04\x05\xb4")
@example(b"\0\1\0\2" + bytes(8) + b"\x60\x02" + bytes(6) + b"\x03\x00\x03\xff")
def test_any_bytes_as_tcp_stay_inside(data: bytes) -> None:
    buf, view = Exact(data), ffi.new("struct tcp_view *")
    if lib.tcp_parse(buf.data, buf.len, view):
        assert inside(view, buf, "payload", view.payload_len)
        assert view.wscale <= 14 or view.wscale == 255


@given(ports, ports, st.integers(0, 65507))
def test_emitted_udp_headers_parse_back(sport: int, dport: int, payload: int) -> None:
    buf = bytearray(8 + payload)
    assert lib.x_udp_emit(ffi.from_buffer(buf), sport, dport, payload) == 8
    view = ffi.new("struct udp_view *")
    assert lib.x_udp_parse(ffi.from_buffer(buf), len(buf), True, view)
    assert (view.src_port, view.dst_port, view.payload_len) == (sport, dport, payload)


@pytest.mark.parametrize(
    ("length", "v4", "payload"),
    [(20, True, 12), (19, True, 11), (8, True, 0), (7, True, None), (21, True, None), (0, True, None), (0, False, 12)],
)
def test_udp_is_as_long_as_it_says(length: int, v4: bool, payload: int | None) -> None:
    datagram, view = Exact(struct.pack("!HHHH", 1, 2, length, 0) + bytes(12)), ffi.new("struct udp_view *")
    assert lib.x_udp_parse(datagram.data, datagram.len, v4, view) == (payload is not None)
    assert payload is None or view.payload_len == payload


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_as_udp_or_icmp_stay_inside(data: bytes, v4: bool) -> None:
    buf, udp, icmp = Exact(data), ffi.new("struct udp_view *"), ffi.new("struct icmp_view *")
    if lib.x_udp_parse(buf.data, buf.len, v4, udp):
        assert inside(udp, buf, "payload", udp.payload_len)
    if lib.x_icmp_parse(buf.data, buf.len, icmp):
        assert inside(icmp, buf, "payload", icmp.payload_len)


@given(pairs, u8, u8, u32, st.binary(max_size=2000))
def test_icmp_errors_are_complete_and_bounded(pair: Pair, kind: int, code: int, info: int, quote: bytes) -> None:
    src, dst = pair
    v4 = src.version == 4
    buf = ffi.new("uint8_t[4096]")
    length = lib.icmp_emit_error(buf, addr(src), addr(dst), ffi.new("struct icmp_error *", [kind, code, info]), quote, len(quote))
    message = bytes(ffi.buffer(buf, length))
    assert length <= (576 if v4 else 1280) - (20 if v4 else 40)
    assert message[8:] == quote[: length - 8]
    frame = ip_frame(str(src), str(dst), 1 if v4 else 58, message)
    view = ffi.new("struct ip_view *")
    assert lib.ip_parse(frame[14:], len(frame) - 14, v4, view) and lib.ip_transport_checksum_ok(view)
