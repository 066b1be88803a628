"""`python_target.py NAME [libFuzzer's arguments]`: the parsers written in Python, under Atheris (coverage-guided, in one process).

    arp ndp dhcp4 dhcp6   a frame of the guest: bytes in, one well-formed reply or None out, nothing else ever
    wire                  what the worker reads from control: a value that encodes to the same bytes, or WireError
    update                what a client sends to the control socket, in one piece and in many: rules, or ConfError
    shown                 what pesto reads from a control socket: tables that can be shown and written again, or ConfError
    slirp_api             requests to slirp4netns's API socket: one JSON object for each, and the rules that it speaks of
    portspec options      what a user writes: a value, or one line that says what was refused

The first byte of a frame's input chooses its plan and how much of the frame is the input's own: from a bare frame to a message
inside sound headers with right checksums, so that mutations reach the message. Inputs of the last two are text; the API's are
requests with a line between them that is "--".
"""

import json
import os
import struct
import sys
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "worker")]

with atheris.instrument_imports(include=["pasta_py"], enable_loader_override=False):
    from pasta_py import hostports, model, pesto_protocol, worker_protocol
    from pasta_py.control.commandline import options, port_spec
    from pasta_py.control.pesto import main as pesto
    from pasta_py.control.slirp4netns import api as slirp_api
    from pasta_py.errors import ConfError, PastaError, UsageError, WireError, WorkerError
    from pasta_py.worker import slowpath

from checker.frame import decode  # noqa: E402
from messages import GUEST_LL6, OUR_LL6, ether, ip6, udp4  # noqa: E402
from sample_plan import addr, sample_plan  # noqa: E402

PLANS = (
    sample_plan(),
    sample_plan(guest6=b"", ra=False, assign_mtu=False, hostname="", fqdn=""),
    sample_plan(dns=(), search=(), gateway4=b"", gateway6=b""),
    sample_plan(
        dns=tuple(addr(f"2001:db8::{i:x}") for i in range(60)) + tuple(addr(f"192.0.2.{i}") for i in range(80)),
        search=tuple(f"{'x' * 50}.{i}.example" for i in range(80)),
        hostname="h" * 63,
        fqdn=".".join(["f" * 63] * 3),
        prefix4=31,
        map_guest_addr4=addr("192.0.2.77"),
        mtu=1280,
    ),
)
OUR_FRAME_BYTES = 1514


def check_reply(frame: bytes, choice: int) -> None:
    plan = PLANS[choice % len(PLANS)]
    answer = slowpath.reply(plan, frame)
    if answer is None:
        return
    assert type(answer) is bytes and len(answer) <= OUR_FRAME_BYTES
    assert answer[6:12] == plan.our_mac
    decode(answer)


def arp(data: bytes) -> None:
    bare = data[0] & 4
    check_reply(data[1:] if bare else ether(data[1:], 0x0806), data[0])


def ndp(data: bytes) -> None:
    message = data[1:5].ljust(4, b"\0") + data[5:]
    if data[0] & 4:
        check_reply(data[1:], data[0])
        return
    source = "::" if data[0] & 8 else GUEST_LL6
    group = "ff02::1:ff00:1" if message[0] == 135 else "ff02::2"
    check_reply(ip6(58, message[:2] + b"\0\0" + message[4:], source, OUR_LL6 if data[0] & 16 else group, 255), data[0])


def dhcp4(data: bytes) -> None:
    """The options follow a fixed part that is sound unless bit 3 says that it is the input's."""
    if data[0] & 4:
        check_reply(data[1:], data[0])
        return
    fixed = b"" if data[0] & 8 else b"\x01\x01\x06\0\x12\x34\x56\x78" + bytes(228) + b"\x63\x82\x53\x63"
    source = ("192.0.2.15", "192.0.2.1") if data[0] & 16 else ("0.0.0.0", "255.255.255.255")
    check_reply(udp4(fixed + data[1:], src=source[0], dst=source[1]), data[0])


def dhcp6(data: bytes) -> None:
    if data[0] & 4:
        check_reply(data[1:], data[0])
        return
    head = struct.pack("!HHHH", 546, 547, 8 + len(data) - 1, 0)
    check_reply(ip6(17, head + data[1:], GUEST_LL6, OUR_LL6 if data[0] & 16 else "ff02::1:2", 64), data[0])


def plan_message(data: bytes) -> None:
    try:
        value = worker_protocol.decode(data)
    except WireError:
        return
    again = worker_protocol.decode(worker_protocol.encode(value))
    assert again == value and type(again) is type(value)


def one_line(error: PastaError) -> None:
    assert str(error) and "\n" not in str(error)


def survives(rule: model.ForwardRule, ipv6: bool) -> None:
    again = pesto_protocol.read_rule(pesto_protocol.write_rule(rule, ipv6=ipv6), to_host=rule.to_host, ipv6=ipv6)
    assert again == rule, f"{rule} comes back as {again}"
    assert pesto_protocol.describe(rule).isprintable()


def fed(data: bytes, piece: int, ipv6: bool) -> tuple[object, ...]:
    """How a reader ends that gets the bytes in pieces of this size: the rules, whether that was all, and what was refused."""
    reader = pesto_protocol.UpdateReader(ipv6=ipv6)
    assert not reader.started
    try:
        for at in range(0, len(data), piece):
            reader.feed(data[at : at + piece])
    except ConfError as error:
        one_line(error)
        return tuple(reader.rules), False, str(error)
    assert reader.started or not data
    assert len(reader.rules) <= len(pesto_protocol.NAMES) * pesto_protocol.MAX_RULES
    return tuple(reader.rules), reader.complete, ""


def update(data: bytes) -> None:
    """The first byte: whether there is IPv6, and the size of the pieces."""
    ipv6, piece, data = bool(data[0] & 1), 1 + (data[0] >> 1), data[1:]
    outcome = fed(data, len(data) or 1, ipv6)
    assert fed(data, piece, ipv6) == outcome
    rules, complete, refused = outcome
    assert not (complete and refused)
    for rule in rules:  # type: ignore[attr-defined]
        survives(rule, ipv6)
    try:
        pesto_protocol.check(rules)  # type: ignore[arg-type]
    except ConfError as error:
        one_line(error)


def shown(data: bytes) -> None:
    """What stands for the hello is the input's own only where bit 0 of its first byte says so."""
    rest = data[1:] if data[0] & 1 else pesto_protocol.hello() + data[1:]

    def take(count: int) -> bytes:
        nonlocal rest
        if len(rest) < count:
            raise ConfError("cut short")
        taken, rest = rest[:count], rest[count:]
        return taken

    try:
        tables = pesto.read_tables(take)
    except ConfError as error:
        one_line(error)
        return
    assert len(pesto.show(tables).splitlines()) == len(pesto_protocol.NAMES) + len(tables.rules)
    for rule in tables.rules:
        assert pesto_protocol.describe(rule).isprintable()


class Forwards:
    """In the place of the worker: the rules that it would have, and its refusals."""

    def __init__(self) -> None:
        self.rules: list[model.ForwardRule] = []

    def change(self, rule: model.ForwardRule, fd: int = -1) -> None:
        if fd < 0:
            self.rules.remove(rule)
            return
        try:
            pesto_protocol.check([*self.rules, rule])
        except ConfError as error:
            raise WorkerError(str(error)) from None
        self.rules.append(rule)


def bind(_proto: int, address: bytes, _ifname: str, port: int) -> int:
    """In the place of a socket: any descriptor; ports below 1024 are refused."""
    assert len(address) == 16 and hostports.is_ipv4(address) and 0 < port <= 65535
    if port < 1024:
        raise PermissionError(13, os.strerror(13))
    return os.open(os.devnull, os.O_RDONLY)


def api(data: bytes) -> None:
    worker = Forwards()
    slirp_api.hostports.bind = bind  # type: ignore[assignment]
    forwards = slirp_api.HostForwards(worker, IPv4Address("10.0.2.100"))  # type: ignore[arg-type]
    for request in data.split(b"\n--\n"):
        before = list(worker.rules)
        slirp_api._is_object(request)
        answer = json.loads(forwards.answer(request))
        if "error" in answer:
            assert list(answer) == ["error"] and answer["error"]["desc"].startswith("bad request: ")
            assert worker.rules == before
        else:
            assert isinstance(answer["return"], dict)
    listed = json.loads(forwards.answer(b'{"execute":"list_hostfwd"}'))
    assert listed["entries"] == listed["return"]["entries"]
    assert len(listed["entries"]) == len(worker.rules)
    for entry, rule in zip(listed["entries"], worker.rules):
        assert (entry["host_port"], entry["guest_port"]) == (rule.first, rule.target_first)
        assert rule.address == addr(entry["host_addr"]) and rule.target == addr(entry["guest_addr"])
        assert rule.proto == model.IPPROTO_TCP if entry["proto"] == "tcp" else rule.proto == model.IPPROTO_UDP


def ports(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape").removesuffix("\n")
    specs: tuple[port_spec.PortSpec, ...] = ()
    for number, part in enumerate(text.split("\n")[:4]):
        try:
            spec = port_spec.parse(part, listen=not part.startswith("!"))
            assert port_spec.parse(str(spec)) == spec, f"{part!r} is written as {str(spec)!r}"
            specs = port_spec.add(specs, spec)
            rules = port_spec.resolve(specs)
        except UsageError as error:
            one_line(error)
            continue
        assert all(0 < rule.first <= rule.last <= 65535 for rule in rules), number


def command_line(data: bytes) -> None:
    """One argument a line."""
    text = data.decode("utf-8", "surrogateescape").removesuffix("\n")
    try:
        parsed = options.parse(text.split("\n"), "pasta")
        assert parsed.program == "pasta"
    except UsageError as error:
        one_line(error)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "arp": arp,
    "ndp": ndp,
    "dhcp4": dhcp4,
    "dhcp6": dhcp6,
    "wire": plan_message,
    "update": update,
    "shown": shown,
    "slirp_api": api,
    "portspec": ports,
    "options": command_line,
}


def main() -> None:
    target = TARGETS[sys.argv.pop(1)]

    def one(data: bytes) -> None:
        if data:
            target(data)

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
