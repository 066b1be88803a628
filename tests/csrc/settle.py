"""Waiting until the core has taken every frame that a test has sent, however busy the machine is."""

from __future__ import annotations

import fcntl
import struct
import termios

from guest import Guest


def settle(guest: Guest) -> None:
    """Pump until nothing that was sent waits in the socketpair, and once more for what it causes."""
    while struct.unpack("i", fcntl.ioctl(guest.sock, termios.TIOCOUTQ, bytes(4)))[0]:
        guest.pump(1)
    guest.pump()
