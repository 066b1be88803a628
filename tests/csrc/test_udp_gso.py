"""Datagrams of one flow that follow each other: they share system calls, and arrive as what they were."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import sys

from checker.frame import decode
from datagrams import UDP, frames, host_socket, names, quoted, send, udp_packet
from guest import GATEWAY4, GUEST4, GUEST6, Guest, ip_frame
from isolated import isolated, narrow_link

UDP_GRO = 104  # linux/udp.h; Python has no name for it
RUN_DATAGRAMS = 64


def write(
    guest: Guest, src: str, dst: str, dport: int, payload: bytes, *, ttl: int = 64, tos: int = 0, sport: int = 5000
) -> None:
    """One frame that waits for the core to read it: no pump."""
    guest.send(ip_frame(src, dst, UDP, udp_packet(src, sport, dst, dport, payload), ttl=ttl, tos=tos))


def receive_joined(sock: socket.socket) -> list[tuple[int, int]]:
    """What waits, as the kernel joined it: bytes, and bytes of each datagram in it (0: it is one)."""
    out = []
    sock.setblocking(False)
    while True:
        try:
            data, controls, _, _ = sock.recvmsg(70000, 100)
        except BlockingIOError:
            return out
        sizes = [
            int.from_bytes(value, sys.byteorder) for level, kind, value in controls if (level, kind) == (UDP, UDP_GRO)
        ]
        out.append((len(data), sizes[0] if sizes else 0))


def core_socket(port: int) -> socket.socket:
    """A copy of the core's socket that has this port; the core runs in this process."""
    for each in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the list's own descriptor
            if os.readlink(f"/proc/self/fd/{each}").startswith("socket:"):
                found = socket.socket(fileno=os.dup(int(each)))
                internet = found.family in (socket.AF_INET, socket.AF_INET6)
                if internet and found.type == socket.SOCK_DGRAM and found.getsockname()[1] == port:
                    return found
                found.close()
    raise AssertionError(f"no socket with port {port}")


def test_a_socket_is_prepared_for_many_datagrams_when_several_come_at_once(guest: Guest, v6: bool) -> None:
    """Either way. One question and its answer do without: the system calls would cost as much as the datagrams."""
    own, gateway, _ = names(v6)
    level, discover = (socket.IPPROTO_IPV6, 23) if v6 else (socket.IPPROTO_IP, 10)
    for way in ("to the guest", "to the host"):
        with host_socket(v6) as sock:
            port, guest_port = sock.getsockname()[1], 5001 + (way == "to the host")
            write(guest, own, gateway, port, b"question", sport=guest_port)
            guest.pump()
            _, source = sock.recvfrom(10)
            sock.sendto(b"answer", source)
            assert frames(guest)[0].payload == b"answer"
            with core_socket(source[1]) as core, socket.socket(core.family, socket.SOCK_DGRAM) as plain:
                assert not core.getsockopt(UDP, UDP_GRO)
                assert core.getsockopt(level, discover) == plain.getsockopt(level, discover)
                if way == "to the guest":
                    for _ in range(3):
                        sock.sendto(b"answer", source)
                    frames(guest, 3)
                else:
                    for _ in range(2):
                        write(guest, own, gateway, port, bytes(1000), sport=guest_port)
                    guest.pump()
                    assert core.getsockopt(level, discover) == 2  # IP_PMTUDISC_DO, IPV6_PMTUDISC_DO
                assert core.getsockopt(UDP, UDP_GRO), way


def test_frames_of_one_batch_leave_in_one_call(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    with host_socket(v6) as sock:
        sock.setsockopt(UDP, UDP_GRO, 1)
        for size in (1000, 1000, 1000, 400):
            write(guest, own, gateway, sock.getsockname()[1], bytes(size))
        guest.pump()
        assert receive_joined(sock) == [(3400, 1000)]


def test_what_differs_leaves_by_itself(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    with host_socket(v6) as sock:
        sock.setsockopt(UDP, UDP_GRO, 1)
        for size, ttl, tos in (
            (500, 64, 0),
            (500, 63, 0),
            (500, 63, 2),
            (400, 63, 2),
            (400, 63, 2),
            (401, 63, 2),
            (0, 63, 2),
        ):
            write(guest, own, gateway, sock.getsockname()[1], bytes(size), ttl=ttl, tos=tos)
        guest.pump()
        # 900 is 500 and 400: a shorter one ends what it follows.
        assert receive_joined(sock) == [(500, 0), (500, 0), (900, 500), (400, 0), (401, 0), (0, 0)]


def test_bursts_of_any_sizes_to_several_sockets_arrive_in_order(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    rng = random.Random(1)
    with host_socket(v6) as one, host_socket(v6) as two:
        for _ in range(30):
            sent: dict[socket.socket, list[bytes]] = {one: [], two: []}
            for number in range(rng.randrange(1, 32)):
                sock = rng.choice((one, one, one, two))
                payload = struct.pack("!I", number) * rng.choice((0, 1, 100, 100, 100, 350))
                sent[sock].append(payload)
                write(guest, own, gateway, sock.getsockname()[1], payload)
            guest.pump()
            for sock, payloads in sent.items():
                assert [sock.recv(2000) for _ in payloads] == payloads
    assert guest.counter("udp_tx_errors") == 0


@isolated
def test_every_datagram_of_a_burst_that_is_too_large_for_the_path_is_told() -> None:
    narrow_link()
    for own, remote, header in ((GUEST4, "192.0.2.10", 20), (GUEST6, "2001:db8::10", 40)):
        with Guest(link_mtu=1500) as guest:
            payloads = [bytes([number]) * (1400 - 8 - header + 1) for number in range(5)]
            for payload in payloads:
                write(guest, own, remote, 7777, payload)
            guest.pump()
            errors = frames(guest, 5)
            assert len(errors) == 5
            for error, payload in zip(errors, payloads, strict=True):
                assert error.icmp and error.icmp.rest == 1400
                assert quoted(error) == (own, 5000, remote, 7777)
                inside = error.icmp.body[header:]
                assert struct.unpack_from("!H", inside, 4)[0] == 8 + len(payload) and payload.startswith(inside[8:])


@isolated
def test_every_datagram_of_a_burst_without_a_route_is_told() -> None:
    with Guest() as guest:
        for number in range(4):
            write(guest, GUEST4, "198.51.100.1", 7777, bytes([number]) * 100)
        guest.pump()
        errors = frames(guest, 4)
        assert [e.icmp.body[28:] for e in errors if e.icmp] == [bytes([number]) * 100 for number in range(4)]


def test_a_closed_port_in_the_middle_of_a_burst_costs_nobody_else_a_datagram(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    with host_socket(v6) as sock, host_socket(v6) as closed:
        port = closed.getsockname()[1]
        closed.close()
        for _ in range(10):
            for to in (sock.getsockname()[1], port, sock.getsockname()[1]):
                write(guest, own, gateway, to, b"first")
                write(guest, own, gateway, to, b"again")
            guest.pump()
            assert [sock.recv(100) for _ in range(4)] == [b"first", b"again"] * 2
        assert {quoted(error)[3] for error in frames(guest)} == {port}


def test_more_segments_than_a_kernel_makes_are_malformed() -> None:
    with Guest(vnet_hdr=True, uso=True) as guest, host_socket() as sock:
        port = sock.getsockname()[1]
        for size, count in ((1, 60000), (1, 129), (1, 128)):
            frame = ip_frame(GUEST4, GATEWAY4, UDP, udp_packet(GUEST4, 5000, GATEWAY4, port, bytes(size * count)))
            guest.send(struct.pack("=BBHHHH", 1, 5, 42, size, 34, 6) + frame)
        guest.pump()
        assert guest.counter("drop_malformed") == 2
        assert [sock.recv(10) for _ in range(128)] == [b"\0"] * 128


def test_a_burst_of_the_host_reaches_a_guest_with_offload_in_few_frames(v6: bool) -> None:
    own, gateway, _ = names(v6)
    with Guest(vnet_hdr=True, uso=True) as guest, host_socket(v6) as sock:
        guest.send(bytes(10) + ip_frame(own, gateway, UDP, udp_packet(own, 5000, gateway, sock.getsockname()[1], b"x")))
        guest.pump()
        _, source = sock.recvfrom(10)
        for size, count in ((10, 100), (1400, 60)):
            sent = [struct.pack("!H", number) * (size // 2) for number in range(count)]
            for payload in sent:
                sock.sendto(payload, source)
            found = guest.frames()
            received: list[bytes] = []
            for raw in found:
                gso = struct.unpack_from("=BBHHHH", raw)[3] if raw[1] else 0
                data = decode(raw[10:], partial=True).payload
                assert len(raw) <= 10 + 14 + 65535 and len(data) <= (gso or size) * RUN_DATAGRAMS
                assert not gso or gso == size
                received += [data[at : at + size] for at in range(0, len(data), size)]
            assert received == sent and len(found) <= 4


def test_largest_datagrams_in_a_row_stay_apart() -> None:
    with Guest(mtu=65535) as guest, host_socket() as sock:
        send(guest, GUEST4, 5000, GATEWAY4, sock.getsockname()[1])
        _, source = sock.recvfrom(10)
        payloads = [
            random.Random(number).randbytes(size) for number, size in enumerate((65507, 65507, 65487, 65480, 7, 65507))
        ]
        for payload in payloads:
            sock.sendto(payload, source)
        assert [frame.payload for frame in frames(guest, len(payloads))] == payloads
