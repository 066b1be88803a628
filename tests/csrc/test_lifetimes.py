"""How long what the core remembers lives, against a clock that the test moves; each figure is one of docs/reliability.md."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterator

import pytest
from clocked import ROOT, Clock, CountedClock
from datagrams import host_socket, names, send
from fragmenting import fragment
from guest import ACK, FIN, GATEWAY4, GUEST4, PSH, RST, SYN, Guest, TcpPeer, connected, ip_frame, server, silent_server
from isolated import isolated
from packets import checksum

USER_TIMEOUT_S = 120
IDLE_S = 7440
PROBES, PROBE_S = 10, 30
UDP_ONE_WAY_S, UDP_TALK_S, UDP_DNS_S = 120, 300, 10
ECHO_S = 30
FRAGMENTS_S = 30


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """No time passes but what a test lets pass, and some milliseconds in which the core runs."""
    return CountedClock(monkeypatch)


@pytest.fixture
def guest(clock: Clock) -> Iterator[Guest]:
    with Guest() as made:
        yield made


# --- TCP ---


def test_a_guest_that_sends_but_never_acknowledges_is_given_up_after_two_minutes(clock: Clock, guest: Guest) -> None:
    peer, sock = connected(guest)
    with sock:
        sock.sendall(b"never acknowledged")
        guest.wait_segments()
        for _ in range(USER_TIMEOUT_S - 10):
            clock.pass_(guest, 1)
            peer.send(ACK | PSH, b"x")
            guest.frames()
        assert guest.counter("tcp_flows") == 1, "RFC 1122, 4.2.3.5: not within 100 s"
        sock.recv(1000)
        clock.pass_(guest, 20)
        assert guest.segments()[-1].flags & RST
        assert guest.counter("tcp_flows") == 0
        with pytest.raises(ConnectionResetError):
            while sock.recv(1000):
                pass


def test_the_same_for_an_end_that_is_never_acknowledged(clock: Clock, guest: Guest) -> None:
    peer, sock = connected(guest)
    with sock:
        sock.shutdown(socket.SHUT_WR)
        assert guest.wait_segments()[-1].flags & FIN
        for _ in range(USER_TIMEOUT_S + 2):
            clock.pass_(guest, 1)
            peer.send(ACK | PSH, b"x")
            guest.frames()
        assert guest.counter("tcp_flows") == 0


def test_a_guest_that_says_nothing_is_given_up_after_two_minutes(clock: Clock, guest: Guest) -> None:
    _, sock = connected(guest)
    with sock:
        sock.sendall(b"never acknowledged")
        clock.pass_(guest, 100)
        assert guest.counter("tcp_flows") == 1
        clock.pass_(guest, 30)
        assert guest.counter("tcp_flows") == 0


def test_slow_acknowledgements_keep_a_connection(clock: Clock, guest: Guest) -> None:
    peer, sock = connected(guest)
    with sock:
        sock.sendall(bytes(20))
        guest.wait_segments()
        for _ in range(20):
            clock.pass_(guest, USER_TIMEOUT_S - 10, 5)
            peer.ack += 1
            peer.send(ACK)
            guest.frames()
        assert guest.counter("tcp_flows") == 1


def test_a_closed_window_that_is_confirmed_keeps_a_connection(clock: Clock, guest: Guest) -> None:
    peer, sock = connected(guest)
    with sock:
        sock.sendall(bytes(3000))
        guest.wait_segments()
        for _ in range(60):
            clock.pass_(guest, 30, 5)
            if guest.segments():
                peer.send(ACK, window=0)
        assert guest.counter("tcp_flows") == 1
        peer.send(ACK)
        clock.pass_(guest, 1)
        assert guest.counter("tcp_flows") == 1


def test_an_idle_connection_is_asked_after_two_hours_and_lives_on_with_an_answer(clock: Clock, guest: Guest) -> None:
    peer, sock = connected(guest)
    with sock:
        clock.pass_(guest, IDLE_S - 60, 60)
        assert not guest.segments()
        clock.pass_(guest, 61, 61)
        assert len(guest.segments()) == 1
        peer.send(ACK)
        clock.pass_(guest, IDLE_S - 60, 60)
        assert guest.counter("tcp_flows") == 1


def test_an_idle_connection_ends_without_an_answer(clock: Clock, guest: Guest) -> None:
    _, sock = connected(guest)
    with sock:
        clock.pass_(guest, IDLE_S, 60)
        clock.pass_(guest, PROBES * PROBE_S - 10)
        assert guest.counter("tcp_flows") == 1
        clock.pass_(guest, 2 * PROBE_S)
        assert guest.counter("tcp_flows") == 0


def test_a_host_client_is_given_up_when_the_guest_never_answers(clock: Clock, guest: Guest) -> None:
    with server() as listener, socket.socket() as client:
        guest.listen(socket.IPPROTO_TCP, listener, 8080)
        client.connect(listener.getsockname())
        guest.wait_segments()
        clock.pass_(guest, 30)
        assert guest.counter("tcp_flows") == 1
        clock.pass_(guest, 40)
        assert guest.counter("tcp_flows") == 0


def test_a_guest_that_never_finishes_its_handshake_is_given_up(clock: Clock, guest: Guest) -> None:
    with server() as listener:
        TcpPeer(guest, listener.getsockname()[1]).send(SYN)
        assert guest.wait_segments()[0].flags == SYN | ACK
        clock.pass_(guest, 70)
        assert guest.counter("tcp_flows") == 0


@pytest.mark.parametrize(
    "times_s",
    [
        [0],
        [0, 1, 3, 7, 15, 31, 63],  # Linux, with net.ipv4.tcp_syn_linear_timeouts = 0
        [0, 1, 2, 3, 4, 5, 7, 11, 19, 35],  # and with 4, its default since 6.5
        [0, 3, 9, 21, 45],  # RFC 2988, 2.1: 3 s
        [0, 1, 3, 3, 3, 7],  # one that was duplicated on its way
    ],
)
def test_a_connect_that_nobody_answers_lives_as_long_as_the_guest_repeats_it(
    clock: Clock, guest: Guest, times_s: list[int]
) -> None:
    """Three times the last interval and 2 s after the last SYN it ends; nobody hears of that."""
    with silent_server() as port:
        peer, now = TcpPeer(guest, port), 0
        for at in times_s:
            clock.pass_(guest, at - now)
            now = at
            assert guest.counter("tcp_flows") == bool(at)
            peer.send(SYN, seq=peer.seq)
            guest.pump()
        assert guest.counter("tcp_opened") == 1
        last_s = max(1, max(b - a for a, b in zip([0, *times_s], times_s, strict=False)))
        clock.pass_(guest, 3 * last_s + 1)
        assert guest.counter("tcp_flows") == 1
        clock.pass_(guest, 2)
        assert guest.counter("tcp_flows") == 0 and not guest.frames()
        peer.send(SYN, seq=peer.seq)
        guest.pump()
        assert guest.counter("tcp_opened") == 2, "a later one begins anew"


def test_an_acknowledgement_that_has_come_while_we_were_stopped_counts_before_its_timeout(clock: Clock, guest: Guest) -> None:
    peer, sock = connected(guest)
    with sock:
        sock.sendall(b"once")
        peer.take(guest.wait_segments())
        peer.send(ACK)
        clock.pass_(guest, 60, 60)
        assert guest.segments() == [] and guest.counter("tcp_retransmits") == 0


# --- UDP, ping, fragments ---


@pytest.mark.parametrize(
    ("sent", "answered", "seconds"), [(1, 0, UDP_ONE_WAY_S), (5, 0, UDP_ONE_WAY_S), (1, 1, UDP_ONE_WAY_S), (2, 2, UDP_TALK_S)]
)
def test_udp_flows_live_as_long_as_rfc_4787_asks(clock: Clock, guest: Guest, sent: int, answered: int, seconds: int) -> None:
    own, gateway, _ = names(False)
    with host_socket() as sock:
        for number in range(sent):
            send(guest, own, 5000, gateway, sock.getsockname()[1])
            _, peer = sock.recvfrom(100)
            if number < answered:
                sock.sendto(b"answer", peer)
                guest.pump()
        clock.pass_(guest, seconds - 1, 10)
        assert guest.counter("udp_flows") == 1
        clock.pass_(guest, 2)
        assert guest.counter("udp_flows") == 0


@isolated
def test_a_dns_question_lives_ten_seconds_after_its_answer(clock: Clock, guest: Guest) -> None:
    own, gateway, _ = names(False)
    with host_socket(port=53) as sock:
        send(guest, own, 5000, gateway, 53)
        _, peer = sock.recvfrom(100)
        clock.pass_(guest, UDP_ONE_WAY_S - 1, 10)
        assert guest.counter("udp_flows") == 1, "the answer may still come"
        sock.sendto(b"answer", peer)
        guest.pump()
        clock.pass_(guest, UDP_DNS_S - 1)
        assert guest.counter("udp_flows") == 1
        clock.pass_(guest, 2)
        assert guest.counter("udp_flows") == 0


def test_fragments_are_forgotten_after_thirty_seconds(clock: Clock, guest: Guest) -> None:
    pieces = [fragment(GUEST4, GATEWAY4, bytes(800), 0, True), fragment(GUEST4, GATEWAY4, bytes(8), 800, False)]
    guest.send(pieces[0])
    clock.pass_(guest, FRAGMENTS_S + 1)
    guest.send(pieces[1])
    guest.pump()
    assert guest.counter("reassembled") == 0
    guest.send(pieces[0])
    guest.pump()
    assert guest.counter("reassembled") == 1


# --- jumps ---


@pytest.mark.parametrize("jump", [-10 * 365 * 86400, 10 * 365 * 86400], ids=["back", "forth"])
def test_the_clock_on_the_wall_may_jump(clock: Clock, guest: Guest, jump: int, tmp_path: object) -> None:
    peer, sock = connected(guest)
    own, gateway, _ = names(False)
    with sock, open(f"{tmp_path}/jump.pcap", "wb") as capture:
        guest.plane.capture([capture.fileno()])
        send(guest, own, 5000, gateway, 9)
        before = guest.counter("udp_flows"), guest.counter("tcp_flows")
        clock.set_wall(jump)
        clock.pass_(guest, 5)
        assert (guest.counter("udp_flows"), guest.counter("tcp_flows")) == before
        sock.sendall(b"still here")
        assert peer.take(guest.wait_segments()) == b"still here"
        assert guest.counter("tcp_retransmits") == 0


def test_a_machine_that_slept_for_a_day_wakes_up_well(clock: Clock, guest: Guest) -> None:
    """As if CLOCK_MONOTONIC counted it: what is idle is asked, what was in flight is sent again, nothing ends at once."""
    peer, sock = connected(guest)
    with sock:
        sock.sendall(b"before")
        guest.wait_segments()
        clock.pass_(guest, 86400, 86400)
        (again,) = [s for s in guest.wait_segments() if s.payload]
        assert peer.take([again]) == b"before"
        peer.send(ACK)
        guest.pump()
        sock.sendall(b"after")
        assert peer.take([s for s in guest.wait_segments() if s.payload]) == b"after"


@isolated
def test_an_echo_flow_lives_thirty_seconds(clock: Clock, guest: Guest) -> None:
    echo = struct.pack("!BBHHH", 8, 0, 0, 77, 1)
    echo = echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]
    guest.send(ip_frame(GUEST4, GATEWAY4, 1, echo))
    guest.pump()
    clock.pass_(guest, ECHO_S - 1)
    assert guest.counter("icmp_flows") == 1
    clock.pass_(guest, 2)
    assert guest.counter("icmp_flows") == 0


def test_the_time_of_day_is_for_stamps_only() -> None:
    """In captures, in the log and in what readers get; every timer uses CLOCK_MONOTONIC."""
    pattern = re.compile(r"CLOCK_REALTIME|gettimeofday|\btime\(NULL\)|\btime\.time(_ns)?\(|time\.(gm|local)time|datetime")
    folders = (ROOT / "csrc", ROOT / "pasta_py" / "worker")
    found = {path.name for folder in folders for path in folder.rglob("*.[chp]*") if path.suffix in (".c", ".h", ".py")
             and pattern.search(path.read_text())}  # fmt: skip
    stamps = {"capture.c", "capture_packet.c", "captures.c", "log.py", "metrics.py", "event_readers.py", "logs_and_control.py"}
    stamps |= {"decision_lines.py", "decisions.py", "learning.py"}
    assert found == stamps
