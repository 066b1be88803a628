"""The lines that say what was set up, from plans that need no machine."""

from ipaddress import ip_address, ip_interface
from typing import Any

import pytest
from network_helpers import options
from sample_host import HOST, NONE4, NONE6

from pasta_py.control.commandline.port_spec import parse
from pasta_py.control.forwarding import bind_ports
from pasta_py.control.planning import summary
from pasta_py.control.planning.host import HostSnapshot
from pasta_py.control.planning.plan import build
from pasta_py.control.planning.resolv_conf import Resolv

NOTHING = HostSnapshot(ipv4=NONE4, ipv6=NONE6)
NONE = dict.fromkeys(("tcp_ports", "udp_ports", "tcp_ns", "udp_ns"), (parse("none"),))
NO_PORTS = ["ports to the namespace: none", "ports to the host: none"]


@pytest.mark.parametrize(
    ("host", "asked", "wanted"),
    [
        (HOST, {"config_net": True}, ["interface: eth0, from the host's eth0, MTU 65520, configured"]),
        (HOST, {"mtu": 0}, ["interface: eth0, from the host's eth0, MTU left alone"]),
        (NOTHING, {}, ["interface: tap0, from no interface of the host, MTU 65520", "IPv6: a link-local address, gateway fe80::1"]),
        (NOTHING, {}, ["IPv4: no interface of the host leads anywhere, local mode (address 169.254.2.1, gateway 169.254.2.2)"]),
        (HOST, {"fd": 5}, ["interface: what is behind --fd, MTU 65520"]),
        (HOST, {"splice_only": True}, ["interface: none, only ports are forwarded"]),
        (HOST, {"ipv6": False}, ["IPv4: 192.0.2.10/24, gateway 192.0.2.1", "IPv6: off", "the host's loopback: 192.0.2.1"]),
        (HOST, {"map_guest_addr": (ip_address("192.0.2.9"),)}, ["the host's own address: 192.0.2.9"]),
        (HOST, {"address": (ip_interface("10.0.2.100/24"),)}, ["IPv4: 10.0.2.100/24, gateway 192.0.2.1"]),
        (HOST, {}, ["nameservers: 192.0.2.53 (not told by DHCP, DHCPv6 or NDP)"]),
        (HOST, {"dhcp_dns": True, "dhcp_search": True}, ["nameservers: 192.0.2.53", "search domains: example.org"]),
        (HOST, {"dns_forward": (ip_address("192.0.2.3"),)}, ["DNS queries to 192.0.2.3: answered by 192.0.2.53"]),
    ],
)
def test_each_fact_is_a_line(host: HostSnapshot, asked: dict[str, Any], wanted: list[str]) -> None:
    given = options(**NONE, **asked)
    lines = summary.lines(
        build(given, host, Resolv(nameservers=(ip_address("192.0.2.53"),), search=("example.org",))), bind_ports.rules(given)
    )
    assert lines[-2:] == NO_PORTS
    assert not [start for start in wanted if not any(line.startswith(start) for line in lines)]
    assert all(": " in line and line.isprintable() for line in lines)
