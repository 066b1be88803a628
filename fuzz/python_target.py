"""`python_target.py NAME [libFuzzer's arguments]`: fuzzes a Python parser with Atheris (coverage-guided, in one process).

    arp ndp dhcp4 dhcp6   input: a frame of the guest. Result: one well-formed reply, or None
    wire                  input: a message from control to the worker. Result: a value that encodes to an equal one, or WireError
    update                input: what a client sends to the control socket, in one piece and in many. Result: rules, or ConfError
    shown                 input: what pesto reads from a control socket. Result: tables that pesto can show, or ConfError
    slirp_api             input: requests to slirp4netns's API socket. Result: a JSON object for each, and the rules that it names
    control               input: what a client sends to the control socket. Result: an answer to each line, one JSON object or more
    control_egress        input: the same on a socket of --control, for an instance with rules. Result: as above
    dns                   input: a DNS message of either side. Result: a message that is written and read again, or Malformed
    dns_service           input: a guest's query, "--", a nameserver's answer. Result: one well-formed answer at most
    portspec options      input: text of a user. Result: a value, or a one-line error

The first byte of a frame's input chooses the plan, and what the rest of the input is: a whole frame, or a message that gets valid
headers with correct checksums, so that mutations reach the message. portspec and options take text. A line "--" separates the
requests of slirp_api.
"""

import contextlib
import json
import os
import socket
import struct
import sys
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import atheris

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "worker"), str(ROOT / "tests" / "programs")]

with atheris.instrument_imports(include=["pasta_py"], enable_loader_override=False):
    from pasta_py import hostports, model, pesto_protocol, worker_protocol
    from pasta_py.control.commandline import options, port_spec
    from pasta_py.control.pesto import main as pesto
    from pasta_py.control.slirp4netns import api as slirp_api
    from pasta_py.errors import ConfError, PastaError, UsageError, WireError, WorkerError
    from pasta_py.worker import (
        control_server,
        dns_decide,
        dns_service,
        dns_wire,
        event_readers,
        plane,
        rule_set,
        slowpath,
    )

from checker.frame import decode  # noqa: E402
from dns_rules import Rules  # noqa: E402
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
    """Options after a valid fixed part; with bit 3 the fixed part comes from the input too."""
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
    """Feed a reader in pieces of this size. Returns the rules, whether the update is complete, and the error."""
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
    """The first byte chooses whether there is IPv6, and the size of the pieces."""
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
    """A valid hello comes first, unless bit 0 of the first byte is set."""
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
    assert len(pesto.show(tables, "title").splitlines()) == 1 + len(pesto_protocol.NAMES) + len(tables.rules)
    for rule in tables.rules:
        assert pesto_protocol.describe(rule).isprintable()


class Forwards:
    """Stands in for the worker: keeps its rules and refuses what it would refuse."""

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
    """Stands in for binding a socket: returns some descriptor, refuses ports below 1024."""
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


class NoCore:
    """What the control socket wants of a core without flows."""

    def counters(self) -> dict[str, int]:
        return {"tap_rx_bytes": 1, "tap_tx_bytes": 2, "tcp_flows": 3}

    def list_flows(self, _shard: int, _start: int) -> bool:
        return False

    def __getattr__(self, _name: str) -> Callable[..., int]:
        return lambda *_arguments: 0


def control(data: bytes) -> None:
    core: Any = NoCore()
    answer_all(data, control_server.Context(core, PLANS[0], core, 1, 0.0, event_readers.Readers(core)))


#: "allow a.test:443", and nothing else.
ONE_RULE = bytes.fromhex("01000100 0000 0000 0001 0000 01 03 03 00 01bb 01bb") + b"\x06a.test"


def control_egress(data: bytes) -> None:
    tap, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    plan = PLANS[0].replace(egress=ONE_RULE, egress_rules=("--allow\tallow a.test:443\t",), egress_default="none")
    log: Any = NoCore()
    with tap, other, contextlib.closing(plane.Plane(plan, tap.fileno())) as core:
        core.set_egress(plan.egress)
        hub = event_readers.Readers(core)
        decider = dns_decide.Decider(Rules("allow a.test"))
        dns = dns_service.Service(plan, decider, log, log, log.send)
        context = control_server.Context(core, plan, log, 1, 0.0, hub)
        context.policy = rule_set.Policy(core, plan, log, dns, lambda: hub, lambda: None)
        answer_all(data, context, changing=True)
        rules = context.policy.rules
        for verdict in (core.name_verdict(b"a.test"), core.flow_verdict(6, addr("203.0.113.7"), 443)):
            assert verdict[2] == plane.NO_RULE or rules.rule(verdict[2])
        context.policy.on_tick(end=True)


def answer_all(data: bytes, context: "control_server.Context", *, changing: bool = False) -> None:
    listener, ours, theirs = socket.socket(socket.AF_UNIX), *socket.socketpair()
    server = control_server.Server(listener.detach(), 1, context, {}, lambda: None, 0, changing=changing)
    client = control_server._Client(server, theirs, 0, 1 << 16)
    server._clients[0] = client
    context.core.watch(theirs.fileno(), client.ident)
    ours.setblocking(False)
    with ours, contextlib.closing(server._listener):
        ours.sendall(data)
        answers = b""
        for _ in range(len(data) // control_server._RECEIVE_BYTES + 1):
            if not client._gone:
                client.on_ready()
            with contextlib.suppress(BlockingIOError, ConnectionResetError):
                answers += ours.recv(1 << 20)
        client.drop()
    found = [json.loads(line) for line in answers.splitlines()]
    assert all(answer["v"] == 1 for answer in found)
    assert answers.isascii() and b"\x1b" not in answers
    follows = any(word in data for word in (b"follow", b"denials"))
    assert follows or len(found) >= min(data.count(b"\n"), 1)


def dns(data: bytes) -> None:
    """Record data may outgrow 16 bits when its names are uncompressed: such a message is not written."""
    try:
        quick = dns_wire.question(data)
        query = dns_wire.read_query(data)
        if query and dns_wire.is_query(query) and b"\xc0" not in data[12:270]:
            assert quick == (query.name, query.kind)
        message = dns_wire.read(data)
    except dns_wire.Malformed:
        return
    records = [record for section in message.sections for record in section]
    for record in records:
        assert dns_wire.from_text(dns_wire.text(record.name)) == record.name
        dns_wire.target(record)
    assert len(dns_wire.write(message, 1232)) <= 1232 or len(dns_wire._opt(message.edns or dns_wire.Edns(0))) > 900
    if sum(len(record.name) + 10 + len(record.data) for record in records) > 50000:
        return
    again = dns_wire.read(dns_wire.write(message))
    for record, other in zip(records, (record for section in again.sections for record in section), strict=True):
        assert (record.name.lower(), record.kind, record.ttl) == (other.name.lower(), other.kind, other.ttl)
        assert record.data.lower() == other.data.lower()


class Answering:
    """Stands in for the nameservers: answers every question with the same bytes, whatever question these repeat."""

    busy = False

    def __init__(self, data: bytes) -> None:
        self.data = data

    def ask(self, name: bytes, _kind: int, done: Callable[[object], None], *, do: bool, cd: bool) -> bool:
        assert isinstance(do, bool) and isinstance(cd, bool)
        try:
            answer = dns_wire.read(self.data)
        except dns_wire.Malformed:
            done(None)
            return True
        for record in answer.sections[0][:2]:
            record.name = name
        done(answer)
        return True


def answered(data: bytes) -> None:
    """What the guest gets is well-formed, and has no address that is not allowed."""
    query, _, upstream = data[1:].partition(b"--")
    rules = Rules("allow *.test", "deny bad.test", "allow inside.test=10.0.0.0/8", allow_others=bool(data[0] & 1), room=data[0])
    got: list[bytes] = []
    made = dns_service.Service(PLANS[0], dns_decide.Decider(rules, ()), Answering(upstream), None, got.append)  # type: ignore[arg-type]
    made.on_query(query, dns_service.Client(got.append, 512 if data[0] & 2 else 65535))
    assert len(got) <= 1
    for answer in got:
        assert answer[:2] == query[:2] and answer[2] & 0x80
        assert not data[0] & 2 or len(answer) <= 512
        if answer[4:6] == b"\0\0":  # FORMERR and NOTIMP have no question
            continue
        told = dns_wire.read(answer)
        for record in told.sections[0]:
            if record.kind == dns_wire.A and not told.name.lower().endswith(dns_wire.from_text("inside.test")):
                assert record.data[:1] != b"\x0a"
    assert len(rules.pins) <= data[0]


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
    """Each line is one argument."""
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
    "control": control,
    "control_egress": control_egress,
    "dns": dns,
    "dns_service": answered,
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
