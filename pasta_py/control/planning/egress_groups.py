"""Which addresses are in which group of the egress policy: what counts as @private, @metadata, @multicast, @lan and @host. Pure."""

from pasta_py.control.commandline.egress_rule import HOST, LAN, METADATA, MULTICAST, PRIVATE
from pasta_py.control.ip import ip_network, packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pasta_py.control.netlink.links_addresses_routes import Network
    from pasta_py.control.planning.host import HostSnapshot
    from pasta_py.model import WorkerPlan

_MAPPED_BITS = 96  # before an IPv4 address in v4-mapped form

# What is not global unicast (IANA's registries of special-purpose addresses, RFC 6890 and following). Documentation addresses
# are left out: nothing has them. Of IPv6 only 2000::/3 is global (RFC 4291, 2.4), and what NAT64 makes of a global IPv4 address.
_PRIVATE = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "240.0.0.0/4",
    "::/3", "4000::/2", "8000::/2", "c000::/3", "e000::/4", "f000::/5", "f800::/6", "fc00::/7", "fe00::/8",
    "2001:2::/48", "2001:10::/28",
)  # fmt: skip
_MULTICAST = ("224.0.0.0/4", "255.255.255.255/32", "ff00::/8")
_LOOPBACK = ("127.0.0.0/8", "::1/128")

# Where clouds hand a machine its credentials. Source: each one's own documentation of its metadata service.
_METADATA = (
    "169.254.169.254/32",  # AWS, Azure, Google, OpenStack, DigitalOcean, Hetzner, Oracle
    "fd00:ec2::254/128",  # AWS
    "169.254.170.2/32",  # AWS ECS: credentials of a task
    "169.254.170.23/32",  # AWS EKS: credentials of a pod
    "fd00:ec2::23/128",
    "fd20:ce::254/128",  # Google
    "168.63.129.16/32",  # Azure: WireServer, a public address
    "100.100.100.200/32",  # Alibaba
    "192.0.0.192/32",  # Oracle, earlier
    "169.254.0.23/32",  # Tencent
    "169.254.42.42/32",  # Scaleway
    "fd00:42::42/128",
    "fe80::a9fe:a9fe/128",  # OpenStack
)
# RFC 6052, 2.1; RFC 8215: of the prefix for a network's own use the first /96. The rest of it counts as private.
_NAT64 = ("64:ff9b::/96", "64:ff9b:1::/96")


def _prefix(network: "Network") -> "tuple[bytes, int]":
    return packed(network.network_address), network.prefixlen + (_MAPPED_BITS if network.version == 4 else 0)


def is_grouped(address: bytes) -> bool:
    """Whether an address of 16 bytes is in a group on every host: then a rule for a name alone does not lead there."""
    value = int.from_bytes(address, "big")
    for text in (*_PRIVATE, *_METADATA, *_MULTICAST, *_LOOPBACK):
        first, bits = _prefix(ip_network(text))
        mapped = bits >= _MAPPED_BITS and first.startswith(bytes(10) + b"\xff\xff")
        if value >> 128 - bits == int.from_bytes(first, "big") >> 128 - bits and (mapped or not address.startswith(bytes(10))):
            return True
    return False


def groups(host: "HostSnapshot", worker: "WorkerPlan") -> "Iterable[tuple[bytes, int, int]]":
    """Prefixes of 16 bytes, their length in bits of 128, and the bit of their group, for this host."""
    for texts_of, group in ((_PRIVATE, PRIVATE), (_METADATA, METADATA), (_MULTICAST, MULTICAST), (_LOOPBACK, HOST)):
        for text in texts_of:
            yield (*_prefix(ip_network(text)), group)
    for network in host.networks:
        if not network.is_loopback and network.prefixlen:
            yield (*_prefix(network), LAN)
    for address in host.addresses:
        yield (packed(address), 128, HOST)
    for family in (worker.family4, worker.family6):
        for mapped in (family.map_host_loopback, family.map_guest_addr):
            if mapped:
                yield (mapped, 128, HOST)
    for network in host.networks:
        if network.version == 4 and network.prefixlen < 31:  # RFC 3021
            yield (packed(network.broadcast_address), 128, MULTICAST)


def nat64() -> "tuple[tuple[bytes, int], ...]":
    """The prefixes behind which IPv4 addresses are judged too."""
    return tuple(_prefix(ip_network(text)) for text in _NAT64)
