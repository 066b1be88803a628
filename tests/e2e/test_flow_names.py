"""Names of destinations where no policy answers the guest's queries: read out of the answers that pass."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import HOST4, NO_PORTS, PATIENCE_S, REMOTE4, Guest, Lab, program
from servers import DNS_NAME, named_web
from test_capture_command import capturing


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A host whose one nameserver is at 127.0.0.53, and a web server that DNS_NAME stands for."""
    with Lab() as made:
        named_web(made)
        yield made


def listed(lab: Lab, path: object) -> list[dict[str, object]]:
    done = lab.host.run(program("pasta-py"), "flows", "--json", path)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("options", [(), ("--threads", "3")], ids=["one thread", "three"])
def test_flows_flow_log_and_report_have_the_name_that_was_resolved(lab: Lab, options: tuple[str, ...]) -> None:
    log, path = lab.directory / "names.json", lab.directory / "names.sock"
    with lab.guest(*NO_PORTS, *options, "--flow-log", log, "--control", path, entry="pasta-py") as guest:
        assert guest.run("curl", "-sS", "-m", "20", f"http://{DNS_NAME}/").stdout == "it works\n"
        with held(guest):
            flows = [flow for flow in listed(lab, path) if flow["dest"] == REMOTE4]
            assert [flow["name"] for flow in flows] == [DNS_NAME]
            table = lab.host.run(program("pasta-py"), "flows", path).stdout
            assert DNS_NAME in next(row for row in table.splitlines() if f"-> {REMOTE4}:" in row or REMOTE4 in row)
    events = [event for event in map(json.loads, log.read_text().splitlines()) if event["dest"] == REMOTE4]
    assert {(event["peer"], event["peer_port"]) for event in events} == {(REMOTE4, 80)}
    assert len(events) >= 4 and {event.get("name") for event in events} == {DNS_NAME}
    page = lab.directory / "names.html"
    lab.host.run(program("pasta-py"), "report", log, "-o", page)
    assert DNS_NAME in page.read_text()


def test_a_list_makes_names_known_from_then_on(lab: Lab) -> None:
    """Without a reader nothing is copied: what was resolved before the first list has no name."""
    path = lab.directory / "later.sock"
    with lab.guest(*NO_PORTS, "--control", path, entry="pasta-py") as guest, held(guest):
        assert [flow.get("name") for flow in listed(lab, path) if flow["dest"] == REMOTE4] == [None]
        guest.run("getent", "ahostsv4", DNS_NAME)
        assert [flow.get("name") for flow in listed(lab, path) if flow["dest"] == REMOTE4] == [DNS_NAME]


def test_an_answer_over_tcp_names_flows_too(lab: Lab) -> None:
    path = lab.directory / "tcp.sock"
    with lab.guest(*NO_PORTS, "--control", path, entry="pasta-py") as guest:
        assert listed(lab, path) == []
        assert guest.run("dig", "+tcp", "+short", DNS_NAME).stdout.split() == [REMOTE4]
        with held(guest, REMOTE4):
            assert [flow.get("name") for flow in listed(lab, path) if flow["dest"] == REMOTE4] == [DNS_NAME]


def named(file: Path) -> list[list[str]]:
    """Of each frame the destination as the file itself names it (tshark's own resolvers are off), and the comment."""
    words = ["tshark", "-r", file, "-Nn", "-T", "fields", "-e", "ip.dst_host", "-e", "frame.comment", "-e", "tcp.flags"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


SYN = "0x0002"


def check_names(file: Path, *flags: str) -> None:
    """The frame that opens the flow has the name as its comment, and no other; capinfos finds that no frame is missing."""
    found = named(file)
    assert [[name, comment] for name, comment, flag in found if flag == SYN] == [[DNS_NAME, DNS_NAME]], found
    assert sum(bool(comment) for _, comment, _ in found) == 1
    said = subprocess.run(["capinfos", file], capture_output=True, text=True, check=True).stdout
    assert f"Number of packets:   {len(found)}" in said and "resolved IPv4 addresses in file: 1" in said
    file.unlink()


@pytest.mark.parametrize("options", [(), ("--egress-dns", "all")], ids=["answers that pass", "answers of the worker"])
@pytest.mark.option("--pcap")
def test_a_pcapng_file_of_pcap_has_the_names_of_flows(lab: Lab, options: tuple[str, ...]) -> None:
    file = lab.directory / "started.pcapng"
    words = (program("pasta-py"), *NO_PORTS, *options, "--pcap", file, "--pcap-filter", "tcp port 80", "--")
    done = lab.host.run(*words, "curl", "-sS", "-4", "-m", "20", f"http://{DNS_NAME}/")
    assert done.stdout == "it works\n" and " 0 left out" in done.stderr
    check_names(file)


@pytest.mark.parametrize("options", [(), ("--egress-dns", "all")], ids=["answers that pass", "answers of the worker"])
def test_a_capture_as_pcapng_has_the_names_of_flows(lab: Lab, options: tuple[str, ...]) -> None:
    path, file = lab.directory / "capture.sock", lab.directory / "named.pcapng"
    with lab.guest(*NO_PORTS, *options, "--control", path, entry="pasta-py") as guest:
        with capturing(lab, path, file, "tcp port 80") as capture, held(guest):
            capture.send_signal(signal.SIGINT)
            _, said = capture.communicate(timeout=PATIENCE_S)
        assert capture.returncode == 0 and " 0 left out" in said
    check_names(file)


def test_each_file_of_a_ring_has_the_names_of_its_own_frames(lab: Lab) -> None:
    """One flow that lasts: the first of its frames in each file has the name, and so has the address."""
    path, file = lab.directory / "ring.sock", lab.directory / "ring.pcapng"
    with lab.guest(*NO_PORTS, "--control", path, entry="pasta-py") as guest:
        with capturing(lab, path, file, "--size", "4096", "--files", "9", "icmp", first="ring.1.pcapng") as capture:
            guest.run("ping", "-q", "-4", "-c", "60", "-i", "0.01", DNS_NAME)
            capture.send_signal(signal.SIGINT)
            _, said = capture.communicate(timeout=PATIENCE_S)
        assert capture.returncode == 0 and said == "pasta-py capture: 120 frames written, 0 left out\n"
    files = [lab.directory / f"ring.{number}.pcapng" for number in range(1, 6)]
    for each in files:
        found = named(each)
        assert [comment for _, comment, _ in found] == [DNS_NAME] + [""] * (len(found) - 1)
        assert {DNS_NAME, HOST4} == {name for name, _, _ in found}
        said = subprocess.run(["capinfos", each], capture_output=True, text=True, check=True).stdout
        assert f"Number of packets:   {len(found)}" in said and each.stat().st_size <= 4096
    assert sum(len(named(each)) for each in files) == 120
    assert not (lab.directory / "ring.6.pcapng").exists()
    for each in files:
        each.unlink()


def test_a_capture_in_the_middle_of_a_flow_names_it_when_it_can(lab: Lab) -> None:
    """A list has made the name known before; the first frame of the flow in the capture has it."""
    path, file = lab.directory / "middle.sock", lab.directory / "middle.pcapng"
    with lab.guest(*NO_PORTS, "--control", path, entry="pasta-py") as guest:
        assert listed(lab, path) == []
        with contextlib.ExitStack() as connection:
            connection.enter_context(held(guest))
            with capturing(lab, path, file, "tcp port 80") as capture:
                connection.close()
                capture.send_signal(signal.SIGINT)
                capture.communicate(timeout=PATIENCE_S)
    found = named(file)
    assert found[0][1] == DNS_NAME and not any(comment or flag == SYN for _, comment, flag in found[1:]), found
    file.unlink()


class held:  # used as a function
    """A connection of the guest to the name or address, open meanwhile."""

    def __init__(self, guest: Guest, host: str = DNS_NAME) -> None:
        code = f"import socket, sys; s = socket.create_connection(('{host}', 80)); print('up', flush=True); sys.stdin.read()"
        self.process = guest.popen(sys.executable, "-c", code, stdin=subprocess.PIPE)

    def __enter__(self) -> None:
        assert self.process.stdout is not None and self.process.stdout.readline() == "up\n"

    def __exit__(self, *_: object) -> None:
        self.process.communicate(timeout=PATIENCE_S)
