"""Purpose: all that control and worker say to each other, and the encoding of the plan.

They share a SOCK_SEQPACKET socketpair. Each row is one message; what the worker says is a line, newline included. In order:

    control -> worker   "UID GID 0" or "UID GID 1"   arguments of worker.__main__.main: the user to become, if any, by_chroot,
                        or "0" or "1"; then names    and modules to load. Only for a fork of control: a worker that is started
                                                     as a program has them
    control -> worker   "PLAN", u32 size, u32 count  the bytes of the encoded WorkerPlan, and the descriptors, that follow
    control -> worker   "d" and up to 64 KiB         until both are complete: the next bytes, and the next descriptors, up to 250
                                                     (SCM_RIGHTS). Descriptors are in the order of plan.descriptors, which
                                                     control/start/hand_over.py makes; then comes one bound
                                                     socket for each port of plan.listeners
    worker -> control   "warning LINE"               any number, for the user
    worker -> control   "ready PID"                  the worker is locked in and serves; PID as control sees it
                        or "error LINE"              it cannot; this may come at any time before "ready", and ends the worker

then, where plan.changing is false:

    control -> worker   "detach"                     the worker outlives control, and closes its end

or where it is true, any number of times:

    control -> worker   an encoded ForwardRule       of one port of the host: to be added, and a descriptor is its bound socket;
                                                     to be removed, if there is no descriptor
    worker -> control   "done" or "error LINE"       after an error nothing is changed

What ends the worker, with its exit status:

    0         control closes its end before "detach", or says anything that does not belong there; SIGTERM, SIGQUIT; the watched
              process of the guest's namespace ends, or its watched name goes; the tap goes, but for the next case
    1         an error; before "detach", the tap goes while control and a watched process or name are still there
    128 + n   SIGINT and SIGHUP before "detach". They are ignored later, and always if control's caller ignores them

Control reads the end of file when the worker has ended. It waits 60 s for "ready".

A value is encoded as a tag byte and what the tag says: i 8 bytes signed big-endian; t, f, n nothing; b, s a 4-byte length and
the bytes; ( a 4-byte count and the items; R a record: class name as s, then its fields as a tuple.

Invariants: decode(encode(x)) == x; decode of any bytes either returns such a value or raises WireError.

Rejected: pickle and marshal (unsafe on bytes that are not trusted), json (1.4 MB more in the worker).
"""



import _socket
import struct
import sys

from pasta_py import model
from pasta_py.errors import WireError
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TypeAlias

    Value: TypeAlias = "int | bool | None | bytes | str | tuple[Value, ...] | Record"

_CLASSES = (model.AutoRule, model.FamilyPlan, model.ForwardRule, model.HostUpdate, model.Listener, model.WorkerPlan)
_RECORDS: "dict[str, type[Record]]" = {cls.__name__: cls for cls in _CLASSES}
_MAX_DEPTH = 12
MAX_PLAN_BYTES = 16 << 20
_CHUNK_BYTES = 64 << 10
_ARGUMENTS_BYTES = 256
_LINE_BYTES = 4096
_CHANGE_BYTES = 1 << 10  # room for one rule: a worker that is short of memory must still notice that control is gone
_FDS_PER_MESSAGE = 250  # SCM_MAX_FD is 253
_FD_BYTES = 4
#: Environment variables that the worker keeps begin so: of the dynamic linker, of malloc, and of sanitizers and gcov.
KEPT_ENVIRONMENT = ("LD_", "MALLOC_", "ASAN_", "LSAN_", "TSAN_", "UBSAN_", "GCOV_")


def path_bytes(path: str) -> bytes:
    """As os.fsencode."""
    return path.encode(sys.getfilesystemencoding(), "surrogateescape")


def rights(fds: "Sequence[int]") -> "tuple[int, int, bytes]":
    """Ancillary data that carries descriptors (unix(7), SCM_RIGHTS)."""
    return _socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds)  # array takes 2 ms to import


def descriptors(payload: bytes) -> "tuple[int, ...]":
    """The descriptors in ancillary data of that kind; it may end in the middle of one."""
    count = len(payload) // _FD_BYTES
    return struct.unpack(f"{count}i", payload[: count * _FD_BYTES])


def encode(value: "Value") -> bytes:
    """The bytes of a value; TypeError for a type that has no encoding."""
    if value is None:
        return b"n"
    if value is True:
        return b"t"
    if value is False:
        return b"f"
    if isinstance(value, int):
        return b"i" + value.to_bytes(8, "big", signed=True)
    if isinstance(value, (bytes, str)):
        data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        return (b"s" if isinstance(value, str) else b"b") + len(data).to_bytes(4, "big") + data
    if isinstance(value, tuple):
        return b"(" + len(value).to_bytes(4, "big") + b"".join(map(encode, value))
    if isinstance(value, Record):
        return b"R" + encode(type(value).__name__) + encode(tuple(value.__dict__.values()))
    raise TypeError(f"cannot encode {type(value).__name__}")


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.pos = data, 0

    def take(self, count: int) -> bytes:
        end = self.pos + count
        if end > len(self.data):
            raise WireError(f"plan is cut short: {count} bytes wanted at {self.pos} of {len(self.data)}")
        piece = self.data[self.pos : end]
        self.pos = end
        return piece

    def length(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def value(self, depth: int = 0) -> "Value":
        if depth > _MAX_DEPTH:
            raise WireError("plan is nested too deeply")
        tag = self.take(1)
        if tag == b"n":
            return None
        if tag in (b"t", b"f"):
            return tag == b"t"
        if tag == b"i":
            return int.from_bytes(self.take(8), "big", signed=True)
        if tag == b"b":
            return self.take(self.length())
        if tag == b"s":
            try:
                return self.take(self.length()).decode("utf-8", "surrogateescape")
            except UnicodeDecodeError as error:
                raise WireError(f"plan holds a string that is not UTF-8: {error}") from None
        if tag == b"(":
            count = self.length()
            if count > len(self.data) - self.pos:
                raise WireError(f"plan holds a tuple of {count} items in {len(self.data)} bytes")
            return tuple(self.value(depth + 1) for _ in range(count))
        if tag == b"R":
            return self.record(depth)
        raise WireError(f"plan holds the unknown tag {tag!r}")

    def record(self, depth: int) -> Record:
        name, values = self.value(depth + 1), self.value(depth + 1)
        cls = _RECORDS.get(name) if isinstance(name, str) else None
        if cls is None or not isinstance(values, tuple) or len(values) != len(cls._fields):
            raise WireError(f"plan holds an unknown or incomplete record {name!r}")
        return cls(**dict(zip(cls._fields, values)))


def decode(data: bytes) -> "Value":
    """The value that `data` encodes; WireError for anything else."""
    reader = _Reader(data)
    value = reader.value()
    if reader.pos != len(data):
        raise WireError(f"plan has {len(data) - reader.pos} bytes too many")
    return value


def send_arguments(sock: "_socket.socket", runas: "Sequence[int]", by_chroot: bool, modules: "Sequence[str]" = ()) -> None:
    """Tell a fork what `worker.__main__.main` is called with. `runas`: UID and GID, or nothing."""
    sock.send(" ".join(map(str, (*runas, int(by_chroot), *modules))).encode())


def recv_arguments(sock: "_socket.socket") -> "tuple[list[int], bool, list[str]] | None":
    """The same as the fork gets it; None if control closed instead."""
    words = sock.recv(_ARGUMENTS_BYTES).decode().split()
    if not words:
        return None
    numbers = [int(word) for word in words if word.isdigit()]
    return numbers[:-1], bool(numbers[-1]), words[len(numbers) :]


def send_line(sock: "_socket.socket", line: str) -> None:
    """Say a line to control; dropped if control has gone."""
    try:
        sock.send(line.replace("\n", " ").encode("utf-8", "replace") + b"\n")
    except OSError:
        pass


def recv_line(sock: "_socket.socket") -> "tuple[str, str]":
    """What the worker says next, as control gets it: the word and the rest of the line, or ("", "") when it has ended.

    If the worker ended before it read all that control had sent, the kernel reports ECONNRESET once, before the last line.
    """
    try:
        message = sock.recv(_LINE_BYTES)
    except ConnectionResetError:
        message = sock.recv(_LINE_BYTES)
    word, _, rest = message.decode("utf-8", "replace").strip().partition(" ")
    return word, rest


def send_plan(sock: "_socket.socket", plan: model.WorkerPlan, fds: "Sequence[int]") -> None:
    """Send the plan and its descriptors, in the order that the head of this file gives."""
    data = encode(plan)
    sock.send(b"PLAN" + len(data).to_bytes(4, "big") + len(fds).to_bytes(4, "big"))
    chunks = [data[i : i + _CHUNK_BYTES] for i in range(0, len(data), _CHUNK_BYTES)]
    batches = [rights(fds[i : i + _FDS_PER_MESSAGE]) for i in range(0, len(fds), _FDS_PER_MESSAGE)]
    for index in range(max(len(chunks), len(batches))):
        sock.sendmsg([b"d" + chunks[index] if index < len(chunks) else b"d"], batches[index : index + 1])


class Descriptors:
    """A queue of descriptors. Runs of consecutive numbers are one entry: thousands of ports take little memory."""

    def __init__(self) -> None:
        self._runs: list[list[int]] = []  # first, count

    def append(self, fd: int) -> None:
        if self._runs and fd == self._runs[-1][0] + self._runs[-1][1]:
            self._runs[-1][1] += 1
        else:
            self._runs.append([fd, 1])

    def __len__(self) -> int:
        return sum(count for _first, count in self._runs)

    def __iter__(self) -> "Iterator[int]":
        return (fd for first, count in self._runs for fd in range(first, first + count))

    def take(self, count: int) -> "list[int]":
        """Remove and return the first `count`, or fewer if there are fewer."""
        taken: list[int] = []
        while len(taken) < count and self._runs:
            run = self._runs[0]
            part = min(run[1], count - len(taken))
            taken += range(run[0], run[0] + part)
            run[0], run[1] = run[0] + part, run[1] - part
            if not run[1]:
                self._runs.pop(0)
        return taken


def descriptor_count(plan: model.WorkerPlan) -> int:
    """How many descriptors belong to a plan."""
    return len(plan.descriptors) + sum(listener.count for listener in plan.listeners)


def recv_plan(sock: "_socket.socket") -> "tuple[model.WorkerPlan, Descriptors] | None":
    """The plan and its descriptors (close-on-exec); None if control closed before sending one."""
    header = sock.recv(64)
    if not header:
        return None
    if len(header) != 12 or header[:4] != b"PLAN":
        raise WireError(f"not a plan: {header[:16]!r}")
    size, count = int.from_bytes(header[4:8], "big"), int.from_bytes(header[8:], "big")
    if size > MAX_PLAN_BYTES:
        raise WireError(f"a plan of {size} bytes is over the limit of {MAX_PLAN_BYTES}")
    data = bytearray()
    fds = Descriptors()
    space = _socket.CMSG_SPACE(_FDS_PER_MESSAGE * _FD_BYTES)
    while len(data) < size or len(fds) < count:
        message, ancillary, flags, _ = sock.recvmsg(_CHUNK_BYTES + 1, space, _socket.MSG_CMSG_CLOEXEC)
        if not message:
            raise WireError("control closed in the middle of the plan")
        if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
            raise WireError("a plan message was cut: too many open files, or too long a message")
        data += message[1:]
        for _level, _kind, payload in ancillary:
            for fd in descriptors(payload):
                fds.append(fd)
    plan = decode(bytes(data))
    if not isinstance(plan, model.WorkerPlan) or len(fds) != count or descriptor_count(plan) != count:
        raise WireError("the plan and its descriptors do not belong together")
    return plan, fds


def send_change(sock: "_socket.socket", rule: model.ForwardRule, fd: int = -1) -> None:
    """Ask a worker that serves to add a rule of one port, `fd` being its bound socket, or to remove it, without `fd`."""
    sock.sendmsg([encode(rule)], [] if fd < 0 else [rights([fd])])


def recv_message(sock: "_socket.socket") -> "tuple[bytes, list[int]]":
    """What control says to a worker that serves, and descriptors (close-on-exec); b"" when control has closed."""
    message, ancillary, flags, _ = sock.recvmsg(_CHANGE_BYTES, _socket.CMSG_SPACE(_FD_BYTES), _socket.MSG_CMSG_CLOEXEC)
    fds = [fd for _level, _kind, payload in ancillary for fd in descriptors(payload)]
    if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):  # without its descriptor a change would mean "remove"
        message = b"cut"
    return message, fds
