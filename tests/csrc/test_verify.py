"""Connections that have to name a name in TLS or HTTP: nothing leaves before they have, and the wrong ones are reset."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from client_hello import chromium, extension, handshake, large, records, request, server_name
from guest import ACK, FIN, GATEWAY4, PSH, RST, SYN, Guest, Segment, TcpPeer, plan
from guest import server as listening
from test_egress_verdicts import packed, policy
from test_gate import closed, judged

from pasta_py.worker import plane

HOUR_MS = 3_600_000
LOOPBACK = {False: packed("127.0.0.1"), True: packed("::1")}
VERIFY_BYTES = 32 << 10


class Held:
    """A connection of the guest that is open, and the host's end of it."""

    def __init__(self, guest: Guest, server: socket.socket, v6: bool, **options: int) -> None:
        guest.frames()  # what is left of an earlier connection
        self.guest, self.peer = guest, TcpPeer(guest, server.getsockname()[1], v6=v6, **options)
        self.peer.connect()
        self.host, _ = server.accept()
        self.host.setblocking(False)
        guest.pump()

    def says(self, data: bytes, size: int = 1400) -> None:
        for at in range(0, len(data), size):
            self.peer.send(ACK | PSH, data[at : at + size])
            self.guest.pump()

    def heard(self) -> bytes:
        """What has come to the host."""
        out = b""
        with suppress(BlockingIOError):
            while piece := self.host.recv(1 << 16):
                out += piece
        return out

    def is_reset(self) -> bool:
        """Whether the guest got a reset, the host nothing but one."""
        resets = [s for s in self.guest.segments() if s.flags & RST]
        if not resets:
            return False
        with pytest.raises(ConnectionResetError):
            assert not self.host.recv(1 << 16)
        return True


@contextmanager
def held(how: str = "tls", *, v6: bool = False, name: str = "a.test", **options: int) -> Iterator[Held]:
    address = "[::1]" if v6 else "127.0.0.1"
    with listening(v6) as server, closed(f"allow {name}={address}:{server.getsockname()[1]}/{how}") as guest:
        guest.plane.want_events(True)
        assert guest.plane.pin(LOOPBACK[v6], b"a.test", HOUR_MS)
        made = Held(guest, server, v6, **options)
        with made.host:
            yield made


def reasons(guest: Guest) -> list[str]:
    return [flow.outcome for flow in plane.judged_flows(guest.plane.take_events())]


HELLO = records(handshake(server_name("a.test")))
PROOFS = {"tls": HELLO, "http": request("a.test")}


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("how", PROOFS)
def test_a_connection_that_names_the_name_passes_both_ways(how: str, v6: bool) -> None:
    with held(how, v6=v6) as made:
        assert reasons(made.guest) == []  # it is not open for readers of events yet
        made.says(PROOFS[how])
        assert made.heard() == PROOFS[how] and reasons(made.guest) == [""]
        made.host.send(b"answer")
        assert made.peer.take(made.guest.wait_segments(2)) == b"answer"
        made.says(b"more, unread")
        assert made.heard() == b"more, unread" and made.guest.counter("drop_egress") == 0


@pytest.mark.parametrize("how", PROOFS)
def test_nothing_leaves_before_the_last_byte_of_the_proof(how: str) -> None:
    with held(how) as made:
        made.says(PROOFS[how][:-1], 1)
        assert made.heard() == b""
        made.says(PROOFS[how][-1:])
        assert made.heard() == PROOFS[how]


def test_nothing_comes_in_before_it_either() -> None:
    with held() as made:
        made.host.send(b"SSH-2.0-server")
        assert not any(s.payload for s in made.guest.segments())
        made.says(HELLO)
        assert b"SSH-2.0-server" in b"".join(s.payload for s in made.guest.segments())


def test_a_hello_of_17_kilobytes_passes_and_one_of_more_than_32_does_not() -> None:
    with held() as made:
        made.says(large("a.test"))
        assert made.heard() == large("a.test")
    with held() as made:
        made.says(large("a.test", 40 << 10)[:VERIFY_BYTES], 1024)
        assert made.is_reset() and reasons(made.guest) == ["name_late"]


@pytest.mark.parametrize(
    ("how", "data", "reason"),
    [
        ("tls", records(handshake(server_name("b.test"))), "other_name"), ("tls", chromium("sub.a.test"), "other_name"),
        ("tls", records(handshake(extension(1, b""))), "without_name"), ("tls", request("a.test"), "not_verified"),
        ("tls", b"SSH-2.0-OpenSSH_10\r\n", "not_verified"),
        ("http", request("b.test"), "other_name"), ("http", b"GET / HTTP/1.0\r\n\r\n", "without_name"),
        ("http", HELLO, "not_verified"), ("http", request("a.test", target="http://b.test/"), "not_verified"),
    ],
)  # fmt: skip
def test_what_names_something_else_is_reset_and_sends_nothing(how: str, data: bytes, reason: str) -> None:
    with held(how) as made:
        made.says(data)
        assert made.is_reset() and reasons(made.guest) == [reason]
        assert made.guest.counter("drop_egress") == 1 and made.guest.counter("tcp_flows") == 0
        named = made.guest.plane.named_last(packed(GATEWAY4), made.peer.dport)
        assert named.endswith(".test") and named.encode() in data if reason == "other_name" else named == ""


def test_a_wildcard_takes_names_below_it() -> None:
    with held(name="*.test") as made:
        made.says(records(handshake(server_name("x.y.test"))))
        assert made.heard()


def test_a_name_that_shares_the_address_passes_if_a_rule_allows_it() -> None:
    with listening() as server:
        port = server.getsockname()[1]
        with closed(
            f"deny bad.test:{port}", f"allow a.test=127.0.0.1:{port}/tls", f"allow *.test=127.0.0.1:{port}/tls"
        ) as guest:
            assert guest.plane.pin(LOOPBACK[False], b"a.test", HOUR_MS)
            for sport, (name, passes) in enumerate(
                {"a.test": True, "b.test": True, "bad.test": False, "c.other": False}.items(), 40000
            ):
                made = Held(guest, server, False, sport=sport)
                with made.host:
                    made.says(records(handshake(server_name(name))))
                    assert bool(made.heard()) if passes else made.is_reset()


def test_a_name_without_a_proof_comes_first() -> None:
    """ssh to a name that shares its address with one that has to be proved."""
    with listening() as server:
        port = server.getsockname()[1]
        with closed(f"allow a.test=127.0.0.1:{port}/tls", f"allow git.test=127.0.0.1:{port}") as guest:
            assert guest.plane.pin(LOOPBACK[False], b"a.test", HOUR_MS) and guest.plane.pin(LOOPBACK[False], b"git.test", HOUR_MS)
            made = Held(guest, server, False)
            with made.host:
                made.says(b"SSH-2.0-OpenSSH_10\r\n")
                assert made.heard() == b"SSH-2.0-OpenSSH_10\r\n"


def test_udp_is_refused_where_tls_is_wanted() -> None:
    with closed("allow a.test=127.0.0.1:443/tls", "allow b.test=127.0.0.1:443") as guest:
        assert guest.plane.pin(LOOPBACK[False], b"a.test", HOUR_MS)
        assert [guest.plane.flow_verdict(number, packed(GATEWAY4), 443)[0] for number in (6, 17)] == [True, False]
        assert guest.plane.verifies(0) == "tls" and guest.plane.verifies(1) == "" and guest.plane.verifies(plane.NO_RULE) == "tls"


def test_a_close_without_a_byte_ends_in_peace() -> None:
    with held() as made:
        made.peer.send(FIN | ACK)
        made.guest.pump()
        assert made.host.recv(10) == b""
        (end,) = [s for s in made.guest.segments() if s.flags & FIN]
        made.peer.take([end])
        made.peer.send(ACK)
        made.guest.pump()
        assert made.guest.counter("tcp_flows") == 0 and made.guest.counter("drop_egress") == 0


def test_a_close_in_the_middle_is_a_no() -> None:
    with held() as made:
        made.says(HELLO[:20])
        made.peer.send(FIN | ACK)
        assert made.is_reset() and reasons(made.guest) == ["not_verified"]


def test_a_reset_of_the_host_reaches_the_guest() -> None:
    with held() as made:
        made.host.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        made.host.close()
        assert any(s.flags & RST for s in made.guest.wait_segments())
        assert reasons(made.guest) == ["peer_reset"] and made.guest.counter("drop_egress") == 0


def test_silence_ends_after_five_seconds_whatever_the_guest_acknowledges() -> None:
    with held() as made:
        made.says(HELLO[:9])
        resets: list[Segment] = []
        while not resets:
            made.peer.send(ACK, window=0)  # neither these nor probes move the limit
            resets = [s for s in made.guest.segments() if s.flags & RST]
        assert reasons(made.guest) == ["name_late"]


def test_data_in_the_syn_is_taken_when_it_comes_again() -> None:
    with listening() as server, closed(f"allow a.test=127.0.0.1:{server.getsockname()[1]}/tls") as guest:
        assert guest.plane.pin(LOOPBACK[False], b"a.test", HOUR_MS)
        peer = TcpPeer(guest, server.getsockname()[1])
        peer.send(SYN, HELLO, seq=peer.seq, options=peer.options())
        (answer,) = guest.wait_segments()
        peer.seq, peer.ack = answer.ack, answer.seq + 1
        assert peer.seq == 1001
        host, _ = server.accept()
        with host:
            host.setblocking(False)
            peer.send(ACK | PSH, HELLO)
            guest.pump()
            assert host.recv(1 << 16) == HELLO


def test_rules_that_change_meanwhile_count() -> None:
    with held() as made:
        made.says(HELLO[:9])
        port = made.peer.dport
        assert made.guest.plane.set_egress(policy(f"allow b.test=127.0.0.1:{port}/tls", f"allow a.test=127.0.0.1:{port}/http"))
        assert judged(made.guest) == (1, 0)
        made.says(HELLO[9:])
        assert made.is_reset() and reasons(made.guest) == ["other_name"]


def changed(guest: Guest, *lines: str) -> tuple[int, int]:
    """Other rules: how many flows they keep and end."""
    assert guest.plane.set_egress(policy(*lines))
    return judged(guest)


@pytest.mark.parametrize("how", PROOFS)
def test_a_name_that_was_given_counts_when_rules_change(how: str) -> None:
    with held(how) as made:
        port = made.peer.dport
        made.says(PROOFS[how])
        assert made.heard() and made.guest.plane.pin(LOOPBACK[False], b"b.test", HOUR_MS)
        both = [f"allow {name}.test=127.0.0.1:{port}/{how}" for name in "ba"]
        assert changed(made.guest, *both) == (1, 0)
        assert changed(made.guest, f"allow b.test=127.0.0.1:{port}/tcp") == (1, 0), "what it names does not matter then"
        assert changed(made.guest, f"deny a.test:{port}", *both) == (0, 1)
        assert made.is_reset()


def test_it_counts_though_the_name_that_led_there_is_another() -> None:
    with held() as made:
        port = made.peer.dport
        assert changed(made.guest, f"allow *.test=127.0.0.1:{port}/tls") == (1, 0)
        made.says(records(handshake(server_name("b.test"))))
        assert made.heard()
        assert changed(made.guest, f"allow a.test=127.0.0.1:{port}/tls") == (0, 1)
        assert made.is_reset()


def test_a_proof_of_another_kind_and_none_are_none_when_rules_change() -> None:
    with held() as made:
        made.says(HELLO)
        assert made.heard() and changed(made.guest, f"allow a.test=127.0.0.1:{made.peer.dport}/http") == (0, 1)
        assert made.is_reset()
    with listening() as server, closed(f"allow a.test=127.0.0.1:{server.getsockname()[1]}/tcp") as guest:
        assert guest.plane.pin(LOOPBACK[False], b"a.test", HOUR_MS)
        made = Held(guest, server, False)
        with made.host:
            made.says(HELLO)
            assert made.heard() and changed(guest, f"allow a.test=127.0.0.1:{made.peer.dport}/tls") == (0, 1)
            assert made.is_reset()


def test_where_a_flow_is_taken_to_an_inspector_the_place_that_it_leads_to_counts() -> None:
    """The inspector's own address is in no rule that allows, and in one that denies."""
    with socket.create_server(("127.0.0.2", 0)) as inspector, closed() as guest:
        port = 443
        rules = ("deny 127.0.0.2", f"allow a.test=127.0.0.1:{port}/tls")
        assert changed(guest, *rules) == (0, 0)
        target = packed("127.0.0.2") + inspector.getsockname()[1].to_bytes(2, "big") + b"\0"
        guest.plane.set_detours(plan().replace(detours=policy("allow *"), detour_targets=target + bytes(19)))
        assert guest.plane.pin(LOOPBACK[False], b"a.test", HOUR_MS)
        peer = TcpPeer(guest, port)
        peer.connect()
        host, _ = inspector.accept()
        with host:
            peer.send(ACK | PSH, HELLO)
            guest.pump()
            assert host.recv(1 << 16) == HELLO
            assert changed(guest, *rules, "allow 203.0.113.1") == (1, 0)
            assert changed(guest, "deny 127.0.0.1", "allow *") == (0, 1)
