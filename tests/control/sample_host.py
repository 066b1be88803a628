"""What a snapshot says of a host with one interface, eth0, and both families."""

from ipaddress import ip_address, ip_interface, ip_network

from pasta_py.control.netlink.links_addresses_routes import IFF_UP, Address, Link, NextHop, Route
from pasta_py.control.planning.host import Family, HostSnapshot

ETH0 = Link(index=2, name="eth0", mtu=1500, flags=IFF_UP, mac=b"\2\0\0\0\0\2")
HOST4 = Family(
    available=True,
    link=ETH0,
    addresses=(Address(interface=ip_interface("192.0.2.10/24"), link=2),),
    routes=(
        Route(destination=ip_network("0.0.0.0/0"), hops=(NextHop(gateway=ip_address("192.0.2.1"), link=2),)),
        Route(destination=ip_network("192.0.2.0/24"), hops=(NextHop(link=2),), scope=253, proto=2),
    ),
)
HOST6 = Family(
    available=True,
    link=ETH0,
    addresses=(
        Address(interface=ip_interface("2001:db8::10/64"), link=2),
        Address(interface=ip_interface("fe80::2/64"), scope=253, link=2),
    ),
    routes=(
        Route(destination=ip_network("::/0"), hops=(NextHop(gateway=ip_address("fe80::1"), link=2),), metric=1024),
    ),
)
HOST = HostSnapshot(
    ipv4=HOST4,
    ipv6=HOST6,
    interfaces=("lo", "eth0"),
    addresses=(ip_address("192.0.2.10"), ip_address("2001:db8::10"), ip_address("fe80::2")),
)
NONE4, NONE6 = Family(available=True), Family(available=True)
