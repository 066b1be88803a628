"""Where a capture goes: what else would go there, and what is said about it. What is in it: test_main_job.py and others."""

import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import NO_PORTS, REMOTE4, UID, Lab, program

ENTRIES = ("pasta", "pasta-py")


@pytest.fixture(autouse=True)
def _nameserver(lab: Lab) -> Iterator[None]:
    """The host has one, so that a start warns of none."""
    lab.resolv(f"nameserver {REMOTE4}\n")
    yield
    lab.resolv("")


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a pseudoterminal, that of the user first; the program may open the other by its name."""
    ours, theirs = pty.openpty()
    if os.geteuid() == 0:
        os.fchown(theirs, UID, -1)
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_the_capture_has_standard_output_to_itself(lab: Lab, name: str) -> None:
    """What the command prints goes to standard error, so that tshark reads a capture."""
    command = f"{program()} --config-net --pcap {name} -- sh -c 'echo said; ping -c1 -W20 {REMOTE4}' | tshark -r -"
    done = lab.host.run("sh", "-c", command)
    assert "Echo (ping) request" in done.stdout
    assert "said\n" in done.stderr


def test_the_command_keeps_standard_output_beside_a_capture_elsewhere(lab: Lab) -> None:
    assert lab.host.run(program(), "--pcap", "/dev/null", "--", "echo", "said").stdout == "said\n"


@pytest.mark.parametrize("by_name", [False, True])
def test_a_terminal_gets_no_capture(lab: Lab, terminal: tuple[int, int], by_name: bool) -> None:
    name = os.ttyname(terminal[1]) if by_name else "-"
    process = lab.host.popen(program(), "--pcap", name, "--", "true", stdout=terminal[1])
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(error.splitlines()) == 1 and "terminal" in error and name in error


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_port_in_the_place_of_a_captures_name_is_told(lab: Lab, entry: str) -> None:
    done = lab.host.run(program(entry), "-p", "8080:80", *NO_PORTS, "--", "true")
    line, *_end = done.stderr.splitlines()
    assert line.startswith(f"{entry}: warning: ") and "-t 8080:80" in line
    (lab.directory / "8080:80").unlink()  # it is the name of a file all the same


@pytest.mark.parametrize("entry", ENTRIES)
def test_only_a_person_is_told_that_a_file_is_overwritten(lab: Lab, terminal: tuple[int, int], entry: str) -> None:
    """Runtimes start containers again, and a container's log shows what `pasta` says."""
    capture = lab.directory / f"twice-{entry}.pcap"
    command = (program(entry), "--pcap", capture, *NO_PORTS, "--", "true")
    for _twice in range(2):
        said = lab.host.run(*command).stderr
        assert said == ("" if entry == "pasta" else end_of(capture))
    assert lab.host.popen(*command, stderr=terminal[1]).wait(60) == 0
    os.write(terminal[1], b"end\n")
    said = read_line(terminal[0])
    if entry == "pasta-py":
        assert "overwritten" in said and Path(capture).name in said
    else:
        assert said == "end"


def read_line(fd: int) -> str:
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(fd, 1)
    return line.decode().strip()


# ---- which frames, and how much of them ----


def fields(path: Path, *names: str) -> list[list[str]]:
    """These fields of each frame, as tshark reads them."""
    words = [word for name in names for word in ("-e", name)]
    done = subprocess.run(["tshark", "-r", path, "-T", "fields", *words], capture_output=True, text=True, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def end_of(*paths: Path) -> str:
    """What pasta-py says at the end of a capture of which all frames are in these files."""
    sizes = [int(size) for path in paths for (size,) in fields(path, "frame.cap_len")]
    return f"pasta-py: capture: {len(sizes)} frames ({sum(sizes)} bytes) written, 0 left out\n"


@pytest.mark.option("--pcap-filter")
def test_a_filter_takes_the_frames_that_tcpdump_would_take(lab: Lab) -> None:
    capture = lab.directory / "filtered.pcapng"
    command = ("ping", "-c3", "-i0.1", "-W20", REMOTE4)
    done = lab.host.run(program("pasta-py"), "--pcap", capture, "--pcap-filter", "icmp[icmptype] == icmp-echoreply", "--", *command)
    assert fields(capture, "icmp.type", "icmp.seq") == [["0", "1"], ["0", "2"], ["0", "3"]]
    assert done.stderr == end_of(capture)


def test_a_filter_that_is_wrong_is_told_in_the_words_of_libpcap(lab: Lab) -> None:
    done = lab.host.run(program("pasta-py"), "--pcap", "/dev/null", "--pcap-filter", "tcp prt 80", "--", "true", check=False)
    assert done.returncode == 1 and "--pcap-filter 'tcp prt 80': " in done.stderr and "syntax error" in done.stderr


@pytest.mark.option("--pcap-snaplen")
def test_the_beginning_of_each_frame_is_enough(lab: Lab) -> None:
    capture = lab.directory / "short.pcap"
    lab.host.run(program("pasta-py"), "--pcap", capture, "--pcap-snaplen", "64", "--", "ping", "-c1", "-s1000", "-W20", REMOTE4)
    found = fields(capture, "frame.cap_len", "frame.len", "_ws.col.Info")
    assert [row[:2] for row in found if "Echo" in row[2]] == [["64", "1042"], ["64", "1042"]]
    assert all(int(row[0]) <= 64 for row in found)


@pytest.mark.option("--pcap-size", "--pcap-files")
def test_a_ring_of_files_has_the_newest_frames(lab: Lab) -> None:
    capture = lab.directory / "ring.pcap"
    words = ("--pcap", capture, "--pcap-size", "8192", "--pcap-files", "3", "--pcap-filter", "icmp")
    done = lab.host.run(program("pasta-py"), *words, "--", "ping", "-c100", "-i0.002", "-W20", REMOTE4)
    assert done.stderr == "pasta-py: capture: 200 frames (19600 bytes) written, 0 left out\n"
    files = [lab.directory / f"ring.{number}.pcap" for number in (1, 2, 3)]
    assert not capture.exists() and all(path.stat().st_size <= 8192 for path in files)
    kept = sorted({int(seq) for path in files for (seq,) in fields(path, "icmp.seq")})
    assert kept == list(range(kept[0], 101)) and 8 < len(kept) <= 100


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--pcap-size", "4096"), "--pcap-size is given without --pcap"),
        (("--pcap", "-", "--pcap-size", "4096"), "--pcap '-' is a stream, and --pcap-size is for files"),
        (("--pcap", "/dev/null", "--pcap-files", "3"), "--pcap-files is given without --pcap-size"),
    ],
)
def test_options_of_a_ring_that_miss_something_are_refused(lab: Lab, words: tuple[str, ...], said: str) -> None:
    done = lab.host.run(program("pasta-py"), *words, "--", "true", check=False)
    assert done.returncode == 1 and said in done.stderr
