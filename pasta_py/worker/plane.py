"""The core, for Python: the only module that imports the extension, and the only one that turns -errno into OSError.

run() blocks in C with the GIL released and returns (kind, ident, data): see csrc/plane_api.h for the kinds. Nothing calls
back; nothing here keeps state but the handle.
"""

import posix as os  # os takes 0.8 ms to import
import sys

from pasta_py import _plane, worker_protocol
from pasta_py.model import Listener, WorkerPlan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

ffi, lib = _plane.ffi, _plane.lib

PUNT: int = lib.PLANE_PUNT
WATCH: int = lib.PLANE_WATCH
TICK: int = lib.PLANE_TICK
LOG: int = lib.PLANE_LOG
END: int = lib.PLANE_END
SHARDS_MAX: int = lib.SHARDS_MAX

_FLAGS = (
    ("vnet_hdr", lib.PLANE_VNET_HDR),
    ("uso", lib.PLANE_USO),
    ("tunnels", lib.PLANE_TUNNELS),
    ("ipv4", lib.PLANE_IPV4),
    ("ipv6", lib.PLANE_IPV6),
    ("tcp", lib.PLANE_TCP),
    ("udp", lib.PLANE_UDP),
    ("icmp", lib.PLANE_ICMP),
    ("lo_to_lo", lib.PLANE_LO_TO_LO),
    ("lossy", lib.PLANE_LOSSY),
    ("splice", lib.PLANE_SPLICE),
    ("dns_tls", lib.PLANE_DNS_TLS),
    ("multicast", lib.PLANE_MULTICAST),
    ("broadcast", lib.PLANE_BROADCAST),
)
_ADDRESSES = ("guest", "gateway", "map_host_loopback", "map_guest_addr", "host", "dns_forward", "dns_host", "outbound")
_NONE = bytes(16)
_ARG_START = 45  # /proc/PID/stat after the name, proc(5): arg_start, arg_end


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))


class Plane:
    """One core on one tap descriptor, which stays the caller's."""

    def __init__(self, plan: WorkerPlan, tap_fd: int, extra_flags: int = 0) -> None:
        config = ffi.new("struct plane_config *")
        config.tap_fd = tap_fd
        config.flags = extra_flags | sum(bit for name, bit in _FLAGS if getattr(plan, name))
        config.mtu, config.link_mtu = plan.mtu, plan.link_mtu
        config.guest_scope6 = plan.guest_scope6
        config.log_level = plan.log_level
        config.guest_mac, config.our_mac = plan.guest_mac, plan.our_mac
        for version, family in zip("46", config.family):
            for name in _ADDRESSES:
                setattr(family, name, getattr(plan, name + version) or _NONE)
            family.outbound_if = getattr(plan, "outbound_if" + version).encode("utf-8", "surrogateescape")
        config.family[0].ifindex, config.family[1].ifindex = plan.link4, plan.scope6
        handle = ffi.new("struct plane **")
        _check(lib.plane_new(config, handle))
        self._plane = handle[0]
        self._event = ffi.new("struct plane_event *")
        for address in plan.guest_addrs:
            _check(lib.plane_add_guest_addr(self._plane, address))
        for address in plan.virtual_addrs:
            _check(lib.plane_add_virtual_addr(self._plane, address))
        for address in plan.barred_sources:
            _check(lib.plane_add_barred_source(self._plane, address))

    def add_listeners(self, listener: Listener, fds: "list[int]", *, offset: int = 0, to_host: bool = False) -> None:
        """Forward what arrives at fds, bound non-blocking sockets (TCP: listening) of the listener's ports from offset on."""
        target = listener.target or _NONE
        port = listener.target_port + offset
        _check(lib.plane_add_listeners(self._plane, listener.proto, fds, len(fds), to_host, target, port))

    def remove_listener(self, fd: int) -> None:
        """Take no more from a TCP listener; its socket stays the caller's."""
        _check(lib.plane_remove_listener(self._plane, fd))

    def set_helper(self, fd: int) -> None:
        """Ask the process that serves the other end of fd for sockets of the guest's namespace."""
        lib.plane_set_helper(self._plane, fd)

    def listen_in_guest(self, proto: int, address: bytes, port: int) -> int:
        """A bound socket (TCP: listening) of the guest's namespace: the descriptor, the caller's."""
        fd: int = lib.plane_listen_in_guest(self._plane, proto, address, port)
        _check(fd)
        return fd

    def diag_in_guest(self) -> int:
        """A sock_diag socket of the guest's namespace: the descriptor, the caller's."""
        fd: int = lib.plane_diag_in_guest(self._plane)
        _check(fd)
        return fd

    def capture(self, fd: int, pcapng: bool) -> None:
        """Write every frame to fd, which stays the caller's."""
        _check(lib.plane_capture(self._plane, fd, pcapng))

    def add_shards(self, tap_fds: "list[int]") -> None:
        """Have one thread more for each of these queues of the tap, which stay the caller's: the last thing before the sandbox."""
        _check(lib.plane_add_shards(self._plane, tap_fds, len(tap_fds)))

    def watch(self, fd: int, ident: int) -> None:
        """Let run() return (WATCH, ident, b"") whenever fd is readable or hung up."""
        _check(lib.plane_watch(self._plane, fd, ident))

    def unwatch(self, fd: int) -> None:
        _check(lib.plane_unwatch(self._plane, fd))

    def tick(self, interval_ms: int) -> None:
        """Let run() return (TICK, busy, b"") that often; 0 stops."""
        lib.plane_tick(self._plane, interval_ms)

    def run(self) -> tuple[int, int, bytes]:
        """Block until there is something for Python to do."""
        event = self._event
        _check(lib.plane_run(self._plane, event))
        return event.kind, event.id, ffi.buffer(event.data, event.len)[:] if event.len else b""

    def send(self, frame: bytes) -> None:
        """One Ethernet frame to the guest; its checksums must be complete. A frame the tap cannot take is counted."""
        result = lib.plane_send(self._plane, frame, len(frame))
        if result != -11:  # EAGAIN: as lost as on any link
            _check(result)

    def counters(self) -> dict[str, int]:
        values: dict[str, int] = {}
        while name := lib.plane_counter_name(len(values)):
            values[ffi.string(name).decode()] = lib.plane_counter(self._plane, len(values))
        return values

    def close(self) -> None:
        """Flush the capture and end every flow. Nothing else may be called afterwards."""
        if self._plane:
            lib.plane_free(self._plane)
            self._plane = None


def log_line(fd: int, line: bytes) -> None:
    """Write a line without waiting for whoever reads it; BlockingIOError if there is no room."""
    _check(lib.plane_log_line(fd, line, len(line)))


# ---- the helper (pasta_py.worker.helper) ----

BYTE_ORDER: "Literal['little', 'big']" = "little" if sys.byteorder == "little" else "big"


def serve_helper(fd: int, *, by_chroot: bool) -> int:
    """Make sockets for the other end of fd until it closes; 0 or -errno. `by_chroot`: as in `empty_root`."""
    result: int = lib.helper_serve(fd, by_chroot)
    return result


# ---- the sandbox's system calls, which Python's os lacks ----

USER: int = lib.CONFINE_USER
MOUNT: int = lib.CONFINE_MOUNT
PID: int = lib.CONFINE_PID
IPC: int = lib.CONFINE_IPC
UTS: int = lib.CONFINE_UTS


def unshare(which: int) -> None:
    """Leave the namespaces that `which` (USER and following, or-ed) names for new ones."""
    _check(lib.confine_unshare(which))


def empty_root(*, by_chroot: bool = False) -> None:
    """Make an empty, read-only directory the root; the mount namespace must be ours alone.

    With `by_chroot` also where pivot_root is refused: the old root stays mounted then, out of reach.
    """
    _check(lib.confine_root(by_chroot))


def drop_privileges() -> None:
    """No capability in any set, no way to gain one, not dumpable, no core dumps. Before any thread is started."""
    _check(lib.confine_privileges(0))


def landlock() -> None:
    """As far as Landlock goes: no file can be opened, no abstract UNIX socket reached. Before any thread is started."""
    _check(lib.confine_landlock())


def limit_resources(*, files: bool) -> None:
    """No process can be started, and with files=False no regular file grows. After every thread has been started."""
    _check(lib.confine_limits(files))


def filter_calls() -> None:
    """From now on, in every thread, the system calls of csrc/io/seccomp_table.c or death."""
    _check(lib.confine_calls(lib.CONFINE_WORKER))


def raise_descriptor_limit() -> None:
    _check(lib.confine_descriptors())


def call_process(name: str) -> None:
    """Be found under this name by ps and pgrep, not under the interpreter's."""
    _check(lib.confine_name(name.encode()))


def forget_environment(kept: "tuple[str, ...]") -> None:
    """Zero the environment that a fork has of its parent, here and in C, but for variables whose names begin so."""
    names = [ffi.new("char[]", name.encode()) for name in kept]
    lib.confine_environment([*names, ffi.NULL])
    for name, value in os.environ.items():
        if not name.startswith(tuple(map(str.encode, kept))) and len(value) > 1:  # one byte is everybody's
            ffi.memmove(ffi.from_buffer(value), bytes(len(value)), len(value))
    os.environ.clear()


def set_command_line(words: "Sequence[str]") -> None:
    """Show these in /proc/self/cmdline, as far as there is room, in place of the words this process was started with."""
    try:
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123 - no pathlib here
            fields = file.read().rpartition(b")")[2].split()
    except OSError:  # no /proc: then nobody sees them there
        return
    start, end = int(fields[_ARG_START]), int(fields[_ARG_START + 1])
    if not 0 < start < end:  # a kernel that does not tell, as gVisor's
        return
    room = ffi.buffer(ffi.cast("char *", start), end - start)
    room[:] = b"".join(worker_protocol.path_bytes(word) + b"\0" for word in words)[: end - start - 1].ljust(end - start, b"\0")


def own_proc_self() -> None:
    """Let /proc/self belong to the present user after a change of user."""
    _check(lib.confine_dumpable())
