"""The log: three kinds of sink, a size that is kept, and lost lines that are counted."""

import json
import os
import re
import socket
from pathlib import Path

import pytest
from sample_plan import sample_plan

from pasta_py.worker import log


def test_lines_below_the_level_are_not_written() -> None:
    reader, writer = os.pipe()
    sink = log.Log(writer, sample_plan(log_level=log.WARNING, program="prog"), 1)
    for level in (log.INFO, log.WARNING, log.ERROR):
        sink.write(level, f"level {level}")
    assert os.read(reader, 999) == b"prog: warning: level 1\nprog: error: level 0\n"
    os.close(reader)
    os.close(writer)


def test_a_line_stays_one_line() -> None:
    reader, writer = os.pipe()
    log.Log(writer, sample_plan(log_level=log.INFO, program="prog"), 1).write(log.INFO, "a\nb\x1b[31m")
    assert os.read(reader, 999) == b"prog: a?b?[31m\n"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_stream_that_nobody_reads_does_not_block_and_losses_are_counted(kind: str) -> None:
    reader, writer = os.pipe() if kind == "pipe" else (end.detach() for end in socket.socketpair())
    sink = log.Log(writer, sample_plan(log_level=log.INFO, program="prog"), 1)
    for number in range(20_000):
        sink.write(log.INFO, f"line {number:6}")
    got = b""
    os.set_blocking(reader, False)
    while chunk := _read(reader):
        got += chunk
    kept = got.count(b"\n")
    assert kept < 20_000
    sink.write(log.INFO, "again")
    lost = 20_000 - kept
    assert os.read(reader, 999) == f"prog: warning: {lost} lines of the log were lost\nprog: again\n".encode()
    os.close(reader)
    os.close(writer)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("limit", [200, 4096, 300_000])
def test_a_log_file_keeps_its_size_and_its_newest_lines(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "log"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    sink = log.Log(fd, sample_plan(log_level=log.INFO, log_size=limit), 1)
    total = 3 * limit // 50 + 10
    for number in range(total):
        sink.write(log.INFO, f"line {number}")
        if number % 50 == 0:
            assert path.stat().st_size <= limit
    lines = path.read_text().splitlines()
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z info: line \d+", line) for line in lines)
    numbers = [int(line.rpartition(" ")[2]) for line in lines]
    assert numbers == list(range(numbers[0], total))
    assert path.stat().st_size <= limit
    assert numbers[0] == 0 or path.stat().st_size >= limit // 2 - 100
    os.close(fd)


def test_a_log_file_goes_on_after_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("earlier\n")
    fd = os.open(path, os.O_RDWR)
    log.Log(fd, sample_plan(log_level=log.INFO, log_size=1000), 1).write(log.INFO, "later")
    first, second = path.read_text().splitlines()
    assert first == "earlier"
    assert second.endswith("later")
    os.close(fd)


def test_syslog_gets_severity_name_and_pid() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours:
        sink = log.Log(theirs.detach(), sample_plan(log_level=log.INFO, log_syslog=True, program="prog"), 77)
        sink.write(log.WARNING, "beware")
        assert re.fullmatch(rb"<28>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d prog\[77\]: beware", ours.recv(999))
        sink.close()


def test_a_syslog_that_is_gone_or_was_never_there_does_no_harm() -> None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sink = log.Log(sock.detach(), sample_plan(log_level=log.INFO, log_syslog=True), 77)
    sink.write(log.ERROR, "nobody listens")
    sink.write(log.ERROR, "still nobody")
    sink.close()
    sink.write(log.ERROR, "after the end")


@pytest.mark.parametrize("limit", [0, 4096])
def test_json_is_an_object_a_line_whatever_is_in_it(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "log"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    sink = log.Log(fd, sample_plan(log_level=log.INFO, log_size=limit, log_format="json", program="prog"), 77)
    sink.write(log.WARNING, 'TCP 10.0.0.1:5 > 10.0.0.2:6 OPEN [flow 0.0.12.3]: "quoted" \\ \x1b\n')
    sink.write(log.INFO, "\U0001f600" * 1000)
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert (first["level"], first["program"], first["pid"], first["flow"]) == ("warning", "prog", 77, "0.0.12.3")
    assert first["message"] == 'TCP 10.0.0.1:5 > 10.0.0.2:6 OPEN: "quoted" \\ ??'
    assert second["message"] == "\U0001f600" * (256 if limit else 1000) and "flow" not in second
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first["time"])
    os.close(fd)


def test_the_journal_gets_fields() -> None:
    """systemd: JOURNAL_NATIVE_PROTOCOL. A value without a newline is NAME=VALUE."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours:
        plan = sample_plan(log_level=log.INFO, log_syslog=True, log_format="journal", program="prog")
        sink = log.Log(theirs.detach(), plan, 77)
        sink.write(log.WARNING, "beware\nMESSAGE=x [flow 0.0.1.2]: y")
        fields = dict(field.split(b"=", 1) for field in ours.recv(999).removesuffix(b"\n").split(b"\n"))
        assert fields == {
            b"MESSAGE": b"beware?MESSAGE=x: y", b"PRIORITY": b"4", b"SYSLOG_FACILITY": b"3", b"SYSLOG_IDENTIFIER": b"prog",
            b"SYSLOG_PID": b"77", b"PASTA_LEVEL": b"warning", b"PASTA_FLOW": b"0.0.1.2",
        }  # fmt: skip
        sink.close()
