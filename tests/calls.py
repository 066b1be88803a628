"""The table of system calls (csrc/io/seccomp_table.c), as its compiler and its readers see it, and what strace saw of it."""

import functools
import platform
import re
import subprocess
import sysconfig
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "csrc/io/seccomp_table.c"
WORKER, HELPER, MACHINE = 1, 2, 16
NAMES = {"WORKER": "worker", "HELPER": "helper", "BOTH": "both", "MACHINE": "worker, `--vhost-user`"}
NOT_HERE = "not here: "
#: Rows that were used on other platforms than that of `make test`, by what the file is named after.
SEEN = Path(__file__).resolve().parent / "arch" / "seen"
_ROW = re.compile(r"^\t\{__NR_(\w+), (WORKER|HELPER|BOTH|MACHINE), \{(.*)\}\}, /\* (.*) \*/$")
_CALL = re.compile(r"^\[ *(\d+)\] (\w+)\((.*?)(?:\)\s+=|$)")
#: arm64 has the kernel's generic numbers, which other machines have headers for, too. The other headers come first.
_ARM64_NUMBERS = """
#define __ARCH_WANT_RENAMEAT
#define __ARCH_WANT_NEW_STAT
#define __ARCH_WANT_SET_GET_RLIMIT
#include <asm-generic/unistd.h>
"""
_ARM64 = """
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#undef __x86_64__
#define __aarch64__ 1
"""
_PRINT = """
#include "io/seccomp_table.c"
#include <stdio.h>
int main(void)
{
	for (size_t i = 0; i < seccomp_rows; i++) {
		printf("%d %u", seccomp_table[i].call, seccomp_table[i].who);
		for (int c = 0; c < SECCOMP_CONDITIONS && seccomp_table[i].when[c].mask; c++)
			printf(" %u,%u,%u", seccomp_table[i].when[c].arg, seccomp_table[i].when[c].mask, seccomp_table[i].when[c].value);
		puts("");
	}
}
"""


@dataclass(frozen=True)
class Row:
    """One row: numbers as compiled, and words as written."""

    number: int
    who: int
    conditions: tuple[tuple[int, int, int], ...]  # argument, mask, value
    name: str
    owner: str
    when: str
    why: str

    def __str__(self) -> str:
        return f"{self.name}({self.when}) of {self.owner}"

    def allows(self, number: int, arguments: list[int]) -> bool:
        return number == self.number and all(arguments[arg] & mask == value for arg, mask, value in self.conditions)


# How the conditions' macros read in the documentation.
_WORDS = (
    (re.compile(r"(?:IS|TYPE)\(\d, ([^()]+)\)"), r"\1"),
    (re.compile(r"ADVICE\(([^()]+)\)"), r"\1"),
    (re.compile(r"OPTION\(([^()]+)\)"), r"\1"),
    (re.compile(r"ONLY\(\d, ([^()]+)\)"), r"no bits but \1"),
    (re.compile(r"WITH\(\d, ([^()]+)\)"), r"with \1"),
    (re.compile(r"OF\(\d, ([^(),]+), ([^()]+)\)"), r"of \1 only \2"),
)


def documentation() -> list[str]:
    """The table as docs/security.md has it."""
    lines = ["| Call | Arguments | Whose | Seen on | Why |", "|---|---|---|---|---|"]
    for row in rows():
        when = row.when
        for pattern, words in _WORDS:
            when = pattern.sub(words, when)
        when = f"`{when}`" if when else "any"
        lines.append(f"| `{row.name}` | {when.replace('|', chr(92) + '|')} | {NAMES[row.owner]} | {seen_on(row)} | {row.why} |")
    return lines


@functools.cache
def records() -> dict[str, list[str]]:
    """The rows of each other platform; sorted by name."""
    return {path.stem: path.read_text().splitlines() for path in sorted(SEEN.glob("*.txt"))}


def seen_on(row: Row) -> str:
    """Where a row has been used: everywhere, on some platforms, nowhere."""
    here = [] if row.why.startswith(NOT_HERE) else ["x86-64"]
    found = here + [name for name, lines in records().items() if str(row) in lines]
    return "all" if len(found) == 1 + len(records()) else ", ".join(found) or "none"


def platform_here() -> str:
    """What this machine with this Python is called: "x86-64", or as a file of SEEN."""
    if platform.machine() == "aarch64":
        return "arm64"
    return "musl" if "musl" in sysconfig.get_config_var("SOABI") else "x86-64"


def compiled(folder: Path, text: str, machine: str = "") -> Path:
    """A program of C that includes the tables, with the numbers of this machine, or of "aarch64"."""
    source, program = folder / f"print{machine}.c", folder / f"print{machine}"
    command = ["cc", "-std=c11", "-D_GNU_SOURCE", "-I", ROOT / "csrc", "-o", program, source]
    if machine not in ("", platform.machine()):
        assert machine == "aarch64"
        (folder / "arm64/asm").mkdir(parents=True, exist_ok=True)
        (folder / "arm64/asm/unistd.h").write_text(_ARM64_NUMBERS)
        command[1:1] = ["-I", folder / "arm64"]
        text = _ARM64 + text
    source.write_text(text)
    subprocess.run(command, check=True)
    return program


@functools.cache
def rows(machine: str = "") -> tuple[Row, ...]:
    """The table, with the numbers of this machine, or of "aarch64"."""
    words = [match.groups() for line in SOURCE.read_text().splitlines() if (match := _ROW.match(line))]
    with tempfile.TemporaryDirectory() as folder:
        program = compiled(Path(folder), _PRINT, machine)
        printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(words) == len(printed), "a row of the table is not on a line of its own, as this file reads them"
    found = []
    for (name, owner, when, why), line in zip(words, printed, strict=True):
        number, who, *conditions = line.split()
        numbers = tuple(tuple(map(int, condition.split(","))) for condition in conditions)
        found.append(Row(int(number), int(who), numbers, name, owner, "" if when == "{0}" else when, why))  # type: ignore[arg-type]
    return tuple(found)


def used(traces: list[Path], also: int = 0) -> tuple[Counter[tuple[int, Row]], Counter[str]]:
    """How often the worker and the helper used each row once they were locked in, and what no row allows.

    `also`: MACHINE, where the worker has those rows too.

    The traces are those of `strace -ff -n -e raw=all`, one file for each thread; only the program's own.
    """
    found: Counter[tuple[int, Row]] = Counter()
    strange: Counter[str] = Counter()
    for path in traces:
        lines = path.read_text(errors="replace").splitlines()
        who, start = _locked_in(lines)
        for line in lines[start:] if who else ():
            match = _CALL.match(line)
            if not match:
                continue
            number, arguments = int(match[1]), [int(word, 0) for word in match[3].split(", ") if word]
            row = next((row for row in rows() if row.who & (who | also) and row.allows(number, arguments)), None)
            if row:
                found[who, row] += 1
            else:
                strange[line] += 1
    return found, strange


#: How csrc/io/follow.c begins to lock itself in: a name (PR_SET_NAME), then capabilities.
_FOLLOWS = re.compile(r"\bprctl\(0xf,.*\n.*\bcapget\(")


def _locked_in(lines: list[str]) -> tuple[int, int]:
    """Whose trace it is (0: of a process that does not lock itself in), and the line after which the filter is in force."""
    calls = [match[2] if (match := _CALL.match(line)) else "" for line in lines]
    if _FOLLOWS.search("\n".join(lines)):
        return 0, 0  # it has a table of its own
    if "seccomp" in calls:
        return HELPER if "setns" in calls else WORKER, calls.index("seccomp") + 1
    for at, line in enumerate(lines[:5]):
        if re.search(r"\bprctl\(0xf,", line):  # PR_SET_NAME: the capture's thread; then it wakes the one that waits for it
            return WORKER, at + 2
    return 0, 0


if __name__ == "__main__":
    print("\n".join(documentation()))
