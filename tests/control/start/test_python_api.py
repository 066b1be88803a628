"""The Python API, on real namespaces: what it connects, what it says, and that it ends what it started."""

import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pages
import pytest
from process_helpers import alive, command_line, environment, eventually, pasta

import pasta_py

ROOT = Path(__file__).resolve().parents[3]
SLEEP = "ip link set lo up; echo up; exec sleep 300"


@pytest.fixture
def netns() -> "Iterator[int]":
    """PID of a process in user and network namespaces of its own."""
    process = subprocess.Popen(["unshare", "-Urn", "sh", "-c", SLEEP], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate(timeout=30)


def test_a_connection_has_addresses_and_ports_until_it_is_closed(netns: int) -> None:
    inside = ["nsenter", "-t", str(netns), "-U", "-n", "--preserve-credentials", sys.executable, "-m", "http.server", "8080"]
    with subprocess.Popen(inside, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", bufsize=0) as server:
        try:
            network = "pasta:--ipv4-only,-a,10.0.2.100,-n,24,-g,10.0.2.2"
            with pasta_py.connect(netns, network=network, ports=["127.0.0.1:0:8080"]) as connection:
                (port,) = (each.port for each in connection.ports)
                assert [str(address) for address in connection.addresses] == ["10.0.2.100/24"]
                eventually(lambda: _answers(port), "the published port answers")
                assert alive(connection.pid) and not connection.closed
            assert not alive(connection.pid) and connection.closed
            assert not _answers(port)
            connection.close()
        finally:
            server.kill()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def test_it_ends_with_its_namespace(netns: int) -> None:
    connection = pasta_py.connect(netns)
    os.kill(netns, 9)
    eventually(lambda: connection.closed, "the translator ends with the namespace")
    connection.close()


def test_by_path(netns: int) -> None:
    with pasta_py.connect(Path(f"/proc/{netns}/ns/net"), userns=f"/proc/{netns}/ns/user") as connection:
        assert connection.pid


def test_from_threads_of_a_process_that_has_others(netns: int) -> None:
    """One namespace cannot have two taps of one name: exactly one wins, the others are told so."""
    said: list[object] = []

    def attach() -> None:
        try:
            said.append(pasta_py.connect(netns, network="pasta:-I,tap0"))
        except pasta_py.HostError as error:
            said.append(str(error))

    threads = [threading.Thread(target=attach) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    (won,) = [one for one in said if isinstance(one, pasta_py.Connection)]
    won.close()
    assert len(said) == 4 and all("TUNSETIFF: Device or resource busy" in str(one) for one in said if one is not won)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"netns": "pasta-none"}, ["--netns", "pasta-none"]),
        ({"netns": 1 << 30}, [str(1 << 30)]),
        ({"netns": 1 << 31}, [str(1 << 31)]),
        ({"netns": 1, "network": "pasta:--nope"}, ["--network=pasta:--nope", "1"]),
        ({"netns": 1, "network": "bridge"}, ["--network=bridge", "1"]),
        ({"netns": 1, "ports": ["8080:99999"]}, ["-t", "8080:99999", "1"]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_refusals_are_those_of_the_command_line(arguments: dict[str, object], words: list[str]) -> None:
    with pytest.raises(pasta_py.PastaError) as refused:
        pasta_py.connect(**arguments)  # type: ignore[arg-type]
    assert pasta("--config-net", *words).stderr.splitlines()[0] == f"pasta: {refused.value}"


@pytest.mark.parametrize("words", ["--interface,nosuch0", "--fd,3", "--outbound-if4,nosuch0"])
def test_what_is_refused_after_the_start_is_told_too(netns: int, words: str) -> None:
    """Errors of usage come with the forms of the command line, which are not the reason."""
    with pytest.raises(pasta_py.UsageError) as refused:
        pasta_py.connect(netns, network=f"pasta:{words}")
    line = command_line("pasta", "--config-net", f"--network=pasta:{words}", str(netns))  # as the user that we are
    said = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=60, check=False).stderr
    assert said.splitlines()[0] == f"pasta: {refused.value}"


def test_it_may_be_closed_from_threads_with_more_descriptors_than_select_takes(netns: int) -> None:
    kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        connection = pasta_py.connect(netns)
        assert not connection.closed
        threads = [threading.Thread(target=connection.close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert connection.closed and not alive(connection.pid)
    finally:
        for fd in kept:
            os.close(fd)


@pytest.mark.parametrize("port", ["", "/udp", "80/sctp", "http", "1:2:3:4", "8080:80:tcp", "[::1]:"])
def test_what_is_no_port_mapping_is_refused(port: str) -> None:
    with pytest.raises(pasta_py.UsageError, match="port"):
        pasta_py.connect(1, ports=[port])


def test_importing_the_package_imports_nothing_else_and_the_api_is_typed(tmp_path: Path) -> None:
    code = "import pasta_py, sys; print([m for m in sys.modules if m.startswith('pasta_py.')])"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("[]", "['pasta_py._trace']")
    examples = [block.text for block in pages.blocks(ROOT / "docs" / "api.md") if block.language == "python"]
    (tmp_path / "example.py").write_text("\n\n".join(examples))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--cache-dir=/dev/null", str(tmp_path / "example.py")]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
