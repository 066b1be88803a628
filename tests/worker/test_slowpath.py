"""The slow path as a whole: dispatch, and what must hold for any bytes."""

import subprocess
import sys
from pathlib import Path

import pytest
from checker import decode
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import ANSWERED, arp, ether, ns
from packets import fold
from sample_plan import GATEWAY4, GATEWAY6, GUEST4, OUR_MAC, addr, sample_plan

from pasta_py.model import WorkerPlan
from pasta_py.worker import dhcp4, slowpath

PLANS = [
    sample_plan(),
    sample_plan(dns=(), search=(), hostname="", fqdn="", gateway4=b"", gateway6=b"", prefix4=32, prefix6=128),
    sample_plan(guest4=b"", guest6=b"", gateway4=b"", gateway6=b""),
    sample_plan(our_link_local=b"", prefix4=0, prefix6=0, mtu=68),
    sample_plan(
        mtu=65535,
        dns=tuple(addr(f"10.0.0.{i}") for i in range(200)) + tuple(addr(f"fd00::{i:x}") for i in range(1, 200)),
        search=tuple(f"{'x' * 60}.n{i}.example.org" for i in range(200)),
        hostname="h" * 300,
        fqdn=".".join(["f" * 60] * 4),
    ),
]
KINDS = sorted(ANSWERED)


def answer(plan: WorkerPlan, frame: bytes) -> bytes | None:
    """The answer, after checking what holds for each one."""
    reply = slowpath.reply(plan, frame)
    assert reply is None or isinstance(reply, bytes)
    if reply is not None:
        found = decode(reply)  # lengths and checksums
        assert found.ethernet.src == OUR_MAC
        assert found.ethernet.type == int.from_bytes(frame[12:14], "big"), "an answer of another protocol"
        assert len(reply) <= 14 + 1500
        assert found.arp is None or found.arp.sender.packed != plan.family4.guest[12:]
    return reply


def repair(frame: bytes) -> bytes:
    """Right lengths and checksums again after a change, so that it gets past the first checks."""
    data = bytearray(frame[: 14 + 65535])  # more is no packet
    if data[12:14] == b"\x08\0" and len(data) > 42:
        data[14], data[23] = 0x45, 17
        data[16:18] = (len(data) - 14).to_bytes(2, "big")
        data[38:40] = (len(data) - 34).to_bytes(2, "big")
        data[40:42] = data[24:26] = b"\0\0"
        data[24:26] = (0xFFFF ^ fold(bytes(data[14:34]))).to_bytes(2, "big")
    elif data[12:14] == b"\x86\xdd" and len(data) > 62:
        at = 56 if data[20] == 58 else 60
        data[18:20] = (len(data) - 54).to_bytes(2, "big")
        if at == 60:
            data[58:60] = (len(data) - 54).to_bytes(2, "big")
        data[at : at + 2] = b"\0\0"
        pseudo = bytes(data[22:54]) + (len(data) - 54).to_bytes(4, "big") + bytes((0, 0, 0, data[20]))
        data[at : at + 2] = (0xFFFF ^ fold(pseudo + bytes(data[54:]))).to_bytes(2, "big")
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_each_message_reaches_its_handler(kind: str) -> None:
    assert answer(PLANS[0], ANSWERED[kind]) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_cut_short_anywhere_gets_no_answer(kind: str) -> None:
    frame = ANSWERED[kind]
    assert [size for size in range(len(frame)) if answer(PLANS[0], frame[:size]) is not None] == []


@pytest.mark.parametrize("value", [0, 1, 4, 0x7F, 0x80, 0xFF])
@pytest.mark.parametrize("kind", KINDS)
def test_no_single_byte_or_length_of_a_message_can_raise(kind: str, value: int) -> None:
    """Each byte and each pair of bytes set to an edge value, as it is and with the checksums right again."""
    frame = ANSWERED[kind]
    for at in range(len(frame)):
        for size in (1, 2):
            changed = (frame[:at] + bytes((value,)) * size + frame[at + size :])[: len(frame)]
            answer(PLANS[0], changed)
            answer(PLANS[0], repair(changed))


@pytest.mark.parametrize("kind", KINDS)
def test_repairing_changes_nothing_in_a_valid_message(kind: str) -> None:
    """Otherwise the mutations below would test nothing."""
    assert answer(PLANS[0], repair(ANSWERED[kind])) == answer(PLANS[0], ANSWERED[kind])


@given(st.binary(max_size=2000), st.sampled_from(PLANS))
def test_any_bytes_get_a_well_formed_answer_or_none(frame: bytes, plan: WorkerPlan) -> None:
    answer(plan, frame)


@given(st.binary(max_size=600), st.sampled_from([0x0800, 0x0806, 0x86DD]), st.sampled_from(PLANS), st.integers(0, 255))
def test_any_payload_of_our_protocols_gets_a_well_formed_answer_or_none(
    payload: bytes, ethertype: int, plan: WorkerPlan, protocol: int
) -> None:
    data = bytearray(ether(payload, ethertype))
    if ethertype == 0x86DD and len(data) > 20:
        data[14], data[20] = 0x60, protocol
    answer(plan, repair(bytes(data)))


_EDITS = st.lists(
    st.tuples(st.sampled_from(["set", "cut", "insert", "repeat"]), st.integers(0, 1500), st.binary(max_size=40)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=1000)
@given(st.sampled_from(KINDS), _EDITS, st.booleans(), st.sampled_from(PLANS))
def test_any_change_to_a_valid_message_gets_a_well_formed_answer_or_none(
    kind: str, edits: list[tuple[str, int, bytes]], mend: bool, plan: WorkerPlan
) -> None:
    frame = ANSWERED[kind]
    for edit, place, data in edits:
        at = place % (len(frame) + 1)
        if edit == "set":
            frame = frame[:at] + data + frame[at + len(data) :]
        elif edit == "cut":
            frame = frame[:at] + frame[at + len(data) :]
        elif edit == "insert":
            frame = frame[:at] + data + frame[at:]
        else:
            frame = frame[:at] + frame[at:] * (1 + len(data) % 4)
    answer(plan, repair(frame) if mend else frame)


@pytest.mark.as_built
@pytest.mark.unsanitized
def test_the_slow_path_imports_nothing_but_its_own_modules() -> None:
    """What a bare interpreter has after importing it, beside what it had before."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules)\n"
        "import pasta_py.worker.slowpath\nprint(*sorted(set(sys.modules) - before))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(root)], capture_output=True, text=True, check=True, timeout=30
    )
    worker = {f"pasta_py.worker{name}" for name in ("", ".arp", ".dhcp4", ".dhcp6", ".frames", ".ndp", ".slowpath")}
    assert set(done.stdout.split()) == {"pasta_py", "pasta_py.defaults", "pasta_py.record"} | worker


def test_stations_get_addresses_of_their_own_until_there_are_none() -> None:
    plan = sample_plan(leases=3)
    leases = dhcp4.Leases(plan)

    def offered(neighbour: int) -> str:
        mac = bytes((2, 0, 0, 0, 7, neighbour))
        frame = ANSWERED["discover"]
        reply = slowpath.reply(plan, frame[:6] + mac + frame[12:], leases)
        return "" if reply is None else ".".join(map(str, reply[58:62]))  # yiaddr

    assert [offered(n) for n in (1, 2, 1, 3, 4, 2)] == ["192.0.2.15", "192.0.2.16", "192.0.2.15", "192.0.2.17", "", "192.0.2.16"]


def test_other_stations_answer_for_themselves() -> None:
    for leases in (1, 2):
        plan = sample_plan(leases=leases)
        for ours, name in ((GATEWAY4, "192.0.2.99"), (GATEWAY6, "2001:db8:1::99")):
            for target, answered in ((ours, True), (name, leases == 1)):
                if ":" in target:
                    frame = ns(target)
                else:
                    frame = arp(GUEST4, target)
                assert (slowpath.reply(plan, frame) is not None) == answered, target
