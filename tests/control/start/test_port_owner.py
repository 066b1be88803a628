"""Who holds a port: a process that this user may look into. Instances of this program are in tests/e2e/test_ports.py."""

import os
import socket
from pathlib import Path

import pytest

from pasta_py.control.start import port_owner


@pytest.mark.parametrize(("proto", "kind"), [("TCP", socket.SOCK_STREAM), ("UDP", socket.SOCK_DGRAM)])
@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_holder_of_a_port_is_named(proto: str, kind: int, family: int, address: str) -> None:
    with socket.socket(family, kind) as sock:
        sock.bind((address, 0))
        if proto == "TCP":
            sock.listen()
        port = sock.getsockname()[1]
        assert f"(PID {os.getpid()})" in port_owner.of_port(proto, port)
    assert f"(PID {os.getpid()})" not in port_owner.of_port(proto, port)


def test_sockets_that_answer_something_else_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them delays the answer: they take the request into their backlog, and close."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(port_owner, "_PATIENCE_S", 0.2)
    (tmp_path / "pasta-py").mkdir()
    (tmp_path / "pasta-py" / "7.sock").touch()
    with socket.socket(socket.AF_UNIX) as silent, socket.create_server(("127.0.0.1", 0)) as held:
        silent.bind(str(tmp_path / "pasta-py" / "8.sock"))
        silent.listen()
        assert f"(PID {os.getpid()})" in port_owner.of_port("TCP", held.getsockname()[1])
