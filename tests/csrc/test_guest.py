"""The harness of these tests: it waits for the core however slowly the machine runs."""

from __future__ import annotations

import time

import pytest
from guest import GUEST_MAC, Guest


def test_a_pump_waits_until_the_core_has_taken_every_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each frame here is Python's and ends a turn; a tick is due at each call."""
    arp = b"\xff" * 6 + GUEST_MAC + bytes.fromhex("0806") + bytes(28)
    with Guest() as guest:
        run = guest.plane.run

        def late() -> tuple[int, int, bytes]:
            time.sleep(0.002)
            return run()

        monkeypatch.setattr(guest.plane, "run", late)
        for _ in range(8):
            guest.send(arp)
        guest.pump()
        assert len(guest.punts) == 8 and guest.counter("tap_rx_frames") == 8
