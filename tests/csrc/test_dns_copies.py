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
