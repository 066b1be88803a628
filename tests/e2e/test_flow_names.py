"""Names of destinations where no policy answers the guest's queries: read out of the answers that pass."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import NO_PORTS, PATIENCE_S, REMOTE4, Guest, Lab, program, wait_until
from servers import DNS_NAME, named_web


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


def test_a_capture_as_pcapng_has_the_names_of_flows(lab: Lab) -> None:
    """Without DNS in it: tshark shows the name that the file itself has for the address (its own resolvers are off)."""
    path, file = lab.directory / "capture.sock", lab.directory / "named.pcapng"
    with lab.guest(*NO_PORTS, "--control", path, entry="pasta-py") as guest:
        words = ("capture", path, "-w", file, "tcp port 80")
        with lab.host.popen(program("pasta-py"), *words, stdin=subprocess.DEVNULL) as capture:
            wait_until(lambda: file.exists() and clients(lab, path) == 2, PATIENCE_S, "it captures, and follows flows")
            with held(guest):
                capture.send_signal(signal.SIGINT)
                _, said = capture.communicate(timeout=PATIENCE_S)
        assert capture.returncode == 0 and " 0 left out" in said
    shown = subprocess.run(
        ["tshark", "-2", "-r", file, "-Nn", "-T", "fields", "-e", "ip.dst_host", "-e", "tcp.flags.syn"],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert f"{DNS_NAME}\tTrue" in shown or f"{DNS_NAME}\t1" in shown, shown
    file.unlink()


def clients(lab: Lab, path: Path) -> int:
    """How many are connected to the control socket."""
    return int(lab.host.run("sh", "-c", f"ss -xH state established | grep -c {path.name} || :").stdout)


class held:  # used as a function
    """A connection of the guest to the name or address, open meanwhile."""

    def __init__(self, guest: Guest, host: str = DNS_NAME) -> None:
        code = f"import socket, sys; s = socket.create_connection(('{host}', 80)); print('up', flush=True); sys.stdin.read()"
        self.process = guest.popen(sys.executable, "-c", code, stdin=subprocess.PIPE)

    def __enter__(self) -> None:
        assert self.process.stdout is not None and self.process.stdout.readline() == "up\n"

    def __exit__(self, *_: object) -> None:
        self.process.communicate(timeout=PATIENCE_S)
