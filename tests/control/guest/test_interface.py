"""Configuring the interface: what is refused, and that no plan whatever makes it fail halfway."""

import ctypes
import os
import random
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest
from network_helpers import in_new_namespace, ip, make_tap, options

from pasta_py.control.guest import interface
from pasta_py.control.netlink.links_addresses_routes import Address, NextHop, Route
from pasta_py.control.planning import plan
from pasta_py.control.planning.host import Family, HostSnapshot
from pasta_py.control.planning.plan import LinkPlan
from pasta_py.control.planning.resolv_conf import Resolv
from pasta_py.errors import HostError


def _local(**changes: Any) -> LinkPlan:
    nothing = HostSnapshot(ipv4=Family(available=True), ipv6=Family(available=True))
    return plan.build(options(**changes), nothing, Resolv()).link


def _refusal(link: LinkPlan, drop_privilege: bool = False) -> str:
    fd = make_tap("tap0")
    if drop_privilege:
        _drop_capabilities()
    try:
        interface.configure(link)
    except HostError as error:
        return str(error)
    finally:
        os.close(fd)
    return ""


def _drop_capabilities() -> None:
    """A user namespace of our own owns nothing of the network namespace: what an ordinary user may do there."""

    assert ctypes.CDLL(None).unshare(0x10000000) == 0


def test_an_interface_that_is_not_in_the_namespace_is_one_line() -> None:
    text = in_new_namespace(_refusal, _local(ns_ifname="tap5"))
    assert "'tap5'" in text and "\n" not in text


def test_a_namespace_that_is_not_ours_to_configure_is_one_line() -> None:
    text = in_new_namespace(_refusal, _local(), True)
    assert "Operation not permitted" in text and "\n" not in text


@pytest.mark.parametrize("mac", [b"\x01\0\0\0\0\1", b"\xff" * 6])
def test_a_mac_address_the_kernel_refuses_is_one_line_with_the_address(mac: bytes) -> None:
    text = in_new_namespace(_refusal, _local(ns_mac_addr=mac))
    assert mac.hex(":") in text and "\n" not in text


def _twice(link: LinkPlan) -> tuple[tuple[str, ...], Any, Any]:
    fd = make_tap(link.ifname)
    interface.configure(link)
    first = ip("addr", "show"), ip("route", "show"), ip("-6", "route", "show")
    warnings = interface.configure(link).warnings
    second = ip("addr", "show"), ip("route", "show"), ip("-6", "route", "show")
    os.close(fd)
    return warnings, first, second


def test_configuring_twice_is_the_same_as_once() -> None:
    warnings, first, second = in_new_namespace(_twice, _local())
    assert warnings == () and first == second


def _random_link(seed: int) -> LinkPlan:
    """Addresses and routes of any values that the records can hold, most of them nonsense to the kernel."""
    dice = random.Random(seed)

    def address(version: int) -> Any:
        choices = {4: ["0.0.0.0", "10.0.0.1", "127.0.0.1", "224.0.0.1"], 6: ["::", "fe80::9", "2001:db8::1", "ff02::1"]}
        number = dice.getrandbits(32 if version == 4 else 128)
        return ip_address(dice.choice([*choices[version], number]))

    def network(version: int) -> Any:
        return ip_network(f"{address(version)}/{dice.randint(0, 32 if version == 4 else 128)}", strict=False)

    def hop(version: int) -> NextHop:
        gateway = dice.choice([None, address(version), address(dice.choice([4, 6]))])
        return NextHop(gateway=gateway, onlink=dice.random() < 0.5, weight=dice.choice([1, 2, 256]))

    def route() -> Route:
        version = dice.choice([4, 6])
        return Route(
            destination=network(version),
            hops=tuple(hop(version) for _ in range(dice.choice([1, 1, 1, 2, 3]))),
            source=dice.choice([None, address(version)]),
            metric=dice.choice([0, 1, 100, 2**32 - 1]),
            tos=dice.choice([0, 0, 0, 4, 255]),
            scope=dice.choice([0, 253, 254, 255]),
            proto=dice.choice([2, 3, 4, 9, 255]),
            metrics=dice.choice([(), (("RTAX_MTU", 1400),), (("RTAX_ADVMSS", 2**31), ("RTAX_CC_ALGO", "reno"))]),
            preference=dice.choice([0, 0, 1, 3, 255]),
        )

    addresses = []
    for version in (4, 6, dice.choice([4, 6])):
        bits = 32 if version == 4 else 128
        own = ip_interface((address(version), dice.randint(0, bits)))
        addresses.append(
            Address(
                interface=own,
                peer=dice.choice([None, address(version)]),
                label=dice.choice(["", "tap0:x"]),
                flags=dice.getrandbits(12),
                scope=dice.choice([0, 253, 254]),
                deprecated=dice.random() < 0.3,
                metric=dice.choice([0, 700]),
            )
        )
    base = _local()
    link: LinkPlan = base.replace(
        addresses=tuple(addresses), routes=tuple(route() for _ in range(6)), mirrored=dice.choice([(), (4,), (4, 6)])
    )
    return link


def _configured(seed: int) -> tuple[str, ...]:
    fd = make_tap("tap0")
    warnings = interface.configure(_random_link(seed)).warnings
    os.close(fd)
    return warnings


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_kernel_refuses_of_a_plan_is_one_warning_line_each(seed: int) -> None:
    warnings = in_new_namespace(_configured, seed)
    assert all(line.startswith("cannot set ") and "\n" not in line for line in warnings)
    assert len(warnings) <= 9
