"""What a process has inherited is closed, and in few system calls, whatever C library the interpreter was built for."""

import os
import resource
import subprocess
from pathlib import Path

import pytest
from process_helpers import command_line, environment, user_prefix

from pasta_py import descriptors

WITHOUT = "#include <errno.h>\nint close_range(unsigned first, unsigned last, int flags) { errno = ENOSYS; return -1; }\n"
CALLS = 2000  # of all processes of a start: it took 20 times as many numbers when each was closed by itself


@pytest.mark.parametrize("proc", [True, False])
def test_all_but_those_to_keep_are_closed(monkeypatch: pytest.MonkeyPatch, proc: bool) -> None:
    if not proc:
        def refuse(path: str) -> list[str]:
            raise FileNotFoundError(path)

        monkeypatch.setattr(descriptors.os, "listdir", refuse)  # type: ignore[attr-defined]
    answer, told = os.pipe()
    if (child := os.fork()) == 0:
        try:
            low, high = (os.dup2(told, fd) for fd in (200, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1))
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))  # both are open nevertheless
            kept = os.dup2(told, 50)
            descriptors.close_from(3, {kept})
            left = []
            for fd in (answer, told, low, high, kept):
                try:
                    os.fstat(fd)
                    left.append(fd)
                except OSError:
                    pass
            os.write(kept, f"{left} {kept}".encode())
        finally:
            os._exit(0)
    os.close(told)
    with open(answer) as text:
        assert text.read() == "[50] 50"
    os.waitpid(child, 0)


@pytest.mark.as_built
@pytest.mark.unsanitized
def test_a_start_takes_few_calls_without_close_range(tmp_path: Path) -> None:
    source, library, trace = (tmp_path / name for name in ("without.c", "without.so", "trace"))
    source.write_text(WITHOUT)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.geteuid() and len(path.parts) > 2:
            path.chmod(path.stat().st_mode | 0o755)
    trace.touch()
    trace.chmod(0o666)
    subprocess.run(
        [*user_prefix(), "strace", "-f", "-qq", "-e", "trace=close", "-e", "signal=none", "-o", trace]
        + ["-E", f"LD_PRELOAD={library}"]
        + command_line("pasta", "--config-net", "--", "true"),
        env=environment(), check=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert 10 < trace.read_text().count(" close(") < CALLS
