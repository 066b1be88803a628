"""The two processes that follow the host: they tell the guest and the worker what has changed there (docs/follow.md).

    worker ──fork──  launcher                    waits until the worker serves
                        ├─ becomes the watcher   host's network namespace, no capability: reads events, makes the plan again
                        └─fork── applier         guest's namespaces, CAP_NET_ADMIN there: sets and removes on our interface

The watcher tells the applier what the guest is to have, over one socket, and the worker what that means for it, over another. It
reads nothing from the worker. The applier reads nothing but that socket and the guest's tables.

Both forks come from the worker before it confines itself, and before it has loaded anything large. They wait without loading
anything; for a change each forks a child, which loads what it needs, does the work, answers and ends. So waiting takes little
memory and no time. Rejected: forks of control, which has loaded all that and would keep it; threads of the worker, which reads
frames.

When the worker ends, so do both. When one of them ends, so does the other, and the worker says that following has ended.
"""

import _socket
import fcntl
import posix as os  # os takes 0.8 ms to import
import sys
import time

from pasta_py import model, worker_protocol
from pasta_py.errors import WireError
from pasta_py.worker import confine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Value = worker_protocol.Value

WARNING, INFO = 1, 2  # log levels, as in WorkerPlan.log_level
_MAX_FD = 1 << 20
_FDS_MAX = 8
_NETLINK_BYTES = 64 << 10
_NS_GET_USERNS = 0xB701  # ioctl_ns(2)
_SEEN_MAX = 1024
# A change comes as a burst of events. It is read when the burst may be over, so that it is read once.
_GATHER_MS = 40
# Where changes never end, the plan is made again after 20 times as long as it takes, and at least twice a second.
_REST_FACTOR, _REST_MAX_MS = 20, 500
#: What the roles of descriptors are called in the message to the launcher.
ROLES = (
    model.FD_FOLLOW_STATE,
    model.FD_FOLLOW_NETLINK,
    model.FD_FOLLOW_INOTIFY,
    model.FD_GUEST_USERNS,
    model.FD_GUEST_NETNS,
)

# linux/netlink.h, linux/rtnetlink.h
_HEADER_BYTES = 16
_FIXED_BYTES = {16: 16, 17: 16, 20: 8, 21: 8, 24: 12, 25: 12}  # struct ifinfomsg, ifaddrmsg, rtmsg, by kind of message
_LINK_KINDS = (16, 17)
_DELETED = (17, 21, 25)
_CACHEINFO = {20: 6, 24: 12}  # IFA_CACHEINFO, RTA_CACHEINFO
_LINK_KEPT = (3, 4, 16, 33)  # IFLA_IFNAME, _MTU, _OPERSTATE, _CARRIER

# ---- the worker's side ----


def start(null: int, ours: int) -> "_socket.socket":
    """Fork the launcher; the worker's end of the socket to it, which is descriptor `ours`.

    `null`: a descriptor of /dev/null, for the launcher's standard streams.
    """
    here, there = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        status = 1
        try:
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            os.dup2(there.fileno(), 3, inheritable=False)
            os.closerange(4, _MAX_FD)
            _launch(_socket.socket(fileno=3))
            status = 0
        finally:
            os._exit(status)
    there.close()
    if here.fileno() == ours:
        return here
    os.dup2(here.fileno(), ours, inheritable=False)
    here.close()
    return _socket.socket(fileno=ours)


def begin(sock: "_socket.socket", roles: "dict[str, list[int]]") -> None:
    """Let the launcher go on, with the descriptors of `roles` that it needs. They are closed here."""
    given = [(role, roles[role][0]) for role in ROLES if role in roles]
    fds = [fd for _role, fd in given]
    try:
        sock.sendmsg([" ".join(role for role, _fd in given).encode()], [worker_protocol.rights(fds)])
    except OSError:
        pass  # it has ended, and the socket says so
    for fd in fds:
        os.close(fd)


# ---- the launcher ----


def _launch(sock: "_socket.socket") -> None:
    """Wait until the worker serves; become the watcher."""
    message, ancillary, _flags, _address = sock.recvmsg(
        1024, _socket.CMSG_SPACE(4 * _FDS_MAX), _socket.MSG_CMSG_CLOEXEC
    )
    received = [fd for _level, _kind, payload in ancillary for fd in worker_protocol.descriptors(payload)]
    fds = dict(zip(message.decode().split(), received))
    if model.FD_FOLLOW_STATE not in fds:
        return
    from pasta_py.control.guest import syscalls  # noqa: F401 - its extension can be loaded only now

    begun: Any = worker_protocol.decode(_read_all(fds.pop(model.FD_FOLLOW_STATE)))
    state, link, index, names, links = begun
    applier: _socket.socket | None = None
    netns, userns = fds.pop(model.FD_GUEST_NETNS, -1), fds.pop(model.FD_GUEST_USERNS, -1)
    try:
        if netns >= 0 and index:
            applier, refused = _start_applier(netns, userns, index, link, [sock.fileno(), *fds.values()])
            if refused:
                _send(sock, b"", [(WARNING, refused)])
    finally:
        for fd in (netns, userns):
            if fd >= 0:
                os.close(fd)
    _confine("pasta-watch", confine.WATCHER, 0)
    _Watcher(sock, fds, applier, state).run(names, links)


def _read_all(fd: int) -> bytes:
    parts: list[bytes] = []
    while part := os.read(fd, 1 << 16):
        parts.append(part)
    os.close(fd)
    return b"".join(parts)


def _confine(name: str, who: int, kept: int) -> None:
    """No capability but `kept`, files only to be read and only where modules and resolv.conf are, few system calls."""
    confine.call_process(name)
    confine.drop_privileges(kept)
    readable = [*sys.modules["pasta_py"].__path__, *sys.path, sys.prefix, sys.base_prefix, "/usr/lib", "/etc", "/run"]
    target = "/etc/resolv.conf"
    try:
        target = os.readlink(target)
    except OSError:
        pass
    try:
        confine.landlock([*filter(None, readable), target.rpartition("/")[0] or "/etc"])
    except OSError:
        pass  # many kernels lack it
    try:
        confine.filter_calls(who)
    except OSError:
        pass  # the worker has warned of that


def _send(sock: "_socket.socket", update: bytes, lines: "list[tuple[int, str]]") -> None:
    """Tell the worker. It may have ended; then poll says so."""
    try:
        sock.send(worker_protocol.encode((update, tuple(lines))))
    except OSError:
        pass


# ---- the applier ----


def _start_applier(
    netns: int, userns: int, index: int, link: bytes, theirs: "list[int]"
) -> "tuple[_socket.socket | None, str]":
    """Fork it; the socket to it, or None and why there is none. `theirs`: descriptors that it does without."""
    host = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    here, there = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    if os.fork() == 0:
        status = 1
        try:
            here.close()
            for fd in theirs:
                os.close(fd)
            status = _applier(there, netns, userns, host, index, link)
        finally:
            os._exit(status)
    there.close()
    os.close(host)
    answer = here.recv(1024)
    if answer == b"ready":
        return here, ""
    here.close()
    return None, answer.decode(
        "utf-8", "replace"
    ) or "addresses and routes of the host are not followed: the process has ended"


def _applier(sock: "_socket.socket", netns: int, userns: int, host: int, index: int, ours: bytes) -> int:
    from pasta_py.control.guest import syscalls

    refused = "addresses and routes of the host are not followed"
    try:
        syscalls.be_private()  # or the guest's root could trace us
        if userns >= 0:
            syscalls.setns(userns, syscalls.CLONE_NEWUSER)
        if _counts_on(host):
            sock.send(f"{refused}: the right to change them in the guest would count on the host too".encode())
            return 0
        syscalls.setns(netns, syscalls.CLONE_NEWNET)
        for fd in (host, netns, *((userns,) if userns >= 0 else ())):
            os.close(fd)
        _confine("pasta-apply", confine.APPLIER, confine.CAP_NET_ADMIN)
    except OSError as error:
        sock.send(f"{refused}: {error.strerror}".encode())
        return 0
    sock.send(b"ready")
    while wanted := _receive(sock):
        made = _applied(index, ours, wanted)
        if not isinstance(made, tuple):
            return 1
        ours, lines = made
        answer = worker_protocol.encode(lines)
        sock.sendall(len(answer).to_bytes(4, "big") + answer)
    return 0


def _receive(sock: "_socket.socket") -> bytes:
    """A message with its length before it; b"": the other end has ended."""
    head = sock.recv(4, _socket.MSG_WAITALL)
    return sock.recv(int.from_bytes(head, "big"), _socket.MSG_WAITALL) if len(head) == 4 else b""


def _applied(index: int, ours: bytes, wanted: bytes) -> "Any":
    return _in_child(lambda: _apply(index, ours, wanted))


def _counts_on(host: int) -> bool:
    """Whether a capability that we have now counts in this network namespace: ours is the user namespace that owns it, or above."""
    try:
        os.close(fcntl.ioctl(host, _NS_GET_USERNS))
    except OSError:  # EPERM: the owner is out of our reach (ioctl_ns(2))
        return False
    return True


def _apply(index: int, ours: bytes, wanted: bytes) -> "Value":
    from pasta_py.control.follow import apply, packing

    made, lines = apply.change(index, packing.unpack(ours), packing.unpack(wanted))
    return packing.pack(made), tuple(lines)


# ---- the watcher ----


class _Watcher:
    def __init__(
        self, worker: "_socket.socket", fds: "dict[str, int]", applier: "_socket.socket | None", state: bytes
    ) -> None:
        import select  # loaded by syscalls already

        self._worker, self._applier, self._state = worker, applier, state
        self._netlink, self._inotify = fds[model.FD_FOLLOW_NETLINK], fds.get(model.FD_FOLLOW_INOTIFY, -1)
        self._poll, self._in = select.poll(), select.POLLIN
        self._poll.register(worker, 0)
        if applier:
            self._poll.register(applier, 0)
        self._events = _socket.socket(fileno=self._netlink)
        self._names: set[bytes] = set()
        self._harmless: set[bytes] = set()  # events after which nothing was different, and nothing has been since
        self._seen: set[bytes] = set()  # events since the last plan
        self._due_ms = -1  # when a grace is over
        self._rested_ms = 0  # when the plan may be made again
        self._plan_ms = 0  # how long it took

    def run(self, names: "tuple[str, ...]", links: "tuple[int, ...]") -> None:
        """Until the worker or the applier ends."""
        self._attend(names, links)
        for fd in (self._netlink, self._inotify):
            if fd >= 0:
                self._poll.register(fd, self._in)
        changed_ms = -1  # when the first event of a burst came
        while True:
            at = self._when(changed_ms)
            ready = [fd for fd, _events in self._poll.poll(None if at < 0 else max(at - _now_ms(), 0))]
            if self._worker.fileno() in ready or (self._applier and self._applier.fileno() in ready):
                return
            if self._read(ready) and changed_ms < 0:
                changed_ms = _now_ms()
            at = self._when(changed_ms)
            if 0 <= at <= _now_ms():
                changed_ms = -1
                if not self._plan_again():
                    return

    def _when(self, changed_ms: int) -> int:
        """When to make the plan again; -1: not before an event."""
        times = [max(changed_ms + _GATHER_MS, self._rested_ms)] if changed_ms >= 0 else []
        return min(times + ([self._due_ms] if self._due_ms >= 0 else []), default=-1)

    def _attend(self, names: "tuple[str, ...]", links: "tuple[int, ...]") -> None:
        """From now on heed the events of these files and interfaces."""
        self._names = {b"", *map(worker_protocol.path_bytes, names)}
        try:
            confine.filter_events(self._netlink, links)
        except OSError:
            pass  # more events come through: more work, the same result

    def _read(self, ready: "list[int]") -> bool:
        """Read the events that wait; whether one of them matters."""
        matters = False
        if self._netlink in ready:
            matters = self._read_netlink()
        if self._inotify in ready:
            matters = self._read_inotify() or matters
        return matters

    def _read_netlink(self) -> bool:
        matters = False
        while True:
            try:
                data, (sender, _groups) = self._events.recvfrom(_NETLINK_BYTES)
            except BlockingIOError:
                return matters
            except OSError:  # ENOBUFS: events were lost, so look at everything
                self._seen.add(os.urandom(8))
                matters = True
                continue
            if sender:  # not the kernel
                continue
            what = _essence(data)
            if len(self._seen) == _SEEN_MAX:
                self._seen = {os.urandom(8)}  # too many to remember: none is harmless
            self._seen.add(what)
            matters = matters or what not in self._harmless

    def _read_inotify(self) -> bool:
        from pasta_py.worker import watch

        try:
            data = os.read(self._inotify, 64 << 10)
        except BlockingIOError:
            return False
        return any(name in self._names for _mask, name in watch.directory_events(data))

    def _plan_again(self) -> bool:
        """Make the plan again and tell who must know; False: following ends."""
        self._read_netlink()
        started = _now_ms()
        seen, self._seen = self._seen, set()
        made: Any = _in_child(lambda: _replan(self._state, self._inotify, started))
        if not isinstance(made, tuple):
            _send(self._worker, b"", [(WARNING, f"a change of the host could not be read: {made}")])
            return False
        self._state, link, update, lines, self._due_ms, names, links = made
        self._harmless = seen if not (link or update or lines) else set()
        self._attend(names, links)
        told = [(INFO, f"the host's network has changed: {line}") for line in lines]
        if update:
            _send(self._worker, update, told)
            told = []
        if link and self._applier:
            failed = self._tell_applier(link)
            if failed is None:
                return False
            told += [(WARNING, line) for line in failed]
        if told:
            _send(self._worker, b"", told)
        self._plan_ms = _now_ms() - started
        self._rested_ms = _now_ms() + min(self._plan_ms * _REST_FACTOR, _REST_MAX_MS)
        return True

    def _tell_applier(self, link: bytes) -> "list[str] | None":
        """Lines about what it could not do; None: it has ended."""
        assert self._applier
        try:
            self._applier.sendall(len(link).to_bytes(4, "big") + link)
            lines = worker_protocol.decode(_receive(self._applier))
        except (OSError, WireError):
            return None
        return [str(line) for line in lines] if isinstance(lines, tuple) else None


def _replan(state: bytes, inotify: int, now_ms: int) -> "Value":
    from pasta_py.control.follow import replan

    return replan.run(state, inotify, now_ms)


def _essence(data: bytes) -> bytes:
    """An event without what differs each time an address is renewed by its router: lifetimes, statistics."""
    kind = int.from_bytes(data[4:6], sys.byteorder)
    fixed = _FIXED_BYTES.get(kind)
    if fixed is None or kind in _DELETED:
        return os.urandom(8)  # always matters
    at = _HEADER_BYTES + fixed
    kept = [
        data[4:6],
        data[_HEADER_BYTES : at - 4 if kind in _LINK_KINDS else at],
    ]  # a link's last field is what has changed
    while at + 4 <= len(data):
        length, number = (
            int.from_bytes(data[at : at + 2], sys.byteorder),
            int.from_bytes(data[at + 2 : at + 4], sys.byteorder),
        )
        if length < 4:
            break
        if number in _LINK_KEPT if kind in _LINK_KINDS else number != _CACHEINFO.get(kind):
            kept.append(data[at : at + length])
        at += (length + 3) & ~3
    return b"".join(kept)


# ---- both ----


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _in_child(work: "Callable[[], Value]") -> "Value":
    """What `work` returns in a child that ends then; a text if it fails."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _child(work, reader, writer)
    os.close(writer)
    data = _read_all(reader)
    os.waitpid(child, 0)
    try:
        return worker_protocol.decode(data)
    except WireError:
        return "its process has ended"


def _child(work: "Callable[[], Value]", reader: int, writer: int) -> "NoReturn":
    try:
        os.close(reader)
        try:
            data = worker_protocol.encode(work())
        except Exception as error:
            data = worker_protocol.encode(f"{type(error).__name__}: {error}")
        while data:
            data = data[os.write(writer, data) :]
    finally:
        os._exit(0)
