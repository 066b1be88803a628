"""Echo of the core, against the kernel's own replies and errors, in a network namespace of its own."""

from __future__ import annotations

import functools
import itertools
import random
import socket
import struct
import time
from ipaddress import ip_address

from checker.frame import IPv4, IPv6, decode
from datagrams import frames
from guest import GATEWAY4, GATEWAY6, GUEST4, GUEST6, PATIENCE_S, Guest, ip_frame
from isolated import ip, isolated, narrow_link, refused_destinations, sysctl
from packets import checksum, pseudo

ICMP, ICMP6 = 1, 58
FAMILIES = ((GUEST4, GATEWAY4), (GUEST6, GATEWAY6))


def echo(own: str, dst: str, ident: int, seq: int, payload: bytes = b"", *, kind: int | None = None) -> bytes:
    """An echo request with its checksum."""
    v6 = ":" in own
    request = (128 if v6 else 8) if kind is None else kind
    head = struct.pack("!BBHHH", request, 0, 0, ident, seq)
    summed = pseudo(own, dst, ICMP6, 8 + len(payload)) if v6 else b""
    return head[:2] + struct.pack("!H", checksum(summed + head + payload)) + head[4:] + payload


def ping(guest: Guest, own: str, dst: str, ident: int = 77, seq: int = 1, payload: bytes = b"", *, ttl: int = 64, tos: int = 0,
         df: bool = True) -> None:  # fmt: skip
    proto = ICMP6 if ":" in own else ICMP
    guest.send(ip_frame(own, dst, proto, echo(own, dst, ident, seq, payload), ttl=ttl, tos=tos, df=df))
    guest.pump()


@isolated
def test_echo_comes_back_with_its_identifier_sequence_and_data() -> None:
    with Guest() as guest:
        for own, gateway in FAMILIES:
            for ident, seq, size in ((77, 1, 56), (77, 2, 0), (0xFFFF, 65535, 1), (0, 0, 56), (77, 3, 1400)):
                payload = random.Random(seq).randbytes(size)
                ping(guest, own, gateway, ident, seq, payload)
                reply = frames(guest)[0]
                assert reply.icmp and reply.ip
                assert reply.icmp.type == (129 if ":" in own else 0) and reply.icmp.code == 0
                assert (reply.icmp.ident, reply.icmp.seq, reply.icmp.body) == (ident, seq, payload)
                assert (str(reply.ip.src), str(reply.ip.dst)) == (gateway, own)
        assert guest.counter("icmp_flows") == 6


@isolated
def test_checksums_are_complete_also_where_the_tap_could_be_asked_for_them() -> None:
    nowhere = refused_destinations()
    with Guest(vnet_hdr=True, uso=True) as guest:
        for dst, size in itertools.product((GATEWAY4, GATEWAY6, *nowhere), (56, 57, 3000)):
            own, proto = (GUEST6, ICMP6) if ":" in dst else (GUEST4, ICMP)
            guest.send(bytes(10) + ip_frame(own, dst, proto, echo(own, dst, 77, 1, bytes(size))))
            found: list[bytes] = []
            deadline = time.monotonic() + PATIENCE_S
            while not found and time.monotonic() < deadline:
                found = guest.frames()
            assert found
            for frame in found:
                assert frame[:10] == bytes(10)
                decode(frame[10:])


@isolated
def test_identifiers_are_kept_on_the_wire_where_they_are_free() -> None:
    narrow_link()
    with Guest() as guest, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as wire:
        wire.bind(("far", 3))
        wire.settimeout(PATIENCE_S)
        # The kernel does not tell the identifiers of the two families apart.
        for own, remote, ident, start, kind in ((GUEST4, "192.0.2.10", 4242, 34, 8), (GUEST6, "2001:db8::10", 4243, 54, 128)):
            ping(guest, own, remote, ident, 9, b"data")
            while True:
                seen = wire.recv(2000)
                if seen[start] == kind:
                    break
            assert struct.unpack_from("!HH", seen, start + 4) == (ident, 9)


@isolated
def test_two_destinations_with_one_identifier_get_their_own_replies() -> None:
    ip("addr add 192.0.2.2/24 dev lo\naddr add 192.0.2.3/24 dev lo")
    with Guest() as guest:
        for seq, dst in enumerate(("192.0.2.2", "192.0.2.3", "192.0.2.2")):
            ping(guest, GUEST4, dst, 77, seq)
            reply = frames(guest)[0]
            assert reply.icmp and reply.ip
            assert (str(reply.ip.src), reply.icmp.ident, reply.icmp.seq) == (dst, 77, seq)


@isolated
def test_largest_echo_comes_back_in_fragments() -> None:
    with Guest() as guest:
        for own, gateway in FAMILIES:
            payload = random.Random(1).randbytes(65535 - (60 if ":" in own else 40))
            ping(guest, own, gateway, 77, 1, payload, df=False)
            pieces = frames(guest, 45)
            out = b""
            for frame in pieces:
                if isinstance(frame.ip, IPv4):
                    assert frame.ip.offset == len(out)
                    out += frame.payload
                else:
                    out += frame.payload[8:]
            summed = pseudo(gateway, own, ICMP6, len(out)) if ":" in own else b""
            assert checksum(summed + out) == 0 and out[8:] == payload


@isolated
def test_ttl_and_class_pass() -> None:
    with Guest() as guest:
        for own, gateway in FAMILIES:
            # The kernel's reply has its own TTL and the request's class.
            ping(guest, own, gateway, 77, 1, tos=0x20)
            header = frames(guest)[0].ip
            if isinstance(header, IPv6):
                assert (header.hop_limit, header.traffic_class) == (64, 0x20)
            else:
                assert header and (header.ttl, header.tos) == (64, 0x20)


@isolated
def test_unreachable_destinations_are_told_with_the_request_inside() -> None:
    expected = refused_destinations()
    with Guest() as guest:
        for destination, what in expected.items():
            own = GUEST6 if ":" in destination else GUEST4
            ping(guest, own, destination, 77, 5, b"inside")
            found = frames(guest)
            assert len(found) == 1
            error = found[0].icmp
            assert error and (error.type, error.code) == what, destination
            start, length, header = (8, 16, 40) if ":" in own else (12, 4, 20)
            src, dst = (str(ip_address(error.body[i : i + length])) for i in (start, start + length))
            assert (src, dst) == (own, destination)
            assert struct.unpack_from("!HH", error.body, header + 4) == (77, 5) and error.body.endswith(b"inside")


@isolated
def test_silent_neighbour_is_told_by_somebody_else_than_the_guest_itself() -> None:
    # The kernel reports a neighbour that does not answer from its own address, which the guest shares.
    narrow_link()
    sysctl("ipv4/neigh/narrow/retrans_time_ms", 50)
    with Guest(guest4=bytes(10) + b"\xff\xff\xc0\x00\x02\x02") as guest:
        ping(guest, "192.0.2.2", "192.0.2.77", 78, 1)
        error = frames(guest)[0]
    assert error.icmp and error.ip and (error.icmp.type, error.icmp.code) == (3, 1)
    assert str(error.ip.src) == GATEWAY4
    assert struct.unpack_from("!HH", error.icmp.body, 24) == (78, 1)


@isolated
def test_narrow_path_is_told() -> None:
    narrow_link()
    for own, remote, header, what in ((GUEST4, "192.0.2.10", 20, (3, 4)), (GUEST6, "2001:db8::10", 40, (2, 0))):
        with Guest(link_mtu=1500) as guest:
            ping(guest, own, remote, 77, 1, bytes(1400 - header - 8))
            assert guest.frames() == []
            ping(guest, own, remote, 77, 2, bytes(1400 - header - 7))
            error = frames(guest)[0].icmp
            assert error and (error.type, error.code, error.rest) == (*what, 1400)
            assert struct.unpack_from("!HH", error.body, header + 4) == (77, 2)
            ping(guest, own, remote, 77, 3, bytes(2000))
            assert guest.frames() == []


@isolated
def test_anything_but_echo_requests_goes_nowhere() -> None:
    with Guest() as guest:
        for kind in (0, 3, 5, 11, 13, 17):
            guest.send(ip_frame(GUEST4, GATEWAY4, ICMP, echo(GUEST4, GATEWAY4, 77, 1, kind=kind)))
        for kind in (1, 2, 3, 129, 137):
            guest.send(ip_frame(GUEST6, GATEWAY6, ICMP6, echo(GUEST6, GATEWAY6, 77, 1, kind=kind)))
        guest.send(ip_frame(GUEST4, GATEWAY4, ICMP, echo(GUEST4, GATEWAY4, 77, 1)[:7]))
        ping(guest, GUEST4, "127.0.0.1")
        ping(guest, GUEST6, "::1")
        assert guest.frames() == [] and guest.counter("icmp_flows") == 0 and guest.counter("drop_policy") == 2


@functools.partial(isolated, ping_sockets=False)
def test_a_host_without_ping_sockets_is_told_once() -> None:
    with Guest() as guest:
        for seq in range(5):
            ping(guest, GUEST4, GATEWAY4, 77, seq)
            ping(guest, GUEST6, GATEWAY6, 78, seq)
        assert guest.frames() == [] and guest.counter("icmp_limit") == 10
        lines = [line for line in guest.logs if "net.ipv4.ping_group_range" in line]
        assert len(lines) == 1
