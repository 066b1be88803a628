"""ARP for IPv4 over Ethernet (RFC 826). We are the guest's next hop to every address, so we answer for every address.

Exceptions: the guest's own address, and those that no neighbour can hold.

A probe (RFC 5227; sender 0.0.0.0) asks whether an address is free. It gets an answer only for our own addresses: an answer for
every address would keep the guest from setting any (a link-local one, RFC 3927, or a second one of the host). An announcement
(sender = target) gets no answer.

Where the link may have other neighbours (plan.leases > 1) they answer for themselves, and we answer for our own addresses only.
"""

from pasta_py.worker import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.model import WorkerPlan

_ARP_BYTES = 28
_ETHERNET_IPV4 = b"\0\x01\x08\0\x06\x04"  # hardware and protocol types, their address lengths
_REQUEST = b"\0\x01"
_REPLY = b"\0\x02"


def reply(plan: "WorkerPlan", frame: bytes) -> "bytes | None":
    """The ARP reply to an ARP request; None for a frame that gets no reply."""
    message = frame[frames.ETHER_BYTES : frames.ETHER_BYTES + _ARP_BYTES]
    if not plan.family4.on or not frames.for_us(plan, frame) or frame[12:14] != frames.ETHERTYPE_ARP:
        return None
    if len(message) != _ARP_BYTES or message[:6] != _ETHERNET_IPV4 or message[6:8] != _REQUEST:
        return None
    sender_mac, sender, target = message[8:14], message[14:18], message[24:28]
    if sender_mac[0] & 1 or not _answers(plan, sender, target):
        return None
    answer = _ETHERNET_IPV4 + _REPLY + plan.our_mac + target + sender_mac + sender
    return frame[6:12] + plan.our_mac + frames.ETHERTYPE_ARP + answer


def _answers(plan: "WorkerPlan", sender: bytes, target: bytes) -> bool:
    # 0/8 and 127/8 mean the sender itself (RFC 1122, 3.2.1.3).
    multicast = 224 <= target[0] < 240
    if target[0] in (0, 127) or multicast or target == frames.BROADCAST4:
        return False
    if target == sender or target == frames.ipv4(plan.family4.guest):
        return False
    if sender == frames.NOWHERE4 or plan.leases > 1:
        return target in (frames.ipv4(address) for address in frames.ours(plan))
    return True
