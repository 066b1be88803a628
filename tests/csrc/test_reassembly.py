"""Fragments put together: any cut in any order gives the packet back, and nothing else ever does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import internals
import pytest
from fragmenting import fragment
from guest import GATEWAY4, GATEWAY6, GUEST4, GUEST6
from hypothesis import given
from hypothesis import strategies as st

module = internals.build()
ffi, lib = module.ffi, module.lib

HELD, WHOLE, REFUSED = 0, 1, 2
SLOTS, TIMEOUT_MS = 16, 30000
ETHERNET = 14


@dataclass
class Reassembly:
    """One table; it is freed by `table`."""

    state: object

    def add(self, frame: bytes, now_ms: int = 0) -> tuple[int, bytes]:
        """What became of a fragment, and the payload of the packet that it completed."""
        data = ffi.new("uint8_t[]", frame[ETHERNET:])
        view = ffi.new("struct ip_view *")
        v4 = frame[12:14] == b"\x08\x00"
        assert lib.ip_parse(data, len(frame) - ETHERNET, v4, view) and view.fragment
        packet, length = ffi.new("uint8_t **"), ffi.new("uint32_t *")
        result = lib.x_reassembly_add(self.state, view, now_ms, packet, length)
        if result != WHOLE:
            return result, b""
        whole = bytes(ffi.buffer(packet[0], length[0]))
        checked = ffi.new("struct ip_view *")
        assert lib.ip_parse(packet[0], length[0], v4, checked), "what was put together is a sound packet"
        assert not checked.fragment and not (v4 and checked.df)
        return result, whole[20 if v4 else 40 :]


@pytest.fixture(name="table")
def table_fixture() -> Iterator[Reassembly]:
    made = Reassembly(ffi.new("struct reassembly *"))
    yield made
    lib.reassembly_free(made.state)


def ends(v6: bool) -> tuple[str, str]:
    return (GUEST6, GATEWAY6) if v6 else (GUEST4, GATEWAY4)


def pieces(data: bytes, cuts: list[int], v6: bool, ident: int = 1) -> list[bytes]:
    """The fragments of data, cut at these blocks of 8 bytes."""
    marks = sorted({0, *(8 * cut for cut in cuts if 0 < 8 * cut < len(data)), len(data)})
    return [
        fragment(*ends(v6), data[start:end], start, end < len(data), ident) for start, end in zip(marks, marks[1:], strict=False)
    ]


@given(st.data(), st.booleans(), st.integers(9, 65515), st.lists(st.integers(1, 8190), min_size=1, max_size=60), st.randoms())
def test_any_cut_in_any_order_gives_the_packet_back(data: st.DataObject, v6: bool, size: int, cuts: list[int], rng: object) -> None:
    payload = rng.randbytes(size)  # type: ignore[attr-defined]
    cut = pieces(payload, [1, *cuts], v6)
    order = data.draw(st.permutations(cut))
    table = Reassembly(ffi.new("struct reassembly *"))
    for piece in order[:-1]:
        assert table.add(piece) == (HELD, b"")
        assert table.add(piece) == (HELD, b""), "a repetition changes nothing"
    assert table.add(order[-1]) == (WHOLE, payload)
    lib.reassembly_free(table.state)


STRANGE = st.tuples(
    st.integers(0, 8191), st.integers(0, 1500), st.booleans(), st.integers(0, 3), st.booleans(), st.integers(0, 40000)
)


@given(st.lists(STRANGE, max_size=60))
def test_no_fragments_crash_it_and_what_it_gives_was_sent(fragments: list[tuple[int, int, bool, int, bool, int]]) -> None:
    table = Reassembly(ffi.new("struct reassembly *"))
    now = 0
    for block, size, more, ident, v6, later in fragments:
        now += later if later > TIMEOUT_MS else 0
        # A byte tells its own place, so that a whole packet can be recognised.
        offset = block * 8
        payload = bytes((offset + i) // 8 % 251 for i in range(size))
        result, whole = table.add(fragment(*ends(v6), payload, offset, more or block == 0, ident), now)
        assert result in (HELD, WHOLE, REFUSED)
        assert whole == bytes(i // 8 % 251 for i in range(len(whole)))
    lib.reassembly_free(table.state)


@pytest.mark.parametrize("v6", [False, True])
def test_packets_wait_for_thirty_seconds_and_no_longer(table: Reassembly, v6: bool) -> None:
    first, last = pieces(bytes(100), [5], v6)
    assert table.add(first, 1000)[0] == HELD
    assert table.add(last, 1000 + TIMEOUT_MS)[0] == HELD, "the first has been given up"
    assert table.add(first, 1000 + TIMEOUT_MS)[0] == WHOLE
    assert table.add(first, 500000)[0] == HELD
    assert table.add(last, 500000 + TIMEOUT_MS - 1)[0] == WHOLE


@pytest.mark.parametrize("v6", [False, True])
def test_the_oldest_gives_way_to_a_new_packet(table: Reassembly, v6: bool) -> None:
    cut = [pieces(bytes([n]) * 100, [5], v6, n) for n in range(SLOTS + 1)]
    for now, (first, _) in enumerate(cut):
        assert table.add(first, now)[0] == HELD
    for n in range(1, SLOTS + 1):
        assert table.add(cut[n][1], 100) == (WHOLE, bytes([n]) * 100)
    assert table.add(cut[0][1], 100)[0] == HELD


@pytest.mark.parametrize("v6", [False, True])
def test_after_a_contradiction_nothing_of_the_packet_counts(table: Reassembly, v6: bool) -> None:
    first, middle, last = pieces(bytes(300), [10, 20], v6)
    assert table.add(first)[0] == HELD
    assert table.add(fragment(*ends(v6), bytes(16), 72, True))[0] == REFUSED
    assert [table.add(piece)[0] for piece in (middle, last, first)] == [REFUSED] * 3, "RFC 5722, 3"
    assert table.add(first, TIMEOUT_MS)[0] == HELD


def test_header_fields_come_from_the_first_fragment_and_congestion_from_any(table: Reassembly) -> None:
    data = bytes(64)
    marked = bytearray(fragment(GUEST6, GATEWAY6, data[32:], 32, False))
    marked[14:16] = b"\x60\x30"  # congestion experienced
    head = bytearray(fragment(GUEST6, GATEWAY6, data[:32], 0, True))
    head[14:16] = b"\x6b\x80"  # expedited forwarding
    head[21] = 9
    assert table.add(bytes(marked))[0] == HELD
    view, packet, length = ffi.new("struct ip_view *"), ffi.new("uint8_t **"), ffi.new("uint32_t *")
    buffer = ffi.new("uint8_t[]", bytes(head[ETHERNET:]))
    assert lib.ip_parse(buffer, len(head) - ETHERNET, False, view)
    assert lib.x_reassembly_add(table.state, view, 0, packet, length) == WHOLE
    whole = bytes(ffi.buffer(packet[0], length[0]))
    assert len(whole) == 40 + 64 and whole[0] & 15 == 0xB and whole[1] >> 4 == 0xB and whole[7] == 9
