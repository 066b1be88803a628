"""The harness of these tests: it waits for the core however slowly the machine runs."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from guest import ACK, GUEST_MAC, SYN, Guest, TcpPeer, parse, server


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guest]:
    """A tick is due at each call."""
    with Guest() as guest:
        run = guest.plane.run

        def late() -> tuple[int, int, bytes]:
            time.sleep(0.002)
            return run()

        monkeypatch.setattr(guest.plane, "run", late)
        yield guest


def test_a_pump_waits_until_the_core_has_taken_every_frame(slow: Guest) -> None:
    """Each frame here is Python's and ends a turn."""
    arp = b"\xff" * 6 + GUEST_MAC + bytes.fromhex("0806") + bytes(28)
    for _ in range(8):
        slow.send(arp)
    slow.pump()
    assert len(slow.punts) == 8 and slow.counter("tap_rx_frames") == 8


def test_a_pump_waits_for_what_a_frame_leads_to(slow: Guest) -> None:
    """The core connects, the kernel says that it could, the core answers: each in a turn of its own."""
    with server() as listener:
        peer = TcpPeer(slow, listener.getsockname()[1])
        peer.send(SYN, options=peer.options())
        slow.pump(1)
        answer = parse(slow.sock.recv(2000))
        assert answer.flags == SYN | ACK  # type: ignore[union-attr]
