"""--metrics of the real program: scraped while it works, by clients of every manner."""

import contextlib
import http.client
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from lab import NO_PORTS, REMOTE4, Lab, program
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_plain

pytestmark = pytest.mark.option("--metrics")
PATIENCE_S = 30


class Scraper(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))
        self.sock.settimeout(PATIENCE_S)


def scrape(path: Path, accept: str = "", target: str = "/metrics", method: str = "GET") -> tuple[int, str, str]:
    client = Scraper(path)
    client.request(method, target, headers={"Accept": accept} if accept else {})
    answer = client.getresponse()
    text = answer.read().decode()
    client.close()
    return answer.status, answer.headers["Content-Type"], text


def values(text: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in read_plain(text)
        for sample in family.samples
    }


class Instance(NamedTuple):
    """A translator with a guest that pings the remote machine whenever a line comes."""

    path: Path  # of the socket
    process: "subprocess.Popen[str]"

    def ping(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture
def instance(lab: Lab) -> Iterator[Instance]:
    path = lab.directory / "metrics.sock"
    ask = f"while read line; do ping -q -c1 -W20 {REMOTE4} >/dev/null; echo done; done"
    command = (program("pasta-py"), *NO_PORTS, "--metrics", f"unix:{path}", "--", "sh", "-c", f"echo up; {ask}")
    with lab.host.popen(*command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None and process.stdout.readline() == "up\n"
        yield Instance(path, process)
        process.stdin.close()
        assert process.wait(PATIENCE_S) in (0, 1)


def test_a_scrape_has_the_traffic_of_the_guest(instance: Instance) -> None:
    before = values(scrape(instance.path)[2])
    instance.ping()
    status, kind, text = scrape(instance.path)
    after = values(text)
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert after["pasta_flows", "ping"] == 1
    for direction in ("sent", "received"):
        key = "pasta_guest_bytes_total", direction
        assert after[key] >= before[key] + 98  # an echo of 56 bytes
    mode = os.stat(instance.path).st_mode & 0o777
    assert mode == 0o600


def test_openmetrics_is_there_for_those_who_ask(instance: Instance) -> None:
    status, kind, text = scrape(instance.path, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert (status, kind) == (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert {"pasta_guest_bytes", "pasta_build_info"} <= {family.name for family in read_open(text)}


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [("GET", "/metrics?x=1", 200), ("HEAD", "/metrics", 200), ("GET", "/", 404), ("POST", "/metrics", 405)],
)
def test_other_requests_get_the_answer_of_their_kind(instance: Instance, method: str, target: str, status: int) -> None:
    found, _kind, text = scrape(instance.path, target=target, method=method)
    assert found == status and bool(text) == (method != "HEAD")


def test_hostile_clients_keep_no_scraper_out_and_cost_little(instance: Instance) -> None:
    """Garbage, halves, endless heads, those who never speak, never read, or leave at once; then a scrape works as before."""
    with contextlib.ExitStack() as stack:

        def client() -> socket.socket:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(instance.path))  # waits while the backlog is full
            sock.settimeout(PATIENCE_S)
            return sock

        silent = [client() for _ in range(40)]
        for data in (b"\x00\xff" * 100 + b"\r\n\r\n", b"GET /metrics\r\n\r\n", b"\r\n\r\n", b"GET / HTTP/2.0\r\n\r\n"):
            sock = client()
            sock.sendall(data)
            assert sock.recv(100).startswith(b"HTTP/1.1 400 ")
        endless = client()
        with contextlib.suppress(OSError):
            for _ in range(1000):
                endless.sendall(b"X: " + b"y" * 5000 + b"\r\n")
        client().sendall(b"GET /metr")
        for _ in range(100):
            client().close()
        deaf = client()
        deaf.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert scrape(instance.path)[0] == 200
        assert silent[0].recv(1) == b""  # the oldest had to go
    instance.ping()
    assert scrape(instance.path)[0] == 200


@pytest.mark.parametrize("place", ["127.0.0.1:9476", "[::1]:9476"])
def test_tcp_serves_too(lab: Lab, place: str) -> None:
    command = (program("pasta-py"), *NO_PORTS, "--metrics", place, "--", "sh", "-c", "echo up; read line")
    with lab.host.popen(*command, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        done = lab.host.run("curl", "-sS", "--max-time", "20", f"http://{place}/metrics")
        assert process.stdin is not None
        process.stdin.close()
        process.wait(PATIENCE_S)
    assert values(done.stdout)["pasta_flows", "tcp"] == 0


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("9090", "invalid value '9090' for --metrics: expected unix:PATH, or ADDRESS:PORT, as in 127.0.0.1:9090 or [::1]:9090"),
        ("::1:9090", "invalid value '::1:9090' for --metrics: expected unix:PATH"),
        ("127.0.0.1:0", "invalid value '127.0.0.1:0' for --metrics: "),
        ("192.0.2.77:9090", "Couldn't listen at --metrics '192.0.2.77:9090': Cannot assign requested address: choose another"),
        ("unix:/none/x", "'/none/x': No such file or directory: choose a path that can be written"),
    ],
)
def test_a_place_that_cannot_be_is_told(lab: Lab, value: str, said: str) -> None:
    done = lab.host.run(program("pasta-py"), "--metrics", value, "--", "true", check=False)
    assert done.returncode == 1 and said in done.stderr
