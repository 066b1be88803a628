"""wire/guest_memory.c and wire/virtqueue.c: only memory of the guest is used, and a fault of the guest stops its ring alone."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import internals
import pytest
from hypothesis import given
from hypothesis import strategies as st

module = internals.build()
ffi, lib = module.ffi, module.lib

ROOT = Path(__file__).resolve().parents[2]
NEXT, WRITE, INDIRECT = 1, 2, 4
FRONT_END = 0x7F0000000000  # added to a guest's address: the front end's
RINGS = 0x1000  # where the rings of Ring begin in the guest
Descriptor = tuple[int, int, int, int]


class Memory:
    """A guest's memory: regions of (guest's address, bytes), each in a buffer of its own size."""

    def __init__(self, *regions: tuple[int, int]) -> None:
        self.table = ffi.new("struct guest_memory *")
        self.buffers: list[tuple[int, int, Any]] = []
        for guest, size in regions:
            made = ffi.new("void **")
            assert lib.posix_memalign(made, 4096, size) == 0
            at = ffi.cast("uint8_t *", made[0])
            ffi.memmove(at, bytes(size), size)
            self.buffers.append((guest, size, at))
            assert lib.guest_memory_add(self.table, ffi.new("struct guest_region *", [guest, FRONT_END + guest, size, at]))

    def write(self, address: int, data: bytes) -> None:
        for guest, size, at in self.buffers:
            if guest <= address and address + len(data) <= guest + size:
                ffi.memmove(at + (address - guest), data, len(data))
                return
        raise AssertionError(hex(address))

    def read(self, address: int, count: int) -> bytes:
        for guest, size, at in self.buffers:
            if guest <= address and address + count <= guest + size:
                return bytes(ffi.buffer(at + (address - guest), count))
        raise AssertionError(hex(address))

    def guest_address(self, pointer: Any) -> int:
        number = int(ffi.cast("uintptr_t", pointer))
        for guest, size, at in self.buffers:
            begin = int(ffi.cast("uintptr_t", at))
            if begin <= number < begin + size:
                return guest + number - begin
        raise AssertionError("a pointer outside the guest's memory")

    def close(self) -> None:
        for _, _, at in self.buffers:
            lib.free(at)


@dataclass
class Ring:
    """A guest's end of a ring at RINGS."""

    memory: Memory
    size: int = 8
    event_index: bool = False
    base: int = 0
    queue: Any = field(default_factory=lambda: ffi.new("struct virtq *"))

    def __post_init__(self) -> None:
        self.available = RINGS + 16 * self.size
        self.used = (self.available + 6 + 2 * self.size + 3) & ~3
        self.index = self.base
        self.start()

    def start(self) -> None:
        self.memory.write(self.used + 2, struct.pack("<H", self.base))
        self.memory.write(self.available + 2, struct.pack("<H", self.base))
        at = ffi.new("struct virtq_addresses *", [FRONT_END + RINGS, FRONT_END + self.available, FRONT_END + self.used])
        assert lib.virtq_start(self.queue, self.memory.table, self.size, at, self.base, self.event_index)

    def describe(self, index: int, *descriptor: int, table: int = RINGS) -> None:
        self.memory.write(table + 16 * index, struct.pack("<QIHH", *descriptor))

    def offer(self, *heads: int) -> None:
        for head in heads:
            self.memory.write(self.available + 4 + 2 * (self.index % self.size), struct.pack("<H", head))
            self.index = (self.index + 1) % 65536
        self.memory.write(self.available + 2, struct.pack("<H", self.index))

    def take(self, writable: bool = False, room: int | None = None) -> "tuple[int, list[tuple[int, int]]] | int":
        """The head and the parts (guest's address, bytes) of a chain, or the code of virtq_take()."""
        room = lib.VIRTQ_IOVECS_MAX if room is None else room
        parts, chain = ffi.new(f"struct iovec[{room}]"), ffi.new("struct virtq_chain *")
        code = lib.virtq_take(self.queue, self.memory.table, writable, parts, room, chain)
        if code != lib.VIRTQ_TAKEN:
            return int(code)
        found = [(self.memory.guest_address(parts[i].iov_base), int(parts[i].iov_len)) for i in range(chain.parts)]
        for address, length in found:
            self.memory.read(address, length)
        assert sum(length for _, length in found) == chain.bytes
        return chain.head, found

    @property
    def broken(self) -> str:
        return "" if self.queue.broken == ffi.NULL else ffi.string(self.queue.broken).decode()


@pytest.fixture
def memory() -> Any:
    made = Memory((0, 0x10000), (0x10000, 0x1000), (0x40000, 0x1000))
    yield made
    made.close()


# --- regions ---


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), max_size=10),
    st.integers(0, 60),
    st.integers(1, 30),
)
def test_an_address_is_found_in_its_region_and_nowhere_else(regions: list[tuple[int, int]], address: int, length: int) -> None:
    table, owner = ffi.new("struct guest_memory *"), dict[int, int]()
    buffers = []
    for guest, size in regions:
        at = ffi.new("uint8_t[]", max(size, 1))
        buffers.append(at)
        span = range(guest, guest + size)
        fits = len(set(owner.values())) < 8 and size > 0 and not any(one in owner for one in span)
        assert lib.guest_memory_add(table, ffi.new("struct guest_region *", [guest, FRONT_END + guest, size, at])) == fits
        if fits:
            owner |= dict.fromkeys(span, int(ffi.cast("uintptr_t", at)) - guest)
    got = ffi.new("uint32_t *", length)
    pointer = lib.guest_memory_at(table, address, got)
    if address not in owner:
        assert pointer == ffi.NULL
    else:
        whole = next((n for n in range(length) if owner.get(address + n) != owner[address]), length)
        assert int(ffi.cast("uintptr_t", pointer)) == owner[address] + address and got[0] == whole
    found = lib.guest_memory_of_front_end(table, FRONT_END + address, length)
    inside = address in owner and all(owner.get(address + n) == owner[address] for n in range(length))
    assert (found != ffi.NULL) == inside


@pytest.mark.parametrize(
    ("guest", "front_end", "size"),
    [(2**64 - 10, 0, 11), (0, 2**64 - 10, 11), (1, 1, 2**64 - 1), (0, 0, 0), (5, 0, 2**64 - 1)],
)
def test_a_region_that_wraps_around_is_refused(guest: int, front_end: int, size: int) -> None:
    table = ffi.new("struct guest_memory *")
    wraps = guest + size > 2**64 or front_end + size > 2**64 or not size
    assert lib.guest_memory_add(table, ffi.new("struct guest_region *", [guest, front_end, size, ffi.NULL])) != wraps


def test_lengths_that_wrap_around_are_in_no_region() -> None:
    table, at = ffi.new("struct guest_memory *"), ffi.new("uint8_t[]", 16)
    assert lib.guest_memory_add(table, ffi.new("struct guest_region *", [2**64 - 16, 2**64 - 16, 16, at]))
    for length in (17, 2**63, 2**64 - 1):
        assert lib.guest_memory_of_front_end(table, 2**64 - 16, length) == ffi.NULL
    assert lib.guest_memory_of_front_end(table, 2**64 - 16, 16) == at


# --- starting ---


@pytest.mark.parametrize("size", [0, 3, 7, 2048, 32768, 65535])
def test_impossible_sizes_are_refused(memory: Memory, size: int) -> None:
    at = ffi.new("struct virtq_addresses *", [FRONT_END, FRONT_END + 0x4000, FRONT_END + 0x8000])
    queue = ffi.new("struct virtq *")
    assert not lib.virtq_start(queue, memory.table, size, at, 0, False) and queue.size == 0


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("at", [FRONT_END + 1, FRONT_END + 0x11000 - 2, FRONT_END + 0x20000, 0, 2**64 - 4])
def test_rings_outside_the_memory_or_not_aligned_are_refused(memory: Memory, which: int, at: int) -> None:
    where = [FRONT_END, FRONT_END + 0x4000, FRONT_END + 0x8000]
    where[which] = at
    queue = ffi.new("struct virtq *")
    assert not lib.virtq_start(queue, memory.table, 8, ffi.new("struct virtq_addresses *", where), 0, False)


@pytest.mark.parametrize("event_index", [False, True])
def test_the_event_indexes_are_part_of_the_rings(event_index: bool) -> None:
    """A ring that ends where the memory ends has no room for them."""
    small = Memory((0, 0x1000), (0x2000, 4 + 2 * 8), (0x3000, 4 + 8 * 8))
    at = ffi.new("struct virtq_addresses *", [FRONT_END, FRONT_END + 0x2000, FRONT_END + 0x3000])
    assert lib.virtq_start(ffi.new("struct virtq *"), small.table, 8, at, 0, event_index) != event_index
    small.close()


# --- chains ---


def test_a_chain_is_taken_and_given_back(memory: Memory) -> None:
    ring = Ring(memory)
    ring.describe(3, 0x8000, 10, NEXT, 5)
    ring.describe(5, 0x9000, 1500, 0, 0)
    assert ring.take() == lib.VIRTQ_EMPTY
    ring.offer(3)
    assert ring.take() == (3, [(0x8000, 10), (0x9000, 1500)])
    assert ring.take() == lib.VIRTQ_EMPTY
    lib.virtq_give(ring.queue, 3, 77)
    assert memory.read(ring.used + 2, 2) == b"\0\0"  # not yet shown
    assert lib.virtq_tell(ring.queue)
    assert struct.unpack("<HII", memory.read(ring.used + 2, 10)) == (1, 3, 77)


def test_a_chain_untaken_is_taken_again(memory: Memory) -> None:
    ring = Ring(memory)
    for index in range(3):
        ring.describe(index, 0x8000 + index, 1, WRITE, 0)
    ring.offer(0, 1, 2)
    assert [ring.take(True) for _ in range(3)] == [(index, [(0x8000 + index, 1)]) for index in range(3)]
    lib.virtq_untake(ring.queue, 2)
    assert ring.take(True) == (1, [(0x8001, 1)])


def test_a_buffer_across_regions_has_two_parts(memory: Memory) -> None:
    ring = Ring(memory)
    ring.describe(0, 0xFFF0, 0x20, 0, 0)
    ring.offer(0)
    assert ring.take() == (0, [(0xFFF0, 0x10), (0x10000, 0x10)])


def test_an_indirect_table_is_followed(memory: Memory) -> None:
    ring = Ring(memory)
    ring.describe(0, 0x8000, 3, NEXT, 1)
    ring.describe(1, 0xA000, 2 * 16, INDIRECT, 0)
    ring.describe(0, 0x8100, 4, NEXT, 1, table=0xA000)
    ring.describe(1, 0x8200, 5, 0, 0, table=0xA000)
    ring.offer(0)
    assert ring.take() == (0, [(0x8000, 3), (0x8100, 4), (0x8200, 5)])


def test_a_chain_with_more_parts_than_there_is_room_stays(memory: Memory) -> None:
    ring = Ring(memory)
    ring.describe(0, 0x8000, 3, NEXT, 1)
    ring.describe(1, 0x8100, 3, 0, 0)
    ring.offer(0)
    assert ring.take(room=1) == lib.VIRTQ_NO_ROOM and not ring.broken
    assert ring.take(room=2) == (0, [(0x8000, 3), (0x8100, 3)])


@pytest.mark.parametrize(
    ("descriptors", "why"),
    [
        ([(0x8000, 1, NEXT, 0)], "a chain longer than the ring"),
        ([(0x8000, 1, NEXT, 8)], "a descriptor outside its table"),
        ([(0x20000, 1, 0, 0)], "a buffer outside the guest's memory"),
        ([(0x10FFF, 2, 0, 0)], "a buffer outside the guest's memory"),
        ([(2**64 - 1, 2**32 - 1, 0, 0)], "a buffer outside the guest's memory"),
        ([(0x8000, 1, WRITE, 0)], "a buffer to be written among those to be read"),
        ([(0x8000, 1, NEXT, 1), (0x8000, 1, WRITE, 0)], "a buffer to be written among those to be read"),
        ([(0xA000, 16, INDIRECT | NEXT, 1)], "an indirect descriptor with a next one"),
        ([(0xA000, 0, INDIRECT, 0)], "an indirect table of an impossible size"),
        ([(0xA000, 17, INDIRECT, 0)], "an indirect table of an impossible size"),
        ([(0xA000, 16 * 9, INDIRECT, 0)], "an indirect table of an impossible size"),
        ([(0x20000, 16, INDIRECT, 0)], "an indirect table outside the guest's memory"),
        ([(0xA001, 16, INDIRECT, 0)], "an indirect table outside the guest's memory"),
        ([(0xFFF0, 32, INDIRECT, 0)], "an indirect table outside the guest's memory"),
        ([(0xA000, 16, INDIRECT, 0), None, (0xA000, 16, INDIRECT, 0)], "an indirect descriptor in an indirect table"),
        ([(0xA000, 32, INDIRECT, 0), None, (0x8000, 1, NEXT, 2)], "a descriptor outside its table"),
        ([(0xA000, 128, INDIRECT, 0), None, (0x8000, 1, NEXT, 0)], "a chain longer than the ring"),
    ],
)
def test_a_guest_that_breaks_the_ring_stops_it(memory: Memory, descriptors: "list[Descriptor | None]", why: str) -> None:
    """Descriptors before None are in the ring, those after it in a table at 0xA000."""
    ring, table, index = Ring(memory), RINGS, 0
    for descriptor in descriptors:
        if descriptor is None:
            table, index = 0xA000, 0
            continue
        ring.describe(index, *descriptor, table=table)
        index += 1
    ring.offer(0)
    assert ring.take() == lib.VIRTQ_BROKEN and ring.broken == why
    ring.describe(0, 0x8000, 1, 0, 0)
    assert ring.take() == lib.VIRTQ_BROKEN
    ring.start()
    ring.offer(0)
    assert ring.take() == (0, [(0x8000, 1)])


def test_more_than_4_gib_in_a_chain_break_the_ring() -> None:
    """The same bytes again and again: no guest needs so much memory for that."""
    table, at = ffi.new("struct guest_memory *"), Memory((0, 0x10000))
    # No byte of this region is touched: its pointer leads nowhere.
    huge = ffi.new("struct guest_region *", [2**40, FRONT_END + 2**40, 2**32, ffi.cast("uint8_t *", 1 << 44)])
    ffi.memmove(table, at.table, ffi.sizeof("struct guest_memory"))
    assert lib.guest_memory_add(table, huge)
    ring = Ring(at)
    ffi.memmove(at.table, table, ffi.sizeof("struct guest_memory"))
    ring.describe(0, 2**40, 2**32 - 1, NEXT, 1)
    ring.describe(1, 2**40, 1, 0, 0)
    ring.offer(0)
    assert ring.take() == lib.VIRTQ_BROKEN and ring.broken == "a chain of more than 4 GiB"
    at.close()


@pytest.mark.parametrize("ahead", [9, 0x8000, 0xFFFF])
def test_an_index_beyond_the_ring_stops_it(memory: Memory, ahead: int) -> None:
    ring = Ring(memory, base=0xFFFE)
    memory.write(ring.available + 2, struct.pack("<H", (0xFFFE + ahead) % 65536))
    assert ring.take() == lib.VIRTQ_BROKEN and ring.broken == "more chains than the ring has entries"


def test_a_head_outside_the_ring_stops_it(memory: Memory) -> None:
    ring = Ring(memory)
    ring.offer(8)
    assert ring.take() == lib.VIRTQ_BROKEN and ring.broken == "a chain that begins outside the ring"


def test_a_stopped_queue_has_nothing(memory: Memory) -> None:
    queue = ffi.new("struct virtq *")
    chain, parts = ffi.new("struct virtq_chain *"), ffi.new("struct iovec[1]")
    assert lib.virtq_take(queue, memory.table, False, parts, 1, chain) == lib.VIRTQ_EMPTY
    assert not lib.virtq_tell(queue) and lib.virtq_wait(queue)
    lib.virtq_poll(queue)


# --- a naive model: what the standard says, over any memory ---


def naive(memory: Memory, ring: Ring, head: int, writable: bool) -> "list[tuple[int, int]] | None":
    """The bytes (address by address) of the chain from `head` on; None: it is not valid."""

    def whole(address: int, length: int) -> bool:
        return any(guest <= address and address + length <= guest + size for guest, size, _ in memory.buffers)

    def at(address: int) -> bool:
        return whole(address, 1)

    out: list[tuple[int, int]] = []
    table, entries, index, seen = RINGS, ring.size, head, 0
    while True:
        seen += 1
        if index >= entries or seen > ring.size:
            return None
        address, length, flags, following = struct.unpack("<QIHH", memory.read(table + 16 * index, 16))
        if flags & INDIRECT:
            wrong = flags & NEXT or length % 16 or not length or length // 16 > ring.size or address % 8
            if table != RINGS or wrong or not whole(address, length):
                return None
            table, entries, index = address, length // 16, 0
            continue
        if bool(flags & WRITE) != writable or (length and not at(address)):
            return None
        if not all(at(address + n) for n in range(0, length, 16)) or (length and not at(address + length - 1)):
            return None
        out += [(address, length)] if length else []
        if not flags & NEXT:
            return out
        index = following


lengths = st.one_of(st.integers(0, 64), st.sampled_from([16, 32, 64, 128, 144, 4096]))
edges = st.sampled_from([0xA000, 0xA010, 0xFFF0, 0x10FF0, 0x11000, 0x40000, 0x40FC0, 2**64 - 8])
addresses = st.one_of(st.integers(0x8000, 0x8100), edges)
flag_bits = st.one_of(st.just(0), st.just(NEXT), st.integers(0, 7))
any_descriptor = st.tuples(addresses, lengths, flag_bits, st.integers(0, 9))


@given(st.lists(any_descriptor, min_size=8, max_size=8), st.lists(any_descriptor, max_size=8), st.integers(0, 9), st.booleans())
def test_chains_are_as_in_the_standard(ring_has: list[Descriptor], table_has: list[Descriptor], head: int, writable: bool) -> None:
    memory = Memory((0, 0x10000), (0x10000, 0x1000), (0x40000, 0x1000))
    ring = Ring(memory)
    for index, descriptor in enumerate(ring_has):
        ring.describe(index, *descriptor)
    for index, descriptor in enumerate(table_has):
        ring.describe(index, *descriptor, table=0xA000)
    ring.offer(head)
    expected = naive(memory, ring, head, writable) if head < ring.size else None
    got = ring.take(writable)
    if expected is None:
        assert got == lib.VIRTQ_BROKEN and ring.broken
    else:
        assert not isinstance(got, int) and got[0] == head
        merged: list[tuple[int, int]] = []
        for address, length in expected:  # the model has a part for each buffer: cut them where a region ends
            edge = next((g + s for g, s, _ in memory.buffers if g <= address < g + s < address + length), 0)
            merged += [(address, edge - address), (edge, address + length - edge)] if edge else [(address, length)]
        assert got[1] == merged
    memory.close()


@given(
    st.integers(0, 65535), st.booleans(), st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(-2, 6)), max_size=12)
)
def test_indexes_and_calls_are_right_for_any_order(base: int, event_index: bool, steps: list[tuple[int, int, int]]) -> None:
    """offered, taken and given back in any amounts: the used ring has every chain once, and a call when the guest asked for one."""
    memory = Memory((0, 0x10000))
    ring = Ring(memory, base=base, event_index=event_index)
    for index in range(ring.size):
        ring.describe(index, 0x8000 + index, 1, 0, 0)
    free, waiting, taken = list(range(ring.size)), list[int](), list[int]()
    used = base
    for offered, take, wish in steps:
        ring.offer(*free[:offered])
        waiting += free[:offered]
        del free[:offered]
        for _ in range(take):
            got = ring.take()
            if not waiting:
                assert got == lib.VIRTQ_EMPTY
                continue
            assert got == (waiting[0], [(0x8000 + waiting[0], 1)])
            taken.append(waiting.pop(0))
        asks = (used + wish) % 65536  # call when the index passes this one
        if event_index:
            memory.write(ring.available + 4 + 2 * ring.size, struct.pack("<H", asks))
        memory.write(ring.available, struct.pack("<H", int(wish < 0)))
        for head in taken:
            lib.virtq_give(ring.queue, head, head + 1)
        told = lib.virtq_tell(ring.queue)
        passed = [(used + n) % 65536 for n in range(len(taken))]
        assert told == (asks in passed if event_index else bool(taken) and wish >= 0)
        for at, head in zip(passed, taken, strict=True):
            assert struct.unpack("<II", memory.read(ring.used + 4 + 8 * (at % ring.size), 8)) == (head, head + 1)
        used = (used + len(taken)) % 65536
        assert struct.unpack("<H", memory.read(ring.used + 2, 2))[0] == used
        free += taken
        taken.clear()
        seen = ring.queue.offered
        assert lib.virtq_wait(ring.queue) == (seen == ring.index) and ring.queue.offered == ring.index
        if event_index:
            assert struct.unpack("<H", memory.read(ring.used + 4 + 8 * ring.size, 2))[0] == seen
        else:
            assert memory.read(ring.used, 2) == b"\0\0"
            lib.virtq_poll(ring.queue)
            assert memory.read(ring.used, 2) == b"\1\0"
    memory.close()


# --- a guest that changes its rings while we read them ---


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_a_guest_that_changes_descriptors_while_we_read_them(tmp_path: Path, sanitizer: str) -> None:
    """A thread writes to the rings all the time. Every part of every chain taken lies in the guest's memory."""
    compiler = shutil.which("clang") or shutil.which("gcc") or "cc"
    program = tmp_path / "race"
    sources = [ROOT / "csrc/wire/virtqueue.c", ROOT / "csrc/wire/guest_memory.c", Path(__file__).with_name("virtqueue_race.c")]
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{ROOT / 'csrc'}"]
    subprocess.run(
        [compiler, *flags, f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", *map(str, sources), "-o", str(program)],
        check=True, timeout=280,
    )  # fmt: skip
    done = subprocess.run([program, "40000"], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    taken, broken = map(int, done.stdout.split())
    assert taken > 100 and broken > 100
