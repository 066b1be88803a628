"""The egress policy of a start: from the options and the host to what the core and the log get.

`read` reads the files that the options name; the rest is pure.
"""

from pasta_py.control.commandline import egress_rule, port_spec
from pasta_py.control.commandline.egress_rule import INTERNET_ONLY, NONE, OPEN, Rule, Rules
from pasta_py.control.planning import egress_encode, egress_groups
from pasta_py.errors import HostError, UsageError, reason
from pasta_py.model import MAX_EGRESS_RULES
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:

    from pasta_py.control.commandline.options import Options
    from pasta_py.control.planning.host import HostSnapshot
    from pasta_py.control.planning.plan import Plan
    from pasta_py.model import WorkerPlan

_EXPANDED = 20  # rules whose meaning is spelled out
_REMARKS = 20  # lines about rules
_FILE_BYTES = 16 << 20
_VERIFIES_NOTHING = "--verify-names changes no rule: it is for rules such as example.org:443 and example.org:80"
_ONLY_NETWORK = "--sandbox confines the network of what is joined: its files, and UNIX sockets among them, stay as they are"


class Said(Record):
    """What the options and files say."""

    rules: Rules
    default: str  # of egress_rule.PRESETS
    dns_said: bool = False  # --egress-dns is given
    verify: bool = False  # --verify-names


def read(options: "Options") -> "Said | None":
    """The policy that the options ask for; None: none. A log of decisions and a proxy need one, even if it allows all.

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
    if not rules.texts and default == OPEN and not _needs_one(options):
        return None
    if len(rules.texts) >= MAX_EGRESS_RULES:
        raise UsageError(f"{len(rules.texts)} egress rules: {MAX_EGRESS_RULES - 1} are the most")
    return Said(rules=rules, default=default, dns_said=bool(options.egress_dns), verify=options.verify_names)


def _needs_one(options: "Options") -> bool:
    """Whether a policy that allows all is needed all the same."""
    return bool(options.decision_log or options.learn or options.redirects or options.proxy)


def _learned(path: str) -> Rules:
    """The rules that the file of --learn has already. They count behind all others; its default does not."""
    import os.path

    data = _contents(path, "--learn") if os.path.isfile(path) else b""
    return egress_rule.parse_file(data, path).rules if data.strip() else Rules()


def _contents(path: str, option: str = "--egress-file") -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(_FILE_BYTES + 1)
    except OSError as error:
        raise HostError(f"{option} {path!r}: {reason(error, 'give a file that can be read')}") from None
    if len(data) > _FILE_BYTES:
        raise UsageError(f"{option} {path!r} has more than {_FILE_BYTES} bytes")
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
    names = {"none": egress_encode.NO_NAMES, "rules": egress_encode.NAMES_OF_RULES}.get(options.egress_dns, egress_encode.ALL_NAMES)
    policy = compiled(said, names, host, plan.worker)
    worker = plan.worker.replace(egress=policy, egress_rules=all_rules(said).texts, pin_grace_s=options.pin_grace)
    worker = worker.replace(egress_default=said.default, egress_dns=options.egress_dns, egress_dns_said=said.dns_said)
    worker = worker.replace(tells_denials=options.spawn, whole_sandbox=options.sandbox)
    found = warnings(said, strict=options.sandbox)
    named, others = _expansions(said)
    if options.program == "pasta-py":  # the others say no more than they have to
        found += named
    notices = plan.notices + others + (() if options.program == "pasta-py" else named)
    if options.sandbox and not options.spawn and options.program != "passt":
        notices += (_ONLY_NETWORK,)
    if said.verify and not any(map(_is_verified, said.rules)):
        found += (_VERIFIES_NOTHING,)
    changed: Plan = plan.replace(worker=worker, warnings=plan.warnings + found, notices=notices)
    return changed


def _is_verified(rule: Rule) -> bool:
    """Whether --verify-names makes it a rule for TLS or HTTP: as verify_names() of csrc/core/egress_read.c."""
    ports, protocols = rule.ports, egress_rule.TCP | egress_rule.UDP
    return rule.allow and rule.name != "" and ports in ((443, 443), (80, 80)) and rule.protocols == protocols


def _expansions(said: Said) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is meant by rules without a port: of those for names, which may mean less; of others."""
    named, others = list[str](), list[str]()
    for _, rule in zip(range(_EXPANDED), said.rules):
        if rule.allow and (rule.ports[0], rule.protocols) == (0, egress_rule.ALL_PROTOCOLS):
            line = f"egress rule {_named(rule.where, f'allow {rule}')} is for every port of TCP and UDP, and for ping"
            (named if rule.name else others).append(line)
    return tuple(named), tuple(others)


def compiled(said: Said, names: int, host: "HostSnapshot", worker: "WorkerPlan") -> bytes:
    """The policy for the core. names: NO_NAMES and following of egress_encode. worker: has the mapped addresses."""
    return egress_encode.encode(
        egress_encode.Policy(
            rules=all_rules(said),
            allow_others=said.default == OPEN,
            names=names,
            groups=tuple(egress_groups.groups(host, worker)),
            nat64=egress_groups.nat64(),
            verify=said.verify,
        )
    )


def all_rules(said: Said) -> Rules:
    """The rules in the core's order: the last may stand for the default."""
    if said.default != INTERNET_ONLY:
        return said.rules
    return egress_rule.joined([said.rules, egress_rule.parse("@internet", allow=True, where=f"--egress {INTERNET_ONLY}")])


# ---- what is worth a warning ----


def warnings(said: Said, *, strict: bool = False) -> "tuple[str, ...]":
    """Rules that an earlier one makes useless, and others that are wider than they look: _REMARKS of them.

    UsageError instead of a warning: both rules stand in one file, or `strict`.
    """
    texts = said.rules.texts
    found = []
    policy = egress_encode.encode(egress_encode.Policy(rules=said.rules, allow_others=False, names=0, groups=(), nat64=()))
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
    policy = egress_encode.encode(egress_encode.Policy(rules=rules, allow_others=False, names=0, groups=(), nat64=()))
    return {index for index, earlier in egress_rule.remarks(policy, len(rules.texts)) if earlier != egress_rule.TOO_WIDE}


def _named(where: str, text: str) -> str:
    return f"'{text}' ({where})" if where else f"'{text}'"
