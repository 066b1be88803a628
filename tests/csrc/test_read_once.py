"""Nothing in a guest's memory is read twice: the rings and the link, compiled so that each read of them is seen (read_once.c)."""

import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
#: All that gets an address in a guest's memory; the kernel does the rest.
SEEN = ("base/*.c", "wire/*.c", "io/link*.c", "io/vhost*.c", "io/turns.c", "io/loop.c")
WRONG = """
#include <stdint.h>
void read_wrongly(const uint16_t *at, _Bool twice);
void read_wrongly(const uint16_t *at, _Bool twice)
{
    if (twice)
        __atomic_load_n(at, __ATOMIC_RELAXED);
    if (twice)
        __atomic_load_n(at, __ATOMIC_RELAXED);
    else
        (void)*(const volatile uint16_t *)at;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("read_once")
    (folder / "wrong.c").write_text(WRONG)
    # gcc says that ThreadSanitizer knows no fences. It is not here.
    flags = ("cc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-pthread", "-Wno-tsan", f"-I{CSRC}")
    seen = sorted(str(path) for pattern in SEEN for path in CSRC.glob(pattern))
    wraps = ",".join(f"--wrap={name}" for name in ("memcpy", "memmove", "memcmp", "mmap"))
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    for command in (
        (*flags, "-fsanitize=thread", "-fno-builtin", "-U_FORTIFY_SOURCE", "-c", *seen, "wrong.c"),
        (*flags, "-c", HERE / "read_once.c", HERE / "reads.c"),
    ):
        subprocess.run(command, cwd=folder, check=True, env=environment)
    objects = [path.name for path in folder.glob("*.o")]
    subprocess.run((*flags, f"-Wl,{wraps}", *objects, "-o", "read_once"), cwd=folder, check=True, env=environment)
    return folder / "read_once"


def run(program: Path, *how: str) -> tuple[int, str]:
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    done = subprocess.run([program, *how], capture_output=True, text=True, timeout=100, env=environment)
    return done.returncode, done.stdout


def test_what_a_guest_changes_after_it_was_read_changes_nothing(program: Path) -> None:
    """Each descriptor, each entry of a ring, each index, each header and frame: read once, by an atomic load or a copy."""
    assert run(program) == (0, "each was read once\n")


@pytest.mark.parametrize(("how", "what"), [("twice", "read twice"), ("plain", "a plain load")])
def test_a_wrong_read_is_found(program: Path, how: str, what: str) -> None:
    assert run(program, how) == (1, f"on purpose: {what} at 0x0\n")
