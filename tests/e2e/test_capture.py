"""Where a capture goes: what else would go there, and what is said about it. What is in it: test_main_job.py and others."""

import os
import pty
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import NO_PORTS, REMOTE4, UID, Lab, program

ENTRIES = ("pasta", "pasta-py")


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
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{entry}: warning: ") and "-t 8080:80" in line
    (lab.directory / "8080:80").unlink()  # it is the name of a file all the same


@pytest.mark.parametrize("entry", ENTRIES)
def test_only_a_person_is_told_that_a_file_is_overwritten(lab: Lab, terminal: tuple[int, int], entry: str) -> None:
    """Runtimes start containers again, and a container's log shows what `pasta` says."""
    capture = lab.directory / f"twice-{entry}.pcap"
    command = (program(entry), "--pcap", capture, *NO_PORTS, "--", "true")
    assert lab.host.run(*command).stderr == lab.host.run(*command).stderr == ""
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
