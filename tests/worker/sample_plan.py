"""A worker plan for tests of the slow path: a guest with one address of each family."""

from ipaddress import ip_address

from pasta_py.model import FamilyPlan, WorkerPlan

GUEST_MAC = "02:00:00:00:00:02"
OUR_MAC = "9a:55:9a:55:9a:55"
GUEST4, GATEWAY4 = "192.0.2.15", "192.0.2.1"
GUEST6, GATEWAY6 = "2001:db8:1::15", "2001:db8:1::1"
OUR_LL6 = "fe80::1"


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def addr(text: str) -> bytes:
    """An address as the plan holds it: 16 bytes, v4-mapped; b"" for ""."""
    if not text:
        return b""
    packed = ip_address(text).packed
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


def with_families(values: dict[str, object]) -> dict[str, object]:
    """The fields of a WorkerPlan: `guest4` and the like become fields of family4 and family6."""
    families: dict[str, dict[str, object]] = {"4": {}, "6": {}}
    rest = {}
    for name, value in values.items():
        if name[:-1] in FamilyPlan._fields:
            families[name[-1]][name[:-1]] = value
        else:
            rest[name] = value
    return {**rest, **{f"family{version}": FamilyPlan(**fields) for version, fields in families.items()}}  # type: ignore[arg-type]


def sample_plan(**changes: object) -> WorkerPlan:
    """Everything switched on; a field that is not named here has its default, or is b""."""
    values: dict[str, object] = {
        **{name: getattr(WorkerPlan, name, b"") for name in WorkerPlan._fields},
        **dict.fromkeys(("on4", "on6", "tcp", "udp", "icmp", "dhcp", "dhcpv6", "ndp", "ra", "assign_mtu"), True),
        **dict.fromkeys(("vnet_hdr", "uso", "log_syslog", "pcapng", "splice", "lo_to_lo", "lossy", "local_only"), False),
        "netns_name": "",
        **dict.fromkeys(("listeners", "guest_ports", "auto_rules", "said", "descriptors"), ()),
        **dict.fromkeys(("guest_scope6", "log_size", "stats_s"), 0),
        "guest_mac": mac(GUEST_MAC),
        "our_mac": mac(OUR_MAC),
        "leases": 1,
        "mtu": 65520,
        "link_mtu": 1500,
        "guest4": addr(GUEST4),
        "prefix4": 24,
        "gateway4": addr(GATEWAY4),
        "guest6": addr(GUEST6),
        "prefix6": 64,
        "gateway6": addr(GATEWAY6),
        "our_link_local": addr(OUR_LL6),
        "guest_addrs": (addr(GUEST4), addr(GUEST6)),
        "virtual_addrs": (),
        "barred_sources": (),
        "dns": (addr("192.0.2.53"), addr("2001:db8::53")),
        "search": ("example.org", "lab.example.org"),
        "hostname": "guest",
        "fqdn": "guest.example.org",
        "program": "test",
        "log_level": 1,
    }
    return WorkerPlan(**with_families(values | changes))  # type: ignore[arg-type]
