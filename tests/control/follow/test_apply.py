"""One link plan after another is applied to a real interface; it then has what the last one says."""

import os
from ipaddress import ip_interface
from typing import Any

import pytest
from network_helpers import in_new_namespace, ip, make_tap

from pasta_py.control.follow import apply
from pasta_py.control.guest import interface
from pasta_py.control.netlink.links_addresses_routes import Address
from pasta_py.control.planning.plan import LinkPlan


def link_with(*addresses: str) -> LinkPlan:
    return LinkPlan(
        ifname="tap0", mac=b"", mtu=1500, configure=True, routes=(), mirrored=(), ipv6=True,
        addresses=tuple(Address(interface=ip_interface(address)) for address in addresses),
    )  # fmt: skip


def _steps(plans: list[LinkPlan]) -> list[set[str]]:
    fd = make_tap("tap0")
    interface.configure(plans[0])
    index = ip("link", "show", "dev", "tap0")[0]["ifindex"]
    ours, found = plans[0], []
    for wanted in plans[1:]:
        ours, failed = apply.change(index, ours, wanted)
        assert not failed and ours.addresses == wanted.addresses
        shown: list[dict[str, Any]] = ip("addr", "show", "dev", "tap0")[0]["addr_info"]
        found.append({f"{a['local']}/{a['prefixlen']}" for a in shown if a["scope"] == "global"})
    os.close(fd)
    return found


@pytest.mark.parametrize("address", ["192.0.2.50", "2001:db8::50"])
def test_an_address_gets_another_length_of_its_prefix(address: str) -> None:
    """IPv6 has an address once, whatever the length: the new one can only come when the old one has gone."""
    full = ip_interface(address).max_prefixlen
    lengths = [full - 8, full, full - 16]
    assert in_new_namespace(_steps, [link_with(f"{address}/{n}") for n in lengths]) == [{f"{address}/{n}"} for n in lengths[1:]]
