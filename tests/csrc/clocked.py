"""The whole core with clocks that a test can move: lifetimes of minutes and hours are tested in milliseconds.

Built from the sources of the extension as they are; only the name `clock_gettime` is another one there. What ships knows
nothing of it.
"""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import Any

import counted
import pytest
from guest import Guest

from pasta_py.worker import plane

ROOT = Path(__file__).resolve().parents[2]
MOVED = """
#include <time.h>
#undef clock_gettime
int64_t moved_ms[2], counted_us, count_us;
int clock_gettime(clockid_t clock, struct timespec *t);
int moved_clock_gettime(clockid_t clock, struct timespec *t)
{
	int64_t ms = moved_ms[clock == CLOCK_REALTIME];
	int rc = clock_gettime(clock, t);

	if (count_us && clock != CLOCK_REALTIME) {
		counted_us += count_us;
		t->tv_sec = counted_us / 1000000;
		t->tv_nsec = counted_us % 1000000 * 1000;
	}

	t->tv_sec += ms / 1000;
	t->tv_nsec += ms % 1000 * 1000000;
	if (t->tv_nsec >= 1000000000) {
		t->tv_nsec -= 1000000000;
		t->tv_sec++;
	} else if (t->tv_nsec < 0) {
		t->tv_nsec += 1000000000;
		t->tv_sec--;
	}
	return rc;
}
"""


@functools.cache
def build() -> Any:
    """The module, with `ffi` and `lib` as pasta_py._plane has them, and MOVED; lib.moved_ms is [monotonic, real time]."""
    also = counted.build("clocked")
    if sanitize := os.environ.get("PASTA_SANITIZE"):  # as the extension is built then
        also.compile_args += [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-O1", "-g1"]
        also.link_args.append(f"-fsanitize={sanitize}")
    recipe = counted.load("_build_plane", ROOT / "csrc" / "build.py")
    builder = recipe.cffi.FFI()
    builder.cdef(recipe.cdef() + "\nextern int64_t moved_ms[2], counted_us, count_us;")
    builder.set_source(
        "_clocked",
        recipe.INCLUDES + MOVED,
        sources=[*(str(ROOT / source) for source in recipe.sources() if source.startswith("csrc")), *also.sources],
        include_dirs=[str(ROOT / "csrc")],
        extra_compile_args=["-std=c11", "-D_GNU_SOURCE", "-pthread", "-Dclock_gettime=moved_clock_gettime", *also.compile_args],
        extra_link_args=["-pthread", *also.link_args],
    )
    return counted.load("_clocked", builder.compile(tmpdir=also.directory))


class Clock:
    """Moves the core's clocks; nothing else that is in the process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module = build()
        lib = self.module.lib
        lib.moved_ms[0] = lib.moved_ms[1] = lib.count_us = 0
        monkeypatch.setattr(plane, "ffi", self.module.ffi)
        monkeypatch.setattr(plane, "lib", self.module.lib)

    def pass_(self, guest: Guest, seconds: float, step: float = 1.0) -> None:
        """Let time pass in steps, with the core at work after each."""
        while seconds > 0:
            self.module.lib.moved_ms[0] += round(1000 * min(step, seconds))
            seconds -= step
            guest.pump()

    def set_wall(self, seconds: float) -> None:
        """Put the clock of the wall so far from the real one."""
        self.module.lib.moved_ms[1] = round(1000 * seconds)


class CountedClock(Clock):
    """A clock that goes by half a millisecond whenever the core looks at it, however long that takes.

    For a core of one thread, and what does not depend on times that the kernel tells.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        self.module.lib.counted_us = time.monotonic_ns() // 1000
        self.module.lib.count_us = 500

    def now_ms(self) -> int:
        return int(self.module.lib.counted_us) // 1000 + int(self.module.lib.moved_ms[0])

    def pass_ms(self, duration: int) -> None:
        self.module.lib.moved_ms[0] += duration
