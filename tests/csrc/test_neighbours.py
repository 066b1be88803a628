"""Which MAC address frames go to, where the guest's link has one neighbour, or several."""

import socket
import time

import pytest
from guest import GATEWAY4, GATEWAY6, GUEST_MAC, OUR_MAC, PATIENCE_S, Guest
from packets import UDP, ether, ip, udp

NEIGHBOURS = [bytes.fromhex(f"02000000000{n}") for n in (1, 2, 3)]
NETWORKS = {4: "10.0.2.{}", 6: "fd00::{}"}
GATEWAYS = {4: GATEWAY4, 6: GATEWAY6}


def datagram(neighbour: bytes, src: str, dst: str, port: int) -> bytes:
    return ether(ip(src, dst, UDP, udp(src, 5000, dst, port, b"data")), OUR_MAC, neighbour)


class Server:
    """On the host's loopback; keeps who has asked."""

    def __init__(self, version: int) -> None:
        self.sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1" if version == 4 else "::1", 0))
        self.sock.settimeout(PATIENCE_S)
        self.port = self.sock.getsockname()[1]

    def heard(self) -> object:
        return self.sock.recvfrom(100)[1]


def ask(guest: Guest, server: Server, neighbour: bytes, src: str, version: int) -> object:
    guest.send(datagram(neighbour, src, GATEWAYS[version], server.port))
    guest.pump()
    return server.heard()


def destination(guest: Guest, server: Server, peer: object) -> bytes:
    """The MAC address that an answer goes to."""
    server.sock.sendto(b"answer", peer)  # type: ignore[arg-type]
    found: list[bytes] = []
    end = time.monotonic() + PATIENCE_S
    while not found and time.monotonic() < end:
        found = guest.frames()
    (frame,) = found
    assert frame.endswith(b"answer")
    return frame[:6]


@pytest.mark.parametrize("version", [4, 6])
def test_each_station_gets_its_own(version: int) -> None:
    server, network = Server(version), NETWORKS[version]
    with server.sock, Guest() as guest:
        peers = [ask(guest, server, mac, network.format(15 + n), version) for n, mac in enumerate(NEIGHBOURS)]
        # The first one's address was heard before there were two: it is known from its next frame on
        assert destination(guest, server, peers[0]) == NEIGHBOURS[2]
        assert ask(guest, server, NEIGHBOURS[0], network.format(15), version) == peers[0]
        for _ in range(2):
            assert [destination(guest, server, peer) for peer in peers] == NEIGHBOURS


@pytest.mark.parametrize("version", [4, 6])
def test_an_address_moves_with_the_station_that_uses_it(version: int) -> None:
    server, address = Server(version), NETWORKS[version].format(15)
    with server.sock, Guest() as guest:
        for mac in (GUEST_MAC, *NEIGHBOURS, NEIGHBOURS[0], GUEST_MAC):
            assert destination(guest, server, ask(guest, server, mac, address, version)) == mac


def test_more_addresses_than_there_is_room_for() -> None:
    """Those whose place is taken go to whoever spoke last; nothing else happens."""
    server = Server(4)
    with server.sock, Guest() as guest:
        addresses = [f"10.{n // 200}.{n % 7}.{n % 200 + 1}" for n in range(300)]
        peers = [ask(guest, server, NEIGHBOURS[n % 2], address, 4) for n, address in enumerate(addresses)]
        assert ask(guest, server, NEIGHBOURS[2], "10.9.9.9", 4)
        found = [destination(guest, server, peer) for peer in peers]
        assert all(mac in (NEIGHBOURS[n % 2], NEIGHBOURS[2]) for n, mac in enumerate(found))
        assert found[-1] == NEIGHBOURS[1]
