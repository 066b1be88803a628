"""Rules of an egress policy for tests of DNS: a few lines, in the order in which they count."""

from ipaddress import ip_address, ip_network

from pasta_py.worker.dns_decide import Verdict


class Rules:
    """`lines`: "allow NAME", "deny NAME", with "*." before a name for all below it, and "=PREFIX" for where it may lead."""

    def __init__(self, *lines: str, allow_others: bool = False, room: int = 10_000, verifies: bool = False) -> None:
        self.replace(*lines)
        self.allow_others, self.room, self.verifies = allow_others, room, verifies
        self.pins: dict[tuple[str, str], int] = {}

    def replace(self, *lines: str) -> None:
        self.rules = []
        for line in lines:
            verdict, _, rest = line.partition(" ")
            name, _, prefix = rest.partition("=")
            self.rules.append((verdict == "allow", name, ip_network(prefix) if prefix else None))

    def _matching(self, name: str) -> "tuple[int, bool, object] | None":
        for index, (allow, wanted, prefix) in enumerate(self.rules):
            if name == wanted or (wanted[:2] == "*." and name.endswith(wanted[1:])):
                return index, allow, prefix
        return None

    def name(self, name: str) -> Verdict:
        found = self._matching(name)
        return Verdict(found[1], True, found[0]) if found else Verdict(self.allow_others)

    def address(self, name: str, address: bytes) -> bool:
        whole = ip_address(address)
        shown = whole.ipv4_mapped or whole
        found = self._matching(name)
        if found and found[2] is not None:
            return shown.version == found[2].version and shown in found[2]  # type: ignore[attr-defined, operator]
        documentation = str(shown)[:6] in ("192.0.", "2001:d", "198.51")  # public here
        return documentation or not shown.is_private

    def pin(self, name: str, address: bytes, ttl_s: int) -> bool:
        if len(self.pins) >= self.room:
            return False
        whole = ip_address(address)
        self.pins[name, str(whole.ipv4_mapped or whole)] = ttl_s
        return True

    def exact(self, name: str) -> bool:
        return any(allow and wanted == name for allow, wanted, _prefix in self.rules)

    def above(self, name: str) -> bool:
        return any(allow and (name == "." or wanted.endswith("." + name)) for allow, wanted, _prefix in self.rules)

    def verifying(self) -> bool:
        return self.verifies
