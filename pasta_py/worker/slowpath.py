"""Hands a punted frame to the handler of its protocol.

What the core punts: ARP, ICMPv6 133 to 136, UDP to port 67 (DHCP) and UDP over IPv6 to port 547 (DHCPv6). The
handlers check everything themselves; this only picks one.
"""

from pasta_py.worker import arp, dhcp4, dhcp6, frames, ndp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.model import WorkerPlan


class Leases:
    """Which neighbour has which address by DHCP: first come, first served, for good."""

    def __init__(self, plan: "WorkerPlan") -> None:
        self._plan = plan
        self._places: dict[bytes, int] = {}

    def plan_for(self, mac: bytes) -> "WorkerPlan | None":
        """The plan with the address of a neighbour; None when there is none left."""
        place = self._places.get(mac, len(self._places))
        if place >= self._plan.leases:
            return None
        self._places[mac] = place
        first = int.from_bytes(self._plan.guest4, "big")
        return self._plan.replace(guest4=(first + place).to_bytes(16, "big")) if place else self._plan


def reply(plan: "WorkerPlan", frame: bytes, leases: "Leases | None" = None) -> "bytes | None":
    """The frame that answers a guest's frame, with complete checksums; None for what gets no answer."""
    ethertype = frame[12:14] if len(frame) > 20 else b""
    if ethertype == frames.ETHERTYPE_ARP:
        return arp.reply(plan, frame)
    if ethertype == frames.ETHERTYPE_IPV4:
        own = leases.plan_for(frame[6:12]) if leases else plan
        return dhcp4.reply(own, frame) if own else None
    if ethertype == frames.ETHERTYPE_IPV6:
        return ndp.reply(plan, frame) if frame[20] == frames.ICMPV6 else dhcp6.reply(plan, frame)
    return None
