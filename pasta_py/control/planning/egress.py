"""The egress policy of a start: from the options and the host to what the core and the log get.

`read` reads the files that the options name; the rest is pure.
"""

from pasta_py.control.commandline import egress_rule, port_spec
from pasta_py.control.commandline.egress_rule import (
    HOST,
    INTERNET_ONLY,
    LAN,
    METADATA,
    MULTICAST,
    NONE,
    OPEN,
    PRIVATE,
    Rule,
    Rules,
)  # fmt: skip
from pasta_py.control.ip import ip_network, packed
from pasta_py.control.planning import egress_policy
from pasta_py.errors import HostError, UsageError, reason
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pasta_py.control.commandline.options import Options
    from pasta_py.control.netlink.links_addresses_routes import Network
    from pasta_py.control.planning.host import HostSnapshot
    from pasta_py.control.planning.plan import Plan
    from pasta_py.model import WorkerPlan

_EXPANDED = 20  # rules whose meaning is spelled out
_REMARKS = 20  # lines about rules
_FILE_BYTES = 16 << 20
_ONLY_NETWORK = "--sandbox confines the network of what is joined: its files, and UNIX sockets among them, stay as they are"
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
_NAT64 = ("64:ff9b::/96",)  # RFC 6052, 2.1


class Said(Record):
    """What the options and files say."""

    rules: Rules
    default: str  # of egress_rule.PRESETS
    dns_said: bool = False  # --egress-dns is given


def read(options: "Options") -> "Said | None":
    """The policy that the options ask for; None: none. A log of decisions needs one, even if it allows all.

    UsageError, HostError: a file cannot be read, or contradicts another.
    """
    parts: list[Rule | Rules] = []
    defaults = {options.egress: "--egress"} if options.egress else {}
    for item in options.egress_rules:
        if isinstance(item, Rule):
            parts.append(item)
            continue
        parsed = egress_rule.parse_file(_contents(item), item)
        parts.append(parsed.rules)
        if parsed.default:
            defaults.setdefault(parsed.default, item)
    if len(defaults) > 1:
        said = " and ".join(f"{where} says {default!r}" for default, where in defaults.items())
        raise UsageError(f"two defaults for what no rule matches: {said}: give one")
    if options.learn:
        parts.append(_learned(options.learn))
    rules = egress_rule.joined(parts)
    allows = any("\tallow " in text for text in rules.texts)
    closed = NONE if options.sandbox or allows else OPEN
    default = next(iter(defaults), INTERNET_ONLY if options.learn else closed)
    if options.sandbox and default == OPEN:
        raise UsageError(f"{defaults[OPEN]} says 'default open', which --sandbox does not allow: say 'internet' or 'none'")
    if options.learn and default == NONE:
        raise UsageError(f"--learn learns what passes, and {defaults[NONE]} says 'none': leave out one of them")
    if not rules.texts and default == OPEN and not (options.decision_log or options.learn):
        return None
    if len(rules.texts) >= egress_policy.MAX_RULES:
        raise UsageError(f"{len(rules.texts)} egress rules: {egress_policy.MAX_RULES - 1} are the most")
    return Said(rules=rules, default=default, dns_said=bool(options.egress_dns))


def _learned(path: str) -> Rules:
    """The rules that the file of --learn has already. They count behind all others; its default does not."""
    import os.path

    data = _contents(path) if os.path.isfile(path) else b""
    return egress_rule.parse_file(data, path).rules if data.strip() else Rules()


def _contents(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(_FILE_BYTES + 1)
    except OSError as error:
        raise HostError(f"--egress-file {path!r}: {reason(error, 'give a file that can be read')}") from None
    if len(data) > _FILE_BYTES:
        raise UsageError(f"--egress-file {path!r} has more than {_FILE_BYTES} bytes")
    return data


def fitting(options: "Options", said: Said) -> "Options":
    """The options with what the policy changes of their defaults: ports that are closed unless given, DNS that is answered here."""
    closed = {OPEN: (), INTERNET_ONLY: ("tcp_ns", "udp_ns")}.get(said.default, ("tcp_ports", "udp_ports", "tcp_ns", "udp_ns"))
    ports = {name: (port_spec.NONE,) for name in closed if not getattr(options, name)}
    names = options.egress_dns or ("rules" if said.default == NONE else "all")
    changed: Options = options.replace(egress_dns=names, **ports)
    return changed


def into(plan: "Plan", said: Said, options: "Options", host: "HostSnapshot") -> "Plan":
    """The plan with the policy in it, and with what the user should know."""
    names = {"none": egress_policy.NO_NAMES, "rules": egress_policy.NAMES_OF_RULES}.get(options.egress_dns, egress_policy.ALL_NAMES)
    policy = compiled(said, names, host, plan.worker)
    worker = plan.worker.replace(egress=policy, egress_rules=all_rules(said).texts, pin_grace_s=options.pin_grace)
    worker = worker.replace(egress_default=said.default, egress_dns=options.egress_dns, egress_dns_said=said.dns_said)
    worker = worker.replace(tells_denials=options.spawn, whole_sandbox=options.sandbox)
    notices = plan.notices + tuple(_expansions(said))
    if options.sandbox and not options.spawn and options.program != "passt":
        notices += (_ONLY_NETWORK,)
    changed: Plan = plan.replace(worker=worker, warnings=plan.warnings + warnings(said, strict=options.sandbox), notices=notices)
    return changed


def _expansions(said: Said) -> "Iterable[str]":
    for _, rule in zip(range(_EXPANDED), said.rules):  # noqa: B905
        if rule.allow and (rule.ports[0], rule.protocols) == (0, egress_rule.ALL_PROTOCOLS):
            yield f"egress rule {_named(rule.where, f'allow {rule}')} is for every port of TCP and UDP, and for ping"


def compiled(said: Said, names: int, host: "HostSnapshot", worker: "WorkerPlan") -> bytes:
    """The policy for the core. names: NO_NAMES and following of egress_policy. worker: has the mapped addresses."""
    return egress_policy.encode(
        egress_policy.Policy(
            rules=all_rules(said),
            allow_others=said.default == OPEN,
            names=names,
            groups=tuple(_groups(host, worker)),
            nat64=tuple(map(_prefix, map(ip_network, _NAT64))),
        )
    )


def all_rules(said: Said) -> Rules:
    """The rules in the core's order: the last may stand for the default."""
    if said.default != INTERNET_ONLY:
        return said.rules
    return egress_rule.joined([said.rules, egress_rule.parse("@internet", allow=True, where=f"--egress {INTERNET_ONLY}")])


def _prefix(network: "Network") -> "tuple[bytes, int]":
    return packed(network.network_address), network.prefixlen + (96 if network.version == 4 else 0)


def is_grouped(address: bytes) -> bool:
    """Whether an address of 16 bytes is in a group on every host: then a rule for a name alone does not lead there."""
    value = int.from_bytes(address, "big")
    for text in (*_PRIVATE, *_METADATA, *_MULTICAST, *_LOOPBACK):
        first, bits = _prefix(ip_network(text))
        mapped = bits >= _MAPPED_BITS and first.startswith(bytes(10) + b"\xff\xff")
        if value >> 128 - bits == int.from_bytes(first, "big") >> 128 - bits and (mapped or not address.startswith(bytes(10))):
            return True
    return False


def _groups(host: "HostSnapshot", worker: "WorkerPlan") -> "Iterable[tuple[bytes, int, int]]":
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


# ---- what is worth a warning ----


def warnings(said: Said, *, strict: bool = False) -> "tuple[str, ...]":
    """Rules that an earlier one makes useless, and others that are wider than they look: _REMARKS of them.

    UsageError instead of a warning: both rules stand in one file, or `strict`.
    """
    texts = said.rules.texts
    found = []
    policy = egress_policy.encode(egress_policy.Policy(rules=said.rules, allow_others=False, names=0, groups=(), nat64=()))
    remarks = egress_rule.remarks(policy, len(texts))
    for index, other in remarks:
        where, text, _ = texts[index].split("\t")
        if other == egress_rule.TOO_WIDE:
            found.append(f"egress rule {_named(where, text)} allows every name that ends in {text.rpartition('*')[2]}")
            continue
        first, earlier, _ = texts[other].split("\t")
        line = f"egress rule {_named(where, text)} has no effect: {_named(first, earlier)} comes first and covers it"
        file = where.rpartition(":")[0]
        if strict or (file and file == first.rpartition(":")[0]):
            raise UsageError(f"{line}: remove it, or put it first")
        found.append(line)
    if len(found) > _REMARKS:
        found[_REMARKS:] = [f"{len(found) - _REMARKS} more egress rules have no effect, or allow every name below a top domain"]
    return tuple(found)


def useless(rules: Rules) -> "set[int]":
    """Indexes of the rules that an earlier one covers."""
    policy = egress_policy.encode(egress_policy.Policy(rules=rules, allow_others=False, names=0, groups=(), nat64=()))
    return {index for index, earlier in egress_rule.remarks(policy, len(rules.texts)) if earlier != egress_rule.TOO_WIDE}


def _named(where: str, text: str) -> str:
    return f"'{text}' ({where})" if where else f"'{text}'"
