import messages
import pytest
from checker import arp as arp_fields
from checker import check, ethernet
from sample_plan import GATEWAY4, GUEST4, GUEST_MAC, OUR_MAC, sample_plan

from pasta_py.worker import arp

PLAN = sample_plan()


@pytest.mark.parametrize("target", [GATEWAY4, "192.0.2.99", "8.8.8.8", "169.254.1.1"])
@pytest.mark.parametrize("dst", ["ff:ff:ff:ff:ff:ff", OUR_MAC])
def test_every_address_but_the_guests_is_ours(target: str, dst: str) -> None:
    check(
        arp.reply(PLAN, messages.arp(GUEST4, target, dst=dst)),
        ethernet(src=OUR_MAC, dst=GUEST_MAC, type=0x0806),
        arp_fields(op=2, sender_mac=OUR_MAC, sender=target, target_mac=GUEST_MAC, target=GUEST4),
    )


@pytest.mark.parametrize("target", [GUEST4, "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_no_answer_for_the_guest_nor_for_what_no_station_holds(target: str) -> None:
    assert arp.reply(PLAN, messages.arp("192.0.2.200", target)) is None


def test_a_probe_is_answered_for_our_addresses_only() -> None:
    check(arp.reply(PLAN, messages.arp("0.0.0.0", GATEWAY4)), arp_fields(sender=GATEWAY4, target="0.0.0.0"))
    for free in (GUEST4, "192.0.2.77", "169.254.3.4"):
        assert arp.reply(PLAN, messages.arp("0.0.0.0", free)) is None


@pytest.mark.parametrize("address", [GUEST4, "192.0.2.77"])
def test_an_announcement_is_not_answered(address: str) -> None:
    assert arp.reply(PLAN, messages.arp(address, address)) is None


@pytest.mark.parametrize(
    "frame",
    [
        messages.arp(GUEST4, GATEWAY4, op=2),
        messages.arp(GUEST4, GATEWAY4, dst="02:00:00:00:00:99"),
        messages.arp(GUEST4, GATEWAY4, src="03:00:00:00:00:99"),
        messages.arp(GUEST4, GATEWAY4, src=OUR_MAC),
        messages.arp(GUEST4, GATEWAY4)[:41],
    ],
    ids=["reply", "to another neighbour", "from a group", "from ourselves", "cut short"],
)
def test_what_is_no_request_to_us_gets_no_answer(frame: bytes) -> None:
    assert arp.reply(PLAN, frame) is None


def test_no_answer_without_ipv4() -> None:
    assert arp.reply(sample_plan(on4=False), messages.arp(GUEST4, GATEWAY4)) is None
