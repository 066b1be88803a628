"""A model of the guest's UDP conversations, driven at random from both sides.

The guest writes from a few ports to a few sockets of the host, the remotes. A remote answers, sends unsolicited datagrams, writes
to a forwarded port, closes its socket and opens it again. After every step, exactly these datagrams have arrived:

- a datagram reaches the socket that it was sent to, unchanged, and no other socket;
- all destinations of an IP version see one address and port for a port of the guest (RFC 4787, 4.1);
- the guest gets datagrams of remotes that it has written to, and of those that write to its forwarded port; each remote keeps the
  address and port that the guest knows it by;
- no two conversations have the same address and port in the guest;
- a datagram to a closed port causes one ICMP error that quotes it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct

from checker.frame import Frame, IPv4, IPv6, decode
from guest import GATEWAY4, GATEWAY6, GUEST4, GUEST6, PATIENCE_S, Guest, ip_frame
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from isolated import isolated
from packets import checksum, pseudo

UDP = 17
GSO_UDP = 5  # virtio 1.3, 5.1.6
FORWARDED = 8000
PORTS = (5000, 5001, FORWARDED)
REMOTES = 6  # the even ones IPv4, the odd ones IPv6
SIZES = st.sampled_from([0, 1, 2, 100, 1452, 1453, 1472, 1473, 4000])
CLOSED = {False: (3, 3), True: (1, 4)}

Address = tuple[str, int]
Datagram = tuple[int, int, bytes]  # source port, destination port, payload


def ends(v6: bool) -> tuple[str, str]:
    return (GUEST6, GATEWAY6) if v6 else (GUEST4, GATEWAY4)


def bound(v6: bool, port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("::1" if v6 else "127.0.0.1", port))
    sock.setblocking(False)
    return sock


def drain(sock: socket.socket, count: int = 0) -> list[tuple[bytes, Address]]:
    """Reads all waiting datagrams; waits until there are at least `count`."""
    out: list[tuple[bytes, Address]] = []
    while True:
        if len(out) < count:
            select.select([sock], [], [], PATIENCE_S)
        try:
            data, source = sock.recvfrom(70000)
        except BlockingIOError:
            return out
        out.append((data, source[:2]))


class UdpModel(RuleBasedStateMachine):
    @initialize(uso=st.booleans())
    def open(self, uso: bool) -> None:
        self.serial = 0
        self.vnet = uso
        self.guest = Guest(vnet_hdr=uso, uso=uso)
        self.sockets: list[socket.socket] = [bound(bool(i % 2)) for i in range(REMOTES)]
        self.addresses: list[Address] = [s.getsockname()[:2] for s in self.sockets]
        self.forwarded = {v6: bound(v6) for v6 in (False, True)}
        for sock in self.forwarded.values():
            self.guest.listen(UDP, sock, FORWARDED)
        # (port of the guest, family): the host's address for it.
        self.outside: dict[tuple[int, bool], Address] = {}
        # (port of the guest, family, remote port as the guest sees it): (remote, through the forwarded port).
        self.names: dict[tuple[int, bool, int], tuple[int, bool]] = {}
        self.unsolicited = 0

    # --- helpers ---

    def payload(self, size: int) -> bytes:
        self.serial += 1
        return (struct.pack("!I", self.serial) * (size // 4 + 1))[:size]

    def from_guest(self, v6: bool, sport: int, dport: int, payload: bytes) -> None:
        self.write(v6, sport, dport, payload)
        self.guest.pump()

    def write(self, v6: bool, sport: int, dport: int, payload: bytes) -> None:
        own, gateway = ends(v6)
        head = struct.pack("!HHH", sport, dport, 8 + len(payload))
        total = checksum(pseudo(own, gateway, UDP, 8 + len(payload)) + head + b"\0\0" + payload) or 0xFFFF
        frame = ip_frame(own, gateway, UDP, head + struct.pack("!H", total) + payload)
        self.guest.send((bytes(10) if self.vnet else b"") + frame)

    def at_guest(self) -> tuple[dict[bool, list[Datagram]], list[Frame]]:
        """Datagrams by IP version, reassembled from fragments (which come in order), and ICMP errors."""
        datagrams: dict[bool, list[Datagram]] = {False: [], True: []}
        errors: list[Frame] = []
        parts = b""
        for raw in self.guest.frames():
            frame = decode(raw[10:] if self.vnet else raw, partial=self.vnet)
            v6 = isinstance(frame.ip, IPv6)
            if frame.icmp:
                errors.append(frame)
                continue
            assert frame.ip and (str(frame.ip.dst), str(frame.ip.src)) == ends(v6)
            if frame.udp:
                size = (
                    struct.unpack_from("=H", raw, 4)[0] if self.vnet and raw[1] == GSO_UDP else len(frame.payload) or 1
                )
                for at in range(0, len(frame.payload) or 1, size):
                    datagrams[v6].append((frame.udp.sport, frame.udp.dport, frame.payload[at : at + size]))
                continue
            if isinstance(frame.ip, IPv4):
                more, piece = frame.ip.mf, frame.payload
            else:
                more, piece = bool(frame.payload[3] & 1), frame.payload[8:]
            parts += piece
            if not more:
                assert checksum(pseudo(*ends(v6), UDP, len(parts)) + parts) == 0
                datagrams[v6].append((*struct.unpack_from("!HH", parts), parts[8:]))
                parts = b""
        assert not parts, "a last fragment is missing"
        return datagrams, errors

    def nothing_else(self, but: int | None = None) -> None:
        for number, sock in enumerate(self.sockets):
            assert number == but or drain(sock) == [], f"remote {number} gets a datagram that is not for it"
        if but is None:
            assert self.at_guest() == ({False: [], True: []}, [])

    def expect_at_guest(self, v6: bool, dport: int, payload: bytes) -> int:
        """Requires exactly one datagram, at the guest. Returns its source port."""
        datagrams, errors = self.at_guest()
        assert not errors and not datagrams[not v6]
        assert [(d, data) for _, d, data in datagrams[v6]] == [(dport, payload)]
        self.nothing_else()
        return datagrams[v6][0][0]

    # --- rules ---

    @rule(port=st.sampled_from(PORTS), remote=st.integers(0, REMOTES - 1), size=SIZES)
    def guest_writes(self, port: int, remote: int, size: int) -> None:
        v6, dport = bool(remote % 2), self.addresses[remote][1]
        # The core may have given this address and port to another remote.
        remote, through = self.names.setdefault((port, v6, dport), (remote, False))
        payload = self.payload(size)
        self.from_guest(v6, port, dport, payload)
        got = drain(self.sockets[remote], 1)
        assert [data for data, _ in got] == [payload]
        source = got[0][1]
        if through:
            assert source == self.forwarded[v6].getsockname()[:2], "answers leave from where the question came in"
        else:
            assert source == self.outside.setdefault((port, v6), source), "one port for all destinations"
            assert source != self.forwarded[v6].getsockname()[:2]
        self.nothing_else()

    @precondition(lambda self: self.outside)
    @rule(data=st.data(), sizes=st.lists(st.sampled_from([0, 5, 1000, 1000, 1000, 1453]), min_size=1, max_size=40))
    def a_remote_answers_with_a_burst(self, data: st.DataObject, sizes: list[int]) -> None:
        port, v6, dport = data.draw(st.sampled_from(sorted(self.names)))
        remote, through = self.names[port, v6, dport]
        if through:
            return
        payloads = [self.payload(size) for size in sizes]
        for payload in payloads:
            self.sockets[remote].sendto(payload, self.outside[port, v6])
        datagrams, errors = self.at_guest()
        assert not errors and datagrams == {v6: [(dport, port, payload) for payload in payloads], not v6: []}
        self.nothing_else()

    @rule(writes=st.lists(st.tuples(st.sampled_from(PORTS[:2]), st.integers(0, REMOTES - 1),
                                    st.sampled_from([0, 5, 1000, 1000, 1000, 1452])), min_size=1, max_size=20))  # fmt: skip
    def the_guest_writes_a_burst(self, writes: list[tuple[int, int, int]]) -> None:
        expected: dict[int, list[bytes]] = {remote: [] for remote in range(REMOTES)}
        for port, remote, size in writes:
            expected[remote].append(self.payload(size))
            self.names.setdefault((port, bool(remote % 2), self.addresses[remote][1]), (remote, False))
            self.write(bool(remote % 2), port, self.addresses[remote][1], expected[remote][-1])
        self.guest.pump()
        sources: dict[int, list[Address]] = {}
        for remote, payloads in expected.items():
            got = drain(self.sockets[remote], len(payloads))
            assert [data for data, _ in got] == payloads
            sources[remote] = [source for _, source in got]
        for port, remote, _ in writes:
            source = sources[remote].pop(0)
            assert source == self.outside.setdefault((port, bool(remote % 2)), source)
        self.nothing_else()

    @precondition(lambda self: self.names)
    @rule(data=st.data(), size=SIZES)
    def guest_answers(self, data: st.DataObject, size: int) -> None:
        port, v6, dport = data.draw(st.sampled_from(sorted(self.names)))
        remote, through = self.names[port, v6, dport]
        payload = self.payload(size)
        self.from_guest(v6, port, dport, payload)
        source = self.forwarded[v6].getsockname()[:2] if through else self.outside[port, v6]
        assert drain(self.sockets[remote], 1) == [(payload, source)]
        self.nothing_else()

    @precondition(lambda self: self.outside)
    @rule(data=st.data(), remote=st.integers(0, REMOTES - 1), size=SIZES)
    def remote_writes_to_an_outside_port(self, data: st.DataObject, remote: int, size: int) -> None:
        v6 = bool(remote % 2)
        of_family = sorted(key for key in self.outside if key[1] == v6)
        if not of_family:
            return
        port = data.draw(st.sampled_from(of_family))[0]
        payload = self.payload(size)
        self.sockets[remote].sendto(payload, self.outside[port, v6])
        known = [name for name, who in self.names.items() if name[:2] == (port, v6) and who == (remote, False)]
        if known:
            assert self.expect_at_guest(v6, port, payload) == known[0][2]
        else:
            self.unsolicited += 1
            self.nothing_else()
        assert self.guest.counter("udp_unsolicited") == self.unsolicited

    @rule(remote=st.integers(0, REMOTES - 1), size=SIZES)
    def remote_writes_to_the_forwarded_port(self, remote: int, size: int) -> None:
        v6 = bool(remote % 2)
        payload = self.payload(size)
        self.sockets[remote].sendto(payload, self.forwarded[v6].getsockname())
        sport = self.expect_at_guest(v6, FORWARDED, payload)
        who = self.names.setdefault((FORWARDED, v6, sport), (remote, True))
        assert who == (remote, True), "two conversations have one name"
        assert sum(w == who for name, w in self.names.items() if name[:2] == (FORWARDED, v6)) == 1, "one has two names"

    @rule(port=st.sampled_from(PORTS[:2]), remote=st.integers(0, REMOTES - 1), size=SIZES)
    def guest_writes_while_the_remote_is_away(self, port: int, remote: int, size: int) -> None:
        v6, dport = bool(remote % 2), self.addresses[remote][1]
        self.sockets[remote].close()
        payload = self.payload(size)
        self.from_guest(v6, port, dport, payload)
        datagrams, errors = self.at_guest()
        self.sockets[remote] = bound(v6, dport)
        assert not datagrams[False] and not datagrams[True] and len(errors) == 1
        assert errors[0].icmp and (errors[0].icmp.type, errors[0].icmp.code) == CLOSED[v6]
        quoted = errors[0].icmp.body[40 if v6 else 20 :]
        assert struct.unpack_from("!HHH", quoted) == (port, dport, 8 + len(payload)) or size > 1000
        assert payload.startswith(quoted[8:])
        self.names.setdefault((port, v6, dport), (remote, False))
        self.learn_outside(port, v6, remote)
        self.nothing_else()

    def learn_outside(self, port: int, v6: bool, remote: int) -> None:
        """Learns the host address of the guest's port from a remote that is open again."""
        self.from_guest(v6, port, self.addresses[remote][1], b"where")
        ((data, source),) = drain(self.sockets[remote], 1)
        assert data == b"where" and source == self.outside.setdefault((port, v6), source)

    def teardown(self) -> None:
        if not hasattr(self, "guest"):
            return
        with contextlib.ExitStack() as stack:
            for sock in (*self.sockets, *self.forwarded.values()):
                stack.callback(sock.close)
            stack.callback(self.guest.__exit__, None, None, None)
            assert self.guest.counter("udp_flows") == len(self.names)


@isolated
def test_udp_model() -> None:
    """Runs in its own namespace: no other program can take the port of a closed remote."""
    # Without the shrink phase: it takes longer than an isolated test may.
    run_state_machine_as_test(
        UdpModel,
        settings=settings(max_examples=30, stateful_step_count=40, deadline=None, phases=(Phase.generate,)),
    )
