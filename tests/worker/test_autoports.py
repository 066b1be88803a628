"""What listens, as sock_diag(7) tells it: real sockets of this namespace, and bytes that no kernel would send."""

import contextlib
import os
import socket
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasta_py.model import IPPROTO_TCP, IPPROTO_UDP
from pasta_py.worker import autoports

LO = 1  # index of the interface, in every network namespace


def found(proto: int, *socks: socket.socket) -> set[tuple[int, str, int]]:
    """(family, address, index of the interface) of the given sockets among all that listen."""
    inodes = {os.fstat(sock.fileno()).st_ino for sock in socks}
    with contextlib.closing(autoports.diag_socket()) as diag:
        return {
            (family, str(ip_address(address[-4:] if family == 4 else address)), device)
            for family, _port, address, device, inode in autoports.listening(diag, proto)
            if inode in inodes
        }


def bound(family: int, kind: int, host: str, *, v6only: bool = False) -> socket.socket:
    sock = socket.socket(family, kind)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
    sock.bind((host, 0))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    return sock


@pytest.mark.parametrize(("proto", "kind"), [(IPPROTO_TCP, socket.SOCK_STREAM), (IPPROTO_UDP, socket.SOCK_DGRAM)])
@pytest.mark.parametrize(
    ("family", "host", "v6only", "expected"),
    [
        (socket.AF_INET, "0.0.0.0", False, {(4, "0.0.0.0", 0)}),
        (socket.AF_INET, "127.0.0.1", False, {(4, "127.0.0.1", 0)}),
        (socket.AF_INET, "127.0.0.9", False, {(4, "127.0.0.9", 0)}),
        (socket.AF_INET6, "::", False, {(4, "0.0.0.0", 0), (6, "::", 0)}),
        (socket.AF_INET6, "::", True, {(6, "::", 0)}),
        (socket.AF_INET6, "::1", False, {(6, "::1", 0)}),
        (socket.AF_INET6, "::ffff:127.0.0.1", False, {(4, "127.0.0.1", 0)}),
    ],
)
def test_families_and_addresses_are_told_apart(
    proto: int, kind: int, family: int, host: str, v6only: bool, expected: set[tuple[int, str, int]]
) -> None:
    with bound(family, kind, host, v6only=v6only) as sock:
        assert found(proto, sock) == expected
    assert found(proto) == set()


def test_the_interface_that_a_service_is_bound_to_is_told() -> None:
    anywhere, lo = (bound(socket.AF_INET, kind, "0.0.0.0") for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM))
    with anywhere, lo:
        lo.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
        assert found(IPPROTO_TCP, anywhere) == {(4, "0.0.0.0", 0)}
        assert found(IPPROTO_UDP, lo) == {(4, "0.0.0.0", LO)}


def test_connections_and_clients_do_not_listen() -> None:
    server = bound(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1")
    with server, socket.create_connection(server.getsockname()) as client, server.accept()[0] as accepted:
        assert found(IPPROTO_TCP, client, accepted) == set()
    with bound(socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1") as peer, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.connect(peer.getsockname())
        assert found(IPPROTO_UDP, asker) == set()


def test_a_thousand_listeners_need_more_than_one_message() -> None:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(bound(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1")) for _ in range(1000)]
        with contextlib.closing(autoports.diag_socket()) as diag:
            ports = {port for _family, port, *_ in autoports.listening(diag, IPPROTO_TCP)}
        assert {sock.getsockname()[1] for sock in socks} <= ports


@given(st.binary(max_size=400))
def test_any_bytes_are_taken_or_refused(data: bytes) -> None:
    with contextlib.suppress(OSError):
        autoports._take(data, [])
    autoports._take_socket(data, [])
