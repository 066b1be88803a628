"""UDP of the core, datagram by datagram, against real sockets on the host's loopback."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import socket
import struct
import sys
from collections.abc import Iterator

from checker.frame import IPv6, decode
from clocked import CountedClock
from datagrams import UDP, frames, host_socket, names, quoted, send, udp_packet, whole
from guest import GATEWAY4, GUEST4, GUEST6, GUEST_MAC, OUR_MAC, Guest, ip_frame, mapped
from isolated import ip, isolated, narrow_link, refused_destinations

# --- guest to host, and answers ---


def test_datagrams_both_ways(guest: Guest, v6: bool) -> None:
    own, gateway, loopback = names(v6)
    with host_socket(v6) as sock:
        send(guest, own, 5000, gateway, sock.getsockname()[1], b"question")
        data, source = sock.recvfrom(100)
        assert data == b"question" and source[0] == loopback
        sock.sendto(b"answer", source)
        answer = frames(guest)[0]
        assert answer.udp and answer.ip and answer.payload == b"answer"
        assert (str(answer.ip.src), str(answer.ip.dst)) == (gateway, own)
        assert (answer.udp.sport, answer.udp.dport) == (sock.getsockname()[1], 5000)
    assert guest.counter("udp_flows") == 1


def test_empty_datagrams_both_ways(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    with host_socket(v6) as sock:
        send(guest, own, 5000, gateway, sock.getsockname()[1], b"")
        data, source = sock.recvfrom(100)
        assert data == b""
        sock.sendto(b"", source)
        answer = frames(guest)[0]
        assert answer.udp and answer.udp.length == 8 and answer.payload == b""


def test_largest_datagrams_both_ways_come_in_fragments_that_fit_the_mtu(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    payload = random.Random(1).randbytes(65507)
    with host_socket(v6) as sock:
        # As a guest with a link of 64 KiB sends it: IPv6 has less room in one frame.
        asked = payload[: 65487 if v6 else 65507]
        send(guest, own, 5000, gateway, sock.getsockname()[1], asked)
        data, source = sock.recvfrom(70000)
        assert data == asked
        sock.sendto(payload, source)
        src, dst, out = whole(frames(guest, 45))
    assert (src, dst) == (gateway, own) and out[8:] == payload
    assert struct.unpack("!HHH", out[:6]) == (sock_port(out), 5000, 65515)


def sock_port(datagram: bytes) -> int:
    return int.from_bytes(datagram[:2], "big")


def test_datagrams_of_every_size_around_the_mtu_survive(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    room = 1500 - (40 if v6 else 20) - 8
    with host_socket(v6) as sock:
        send(guest, own, 5000, gateway, sock.getsockname()[1])
        _, source = sock.recvfrom(100)
        for size in range(room - 9, room + 10):
            payload = random.Random(size).randbytes(size)
            sock.sendto(payload, source)
            found = frames(guest, 1 if size <= room else 2)
            if size <= room:
                assert len(found) == 1 and found[0].udp and found[0].payload == payload
            else:
                assert whole(found)[2][8:] == payload


def test_ipv4_without_a_checksum_is_accepted_and_ipv6_without_one_is_not(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    with host_socket(v6) as sock:
        send(guest, own, 5000, gateway, sock.getsockname()[1], b"bare", summed=False)
        if v6:
            assert guest.counter("drop_malformed") == 1
        else:
            assert sock.recv(100) == b"bare"


def test_wrong_checksum_is_dropped(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    with host_socket(v6) as sock:
        body = bytearray(udp_packet(own, 5000, gateway, sock.getsockname()[1], b"data"))
        body[-1] ^= 1
        guest.send(ip_frame(own, gateway, UDP, bytes(body)))
        guest.pump()
        assert guest.counter("drop_malformed") == 1 and guest.counter("udp_opened") == 0


def test_one_port_of_the_host_for_every_destination(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    with host_socket(v6) as one, host_socket(v6) as two:
        for sock in (one, two):
            send(guest, own, 5000, gateway, sock.getsockname()[1])
        assert one.recvfrom(10)[1] == two.recvfrom(10)[1], "endpoint-independent mapping (RFC 4787, 4.1)"
        send(guest, own, 5001, gateway, one.getsockname()[1])
        assert one.recvfrom(10)[1] != two.getsockname(), "another port of the guest has another socket"
    assert guest.counter("udp_flows") == 3


def test_nobody_but_those_written_to_gets_in(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    with host_socket(v6) as asked, host_socket(v6) as stranger:
        send(guest, own, 5000, gateway, asked.getsockname()[1])
        _, source = asked.recvfrom(10)
        stranger.sendto(b"let me in", source)
        assert guest.frames() == [] and guest.counter("udp_unsolicited") == 1
        asked.sendto(b"ok", source)
        assert frames(guest)[0].payload == b"ok"


def test_ttl_and_class_pass_both_ways(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    with host_socket(v6) as sock:
        if v6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
            sock.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
        for ttl, tos in ((7, 0x2E << 2 | 1), (64, 0), (255, 2), (0, 0), (1, 0)):
            send(guest, own, 5000, gateway, sock.getsockname()[1], ttl=ttl, tos=tos)
            _, controls, _, source = sock.recvmsg(100, 200)
            values = {kind: int.from_bytes(data, sys.byteorder) for _, kind, data in controls}
            if v6:
                assert (values[socket.IPV6_HOPLIMIT], values[socket.IPV6_TCLASS]) == (ttl or 1, tos)
            else:
                assert (values[socket.IP_TTL], values[socket.IP_TOS]) == (ttl or 1, tos)
        if v6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 33)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 3)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 33)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 3)
        sock.sendto(b"answer", source)
        header = frames(guest)[0].ip
    if isinstance(header, IPv6):
        assert (header.hop_limit, header.traffic_class) == (33, 3)
    else:
        assert header and (header.ttl, header.tos) == (33, 3)


def test_a_burst_arrives_whole_and_in_order(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    with host_socket(v6) as sock:
        send(guest, own, 5000, gateway, sock.getsockname()[1])
        _, source = sock.recvfrom(10)
        for number in range(300):
            sock.sendto(b"%d" % number, source)
        assert [f.payload for f in frames(guest, 300)] == [b"%d" % number for number in range(300)]


def test_segments_of_one_host_send_arrive_as_datagrams(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    payload = random.Random(2).randbytes(10 * 1200 + 77)
    with host_socket(v6) as sock:
        send(guest, own, 5000, gateway, sock.getsockname()[1])
        _, source = sock.recvfrom(10)
        # UDP_SEGMENT: loopback carries the whole to a socket with UDP_GRO.
        sock.sendmsg([payload], [(socket.IPPROTO_UDP, 103, struct.pack("=H", 1200))], 0, source)
        found = frames(guest, 11)
    assert [len(f.payload) for f in found] == [1200] * 10 + [77]
    assert b"".join(f.payload for f in found) == payload


def test_segments_that_exceed_the_mtu_arrive_as_fragments() -> None:
    payload = random.Random(3).randbytes(3 * 1400 + 7)
    with Guest(mtu=1000) as guest, host_socket() as sock:
        send(guest, GUEST4, 5000, GATEWAY4, sock.getsockname()[1])
        _, source = sock.recvfrom(10)
        sock.sendmsg([payload], [(socket.IPPROTO_UDP, 103, struct.pack("=H", 1400))], 0, source)
        found = frames(guest, 7)
    assert whole(found[:2])[2][8:] == payload[:1400]
    assert whole(found[4:6])[2][8:] == payload[2800:4200]
    assert found[6].payload == payload[4200:]


def test_segmentation_offload_frame_of_the_guest_becomes_datagrams(v6: bool) -> None:
    own, gateway, _ = names(v6)
    payload = random.Random(4).randbytes(5 * 1000 + 123)
    with Guest(vnet_hdr=True, uso=True) as guest, host_socket(v6) as sock:
        body = udp_packet(own, 5000, gateway, sock.getsockname()[1], payload)
        start = 14 + (40 if v6 else 20)
        header = struct.pack("=BBHHHH", 1, 5, start + 8, 1000, start, 6)
        guest.send(header + ip_frame(own, gateway, UDP, body))
        guest.pump()
        assert [len(sock.recv(2000)) for _ in range(6)] == [1000] * 5 + [123]


def test_segments_reach_a_guest_with_offload_as_one_frame(v6: bool) -> None:
    own, gateway, _ = names(v6)
    payload = random.Random(5).randbytes(5 * 1000 + 123)
    with Guest(vnet_hdr=True, uso=True) as guest, host_socket(v6) as sock:
        body = udp_packet(own, 5000, gateway, sock.getsockname()[1], b"x")
        guest.send(bytes(10) + ip_frame(own, gateway, UDP, body))
        guest.pump()
        _, source = sock.recvfrom(10)
        sock.sendmsg([payload], [(socket.IPPROTO_UDP, 103, struct.pack("=H", 1000))], 0, source)
        found = guest.frames()
    assert len(found) == 1
    flags, kind, _, size, start, offset = struct.unpack_from("=BBHHHH", found[0])
    assert (flags, kind, size, start, offset) == (1, 5, 1000, 14 + (40 if v6 else 20), 6)
    assert decode(found[0][10:], partial=True).payload == payload


# --- policy ---


def test_refused_destinations_open_nothing(guest: Guest) -> None:
    for destination in ("127.0.0.1", "0.0.0.0", "255.255.255.255", "240.0.0.1"):
        send(guest, GUEST4, 5000, destination, 53)
    for destination in ("::1", "::"):
        send(guest, GUEST6, 5000, destination, 53)
    assert guest.counter("drop_policy") == 6 and guest.counter("udp_opened") == 0


def test_ports_of_zero_are_malformed(guest: Guest) -> None:
    send(guest, GUEST4, 0, GATEWAY4, 53)
    send(guest, GUEST4, 53, GATEWAY4, 0)
    assert guest.counter("drop_malformed") == 2 and guest.counter("udp_opened") == 0


@isolated
def test_dns_forward_of_one_family_to_a_nameserver_of_the_other_and_back() -> None:
    with Guest(dns_forward4=mapped("10.0.2.3"), dns_host4=mapped("::1")) as guest, host_socket(True, port=53) as server:
        send(guest, GUEST4, 5000, "10.0.2.3", 53, b"query")
        data, source = server.recvfrom(100)
        assert data == b"query"
        server.sendto(b"reply", source)
        reply = frames(guest)[0]
        assert reply.ip and reply.udp and reply.payload == b"reply"
        assert (str(reply.ip.src), reply.udp.sport, str(reply.ip.dst)) == ("10.0.2.3", 53, GUEST4)


@isolated
def test_two_names_of_one_host_answer_to_the_name_used_last() -> None:
    with Guest(dns_forward4=mapped("10.0.2.3"), dns_host4=mapped("127.0.0.1")) as guest, host_socket(port=53) as server:
        for name in ("10.0.2.3", GATEWAY4, "10.0.2.3"):
            send(guest, GUEST4, 5000, name, 53)
            server.sendto(b"reply", server.recvfrom(100)[1])
            reply = frames(guest)[0]
            assert reply.ip and str(reply.ip.src) == name


# --- errors ---


def test_closed_port_is_told_with_the_datagram_inside(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    with host_socket(v6) as sock:
        port = sock.getsockname()[1]
    send(guest, own, 5000, gateway, port, b"hello there")
    error = frames(guest)[0]
    assert error.icmp and error.ip
    assert (error.icmp.type, error.icmp.code) == ((1, 4) if v6 else (3, 3))
    assert (str(error.ip.src), str(error.ip.dst)) == (gateway, own)
    assert quoted(error) == (own, 5000, gateway, port)
    assert error.icmp.body.endswith(b"hello there")
    assert guest.counter("icmp_errors_sent") == 1


def test_an_error_of_one_peer_does_not_keep_datagrams_from_another(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    with host_socket(v6) as sock, host_socket(v6) as closed:
        port = closed.getsockname()[1]
        closed.close()
        for number in range(20):
            # Both in one batch: the second one meets the error of the first.
            for to in (port, sock.getsockname()[1]):
                guest.send(ip_frame(own, gateway, UDP, udp_packet(own, 5000, gateway, to, b"%d" % number)))
            guest.pump()
            assert sock.recv(100) == b"%d" % number
        errors = frames(guest)
    assert len(errors) == 20 and all(quoted(e)[3] == port for e in errors)


@isolated
def test_unreachable_destinations_are_told_at_once() -> None:
    expected = refused_destinations()
    with Guest() as guest:
        for destination, what in expected.items():
            own = GUEST6 if ":" in destination else GUEST4
            send(guest, own, 5000, destination, 7777)
            found = frames(guest)
            assert len(found) == 1
            assert found[0].icmp and (found[0].icmp.type, found[0].icmp.code) == what, destination
            assert quoted(found[0]) == (own, 5000, destination, 7777)


@isolated
def test_narrow_path_is_told_and_larger_datagrams_travel_in_fragments() -> None:
    narrow_link()
    for own, remote, header, what in ((GUEST4, "192.0.2.10", 20, (3, 4)), (GUEST6, "2001:db8::10", 40, (2, 0))):
        with Guest(link_mtu=1500) as guest:
            send(guest, own, 5000, remote, 7777, b"z" * (1400 - 8 - header))
            assert guest.frames() == [], "a datagram that fits"
            payload = random.Random(6).randbytes(1400 - 8 - header + 1)
            send(guest, own, 5000, remote, 7777, payload)
            error = frames(guest)[0]
            assert error.icmp and (error.icmp.type, error.icmp.code) == what
            assert error.icmp.rest == 1400, "the MTU of the path"
            assert quoted(error) == (own, 5000, remote, 7777)
            assert payload.startswith(error.icmp.body[header + 8 :]) and len(error.icmp.body) >= 500
            send(guest, own, 5000, remote, 7777, bytes(1473))
            assert guest.frames() == [], "larger than the host's own link: its kernel fragments"
            if header == 20:
                send(guest, own, 5000, remote, 7777, payload, df=False)
                assert guest.frames() == [], "without the flag it may be fragmented"


@isolated
def test_offload_frame_on_a_narrow_path_is_told() -> None:
    narrow_link()
    with Guest(vnet_hdr=True, uso=True, link_mtu=1500) as guest:
        body = udp_packet(GUEST4, 5000, "192.0.2.10", 7777, bytes(1450 * 3))
        guest.send(struct.pack("=BBHHHH", 1, 5, 42, 1450, 34, 6) + ip_frame(GUEST4, "192.0.2.10", UDP, body))
        errors = [decode(raw[10:]) for raw in guest.frames()]
    assert errors and all(e.icmp and (e.icmp.type, e.icmp.code, e.icmp.rest) == (3, 4, 1400) for e in errors)


@isolated
def test_narrow_path_to_a_nameserver_of_the_other_family_is_told_in_the_guests_own_measure() -> None:
    narrow_link()
    names_of = dict(dns_forward4=mapped("10.0.2.3"), dns_host4=mapped("2001:db8::10"),
                    dns_forward6=mapped("fd00::3"), dns_host6=mapped("192.0.2.10"))  # fmt: skip
    for own, name, header, room in ((GUEST4, "10.0.2.3", 20, 1400 - 48), (GUEST6, "fd00::3", 40, 1400 - 28)):
        with Guest(link_mtu=1500, **names_of) as guest:
            send(guest, own, 5000, name, 53, bytes(room))
            assert guest.frames() == [], "a datagram that fits"
            send(guest, own, 5000, name, 53, bytes(room + 1))
            error = frames(guest)[0]
            assert error.icmp and error.icmp.rest == room + 8 + header
            assert quoted(error) == (own, 5000, name, 53)


# --- forwarded ports ---


def listener(v6: bool = False, address: str = "", port: int = 0) -> socket.socket:
    sock = host_socket(v6, address, port)
    sock.setblocking(False)
    return sock


def test_peers_of_a_forwarded_port_are_told_apart(guest: Guest, v6: bool) -> None:
    own, gateway, _ = names(v6)
    with listener(v6) as forwarded, host_socket(v6) as one, host_socket(v6) as two:
        guest.listen(UDP, forwarded, 8000)
        for sock, text in ((one, b"one"), (two, b"two")):
            sock.sendto(text, forwarded.getsockname())
            frame = frames(guest)[0]
            assert frame.ip and frame.udp and frame.payload == text
            assert (str(frame.ip.src), str(frame.ip.dst)) == (gateway, own)
            assert (frame.udp.sport, frame.udp.dport) == (sock.getsockname()[1], 8000)
        for sock, text in ((two, b"to two"), (one, b"to one")):
            send(guest, own, 8000, gateway, sock.getsockname()[1], text)
            data, source = sock.recvfrom(100)
            assert data == text and source == forwarded.getsockname()


@isolated
def test_answers_come_from_the_address_that_was_written_to() -> None:
    ip("addr add 192.0.2.2/24 dev lo\naddr add 192.0.2.3/24 dev lo\naddr add 2001:db8::2/64 dev lo nodad\n"
       "addr add 2001:db8::3/64 dev lo nodad")  # fmt: skip
    with Guest() as guest, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as forwarded:
        forwarded.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        forwarded.bind(("::", 9000))
        guest.listen(UDP, forwarded, 8000)
        for v6, client, hosts in ((False, "127.0.0.9", ("192.0.2.2", "192.0.2.3", "127.0.0.1")),
                                  (True, "::1", ("2001:db8::2", "2001:db8::3", "::1"))):  # fmt: skip
            own, gateway, _ = names(v6)
            with host_socket(v6, client) as sock:
                for host in hosts:
                    sock.sendto(b"hello", (host, 9000))
                    frame = frames(guest)[0]
                    assert frame.ip and frame.udp
                    assert (str(frame.ip.src), frame.udp.dport) == (gateway, 8000)
                    send(guest, own, 8000, gateway, frame.udp.sport, b"hi")
                    assert sock.recvfrom(100)[1][:2] == (host, 9000)


@isolated
def test_remote_peers_keep_their_address_and_port() -> None:
    ip("addr add 192.0.2.2/24 dev lo\naddr add 198.51.100.7/32 dev lo")
    with Guest() as guest, listener(address="192.0.2.2", port=9000) as forwarded, host_socket(address="198.51.100.7") as sock:
        guest.listen(UDP, forwarded, 8000)
        sock.sendto(b"hello", ("192.0.2.2", 9000))
        frame = frames(guest)[0]
        assert frame.ip and frame.udp
        assert (str(frame.ip.src), frame.udp.sport) == ("198.51.100.7", sock.getsockname()[1])


@isolated
def test_peers_that_look_alike_get_ports_of_their_own() -> None:
    with Guest() as guest, listener(address="0.0.0.0", port=9000) as forwarded:
        guest.listen(UDP, forwarded, 8000)
        with host_socket(address="127.0.0.8", port=7000) as one, host_socket(address="127.0.0.9", port=7000) as two:
            ports = []
            for sock in (one, two):
                sock.sendto(b"hello", ("127.0.0.1", 9000))
                frame = frames(guest)[0]
                assert frame.ip and frame.udp and str(frame.ip.src) == GATEWAY4
                ports.append(frame.udp.sport)
            assert ports[0] == 7000 and ports[1] != 7000
            for sock, port in zip((one, two), ports, strict=True):
                send(guest, GUEST4, 8000, GATEWAY4, port, b"%d" % port)
                assert sock.recv(100) == b"%d" % port


@isolated
def test_a_guest_that_begins_from_its_forwarded_port_keeps_that_port() -> None:
    with Guest() as guest, listener(address="0.0.0.0", port=9000) as forwarded, host_socket() as sock:
        guest.listen(UDP, forwarded, 8000)
        send(guest, GUEST4, 8000, GATEWAY4, sock.getsockname()[1], b"first")
        data, source = sock.recvfrom(100)
        assert data == b"first" and source == ("127.0.0.1", 9000)
        sock.sendto(b"second", source)
        frame = frames(guest)[0]
        assert frame.udp and (frame.udp.sport, frame.udp.dport) == (sock.getsockname()[1], 8000)
        assert guest.counter("udp_flows") == 1


def test_a_port_bound_to_an_address_is_not_used_for_others(guest: Guest) -> None:
    with listener() as forwarded, host_socket(address="127.0.0.1") as sock:
        guest.listen(UDP, forwarded, 8000)
        send(guest, GUEST4, 8000, GATEWAY4, sock.getsockname()[1])
        assert sock.recvfrom(100)[1] != forwarded.getsockname()


# --- what must always hold ---


@contextlib.contextmanager
def few_descriptors() -> Iterator[None]:
    """Six more can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir("/proc/self/fd")}
    free = [number for number in range(len(taken) + 6) if number not in taken]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[5], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_descriptors_run_out_and_flows_are_refused_and_told_once(guest: Guest) -> None:
    with host_socket() as sock, few_descriptors():
        for port in range(5000, 5020):
            send(guest, GUEST4, port, GATEWAY4, sock.getsockname()[1])
    refused = guest.counter("udp_limit")
    assert 10 < refused < 20 and guest.counter("udp_flows") == 20 - refused
    lines = [line for line in guest.logs if "UDP flow refused" in line]
    assert len(lines) == 1 and os.strerror(errno.EMFILE) in lines[0]


def test_local_flows_that_are_refused_are_told_with_their_own_number(guest: Guest) -> None:
    with host_socket() as server, host_socket() as port, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(host_socket()) for _ in range(20)]
        guest.listen(UDP, port, server.getsockname()[1], to_host=True)
        with few_descriptors():
            for peer in peers:
                peer.sendto(b"x", port.getsockname())
                guest.pump()
    opened, refused = guest.counter("udp_splice_flows"), guest.counter("udp_limit")
    assert 0 < opened < 10 and opened + refused == 20
    (line,) = [line for line in guest.logs if "refused" in line]
    assert line.startswith(f"local UDP flow refused with {opened} open: {os.strerror(errno.EMFILE)}; raise the limit")


def test_closing_gives_back_every_descriptor(v6: bool) -> None:
    own, gateway, _ = names(v6)
    before = set(os.listdir("/proc/self/fd"))
    with Guest() as guest, host_socket(v6) as sock:
        for port in range(5000, 5020):
            send(guest, own, port, gateway, sock.getsockname()[1])
    assert set(os.listdir("/proc/self/fd")) == before


def test_frames_of_noise_open_nothing_and_crash_nothing(guest: Guest) -> None:
    rng = random.Random(7)
    with host_socket() as sock:
        good = ip_frame(GUEST4, GATEWAY4, UDP, udp_packet(GUEST4, 5000, GATEWAY4, sock.getsockname()[1], b"data"))
        for _ in range(2000):
            frame = bytearray(good[: rng.randrange(14, len(good) + 1)])
            for _ in range(rng.randrange(1, 4)):
                frame[rng.randrange(12, len(frame))] ^= 1 << rng.randrange(8)
            guest.send(bytes(frame))
            if rng.random() < 0.05:
                guest.pump()
        guest.pump()
        send(guest, GUEST4, 5000, GATEWAY4, sock.getsockname()[1], b"still there")
        received = []
        while b"still there" not in received:
            received.append(sock.recv(100))
    assert OUR_MAC != GUEST_MAC


@isolated
def test_an_answered_dns_question_is_forgotten_after_ten_seconds_and_others_are_not(counted_clock: CountedClock) -> None:
    with Guest() as guest, host_socket(port=53) as server, host_socket() as other:
        for port, sock in ((5000, server), (5001, other)):
            send(guest, GUEST4, port, GATEWAY4, sock.getsockname()[1])
            sock.sendto(b"answer", sock.recvfrom(100)[1])
        assert len(frames(guest, 2)) == 2
        counted_clock.pass_(guest, 9)
        assert guest.counter("udp_flows") == 2
        counted_clock.pass_(guest, 2)
        send(guest, GUEST4, 5001, GATEWAY4, other.getsockname()[1], b"still open")
        assert other.recv(100) == b"still open"
        assert guest.counter("udp_flows") == 1 and guest.counter("udp_opened") == 2
