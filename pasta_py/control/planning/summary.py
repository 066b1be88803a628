"""Lines for the user about what was set up. Pure."""

from pasta_py.control.ip import IPv6Address
from pasta_py.pesto_protocol import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pasta_py.control.planning.plan import Plan
    from pasta_py.model import ForwardRule

_RULES_SHOWN = 20
_NOT_ANNOUNCED = " (not told by DHCP, DHCPv6 or NDP)"


def lines(plan: "Plan", rules: "Sequence[ForwardRule]") -> list[str]:
    """One line for each fact, its name first; before them the notices. `rules`: of both directions."""
    ports = []
    machine = plan.worker.stream
    for to_host, where in ((False, "guest"),) if machine else ((False, "namespace"), (True, "host")):
        shown = [describe(rule) for rule in rules if rule.to_host == to_host] or ["none"]
        ports += [f"ports to the {where}: {each}" for each in shown]
    if plan.worker.local_only:
        return ["interface: none, only ports are forwarded", *ports]
    mac = f"our MAC address: {plan.worker.our_mac.hex(':')}"
    return [*plan.notices, _interface(plan), mac, *_families(plan), *_names(plan), *_egress(plan), *_ways(plan), *ports]


def greeting(plan: "Plan", name: str) -> list[str]:
    """Where a shell finds itself, in two lines."""
    worker, link = plan.worker, plan.link
    families = (worker.family4, worker.family6)
    own = ", ".join(str(each.interface.ip) for each in link.addresses) if link.configure else "not configured yet"
    where = "forwarded ports only" if worker.local_only else f"{own} on {link.ifname}"
    host = " and ".join(_text(family.map_host_loopback) for family in families if family.map_host_loopback)
    means = f"the host's loopback is {host}" if host and not worker.local_only else "no address means the host"
    return [
        f"this shell is on {name}, with a network of its own: {where}; {means}",
        '"exit" or Ctrl-D leaves it; "pasta-py ps" and "pasta-py top" in another terminal show what it does',
    ]


def socket_lines(path: str, *, vhost_user: bool) -> list[str]:
    """Where a virtual machine connects to, and how QEMU does that."""
    if vhost_user:
        memory = "-object memory-backend-memfd,id=m,size=RAM,share=on -numa node,memdev=m"
        network = f"-device virtio-net-pci,netdev=n -netdev vhost-user,id=n,chardev=c -chardev socket,id=c,path={path}"
        return [f"UNIX domain socket bound at {path}", f"QEMU connects with: {memory} {network}"]
    device = "-device virtio-net-pci,netdev=s -netdev stream,id=s,server=off,addr.type=unix,addr.path="
    return [f"UNIX domain socket bound at {path}", f"QEMU (>= 7.2) connects with: {device}{path}"]


def _interface(plan: "Plan") -> str:
    link = plan.link
    mtu = f"MTU {link.mtu}" if link.mtu else "MTU left alone"
    if plan.worker.stream:
        return f"interface: that of the virtual machine, {mtu} told by DHCP and NDP"
    if plan.worker.lossy:
        return f"interface: what is behind --fd, {mtu}"
    templates = sorted({name for name in plan.templates if name})
    source = f"from the host's {' and '.join(templates)}" if templates else "from no interface of the host"
    ready = "configured" if link.configure else "not configured: left to DHCP, NDP and DHCPv6, or --config-net"
    return f"interface: {link.ifname}, {source}, {mtu}, {ready}"


def _families(plan: "Plan") -> list[str]:
    worker = plan.worker
    families = worker.family4, worker.family6
    found = []
    for version, family in zip((4, 6), families):
        if not family.on:
            found.append(f"IPv{version}: off")
            continue
        set_up = [str(each.interface) for each in plan.link.addresses if each.interface.version == version]
        shown = set_up or ([f"{_text(family.guest)}/{family.prefix}"] if family.guest else ["a link-local address"])
        found.append(f"IPv{version}: {', '.join(shown)}, gateway {_text(family.gateway) or 'none'}")
    for meaning, addresses in (
        ("the host's loopback", [family.map_host_loopback for family in families]),
        ("the host's own address", [family.map_guest_addr for family in families]),
    ):
        mapped = " and ".join(_text(address) for address in addresses if address)
        if mapped:
            found.append(f"{meaning}: {mapped}")
    return found


def _egress(plan: "Plan") -> list[str]:
    worker = plan.worker
    if not worker.egress_default:
        return []
    rules = [text.split("\t")[1] for text in worker.egress_rules]
    shown = rules[:_RULES_SHOWN] + ([f"{len(rules) - _RULES_SHOWN} more rules"] if len(rules) > _RULES_SHOWN else [])
    last = "allow others" if worker.egress_default == "open" else "deny others"
    proof = ["names are verified at ports 443 and 80"] if worker.egress[3] else []
    return [f"egress: {'; '.join([*shown, last, *proof])}"]


def _ways(plan: "Plan") -> list[str]:
    worker = plan.worker
    found = list(worker.detour_texts)
    said = [f"{_rate(value)} {where}" for value, where in ((worker.rate_out, "out"), (worker.rate_in, "in")) if value]
    return found + ([f"rate: at most {' and '.join(said)}"] if said else [])


def _rate(bytes_per_s: int) -> str:
    """In bits a second, with the largest unit that gives a whole number or three digits."""
    bits = 8 * bytes_per_s
    for factor, unit in ((10**9, "gbit"), (10**6, "mbit"), (10**3, "kbit")):
        if bits >= factor:
            return f"{bits / factor:.3f}".rstrip("0").rstrip(".") + unit
    return f"{bits}bit"


def _names(plan: "Plan") -> list[str]:
    worker = plan.worker
    found = []
    if plan.dns:
        found.append(f"nameservers: {', '.join(map(str, plan.dns))}{'' if worker.dns else _NOT_ANNOUNCED}")
    if worker.serves_dns:
        names = worker.egress_dns or ("all" if worker.all_names else "none")
        which = {"all": "all names", "rules": "names of rules"}.get(names, "no names")
        why = f" (--egress-dns {names}{'' if worker.egress_dns_said else ', the default'})" if worker.egress_default else ""
        found.append(f"DNS: {which}{why}, answered here; asked: {', '.join(map(_text, worker.dns_servers))}")
        return found + ([f"search domains: {', '.join(plan.search)}"] if plan.search else [])
    for family in (worker.family4, worker.family6):
        if family.dns_forward and family.dns_host:
            found.append(f"DNS queries to {_text(family.dns_forward)}: answered by {_text(family.dns_host)}")
    if plan.search:
        found.append(f"search domains: {', '.join(plan.search)}{'' if worker.search else _NOT_ANNOUNCED}")
    return found


def _text(address: bytes) -> str:
    if not address:
        return ""
    whole = IPv6Address(address)
    return str(whole.ipv4_mapped or whole)
