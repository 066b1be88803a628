"""base/: checksum, sequence numbers, hash, addresses, log."""

from __future__ import annotations

import ipaddress
import random

import internals
import pytest
from guest import mapped
from hypothesis import given
from hypothesis import strategies as st
from packets import checksum

module = internals.build()
ffi, lib = module.ffi, module.lib

u32 = st.integers(0, 2**32 - 1)


def folded(data: bytes, start: int = 0) -> int:
    return int(lib.x_csum_fold(lib.csum_add(data, len(data), start)))


def native(value: int) -> int:
    """A 16-bit word of the network as this machine reads it from memory."""
    return int.from_bytes(value.to_bytes(2, "big"), __import__("sys").byteorder)


@given(st.binary(max_size=3000))
def test_checksum_is_that_of_rfc_1071(data: bytes) -> None:
    assert (~folded(data) & 0xFFFF) == native(checksum(data)) or (folded(data) in (0, 0xFFFF) and checksum(data) in (0, 0xFFFF))


@given(st.binary(max_size=2000).filter(lambda d: len(d) % 2 == 0), st.binary(max_size=2000))
def test_checksum_of_parts_is_checksum_of_the_whole(first: bytes, second: bytes) -> None:
    assert folded(second, lib.csum_add(first, len(first), 0)) == folded(first + second)


@given(st.binary(min_size=20, max_size=200))
def test_checksum_put_in_place_verifies(data: bytes) -> None:
    blank = data[:10] + b"\0\0" + data[12:]
    value = ~folded(blank) & 0xFFFF
    whole = blank[:10] + value.to_bytes(2, __import__("sys").byteorder) + blank[12:]
    assert folded(whole) == 0xFFFF


@pytest.mark.parametrize("length", [511, 512, 513, 575, 576, 65483, 65535])
def test_checksum_of_long_runs_wherever_they_begin(length: int) -> None:
    data = random.Random(length).randbytes(length + 64)
    for at in (0, 1, 31):
        part = data[at : at + length]
        assert ~folded(part) & 0xFFFF == native(checksum(part))


def test_checksum_of_64_kib_of_ones_does_not_overflow() -> None:
    assert folded(b"\xff" * 65534) == 0xFFFF


@given(u32, st.integers(0, 2**31 - 1))
def test_sequence_order_survives_wrapping(a: int, step: int) -> None:
    b = (a + step) % 2**32
    assert lib.x_seq_le(a, b)
    assert lib.x_seq_lt(a, b) == (step > 0)
    assert lib.x_seq_diff(b, a) == step
    assert lib.x_seq_max(a, b) == b


def test_siphash_is_the_specification_s() -> None:
    """The vectors of the paper's appendix A: key 00..0f, message 00..0e."""
    key = ffi.new("struct siphash_key *", {"k": [0x0706050403020100, 0x0F0E0D0C0B0A0908]})
    assert lib.siphash(key, bytes(range(15)), 15) == 0xA129CA6149BE45E5
    assert lib.siphash(key, b"", 0) == 0x726FDB47DD0E0E31


@given(st.ip_addresses())
def test_address_classes_agree_with_ipaddress(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    a = ffi.new("struct addr *", [list(mapped(str(address)))])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return  # these are IPv4 in this program
    assert lib.x_addr_is_v4(a) == (address.version == 4)
    assert lib.addr_is_loopback(a) == address.is_loopback
    assert lib.addr_is_multicast(a) == address.is_multicast
    assert lib.addr_is_linklocal6(a) == (address.version == 6 and address.is_link_local)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.255.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"]
    + ["::", "::1", "::127.0.0.1", "ff02::1", "ff0e::1234"],
)
def test_what_is_never_a_remote(address: str) -> None:
    assert not lib.addr_is_unicast_remote(ffi.new("struct addr *", [list(mapped(address))]))


@pytest.mark.parametrize(
    "address", ["192.0.2.1", "10.0.0.1", "169.254.2.2", "223.255.255.255", "2001:db8::1", "fe80::1", "fd00::1"]
)
def test_what_is_a_remote(address: str) -> None:
    assert lib.addr_is_unicast_remote(ffi.new("struct addr *", [list(mapped(address))]))


def take(log: object) -> list[str]:
    line, out = ffi.new("const struct log_line **"), []
    while lib.log_take(log, line):
        out.append(ffi.string(line[0].text).decode())
    return out


def test_log_keeps_order_and_level_and_says_what_was_lost() -> None:
    log = ffi.new("struct log *", {"level": 2})
    lib.x_log_add(log, 3, b"too detailed")
    for i in range(40):
        lib.x_log_add(log, 2, str(i).encode())
    assert take(log) == [str(i) for i in range(32)]
    lib.x_log_add(log, 2, b"next")
    assert take(log) == ["8 log lines lost: they came faster than they were written", "next"]


def test_long_log_lines_are_cut() -> None:
    log = ffi.new("struct log *", {"level": 2})
    lib.x_log_add(log, 1, b"x" * 1000)
    assert take(log) == ["x" * 239]
