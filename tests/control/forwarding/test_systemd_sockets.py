"""Inherited sockets: taken by the rules of sd_listen_fds(3), told apart by name, refused by name when they cannot serve."""

import os
import socket
from collections.abc import Iterator

import pytest

from pasta_py.control.forwarding import systemd_sockets
from pasta_py.errors import UsageError
from pasta_py.model import IPPROTO_TCP, IPPROTO_UDP


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def _environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_descriptors_are_numbered_from_three_and_the_variables_go(monkeypatch: pytest.MonkeyPatch) -> None:
    _environment(monkeypatch, LISTEN_PID=str(os.getpid()), LISTEN_FDS="3", LISTEN_FDNAMES="web-8080:dns")
    assert systemd_sockets.take() == {3: "web-8080", 4: "dns", 5: ""}
    assert not any(name.startswith("LISTEN_") for name in os.environ)


@pytest.mark.parametrize(
    "values", [{"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": "self", "LISTEN_FDS": "x"}]
)
def test_what_is_meant_for_another_process_is_left_alone(values: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    values = {name: value.replace("self", str(os.getpid())) for name, value in values.items()}
    _environment(monkeypatch, **values)
    assert systemd_sockets.take() == {}


@pytest.mark.parametrize(
    ("name", "target"), [("8080", 8080), ("web-8080", 8080), ("a-b-53", 53), ("web", 0), ("", 0), ("x-70000", 0)]
)
def test_the_name_says_the_port_in_the_guest(name: str, target: int, listener: socket.socket) -> None:
    ((found, fds),) = systemd_sockets.listeners({listener.fileno(): name})
    port = listener.getsockname()[1]
    assert (found.proto, found.port, found.target_port) == (IPPROTO_TCP, port, target or port)
    assert fds == [listener.fileno()] and not os.get_blocking(fds[0]) and not os.get_inheritable(fds[0])


def test_datagram_sockets_are_udp() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        ((found, _fds),) = systemd_sockets.listeners({sock.fileno(): ""})
        assert (found.proto, found.port) == (IPPROTO_UDP, sock.getsockname()[1])


def test_sockets_that_cannot_be_forwarded_are_refused_by_name(listener: socket.socket) -> None:
    unix, other = socket.socketpair()
    with unix, other, pytest.raises(UsageError, match=r"\(bus\): not an Internet socket"):
        systemd_sockets.listeners({unix.fileno(): "bus"})
    with socket.create_connection(listener.getsockname()) as client, pytest.raises(UsageError, match="not a listening socket"):
        systemd_sockets.listeners({client.fileno(): ""})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unbound, pytest.raises(UsageError, match="not bound to a port"):
        systemd_sockets.listeners({unbound.fileno(): ""})
    with pytest.raises(UsageError, match="LISTEN_FDS counts sockets"):
        systemd_sockets.listeners({999: ""})
