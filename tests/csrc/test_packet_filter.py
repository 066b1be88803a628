"""The interpreter of capture filters, against libpcap's own: the same programs on the same frames."""

import ctypes
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import capture_build
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasta_py.control.start import capture_filter
from pasta_py.errors import HostError, UsageError

ST, RET_K, RET_A = 0x02, 0x06, 0x16
MEMORY_WORDS = 16
#: All instructions of the language (bpf(4)): loads, stores, arithmetic, jumps, returns, moves.
LOADS = (0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x80, 0x00, 0x60, 0x81, 0x01, 0x61, 0xB1)
STORES = (0x02, 0x03)
ALU = tuple(0x04 | op << 4 | source for op in (0, 1, 2, 3, 4, 5, 6, 7, 9, 10) for source in (0, 8)) + (0x84,)
JUMPS = (0x05, *(0x05 | op << 4 | source for op in (1, 2, 3, 4) for source in (0, 8)))
RETURNS, MOVES = (RET_K, RET_A), (0x07, 0x87)
VALID = {*LOADS, *STORES, *ALU, *JUMPS, *RETURNS, *MOVES}


@pytest.fixture(scope="module")
def module() -> Any:
    return capture_build.build_module()


@pytest.fixture(scope="module")
def libpcap() -> Iterator[ctypes.CDLL]:
    library = capture_filter._load("test")
    library.bpf_filter.restype = ctypes.c_uint
    yield library


def code(*instructions: tuple[int, int, int, int]) -> bytes:
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def run(module: Any, program: bytes, *parts: bytes) -> int:
    """What our interpreter returns; -1 for a program that the check refuses."""
    ffi, lib = module.ffi, module.lib
    insns = ffi.from_buffer("struct packet_filter_insn[]", program)
    if not lib.packet_filter_check(insns, len(program) // 8):
        return -1
    buffers = [ffi.from_buffer(part) for part in parts]
    iov = ffi.new("struct iovec[]", len(parts))
    for i, part in enumerate(parts):
        iov[i].iov_base, iov[i].iov_len = buffers[i], len(part)
    return int(lib.packet_filter_run(insns, iov, len(parts)))


def theirs(libpcap: ctypes.CDLL, program: bytes, frame: bytes) -> int:
    return int(libpcap.bpf_filter(program, frame, len(frame), len(frame)))


values = st.one_of(st.integers(0, 80), st.sampled_from([0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE]), st.integers(0, 2**32 - 1))


@st.composite
def programs(draw: st.DrawFn) -> bytes:
    """Programs that libpcap's check accepts too. They begin with stores: its memory starts with any values."""
    body = draw(st.integers(1, 24))
    found = [(ST, 0, 0, word) for word in range(MEMORY_WORDS)]
    for left in range(body, 0, -1):
        opcode = draw(st.sampled_from(sorted(VALID - set(RETURNS))))
        k, jt, jf = draw(values), 0, 0
        if opcode in JUMPS:
            jt, jf = draw(st.integers(0, left - 1)), draw(st.integers(0, left - 1))
            k = draw(st.integers(0, left - 1)) if opcode == 0x05 else k
        elif opcode in STORES or opcode in (0x60, 0x61):
            k %= MEMORY_WORDS
        elif opcode in (0x34, 0x94):  # divisions by a constant
            k = k or 1
        elif opcode in (0x64, 0x74):  # shifts by a constant
            k %= 32
        found.append((opcode, jt, jf, k))
    return code(*found, (draw(st.sampled_from(RETURNS)), 0, 0, draw(values)))


@settings(max_examples=400, deadline=None)
@given(program=programs(), frame=st.binary(min_size=1, max_size=80), cuts=st.lists(st.integers(0, 80), max_size=3))
def test_any_program_gives_what_libpcap_gives_however_the_frame_is_divided(
    module: Any, libpcap: ctypes.CDLL, program: bytes, frame: bytes, cuts: list[int]
) -> None:
    assert libpcap.bpf_validate(program, len(program) // 8)
    places = [0, *sorted(min(cut, len(frame)) for cut in cuts), len(frame)]
    parts = [frame[a:b] for a, b in zip(places, places[1:])]
    assert run(module, program, *parts) == theirs(libpcap, program, frame)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(min_size=8, max_size=80), frame=st.binary(max_size=40))
def test_any_bytes_are_refused_or_run_to_an_end(module: Any, data: bytes, frame: bytes) -> None:
    """What the check takes, the interpreter survives (`make sanitize` sees what it reads and writes)."""
    assert run(module, data[: len(data) // 8 * 8], frame) >= -1
    assert run(module, data[: len(data) // 8 * 8] + code((RET_K, 0, 0, 1)), frame) >= -1


def test_only_instructions_of_the_language_are_taken(module: Any) -> None:
    """k is 1 here, and 0 for the jump that has no other room."""
    taken = {opcode for opcode in range(0x200) if run(module, code((opcode, 0, 0, opcode != 5), (RET_K, 0, 0, 7)), b"abcd") >= 0}
    assert taken == VALID


@pytest.mark.parametrize(
    "program",
    [
        b"",
        code((0x00, 0, 0, 1)),  # no return at the end
        code((0x15, 1, 0, 0), (RET_K, 0, 0, 0)),  # a jump over the end
        code((0x15, 0, 1, 0), (RET_K, 0, 0, 0)),
        code((0x05, 0, 0, 1), (RET_K, 0, 0, 0)),
        code((0x05, 0, 0, 0xFFFFFFFF), (RET_K, 0, 0, 0)),  # a jump backward, as a signed number
        code((0x60, 0, 0, 16), (RET_K, 0, 0, 0)),  # memory that there is not
        code((0x02, 0, 0, 16), (RET_K, 0, 0, 0)),
        code((0x03, 0, 0, 0xFFFFFFFF), (RET_K, 0, 0, 0)),
        code((0x34, 0, 0, 0), (RET_K, 0, 0, 0)),  # division by zero
        code((0x94, 0, 0, 0), (RET_K, 0, 0, 0)),
        code((0x64, 0, 0, 32), (RET_K, 0, 0, 0)),  # a shift out of the word
        code(*[(RET_K, 0, 0, 1)] * 4097),
    ],
)
def test_programs_that_could_do_harm_are_refused(module: Any, program: bytes) -> None:
    assert run(module, program, b"frame") == -1


# ---- from tcpdump's language ----

ETHERNET = bytes(12)
IP4 = bytes.fromhex("0800 4500 003c 0000 4000 4006 0000 c0000201 c0000202")
TCP80 = ETHERNET + IP4 + bytes.fromhex("c350 0050") + bytes(16)
TCP81 = ETHERNET + IP4 + bytes.fromhex("c350 0051") + bytes(16)


def test_expressions_are_compiled_and_match(module: Any) -> None:
    program = capture_filter.compiled("tcp port 80", "--pcap-filter")
    assert run(module, program, TCP80) == capture_filter.MAX_BYTES
    assert run(module, program, TCP80[:20], TCP80[20:]) == capture_filter.MAX_BYTES
    assert run(module, program, TCP81) == 0
    assert run(module, program, TCP80[:30]) == 0  # too short to tell
    assert capture_filter.compiled("  ", "--pcap-filter") == b""


def test_what_libpcap_refuses_is_told_in_its_words() -> None:
    with pytest.raises(UsageError, match=r"^--pcap-filter 'tcp prt 80': .*syntax error.*: pcap-filter\(7\) has the language$"):
        capture_filter.compiled("tcp prt 80", "--pcap-filter")


def test_without_libpcap_the_line_says_which_package_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(capture_filter, "_LIBRARIES", (str(tmp_path / "libpcap.so"),))
    with pytest.raises(HostError, match=r"filters need libpcap, which is not installed \(package libpcap0.8 or libpcap\)"):
        capture_filter.compiled("tcp", "--pcap-filter")
