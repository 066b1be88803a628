"""Which of rtnetlink's events can matter: those that tell something new since a plan found nothing different."""

from __future__ import annotations

import struct
from typing import Any

import internals
import pytest
from hypothesis import given
from hypothesis import strategies as st

# linux/rtnetlink.h, linux/if_addr.h, linux/if_link.h
NEWLINK, DELLINK, NEWADDR, DELADDR, NEWROUTE, DELROUTE = 16, 17, 20, 21, 24, 25
IFA_ADDRESS, IFA_CACHEINFO, IFLA_IFNAME, IFLA_STATS, RTA_DST, RTA_CACHEINFO = 1, 6, 3, 7, 1, 12
FIXED_BYTES = {NEWLINK: 16, DELLINK: 16, NEWADDR: 8, DELADDR: 8, NEWROUTE: 12, DELROUTE: 12}
SEEN_MAX = 512
ffi, lib = internals.build().ffi, internals.build().lib


def message(kind: int, *attributes: tuple[int, bytes], fixed: bytes = b"") -> bytes:
    body = fixed.ljust(FIXED_BYTES[kind], b"\1")
    for number, value in attributes:
        body += struct.pack("HH", len(value) + 4, number) + value + bytes(-len(value) % 4)
    return struct.pack("IHHII", len(body) + 16, kind, 0, 0, 0) + body


class Events:
    def __init__(self) -> None:
        self._events = ffi.new("struct follow_events *", {"key": {"k": (1, 2)}})

    def matters(self, data: bytes) -> bool:
        return bool(lib.follow_events_note(self._events, ffi.new("uint8_t[]", data), len(data)))

    def planned(self, *, changed: bool = False) -> None:
        lib.follow_events_planned(self._events, changed)


@pytest.mark.parametrize(
    ("kind", "kept", "renewed"),
    [(NEWADDR, IFA_ADDRESS, IFA_CACHEINFO), (NEWLINK, IFLA_IFNAME, IFLA_STATS), (NEWROUTE, RTA_DST, RTA_CACHEINFO)],
)
def test_what_a_router_renews_is_harmless_until_something_is_different(kind: int, kept: int, renewed: int) -> None:
    events = Events()
    assert events.matters(message(kind, (kept, b"one"), (renewed, b"60 s")))
    assert events.matters(message(kind, (kept, b"one"), (renewed, b"59 s")))
    events.planned()
    assert not events.matters(message(kind, (kept, b"one"), (renewed, b"58 s")))
    assert events.matters(message(kind, (kept, b"two"), (renewed, b"58 s")))
    events.planned(changed=True)
    assert events.matters(message(kind, (kept, b"one"), (renewed, b"57 s")))


def test_the_field_of_a_link_that_says_what_has_changed_does_not_count() -> None:
    events = Events()
    assert events.matters(message(NEWLINK, fixed=bytes(12) + b"\0\0\0\0"))
    events.planned()
    assert not events.matters(message(NEWLINK, fixed=bytes(12) + b"\xff\xff\xff\xff"))
    assert events.matters(message(NEWLINK, fixed=bytes(8) + b"\1\0\0\0" + bytes(4)))  # ifi_flags


@pytest.mark.parametrize("kind", [DELLINK, DELADDR, DELROUTE])
def test_what_goes_always_matters(kind: int) -> None:
    events = Events()
    for _ in range(2):
        assert events.matters(message(kind))
        events.planned()


def test_lost_events_always_matter() -> None:
    events = Events()
    for _ in range(2):
        assert events.matters(b"")
        events.planned()


@pytest.mark.parametrize(("count", "harmless"), [(SEEN_MAX, True), (SEEN_MAX + 1, False)])
def test_of_more_events_than_it_remembers_none_is_harmless(count: int, harmless: bool) -> None:
    events = Events()
    each = [message(NEWADDR, (IFA_ADDRESS, i.to_bytes(4, "big"))) for i in range(count)]
    assert all(map(events.matters, each))
    events.planned()
    assert [events.matters(data) for data in each] == [not harmless] * count


@given(st.lists(st.binary(max_size=80) | st.builds(lambda n: message(NEWADDR, (1, b"abc"))[:n], st.integers(0, 40))))
def test_any_bytes_are_read_within_their_bounds(all_data: list[bytes]) -> None:
    """The sanitized build of this test fails for a byte outside; here the second look says what the first one said."""
    events = Events()
    for data in all_data:
        events.matters(data)
    events.planned()
    verdicts: list[Any] = [events.matters(data) for data in all_data]
    assert verdicts == [events.matters(data) for data in all_data]
