"""The egress policy as the core takes it: the bytes that plane_egress() of csrc/plane_api.h describes. Pure."""

from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.control.commandline.egress_rule import Rules

    #: 16 bytes, IPv4 in v4-mapped form, and the length in bits of 128
    Prefix = tuple[bytes, int]

NO_NAMES, NAMES_OF_RULES, ALL_NAMES = range(3)
_VERSION = 1


class Policy(Record):
    """All that the core's verdicts depend on."""

    rules: "Rules"
    allow_others: bool  # what no rule matches
    names: int  # NO_NAMES, NAMES_OF_RULES, ALL_NAMES
    groups: "tuple[tuple[bytes, int, int], ...]"  # prefixes and the bits of their groups
    nat64: "tuple[Prefix, ...]"
    verify: bool = False  # rules for a name and port 443 or 80 mean TLS or HTTP that names it


def encode(policy: Policy) -> bytes:
    """The policy's bytes. At most model.MAX_EGRESS_RULES rules."""
    counts = (len(policy.nat64), len(policy.groups), len(policy.rules.texts), 0)
    parts = [bytes((_VERSION, policy.allow_others, policy.names, policy.verify)), *(n.to_bytes(2, "big") for n in counts)]
    parts += [address + bytes((bits,)) for address, bits in policy.nat64]
    parts += [address + bytes((bits, groups)) for address, bits, groups in policy.groups]
    return b"".join((*parts, policy.rules.encoded))
