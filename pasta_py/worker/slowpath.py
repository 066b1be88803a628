"""Hands a punted frame to the handler of its protocol, which checks the frame.

The core punts ARP, ICMPv6 types 133 to 136, UDP over IPv4 to port 67 (DHCP) and UDP over IPv6 to port 547 (DHCPv6).
"""

from pasta_py.worker import arp, dhcp4, dhcp6, frames, ndp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.model import WorkerPlan
    from pasta_py.worker.forced_renewal import Renewals


def reply(
    plan: "WorkerPlan", frame: bytes, leases: "dhcp4.Leases | None" = None, renewals: "Renewals | None" = None
) -> "bytes | None":
    """The frame that answers a guest's frame, with complete checksums; None for a frame that gets no answer.

    `leases`, `renewals`: see dhcp4.reply.
    """
    ethertype = frame[12:14] if len(frame) > 20 else b""
    if ethertype == frames.ETHERTYPE_ARP:
        return arp.reply(plan, frame)
    if ethertype == frames.ETHERTYPE_IPV4:
        return dhcp4.reply(plan, frame, leases, renewals)
    if ethertype == frames.ETHERTYPE_IPV6:
        return ndp.reply(plan, frame) if frame[20] == frames.ICMPV6 else dhcp6.reply(plan, frame, renewals)
    return None


def forced(before: "WorkerPlan", plan: "WorkerPlan", renewals: "Renewals") -> "list[bytes]":
    """Frames that make clients ask again, where the plan tells them something else than before."""
    frames4 = [dhcp4.force(plan, client, renewals) for client in renewals.clients4.values()] if plan.dhcp else []
    frames6 = [dhcp6.force(plan, client, renewals) for client in renewals.clients6.values()] if plan.dhcpv6 else []
    return (frames4 if dhcp4.told(before) != dhcp4.told(plan) else []) + (frames6 if dhcp6.told(before) != dhcp6.told(plan) else [])
