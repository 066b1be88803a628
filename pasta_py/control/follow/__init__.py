"""Following the host, as a start needs it: where events come from, and the state that the watcher's programs go on from.

Control makes the sources of events first, then reads the host: what changes in between waits in them. The other modules of this
package are loaded when something has changed, by another process.
"""

import _socket
import marshal
import posix as os  # lean imports: docs/architecture.md
import struct

from pasta_py import model, worker_protocol
from pasta_py.control import ip
from pasta_py.control.guest import path_watch, syscalls
from pasta_py.control.planning import resolv_conf
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from pasta_py.control.commandline.options import Options
    from pasta_py.control.netlink.links_addresses_routes import Ip
    from pasta_py.control.planning.egress import Said
    from pasta_py.control.planning.host import HostSnapshot
    from pasta_py.control.planning.plan import LinkPlan
    from pasta_py.control.planning.resolv_conf import Resolv

# linux/rtnetlink.h: RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
_NETLINK_ROUTE = 0
_RECEIVE_BYTES = 1 << 20
_WATCHED = path_watch.CHANGES | syscalls.IN_CLOSE_WRITE
_LINKS_MAX = 65  # one more than a filter takes: then all events come through
_NAMES_BYTES = 4096
_ATOMS = frozenset((bool, bytes, int, str, type(None)))
_ADDRESS_TAGS = {
    ip.IPv4Address: "a",
    ip.IPv6Address: "a",
    ip.IPv4Interface: "i",
    ip.IPv6Interface: "i",
    ip.IPv4Network: "n",
    ip.IPv6Network: "n",
}
#: Options that no later plan depends on.
_UNUSED = (
    "tcp_ports", "udp_ports", "tcp_ns", "udp_ns", "command", "egress_rules", "redirects", "proxy", "no_proxy",
)  # fmt: skip


class Counted(Record):
    """The host as it counts."""

    host: "HostSnapshot"
    resolv: "Resolv"
    missing: "tuple[tuple[tuple[object, ...], int], ...]" = ()  # what stays for its grace, and since when it is missing, ms
    gone: "tuple[Ip, ...]" = ()  # addresses that the host had and has no more; flows bound to them have no use


class State(Record):
    """All that decides what the guest gets next."""

    options: "Options"
    shares_etc: bool  # as for plan.build()
    counted: Counted
    policy: "Said | None" = None  # what the options say of egress; None: nothing
    trouble: str = ""  # why the last change was not followed, as it was said


class Sources:
    """Where events come from, the memory file for the state, and the pipe that says what to wait for."""

    def __init__(self, inotify: int = -1) -> None:
        """OSError without rtnetlink. Without inotify nameservers are not followed. `inotify`: an instance to share, -1: none."""
        sock = _socket.socket(
            _socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK, _NETLINK_ROUTE
        )
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, _RECEIVE_BYTES)
        sock.bind((0, _GROUPS))
        self._netlink, self._inotify, self._names, self._look = sock.detach(), -1, list[str](), b""
        self._state = os.memfd_create("pasta-follow", os.MFD_CLOEXEC)
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
        if inotify < 0:
            try:
                inotify = self._inotify = syscalls.inotify()
            except OSError:  # fs.inotify.max_user_instances are in use
                return
        self._names = watch_resolv_conf(inotify)

    def descriptors(self) -> list[tuple[str, int]]:
        """With their roles in the worker's plan."""
        found = [
            (model.FD_FOLLOW_STATE, self._state),
            (model.FD_FOLLOW_LOOK, self._reader),
            (model.FD_FOLLOW_NETLINK, self._netlink),
        ]
        return found + ([(model.FD_FOLLOW_INOTIFY, self._inotify)] if self._inotify >= 0 else [])

    def tell(
        self, options: "Options", host: "HostSnapshot", resolv: "Resolv", link: "LinkPlan", index: int, policy: "Said | None",
        *, shares_etc: bool,
    ) -> None:  # fmt: skip
        """What following starts from, once the worker has the descriptors: what the start's plan was made from, and the guest's
        interface as it was set up (`index` 0: it was not)."""
        os.close(self._reader)
        self._reader = -1
        kept = {name: value for name, value in options.__dict__.items() if name not in _UNUSED}
        pinned = type(options)(**{**kept, "ns_ifname": link.ifname})
        state = State(options=pinned, shares_etc=shares_etc, counted=Counted(host=host, resolv=resolv), policy=policy)
        data = written(state, None, index)
        try:
            while data:
                data = data[os.write(self._state, data) :]
        except OSError:
            pass  # there is no memory: the watcher cannot read its state, and the worker says that it has ended
        self._look = look(links_that_matter(host), self._names, applies=index > 0)

    def begin(self) -> None:
        """Let following begin: the start is over."""
        try:
            os.write(self._writer, self._look)
        except OSError:
            pass  # the process has ended, as the worker says

    def close(self) -> None:
        for fd in (self._netlink, self._inotify, self._state, self._reader, self._writer):
            if fd >= 0:
                os.close(fd)


def watch_resolv_conf(inotify: int) -> list[str]:
    """Watch the way to the host's resolv.conf; the names of files that matter."""
    path, names = path_watch.follow(inotify, resolv_conf.PATH, _WATCHED)
    if path and inotify >= 0:
        try:  # the directory's watch misses changes of a file that is a mount itself
            syscalls.inotify_add(inotify, path, syscalls.IN_CLOSE_WRITE)
        except OSError:
            pass  # it is missing, or may not be read
    return names


def plain(value: "Any") -> "Any":
    """A value in plain types: a tuple begins with a tag, that of a record, an address, a network or an interface, or "t"."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is tuple:
        return ("t", *[each if type(each) in _ATOMS else plain(each) for each in value])
    if issubclass(kind, Record):
        return ("r", kind.__name__, *[each if type(each) in _ATOMS else plain(each) for each in value.__dict__.values()])
    if kind in _ADDRESS_TAGS:
        return _ADDRESS_TAGS[kind], str(value)
    raise TypeError(f"cannot pack {kind.__name__}")


def written(state: State, ours: "bytes | None", index: int) -> bytes:
    """The bytes of the memory file. `ours`: what is ours on the guest's interface, as the applier has said it; None: what the plan
    says. `index`: of that interface, 0: it is not followed.

    Only control and the watcher's programs have the file. So marshal can read it.
    """
    return marshal.dumps((plain(state), ours, index))


def links_that_matter(host: "HostSnapshot") -> list[int]:
    """Indices of the interfaces whose events matter: those that lead anywhere."""
    return sorted({*host.leading, *(family.link.index for family in (host.ipv4, host.ipv6) if family.link)})


def look(
    links: "Iterable[int]", names: "Iterable[str]", *, due_ms: int = -1, changed: bool = True, applies: bool = False
) -> bytes:
    """What the watcher waits for, as csrc/io/follow.c reads it (`struct look` there).

    `links`: indices of the interfaces whose events matter. `names`: of files that matter. `due_ms`: when to look again without an
    event, by the monotonic clock, -1: never. `changed`: something is different. `applies`: the guest's interface is followed.
    """
    known = tuple(links)[:_LINKS_MAX]
    listed = b"".join(worker_protocol.path_bytes(name) + b"\0" for name in names)
    if len(listed) > _NAMES_BYTES:
        listed = b""  # all matter
    return struct.pack("qIII4x", due_ms, changed, applies, len(known)) + struct.pack(f"{len(known)}I", *known) + listed
