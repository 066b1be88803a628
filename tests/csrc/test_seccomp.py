"""The filter's program, run by an interpreter of classic BPF, says what the table says, for every call and both processes.

So it does with the numbers of arm64: where a test runs on another machine, it runs for both.
"""

import errno
import os
import platform
import re
import socket
import struct
import subprocess
from pathlib import Path

import pytest
from calls import HELPER, ROOT, WORKER, Row, compiled, rows
from hypothesis import assume, given
from hypothesis import strategies as st

KILL, ALLOW = 0x80000000, 0x7FFF0000  # linux/seccomp.h
REFUSED = 0x00050000 | errno.ENOSYS  # SECCOMP_RET_ERRNO
WATCHER, APPLIER = 4, 8
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
I386 = 0x40000003
HERE = platform.machine()
MACHINES = sorted({HERE, "aarch64"})
NUMBERS = 1024  # more than any architecture has
X32 = 0x40000000
_PRINT = """
#include "io/seccomp.c"
#include "io/seccomp_table.c"
#undef BOTH
#include "io/seccomp_follow.c"
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv)
{
	static struct program p;
	if (argc != 2 || build(&p, (uint32_t)atoi(argv[1])))
		return 1;
	for (int i = 0; i < p.len; i++)
		printf("%u %u %u %u\\n", p.code[i].code, p.code[i].jt, p.code[i].jf, p.code[i].k);
}
"""
Program = list[tuple[int, int, int, int]]


@pytest.fixture(scope="module", params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def programs(all_programs: dict[int, Program]) -> dict[int, Program]:
    return {who: all_programs[who] for who in (WORKER, HELPER)}


@pytest.fixture(scope="module")
def all_programs(tmp_path_factory: pytest.TempPathFactory, machine: str) -> dict[int, Program]:
    program = compiled(tmp_path_factory.mktemp("seccomp"), _PRINT, machine)
    return {who: read(program, who) for who in (WORKER, HELPER, WATCHER, APPLIER)}


def read(path: Path, who: int) -> Program:
    lines = subprocess.run([path, str(who)], capture_output=True, text=True, check=True).stdout.splitlines()
    return [tuple(map(int, line.split())) for line in lines]  # type: ignore[misc]


def verdict(program: Program, number: int, arguments: list[int], arch: int) -> int:
    """linux/filter.h, as far as the program goes; anything else is a KeyError or an IndexError."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *arguments)
    at = accumulator = 0
    while True:
        code, yes, no, k = program[at]
        at += 1
        if code == 0x20:  # LD W ABS
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x54:  # ALU AND K
            accumulator &= k
        elif code == 0x05:  # JMP JA
            at += k
        elif code == 0x06:  # RET K
            return k
        else:
            at += yes if {0x15: accumulator == k, 0x35: accumulator >= k}[code] else no  # JMP JEQ K, JMP JGE K


def present(machine: str) -> list[Row]:
    """The rows of calls that the machine has."""
    return [row for row in rows(machine) if row.number >= 0]


def expected(machine: str, who: int, number: int, arguments: list[int]) -> int:
    low = [argument & 0xFFFFFFFF for argument in arguments]
    return ALLOW if any(row.who & who and row.allows(number, low) for row in rows(machine)) else KILL


def test_what_has_no_conditions_is_allowed_and_what_has_no_row_is_not(programs: dict[int, Program], machine: str) -> None:
    for who, program in programs.items():
        for number in range(NUMBERS):
            for arguments in ([0] * 6, [0xFFFFFFFF] * 6, [(1 << 64) - 1] * 6):
                wanted = expected(machine, who, number, arguments)
                assert verdict(program, number, arguments, ARCHES[machine]) == wanted, (who, number, arguments)


def test_each_row_allows_what_it_says_and_nothing_beside_it(programs: dict[int, Program], machine: str) -> None:
    """One bit wrong in one of the arguments that a row looks at, and only another row can allow the call."""
    arch = ARCHES[machine]
    for who, program in programs.items():
        for row in present(machine):
            arguments = [0] * 6
            for arg, _mask, value in row.conditions:
                arguments[arg] = value
            assert verdict(program, row.number, arguments, arch) == (
                ALLOW if row.who & who else expected(machine, who, row.number, arguments)
            )
            for arg, _mask, _value in row.conditions:
                for bit in range(32):
                    changed = [*arguments[:arg], arguments[arg] ^ (1 << bit), *arguments[arg + 1 :]]
                    wanted = expected(machine, who, row.number, changed)
                    assert verdict(program, row.number, changed, arch) == wanted, (row, bit)


@given(
    st.sampled_from([WORKER, HELPER]),
    st.integers(0, len(rows()) - 1),
    st.lists(st.one_of(st.integers(0, 64), st.integers(0, (1 << 64) - 1)), min_size=6, max_size=6),
)
def test_any_arguments_get_the_tables_answer(
    programs: dict[int, Program], machine: str, who: int, row: int, arguments: list[int]
) -> None:
    number = rows(machine)[row].number
    assume(number >= 0)
    assert verdict(programs[who], number, arguments, ARCHES[machine]) == expected(machine, who, number, arguments)


def test_another_architectures_calls_are_refused(programs: dict[int, Program], machine: str) -> None:
    others = [I386, *(arch for name, arch in ARCHES.items() if name != machine)]
    for program in programs.values():
        for number in range(NUMBERS):
            assert {verdict(program, number, [0] * 6, arch) for arch in others} == {KILL}
            assert verdict(program, number | X32, [0] * 6, ARCHES[machine]) == KILL


def test_calls_of_each_machine_have_numbers_of_their_own(machine: str) -> None:
    """Rows of one number would allow what the other says."""
    numbers: dict[int, str] = {}
    for row in present(machine):
        assert numbers.setdefault(row.number, row.name) == row.name
    assert len(numbers) > 40


def test_every_socket_option_of_the_source_has_a_row() -> None:
    """So that one in a corner no test reaches does not end somebody's worker."""
    allowed = {name for row in rows() if row.name == "setsockopt" for name in re.findall(r"\w+", row.when)}
    allowed |= set(re.findall(r"\bSO_\w+", (ROOT / "csrc/io/seccomp_follow.c").read_text()))
    call = re.compile(r"\b(?:sock_set|setsockopt)\(([^;]*);")
    sources = [*(ROOT / "csrc").rglob("*.c"), *(ROOT / "pasta_py/worker").glob("*.py")]
    found = set()
    for source in sources:
        text = source.read_text()
        if source.suffix == ".py":
            text = re.sub(r"(\.setsockopt\(.*\))$", r"\1;", text, flags=re.MULTILINE)
        for statement in call.findall(text):
            found |= set(re.findall(r"\b(?:SO|TCP|UDP|IP|IPV6)_[A-Z0-9_]+\b", statement))
    assert {"SO_LINGER", "IPV6_UNICAST_HOPS", "SO_BINDTODEVICE"} <= found
    values = {name for name in found if name.startswith("IP_PMTUDISC") or name.startswith("IPV6_PMTUDISC")}
    assert found - values <= allowed, found - values - allowed


@pytest.mark.parametrize("who", [WATCHER, APPLIER])
def test_what_follows_the_host_reads_and_runs_files_and_speaks_rtnetlink_only(
    all_programs: dict[int, Program], machine: str, who: int
) -> None:
    numbers = {"x86_64": dict(openat=257, socket=41, connect=42, execve=59, mmap=9, mprotect=10, setns=308), "aarch64": dict(
        openat=56, socket=198, connect=203, execve=221, mmap=222, mprotect=226, setns=268)}[machine]  # fmt: skip

    def said(name: str, *arguments: int) -> int:
        return verdict(all_programs[who], numbers[name], [*arguments, *[0] * (6 - len(arguments))], ARCHES[machine])

    assert said("openat", 0, 0, os.O_RDONLY | os.O_CLOEXEC) == ALLOW
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_APPEND):
        assert said("openat", 0, 0, flags) == REFUSED
    assert said("socket", socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) == ALLOW
    assert said("socket", socket.AF_NETLINK, socket.SOCK_RAW, 4) == REFUSED  # sock_diag
    assert (
        said("socket", socket.AF_INET, socket.SOCK_STREAM, 0)
        == said("socket", socket.AF_PACKET, socket.SOCK_RAW, 0)
        == REFUSED
    )
    assert said("socket", socket.AF_INET, socket.SOCK_DGRAM, 0) == (ALLOW if who == WATCHER else REFUSED)
    executable, writable, private, anonymous = 4, 2, 2, 0x20  # PROT_EXEC, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS
    assert said("mmap", 0, 4096, 1 | executable, private) == ALLOW  # a library
    assert said("mmap", 0, 4096, 1 | executable, private | anonymous) == REFUSED
    assert said("mmap", 0, 4096, writable | executable, private) == said("mprotect", 0, 4096, executable) == REFUSED
    assert said("execve") == ALLOW
    for name in ("connect", "setns"):
        assert said(name) == REFUSED
    assert verdict(all_programs[who], numbers["openat"], [0] * 6, I386) == KILL
