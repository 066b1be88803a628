"""A pytest fixture that gives each test a network of its own, and a port of the host that leads into it."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

import pasta_py

PORT = 8000  # in the test's network: no other test sees it
ECHO = """
import socket
with socket.create_server(("", 8000)) as server:
    client, _ = server.accept()
    client.sendall(client.recv(100))
"""


@pytest.fixture
def net() -> Iterator[pasta_py.Network]:
    with pasta_py.Network(ports=[f"127.0.0.1:0:{PORT}"]) as network:
        yield network


def answer(port: int, question: bytes) -> bytes:
    """Ask until the server listens."""
    for _ in range(100):
        with socket.create_connection(("127.0.0.1", port)) as client, contextlib.suppress(ConnectionError):
            client.sendall(question)
            if told := client.recv(100):
                return told
        time.sleep(0.1)
    raise AssertionError("no answer")


def test_a_server_answers_at_a_port_of_the_host(net: pasta_py.Network) -> None:
    with net.popen([sys.executable, "-c", ECHO]) as server:
        assert answer(net.port(PORT), b"hello") == b"hello"
        assert server.wait(timeout=30) == 0


def test_another_test_has_another_network(net: pasta_py.Network) -> None:
    listening = net.run(["cat", "/proc/net/tcp"], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert f":{PORT:04X} " not in listening
