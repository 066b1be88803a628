"""core/dns_copies.h: the newest answers wait, whole, within their room; the core copies those of nameservers only."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from internals import build

module = build()
ffi, lib = module.ffi, module.lib


def taken(copies: object) -> list[bytes]:
    out = ffi.new("uint8_t[]", lib.DNS_COPIES_BYTES)
    data, found = ffi.buffer(out, lib.dns_copies_take(copies, out))[:], []
    while data:
        end = 2 + int.from_bytes(data[:2], "big")
        found.append(data[2:end])
        data = data[end:]
    return found


@given(st.lists(st.integers(0, 5000), max_size=60))
def test_the_newest_that_have_room_wait_in_order(sizes: list[int]) -> None:
    copies = ffi.new("struct dns_copies *")
    assert lib.dns_copies_want(copies, True) == 0
    kept: list[bytes] = []
    for number, size in enumerate(sizes):
        message = bytes((number,)) * size
        lib.dns_copies_add(copies, message, size)
        if 0 < size <= lib.DNS_COPY_MAX_BYTES:
            kept.append(message)
        while sum(2 + len(each) for each in kept) > lib.DNS_COPIES_BYTES:
            kept.pop(0)
    assert taken(copies) == kept
    assert taken(copies) == []
    lib.dns_copies_free(copies)


def test_what_is_not_wanted_is_not_copied() -> None:
    copies = ffi.new("struct dns_copies *")
    lib.dns_copies_add(copies, b"early", 5)
    lib.dns_copies_want(copies, True)
    lib.dns_copies_add(copies, b"kept", 4)
    lib.dns_copies_want(copies, False)
    lib.dns_copies_add(copies, b"late", 4)
    assert taken(copies) == []
    lib.dns_copies_free(copies)


@given(st.data())
def test_answers_over_tcp_are_put_together_from_whatever_pieces(data: st.DataObject) -> None:
    copies = ffi.new("struct dns_copies *")
    lib.dns_copies_want(copies, True)
    streams = data.draw(st.lists(st.lists(st.integers(0, 5000), max_size=4), min_size=1, max_size=lib.DNS_STREAMS))
    messages = [[bytes((number, at)) * (size // 2) + b"x" * (size % 2) for at, size in enumerate(sizes)]
                for number, sizes in enumerate(streams)]  # fmt: skip
    texts = [b"".join(len(each).to_bytes(2, "big") + each for each in of_one) for of_one in messages]
    positions, waiting = [0] * len(streams), [number for number, text in enumerate(texts) if text]
    found: list[bytes] = []
    while waiting:
        number = data.draw(st.sampled_from(waiting))
        at = positions[number]
        piece = texts[number][at : at + data.draw(st.sampled_from((1, 2, 1460, 10_000)) if at else st.integers(1, 3))]
        lib.dns_copies_add_piece(copies, number, 2, at, piece, len(piece))
        found += taken(copies)
        positions[number] += len(piece)
        if positions[number] == len(texts[number]):
            waiting.remove(number)
    assert sorted(found) == sorted(each for of_one in messages for each in of_one if 0 < len(each) <= lib.DNS_COPY_MAX_BYTES)
    lib.dns_copies_free(copies)


def test_a_connection_whose_beginning_was_not_seen_is_left_out() -> None:
    copies = ffi.new("struct dns_copies *")
    lib.dns_copies_want(copies, True)
    lib.dns_copies_add_piece(copies, 1, 2, 5, b"\0\3abc", 5)
    lib.dns_copies_add_piece(copies, 1, 2, 0, b"\0\3ab", 4)
    lib.dns_copies_add_piece(copies, 1, 4, 4, b"x\0\1y", 4)  # of another connection
    lib.dns_copies_add_piece(copies, 1, 2, 4, b"c\0\1d", 4)
    assert taken(copies) == [b"abc", b"d"]
    lib.dns_copies_free(copies)
