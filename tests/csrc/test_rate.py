"""core/rate: a limit of bytes a second, with a clock of its own."""

from __future__ import annotations

import internals
from hypothesis import given, settings
from hypothesis import strategies as st

module = internals.build()
ffi, lib = module.ffi, module.lib
START_US = 1_000_000_000
RATES = st.integers(1000, 10**11)
PACKET = 1400


def made(bytes_per_s: int) -> object:
    return ffi.new("struct rate *", {"bytes_per_s": bytes_per_s})


def streamed(rate: object, from_us: int, to_us: int, step_us: int = 100) -> int:
    """Bytes of a stream that always has some, between two moments."""
    sent, share = 0, lib.rate_share_bytes(rate)
    for now in range(from_us, to_us, step_us):
        while lib.rate_passes(rate, now):
            lib.rate_took(rate, now, share)
            sent += share
    return sent


@settings(max_examples=8, deadline=None)
@given(bytes_per_s=st.integers(100_000, 5_000_000), step_us=st.integers(500, 20_000))
def test_a_stream_gets_the_rate_however_late_it_looks(bytes_per_s: int, step_us: int) -> None:
    rate = made(bytes_per_s)
    streamed(rate, START_US, START_US + 200_000, step_us)
    sent = streamed(rate, START_US + 200_000, START_US + 2_200_000, step_us)
    assert abs(sent - 2 * bytes_per_s) <= 0.03 * 2 * bytes_per_s + 2 * lib.rate_share_bytes(rate)


@settings(max_examples=8, deadline=None)
@given(bytes_per_s=st.integers(100_000, 1_000_000), flood=st.integers(2, 20))
def test_a_flood_of_datagrams_gets_the_rate_and_no_more(bytes_per_s: int, flood: int) -> None:
    rate = made(bytes_per_s)
    gap_us = max(PACKET * 1_000_000 // (bytes_per_s * flood), 1)
    passed = sum(
        lib.rate_takes_datagram(rate, now, PACKET, False) for now in range(START_US, START_US + 2_000_000, gap_us)
    )
    assert abs(passed * PACKET - 2 * bytes_per_s) <= 0.1 * bytes_per_s + 2 * PACKET  # 50 ms unused, 50 ms of backlog


@settings(deadline=None)
@given(bytes_per_s=RATES, idle_us=st.integers(0, 10**9))
def test_after_silence_at_most_fifty_milliseconds_pass_at_once(bytes_per_s: int, idle_us: int) -> None:
    rate = made(bytes_per_s)
    lib.rate_took(rate, START_US, 1)
    share, sent, now = lib.rate_share_bytes(rate), 0, START_US + idle_us
    while lib.rate_passes(rate, now):
        lib.rate_took(rate, now, share)
        sent += share
    assert sent <= 1.01 * bytes_per_s // 20 + share + 1


@settings(deadline=None)
@given(bytes_per_s=RATES, parts=st.integers(1, 200))
def test_a_stream_that_waits_until_it_is_told_may_send(bytes_per_s: int, parts: int) -> None:
    rate = made(bytes_per_s)
    took = min(bytes_per_s // parts + 1, 1 << 31)
    while lib.rate_passes(rate, START_US):
        lib.rate_took(rate, START_US, took)
    again_ms = lib.rate_next_ms(rate)
    assert lib.rate_passes(rate, again_ms * 1000)
    assert again_ms * 1000 <= START_US + took * 1_000_000 // bytes_per_s + 2001


def test_beside_streams_a_flood_of_datagrams_leaves_them_half() -> None:
    rate = made(1_000_000)
    sent = passed = 0
    for now in range(START_US, START_US + 4_000_000, 200):
        passed += PACKET * lib.rate_takes_datagram(rate, now, PACKET, False)
        if lib.rate_passes(rate, now):
            lib.rate_took(rate, now, lib.rate_share_bytes(rate))
            sent += lib.rate_share_bytes(rate)
    assert sent > 1_600_000 and passed > 1_600_000 and abs(sent + passed - 4_000_000) < 200_000, (sent, passed)


def test_dns_passes_where_other_datagrams_are_dropped() -> None:
    rate = made(100_000)
    while lib.rate_takes_datagram(rate, START_US, PACKET, False):
        pass
    assert all(lib.rate_takes_datagram(rate, START_US, 100, True) for _ in range(100))
    assert not all(lib.rate_takes_datagram(rate, START_US, 100, True) for _ in range(1000)), "not without limit"
