"""A guest that changes its rings and buffers while they are read: another process does, on another processor (scribble.c).

How often the two meet depends on how free that is. `make sanitize` runs this with AddressSanitizer. ThreadSanitizer sees one
process alone: it cannot look at a guest's memory.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import front_end as fe
import pytest
from front_end import ALL, FRONT_END, PLAIN, Machine
from guest import GUEST_MAC
from test_vhost_user import ARP, descriptors, works

from pasta_py.worker import plane

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"
HOT = 8  # scribble.c's: the entries that frames are in
FRAMES, FIELDS, ANYTHING = 300, range(4), 4  # in each mode of scribble.c
LENGTH, GUARD = 64, 0xEE  # of each buffer; what is behind it, where nothing is to be read or written
FLAGS = {fe.TO_GUEST: fe.WRITE, fe.FROM_GUEST: 0}


@pytest.fixture(scope="module")
def scribble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("scribble") / "scribble"
    command = ("cc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, PROGRAMS / "scribble.c")
    subprocess.run(command, check=True, env={k: v for k, v in os.environ.items() if k != "LD_PRELOAD"})
    return program


@contextlib.contextmanager
def scribbling(machine: Machine, program: Path, mode: int) -> Iterator[None]:
    groups = [
        (queue.descriptors, queue.available, queue.buffers, queue.buffer_bytes, LENGTH, FLAGS[index])
        for index, queue in enumerate(machine.queues)
    ]
    words = (machine.memfd, len(machine.memory), mode, *(word for group in groups for word in group))
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    with subprocess.Popen(
        [program, *map(str, words)], stdout=subprocess.PIPE, pass_fds=[machine.memfd], env=environment
    ) as process:
        try:
            assert process.stdout and process.stdout.readline() == b"ready\n"
            yield
        finally:
            process.kill()


def starts_anew(machine: Machine) -> None:
    """The guest starts its device, with memory as it should be: short buffers, with guards behind them."""
    for index in (fe.TO_GUEST, fe.FROM_GUEST):
        machine.ask(fe.GET_VRING_BASE, struct.pack("=II", index, 0))
    for fd in machine.fds:
        os.close(fd)
    machine.fds.clear()
    machine.make_memory()
    for index, queue in enumerate(machine.queues):
        machine.memory[queue.buffers : queue.buffers + HOT * queue.buffer_bytes] = bytes([GUARD]) * HOT * queue.buffer_bytes
        for entry in range(HOT):
            at = queue.buffers + entry * queue.buffer_bytes
            machine.memory[at : at + LENGTH] = (bytes(machine.header_bytes) + ARP).ljust(LENGTH, b"\0")
            queue.describe(entry, at, LENGTH, FLAGS[index])
    machine.tell_memory()
    for index in (fe.TO_GUEST, fe.FROM_GUEST):
        machine.tell_queue(index)
    machine.pump()


def frames_pass(machine: Machine, number: int) -> None:
    """One each way: to the guest in many buffers, from it in one."""
    for queue, most in zip(machine.queues, (100, 1), strict=True):
        while (queue.offered - queue.used_index()) % 65536 < most:
            queue.offer((number + queue.offered) % HOT)
        queue.wake()
    machine.plane.send(GUEST_MAC + bytes(1000))
    kind, _, data = machine.plane.run()
    if kind == plane.LOG:
        machine.logs.append(data.decode())
    elif kind == plane.PUNT:
        machine.punts.append(data)


def goes_on(machine: Machine) -> None:
    """The device starts again in the same memory, which is changed meanwhile. No answer is waited for."""
    for index, queue in enumerate(machine.queues):
        struct.pack_into("<H", machine.memory, queue.used + 2, queue.offered)
        where = (queue.descriptors, queue.used, queue.available, 0)
        machine.tell(fe.GET_VRING_BASE, struct.pack("=II", index, 0))
        machine.tell(fe.SET_VRING_NUM, struct.pack("=II", index, queue.size))
        machine.tell(fe.SET_VRING_BASE, struct.pack("=II", index, queue.offered))
        machine.tell(fe.SET_VRING_ADDR, struct.pack("=II4Q", index, 0, *(FRONT_END + at for at in where)))
        machine.tell(fe.SET_VRING_KICK, struct.pack("=Q", index), [queue.kick])
        machine.tell(fe.SET_VRING_CALL, struct.pack("=Q", index), [queue.call])
    drained(machine)


def drained(machine: Machine) -> None:
    """Answers that are there are read."""
    while select.select([machine.sock], [], [], 0)[0]:
        machine.sock.recv(1 << 16)


def guards(machine: Machine) -> bytes:
    """What is behind the buffers."""
    found = bytearray()
    for queue in machine.queues:
        for entry in range(HOT):
            at = queue.buffers + entry * queue.buffer_bytes
            found += machine.memory[at + LENGTH : at + queue.buffer_bytes]
    return bytes(found)


@pytest.mark.parametrize("features", [PLAIN, ALL], ids=["plain", "all"])
def test_a_guest_that_changes_what_is_read_harms_itself_alone(scribble: Path, features: int) -> None:
    """Nothing is read or written outside the buffers that were checked, and each ring that breaks is told of once."""
    with Machine(features) as machine:
        works(machine)
        starts_anew(machine)
        before = descriptors()
        for mode in (*FIELDS, ANYTHING):
            told = len(machine.logs)
            with scribbling(machine, scribble, mode):
                for each in range(FRAMES):
                    frames_pass(machine, each)
                    if mode in FIELDS and len(machine.logs) > told:
                        told = len(machine.logs)
                        goes_on(machine)
            assert not machine.ended, "its connection is not what it broke"
            assert not guards(machine).strip(bytes([GUARD])), "written behind a buffer"
            assert not any(bytes([GUARD]) * 8 in frame for frame in machine.punts), "read behind a buffer"
            machine.punts.clear()
            machine.pump()
            drained(machine)
            starts_anew(machine)
        assert descriptors() == before
        machine.fill()
        machine.punts.clear()
        works(machine)
