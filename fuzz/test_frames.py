"""Any bytes as a frame of the guest: the core does not fail or stall, its answers are valid frames, and its flows stay few.

Two kinds of input: random bytes, and valid frames of every protocol with some bytes changed.
"""

from __future__ import annotations

from guest import ACK, GATEWAY4, GATEWAY6, GUEST4, GUEST6, GUEST_MAC, SYN, Guest, TcpPeer, ip_frame, parse
from hypothesis import given, settings
from hypothesis import strategies as st


def seeds() -> list[bytes]:
    """One valid frame of each kind. Nothing listens at the destinations, so that no connection outlives the test."""
    with Guest() as guest:
        out = []
        for v6 in (False, True):
            peer = TcpPeer(guest, 9, v6=v6)
            for flags in (SYN, ACK, SYN | ACK):
                peer.send(flags, b"data", seq=1, options=peer.options() if flags & SYN else b"")
                out.append(guest.tap.recv(2000))
            src, dst = (GUEST6, GATEWAY6) if v6 else (GUEST4, GATEWAY4)
            out.append(ip_frame(src, dst, 17, bytes.fromhex("9c40000900100000") + b"datagram"))
            out.append(ip_frame(src, dst, 58 if v6 else 1, bytes.fromhex("8000000000010001" if v6 else "0800f7fd00010001")))
            out.append(ip_frame(src, dst, 44 if v6 else 17, bytes(24)))
        out.append(b"\xff" * 6 + out[0][6:12] + bytes.fromhex("08060001080006040001525400123456") + bytes(16))
        return out


SEEDS = seeds()
changes = st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=6)


def feed(frames: list[bytes]) -> None:
    with Guest(log_level=4) as guest:
        for frame in frames:
            guest.send(frame)
        for answer in guest.frames():
            parse(GUEST_MAC + answer[6:])  # the answer goes to the source address, which may be changed
        counters = guest.plane.counters()
        assert counters["tap_rx_frames"] == len(frames)
        assert counters["tcp_flows"] <= len(frames) and counters["udp_flows"] <= len(frames)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=8))
def test_random_bytes(frames: list[bytes]) -> None:
    feed(frames)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(SEEDS), changes, st.integers(0, 80)), min_size=1, max_size=8))
def test_changed_frames(plans: list[tuple[bytes, list[tuple[int, int]], int]]) -> None:
    frames = []
    for seed, edits, cut in plans:
        frame = bytearray(seed)
        for at, value in edits:
            if at < len(frame):
                frame[at] = value
        frames.append(bytes(frame[: len(frame) - cut]) if cut < len(frame) and cut > 60 else bytes(frame))
    feed(frames)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=10), st.binary(min_size=0, max_size=120), st.sampled_from(SEEDS))
def test_any_virtio_header(header: bytes, tail: bytes, seed: bytes) -> None:
    """The guest's kernel writes this header, but a guest that has the tap's descriptor can write it too."""
    with Guest(vnet_hdr=True, uso=True) as guest:
        guest.send(header)
        guest.send(header.ljust(10, b"\0") + seed)
        guest.send(header.ljust(10, b"\xff") + tail)
        guest.pump()
        assert guest.counter("tap_rx_frames") == 3
