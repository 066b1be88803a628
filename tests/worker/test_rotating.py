"""Files that are written in turn, and the stream in their place."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pasta_py.worker.rotating import Rotating


def line(number: int) -> bytes:
    return b'{"number":%6d}\n' % number


def untouched() -> None:
    raise AssertionError("nothing is lost")


@contextmanager
def files(folder: Path, count: int = 2) -> Iterator[tuple[list[Path], list[int]]]:
    paths = [folder / f"log{number}" for number in range(count)]
    fds = [os.open(path, os.O_WRONLY | os.O_CREAT, 0o600) for path in paths]
    yield paths, fds
    for fd in fds:
        os.close(fd)


def test_the_newest_lines_are_kept_whole_within_the_limit(tmp_path: Path) -> None:
    with files(tmp_path) as (paths, fds):
        log = Rotating(fds, 1000, untouched)
        for number in range(0, 300, 3):
            log.write(b"".join(map(line, range(number, number + 3))))
            sizes = [path.stat().st_size for path in paths]
            assert max(sizes) <= 1000
        kept = sorted(json.loads(text)["number"] for path in paths for text in path.read_text().splitlines())
    assert kept == list(range(kept[0], 300)) and 1000 // len(line(0)) <= len(kept)
    assert log.lost == 0


def test_more_lines_at_once_than_a_file_holds(tmp_path: Path) -> None:
    with files(tmp_path) as (paths, fds):
        Rotating(fds, 100, untouched).write(b"".join(map(line, range(50))))
        last = [json.loads(text)["number"] for path in paths for text in path.read_text().splitlines()]
    assert max(last) == 49 and sorted(last) == list(range(min(last), 50))


def test_a_full_stream_counts_what_it_misses_and_says_so_first() -> None:
    reader, writer = os.pipe()
    told: list[int] = []
    log = Rotating([writer], 0, lambda: told.append(0))
    for number in range(20_000):
        log.write(line(number))
    assert log.lost > 0
    lost = log.lost
    text = os.read(reader, 1 << 20)
    log.write(line(1) + line(2))
    rest = [json.loads(each) for each in os.read(reader, 1 << 20).splitlines()]
    assert rest[0] == {"v": 1, "event": "lost", "count": lost} and [each.get("number") for each in rest[1:]] == [1, 2]
    assert len(text.splitlines()) + lost == 20_000 and all(json.loads(each) for each in text.splitlines())
    os.close(reader)
    log.write(line(3))  # the reader is gone: lost, and no exception
    assert log.lost == 1 and len(told) == 1, "a loss is told once"
    os.close(writer)


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path: Path) -> None:
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with files(tmp_path, 1) as (paths, fds):
        told: list[int] = []
        log = Rotating(fds, 10_000, lambda: told.append(0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # as small a disk
        try:
            for number in range(20):
                log.write(line(number))
            assert log.lost > 0
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        lost = log.lost
        log.write(line(99))
        found = [json.loads(text) for text in paths[0].read_text().splitlines()]
    assert found[-2]["count"] == lost and found[-1]["number"] == 99
    assert len(found) - 2 + lost == 20 and len(told) == 1
