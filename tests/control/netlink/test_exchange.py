"""The exchange with the kernel."""

import errno
import socket
import struct

import pytest
from network_helpers import in_new_namespace, script

from pasta_py.control.netlink import exchange, messages
from pasta_py.control.netlink import links_addresses_routes as rtnl


def _refused() -> tuple[int | None, str]:
    with exchange.Netlink() as kernel:
        route = rtnl.Route(
            destination=rtnl.ip_network("10.0.0.0/8"), hops=(rtnl.NextHop(gateway=rtnl.ip_address("192.0.2.1")),)
        )
        try:
            rtnl.add_route(kernel, 1, route)
        except OSError as error:
            return error.errno, error.strerror
    return None, ""


def test_a_refused_request_carries_the_reason_of_the_kernel() -> None:
    number, text = in_new_namespace(_refused)
    assert number in (errno.ENETUNREACH, errno.ENETDOWN)
    assert text.startswith(("Network is unreachable (", "Network is down ("))


def _many(count: int) -> tuple[int, int]:
    script("link set lo up")
    with exchange.Netlink() as kernel:
        for number in range(count):
            own = rtnl.ip_interface(f"10.{number >> 8 & 255}.{number & 255}.1/32")
            rtnl.add_address(kernel, 1, rtnl.Address(interface=own))
        return count, len([a for a in rtnl.addresses(kernel) if a.interface.version == 4])


def test_a_dump_of_many_messages_is_read_to_its_end() -> None:
    count, found = in_new_namespace(_many, 3000)
    assert found == count + 1  # and 127.0.0.1


@pytest.mark.parametrize("mac", ["02:00:00:00:00:01", "9a:55:9a:55:9a:55"])
def test_a_mac_address_reads_back_as_it_was_set(mac: str) -> None:
    assert in_new_namespace(_mac_of, mac) == bytes.fromhex(mac.replace(":", ""))


def _mac_of(mac: str) -> bytes:
    script("link add eth0 type veth peer name far0")
    with exchange.Netlink() as kernel:
        index = next(link.index for link in rtnl.links(kernel) if link.name == "eth0")
        rtnl.set_link(kernel, index, mac=bytes.fromhex(mac.replace(":", "")))
        return next(link.mac for link in rtnl.links(kernel) if link.index == index)


def _end(sequence: int, flags: int = 0) -> bytes:
    return struct.pack("=IHHIIi", 20, 3, flags, sequence, 0, 0)  # NLMSG_DONE


def _links_beside_a_forger() -> list[str]:
    with exchange.Netlink() as kernel, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as forger:
        for sequence in range(1, 9):
            forger.sendto(_end(sequence), (kernel._socket.getsockname()[0], 0))
        return [link.name for link in rtnl.links(kernel)]


def test_nobody_answers_in_place_of_the_kernel() -> None:
    assert "lo" in in_new_namespace(_links_beside_a_forger)


class _Answers:
    """The kernel's side of a dump that is interrupted where nothing is left to be sent but its end."""

    def __init__(self) -> None:
        self.sent = 0

    def send(self, data: bytes) -> int:
        self.sent += 1
        return len(data)

    def recvfrom(self, _size: int) -> tuple[bytes, tuple[int, int]]:
        link = struct.pack("=IHHII16x", 32, messages.RTM_NEWLINK, 2, self.sent, 0)
        return link * self.sent + _end(self.sent, 0x10 if self.sent == 1 else 0), (0, 0)


def test_a_dump_that_was_interrupted_at_its_very_end_is_taken_again() -> None:
    with exchange.Netlink() as kernel:
        kernel._socket.close()
        kernel._socket = answers = _Answers()  # type: ignore[assignment]
        answers.close = lambda: None  # type: ignore[attr-defined]
        assert len(kernel.dump(messages.RTM_GETLINK)) == 2
