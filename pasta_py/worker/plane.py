"""The core for Python: wraps the functions of csrc/plane_api.h that take a plane.

run() blocks in C with the GIL released and returns (kind, ident, data). C never calls Python. A Plane has no state but its handle.
"""

import struct
import sys

from pasta_py import _plane
from pasta_py.model import Listener, WorkerPlan
from pasta_py.record import Record
from pasta_py.worker.confine import raise_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Literal

    Verdict = tuple[bool, int, int]

ffi, lib = _plane.ffi, _plane.lib
_unset = ffi.new_allocator(should_clear_after_alloc=False)
_EBUSY = 16
_INSTRUCTION_BYTES = 8  # struct sock_filter

PUNT: int = lib.PLANE_PUNT
WATCH: int = lib.PLANE_WATCH
TICK: int = lib.PLANE_TICK
LOG: int = lib.PLANE_LOG
END: int = lib.PLANE_END
EVENTS: int = lib.PLANE_EVENTS
LIST: int = lib.PLANE_LIST
DNS: int = lib.PLANE_DNS
DNS_STREAM: int = lib.PLANE_DNS_STREAM
ASK: int = lib.PLANE_ASK
SHARDS_MAX: int = lib.SHARDS_MAX

_FLAGS = (
    ("vnet_hdr", lib.PLANE_VNET_HDR),
    ("stream", lib.PLANE_STREAM),
    ("vhost_user", lib.PLANE_VHOST_USER),
    ("uso", lib.PLANE_USO),
    ("tunnels", lib.PLANE_TUNNELS),
    ("tcp", lib.PLANE_TCP),
    ("udp", lib.PLANE_UDP),
    ("icmp", lib.PLANE_ICMP),
    ("lo_to_lo", lib.PLANE_LO_TO_LO),
    ("lossy", lib.PLANE_LOSSY),
    ("splice", lib.PLANE_SPLICE),
    ("dns_tls", lib.PLANE_DNS_TLS),
    ("serves_dns", lib.PLANE_SERVES_DNS),
    ("multicast", lib.PLANE_MULTICAST),
    ("broadcast", lib.PLANE_BROADCAST),
)
_ADDRESSES = ("guest", "gateway", "map_host_loopback", "map_guest_addr", "host", "dns_forward", "dns_host", "outbound")
_NONE = bytes(16)
_PINNED_BYTES = 4096
#: Reasons of a flow that did not name a name as its rule wants it.
OTHER_NAME = "other_name"
UNPROVED = frozenset((OTHER_NAME, "without_name", "not_verified", "name_late"))
#: Reasons of a refused flow that the egress policy denied.
DENIED = UNPROVED | {"rule", "name_ended"}

#: Reasons of a verdict, and the rule of one that comes from no rule.
BY_RULE: int = lib.PLANE_BY_RULE
BY_DEFAULT: int = lib.PLANE_BY_DEFAULT
PIN_ENDED: int = lib.PLANE_PIN_ENDED
NO_RULE: int = lib.PLANE_NO_RULE
_EVENTS_AT_ONCE = 128
_JSON_BYTES = 1024  # room for one event
_ENOENT, _EBUSY = 2, 16
_DNS_PORT = 53


class Plane:
    """One core on one tap (-1: a peer comes with attach()). The tap's descriptor stays the caller's."""

    def __init__(self, plan: WorkerPlan, tap_fd: int, extra_flags: int = 0) -> None:
        self._tap_fd, self._extra_flags = tap_fd, extra_flags
        config = self._config(plan)
        handle = ffi.new("struct plane **")
        raise_errno(lib.plane_new(config, handle))
        self._plane = handle[0]
        self._event = ffi.new("struct plane_event *")
        for address in plan.guest_addrs:
            raise_errno(lib.plane_add_guest_addr(self._plane, address))
        for address in plan.virtual_addrs:
            raise_errno(lib.plane_add_virtual_addr(self._plane, address))
        for address in plan.barred_sources:
            raise_errno(lib.plane_add_barred_source(self._plane, address))

    def _config(self, plan: WorkerPlan) -> "Any":
        config = ffi.new("struct plane_config *")
        config.tap_fd = self._tap_fd
        config.flags = self._extra_flags | sum(bit for name, bit in _FLAGS if getattr(plan, name))
        config.flags |= lib.PLANE_IPV4 * plan.family4.on | lib.PLANE_IPV6 * plan.family6.on
        config.mtu, config.link_mtu = plan.mtu, plan.link_mtu
        config.guest_scope6 = plan.guest_scope6
        config.log_level = plan.log_level
        config.rate_in, config.rate_out = plan.rate_in, plan.rate_out
        config.guest_mac, config.our_mac = plan.guest_mac, plan.our_mac
        for family, planned in zip(config.family, (plan.family4, plan.family6)):
            for name in _ADDRESSES:
                setattr(family, name, getattr(planned, name) or _NONE)
            family.outbound_if = planned.outbound_if.encode("utf-8", "surrogateescape")
            family.ifindex = planned.ifindex
        return config

    def follow(self, plan: WorkerPlan, gone: "tuple[bytes, ...]" = ()) -> None:
        """Take over a changed plan while flows live: its addresses and what it says of the host's interface.

        `gone`: all addresses that the host had and has no more. Flows bound to them end.
        """
        lists = (plan.guest_addrs, plan.virtual_addrs, plan.barred_sources, gone)
        addresses = b"".join(address for each in lists for address in each)
        raise_errno(lib.plane_follow(self._plane, self._config(plan), addresses, [len(each) for each in lists]))

    def add_listeners(self, listener: Listener, fds: "list[int]", *, offset: int = 0, to_host: bool = False) -> None:
        """Forward from fds: bound, non-blocking sockets (TCP: listening) of the listener's ports, from `offset` on."""
        target = listener.target or _NONE
        port = listener.target_port + offset
        raise_errno(lib.plane_add_listeners(self._plane, listener.proto, fds, len(fds), to_host, target, port))

    def remove_listener(self, fd: int) -> None:
        """Stop forwarding from a socket. It stays the caller's."""
        raise_errno(lib.plane_remove_listener(self._plane, fd))

    def set_helper(self, fd: int) -> None:
        """Get sockets of the guest's namespace from the helper at the other end of fd."""
        lib.plane_set_helper(self._plane, fd)

    def listen_in_guest(self, proto: int, address: bytes, port: int) -> int:
        """Make a bound socket (TCP: listening) in the guest's namespace. The descriptor is the caller's."""
        fd: int = lib.plane_listen_in_guest(self._plane, proto, address, port)
        raise_errno(fd)
        return fd

    def diag_in_guest(self) -> int:
        """Make a sock_diag socket in the guest's namespace. The descriptor is the caller's."""
        fd: int = lib.plane_diag_in_guest(self._plane)
        raise_errno(fd)
        return fd

    def capture(
        self, fds: "list[int]", *, pcapng: bool = False, code: bytes = b"", snaplen: int = 0, file_bytes: int = 0
    ) -> None:
        """Capture frames to fds, which stay the caller's. Arguments as the fields of WorkerPlan (`code`: the filter)."""
        held, program = ffi.new("int[]", fds), ffi.from_buffer(code)
        config = ffi.new("struct plane_capture_config *")
        config.fds, config.files, config.file_bytes, config.snaplen = held, len(fds), file_bytes, snaplen
        config.filter, config.filter_len = program, len(code) // _INSTRUCTION_BYTES
        config.flags = lib.PLANE_CAPTURE_PCAPNG if pcapng else 0
        raise_errno(lib.plane_capture(self._plane, config))

    def end_capture(self) -> "tuple[int, int, int, str]":
        """At the end: how many frames and bytes have been captured, how many frames are lost, and why it ended early, or ""."""
        captured = ffi.new("struct plane_captured *")
        error = lib.plane_capture_end(self._plane, captured)
        why = ffi.string(lib.plane_capture_error_text(-error)).decode() if error else ""
        return captured.frames, captured.bytes, captured.dropped, why

    def name_in_captures(self, address: bytes, name: str) -> None:
        """An address of 16 bytes has this name, as plain text: captures in pcapng tell it."""
        text = name.encode("ascii")
        lib.plane_capture_name(self._plane, address, text, len(text))

    def attach_capture(self, fd: int, code: bytes, snaplen: int, first: bytes, *, pcapng: bool = False, size: int = 0) -> int:
        """Send `first` and then frames to a stream socket; a number for detach_capture. BlockingIOError: too many capture.

        `size`: bytes after which another pcapng file begins; 0: never.
        """
        filtered = ffi.from_buffer(code), len(code) // _INSTRUCTION_BYTES
        flags = lib.PLANE_CAPTURE_PCAPNG if pcapng else 0
        number: int = lib.plane_capture_attach(self._plane, fd, *filtered, snaplen, flags, size, first, len(first))
        if number == -_EBUSY:
            raise BlockingIOError(_EBUSY, "too many captures")
        raise_errno(number)
        return number

    def detach_capture(self, number: int) -> "tuple[bytes, int, int, int]":
        """End it: what is left of the last record, and how many frames and bytes there were, and frames that had no room."""
        captured, rest = ffi.new("struct plane_captured *"), ffi.new("uint8_t[]", lib.PLANE_CAPTURE_REST_BYTES)
        size = lib.plane_capture_detach(self._plane, number, captured, rest)
        return ffi.buffer(rest, size)[:], captured.frames, captured.bytes, captured.dropped

    def add_shards(self, tap_fds: "list[int]") -> None:
        """Start a thread for each of these queues of the tap; they stay the caller's. The last call before the sandbox closes."""
        raise_errno(lib.plane_add_shards(self._plane, tap_fds, len(tap_fds)))

    def attach(self, fd: int) -> None:
        """Exchange frames with the peer of this socket. It stays the caller's."""
        raise_errno(lib.plane_attach(self._plane, fd))

    def detach(self) -> None:
        """Forget the peer, after END or before its socket is closed. Flows and ports stay."""
        lib.plane_detach(self._plane)

    def watch(self, fd: int, ident: int) -> None:
        """Make run() return (WATCH, ident, b"") when fd is readable or hung up."""
        raise_errno(lib.plane_watch(self._plane, fd, ident))

    def watch_connect(self, fd: int, ident: int) -> None:
        """The same, once, when the connect() of a socket has ended."""
        raise_errno(lib.plane_watch_connect(self._plane, fd, ident))

    def unwatch(self, fd: int) -> None:
        raise_errno(lib.plane_unwatch(self._plane, fd))

    def await_room(self, fd: int, ident: int, wanted: bool) -> None:
        """Make run() return (WATCH, ident, b"") also while a watched fd has room to write, or no longer."""
        raise_errno(lib.plane_await_room(self._plane, fd, ident, wanted))

    def tick(self, interval_ms: int) -> None:
        """Make run() return (TICK, busy, b"") at this interval; 0 stops it."""
        lib.plane_tick(self._plane, interval_ms)

    def run(self) -> tuple[int, int, bytes]:
        """Block until there is something for Python to do."""
        event = self._event
        raise_errno(lib.plane_run(self._plane, event))
        return event.kind, event.id, ffi.buffer(event.data, event.len)[:] if event.len else b""

    def send(self, frame: bytes) -> None:
        """Send one Ethernet frame, with complete checksums, to the guest. The core counts a frame that the tap does not take."""
        result = lib.plane_send(self._plane, frame, len(frame))
        if result != -11:  # EAGAIN: lost, as on any link
            raise_errno(result)

    # The egress policy: struct plane_verdict of csrc/plane_api.h as (allow, reason, rule).

    def set_egress(self, policy: bytes) -> bool:
        """Put a compiled policy in force, in place of an earlier one; for the first, before add_shards().

        False: it is the same as before. Otherwise flows that it denies end soon: see egress_outcome().
        """
        result = lib.plane_egress(self._plane, policy, len(policy))
        raise_errno(result)
        return bool(result == 0)

    def set_detours(self, plan: WorkerPlan) -> None:
        """Send connections to an inspector or a proxy; after set_egress(), before add_shards()."""
        targets, user, password = plan.detour_targets, plan.proxy_user, plan.proxy_password
        raise_errno(
            lib.plane_detours(
                self._plane, plan.detours, len(plan.detours), targets, len(targets), user, len(user), password, len(password)
            )
        )

    def follow_detours(self, policy: bytes) -> None:
        """After set_detours(): the same rules with the prefixes that the host has now."""
        raise_errno(lib.plane_detours_follow(self._plane, policy, len(policy)))

    def egress_outcome(self) -> "tuple[int, int, int]":
        """After the last change: how many threads have not judged their flows yet, and how many flows were kept and ended."""
        counts = ffi.new("uint32_t[2]")
        waiting: int = lib.plane_egress_outcome(self._plane, counts, counts + 1)
        return waiting, counts[0], counts[1]

    def flow_verdict(self, proto: int, address: bytes, port: int) -> "Verdict":
        """The verdict on a flow that the guest would open now."""
        return self._verdict(lib.plane_egress_flow, proto, address, port)

    def verdict_by_name(self, proto: int, name: bytes, port: int) -> "Verdict":
        """The verdict on a flow to a public address of the name."""
        return self._verdict(lib.plane_egress_by_name, proto, name, len(name), port)

    def name_verdict(self, name: bytes) -> "Verdict":
        """Whether a query for the name (lower-case A-labels without a final dot) is answered."""
        return self._verdict(lib.plane_egress_name, name, len(name))

    def answer_verdict(self, name: bytes, address: bytes) -> "Verdict":
        """Whether an answer for the name may contain the address."""
        return self._verdict(lib.plane_egress_address, name, len(name), address)

    def names_rule(self, name: bytes) -> tuple[bool, bool]:
        """Whether rules allow this very name, and whether they allow a name below it."""
        named = lib.plane_egress_named(self._plane, name, len(name))
        return bool(named & lib.PLANE_NAMED), bool(named & lib.PLANE_NAMED_BELOW)

    def _verdict(self, function: "Callable[..., None]", *args: "int | bytes") -> "Verdict":
        out = ffi.new("struct plane_verdict *")
        function(self._plane, *args, out)
        return bool(out.allow), out.reason, out.rule

    def pin(self, address: bytes, name: bytes, keep_ms: int) -> bool:
        """Judge flows to the address by the rules of the name too, in all threads; False: there is no room for another pin."""
        result: int = lib.plane_egress_pin(self._plane, address, name, len(name), keep_ms)
        if result == -28:  # ENOSPC
            return False
        raise_errno(result)
        return True

    def answered(self, address: bytes, name: bytes) -> None:
        """After (ASK, 0, address and name): the name was asked again, and has pins, or none. What waits for it goes on."""
        lib.plane_egress_answered(self._plane, address, name, len(name))

    def pinned(self, address: bytes) -> "list[bytes]":
        """The names pinned to an address, those of ended pins too."""
        out = ffi.new("char[]", _PINNED_BYTES)
        names: bytes = ffi.buffer(out, lib.plane_egress_pinned(self._plane, address, out, _PINNED_BYTES))[:]
        return names.split()

    def verifies(self, rule: int) -> str:
        """How a rule has names verified: "tls", "http" or "". NO_RULE: whether any rule does."""
        how = lib.plane_egress_verifies(self._plane, rule)
        return "tls" if how & lib.PLANE_TLS else "http" if how else ""

    def named_last(self, address: bytes, port: int) -> str:
        """What a flow to this destination named when it was reset for that; "": it is not known."""
        out = ffi.new("char[]", lib.PLANE_NAME_BYTES)
        name: bytes = ffi.buffer(out, lib.plane_egress_named_last(self._plane, address, port, out))[:]
        return name.decode()

    def counters(self) -> dict[str, int]:
        values: dict[str, int] = {}
        while name := lib.plane_counter_name(len(values)):
            values[ffi.string(name).decode()] = lib.plane_counter(self._plane, len(values))
        return values

    def want_events(self, wanted: bool) -> None:
        """Keep the events of flows from now on, or no longer; run() returns (EVENTS, 0, b"") when some wait."""
        raise_errno(lib.plane_want_events(self._plane, wanted))

    def take_events(self) -> bytes:
        """Records of events, struct flow_event of csrc/core/event.h one after the other; b"" if none waits."""
        room = _unset("struct flow_event[]", _EVENTS_AT_ONCE)
        count = lib.plane_take_events(self._plane, room, _EVENTS_AT_ONCE)
        records: bytes = ffi.buffer(room)[: count * ffi.sizeof("struct flow_event")]
        return records

    def want_names(self, wanted: bool) -> None:
        """Copy DNS answers for the guest from now on, or no longer."""
        raise_errno(lib.plane_want_names(self._plane, wanted))

    def take_answers(self) -> "list[bytes]":
        """The copies that wait, oldest first."""
        room = _unset("uint8_t[]", lib.PLANE_ANSWERS_BYTES)
        data, at, found = ffi.buffer(room, lib.plane_take_answers(self._plane, room))[:], 0, []
        while at < len(data):
            end = at + 2 + (data[at] << 8 | data[at + 1])
            found.append(data[at + 2 : end])
            at = end
        return found

    def lost_events(self) -> int:
        """How many events there was no room for, since the first was wanted."""
        lost: int = lib.plane_lost_events(self._plane)
        return lost

    def list_flows(self, shard: int, start: int) -> bool:
        """Begin a piece of the list of a shard's open flows; False if there is no such shard.

        `start`: the place where it begins, 0 at first. run() returns (LIST, next place or 0, records as of take_events).
        BlockingIOError: a piece is on its way already.
        """
        result = lib.plane_list_flows(self._plane, shard, start)
        if result == -_ENOENT:
            return False
        if result == -_EBUSY:
            raise BlockingIOError
        raise_errno(result)
        return True

    def finish(self) -> None:
        """Pass on what the guest has sent by now. Afterwards only events can be taken, and flows be listed; then close()."""
        lib.plane_finish(self._plane)

    def close(self) -> None:
        """Flush the capture and end every flow. No other call is allowed afterwards."""
        if self._plane:
            lib.plane_free(self._plane)
            self._plane = None


def log_line(fd: int, line: bytes) -> None:
    """Write a line without waiting for its reader; BlockingIOError if there is no room."""
    raise_errno(lib.plane_log_line(fd, line, len(line)))


def events_json(records: bytes, clock_ms: int, separator: bytes, *, ended: bool = False) -> bytes:
    """Records of events as JSON objects (csrc/core/event_json.c), each with the separator behind it.

    `clock_ms`: what to add to CLOCK_MONOTONIC for the time of day. `ended`: listed flows become closed ones, as at the end.
    """
    events = ffi.from_buffer("struct flow_event[]", bytearray(records) if ended else records)
    for event in events if ended else ():
        event.kind, event.reason, event.has_details = lib.FLOW_CLOSED, lib.FLOW_REASON_END, 0
    room = (len(events) + 1) * _JSON_BYTES
    out, written = _unset("char[]", room), ffi.new("uint32_t *")
    size = lib.flow_events_json(events, len(events), clock_ms, separator, out, room, written)
    text: bytes = ffi.buffer(out)[:size]
    return text


class JudgedFlow(Record):
    """A flow that the guest has asked for, for readers of the egress policy's decisions."""

    guest: bytes
    dest: bytes
    port: int
    protocol: str  # tcp, udp, ping
    rule: int  # or NO_RULE
    outcome: str  # the reason for which it was refused; "": it is open
    at_ms: int  # CLOCK_MONOTONIC; since when the guest wants it

_PROTOCOLS = {lib.FLOW_PING: "ping", lib.FLOW_UDP: "udp", lib.FLOW_SPLICE_UDP: "udp"}


def judged_flows(records: bytes) -> "Iterator[JudgedFlow]":
    """Of these records the flows that the guest has opened, or was refused."""
    for event in ffi.from_buffer("struct flow_event[]", records):
        if event.from_host or event.kind not in (lib.FLOW_OPENED, lib.FLOW_REFUSED):
            continue
        refused = event.kind == lib.FLOW_REFUSED
        if not refused and event.dest_port == _DNS_PORT and not any(event.peer):
            continue  # the worker itself is the other end
        yield JudgedFlow(
            guest=ffi.buffer(event.guest)[:], dest=ffi.buffer(event.dest)[:], port=event.dest_port,
            protocol=_PROTOCOLS.get(event.protocol, "tcp"), rule=event.rule,
            outcome=ffi.string(lib.flow_reason_name(event.reason)).decode() if refused else "", at_ms=event.opened_ms,
        )  # fmt: skip


def event_ends(records: bytes) -> "Iterator[tuple[bytes, int]]":
    """Of each record the destination as the guest sees it, 16 bytes, and the index of the rule that decided, or NO_RULE."""
    size, dest, rule = ffi.sizeof("struct flow_event"), *(ffi.offsetof("struct flow_event", name) for name in ("dest", "rule"))
    form = struct.Struct(f"={dest}x16s{rule - dest - 16}xH{size - rule - 2}x")
    return form.iter_unpack(records)


# ---- the helper (pasta_py.worker.helper) ----

BYTE_ORDER: "Literal['little', 'big']" = "little" if sys.byteorder == "little" else "big"


def start_helper(null: int, ours: int, *, by_chroot: bool) -> None:
    """Fork the helper; OSError. `ours` becomes the socket to it, `null` its standard streams. `by_chroot`: as in
    confine.empty_root."""
    raise_errno(lib.helper_start(null, ours, by_chroot))


# ---- following the host (pasta_py.worker.following) ----

FOLLOW_COUNTS_ON_HOST: int = lib.FOLLOW_COUNTS_ON_HOST
FOLLOW_NAMESPACE_GONE: int = lib.FOLLOW_NAMESPACE_GONE


def start_watcher(null: int, ours: int, command: "Iterable[bytes]", environment: "Iterable[bytes]") -> None:
    """Fork the process that waits for changes of the host (csrc/io/follow.c); OSError. `ours` becomes the socket to it, `null` its
    standard streams. For a change it runs `command` with `environment`."""
    words, variables = (b"".join(each + b"\0" for each in strings) for strings in (command, environment))
    raise_errno(lib.follow_start(null, ours, words, len(words), variables, len(variables)))
