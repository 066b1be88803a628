"""The exchange with the kernel."""

import errno

import pytest
from network_helpers import in_new_namespace, script

from pasta_py.control import netlink, rtnl


def _refused() -> tuple[int | None, str]:
    with netlink.Netlink() as kernel:
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
    with netlink.Netlink() as kernel:
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
    with netlink.Netlink() as kernel:
        index = next(link.index for link in rtnl.links(kernel) if link.name == "eth0")
        rtnl.set_link(kernel, index, mac=bytes.fromhex(mac.replace(":", "")))
        return next(link.mac for link in rtnl.links(kernel) if link.index == index)
