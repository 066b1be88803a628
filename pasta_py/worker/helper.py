"""The helper: a child of the worker that makes sockets in the guest's network namespace (csrc/io/helper.c).

It starts before the worker locks itself in, because it needs the caller's rights over the guest's namespaces. Once it is in these
namespaces it keeps the right to bind low ports only. It ends when its socket to the worker is closed. `start` comes before the core
exists, because a fork takes no threads along.
"""

import _socket
import errno
import posix as os  # os takes 0.8 ms to import

from pasta_py import hostports, model, worker_protocol
from pasta_py.errors import HostError, reason
from pasta_py.worker import plane

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_RESULT_BYTES = 4
LOOPBACK4 = bytes(10) + b"\xff\xff\x7f\x00\x00\x01"
LOOPBACK6 = bytes(15) + b"\x01"
_NAMES = {model.IPPROTO_TCP: "TCP", model.IPPROTO_UDP: "UDP"}
_HINTS = {
    errno.EMFILE: "raise the limit of open files (ulimit -Hn), or forward fewer ports",
    errno.EACCES: "it is privileged there: choose another, or lower net.ipv4.ip_unprivileged_port_start there",
    errno.EADDRINUSE: hostports.taken("a program"),
}


def start(null: int, ours: int, *, by_chroot: bool = False) -> None:
    """Fork the helper, and leave the worker's end of the socket to it at descriptor `ours`.

    `null`: a descriptor of /dev/null, which becomes the helper's standard streams. With the caller's streams, a reader that waits
    for their end would wait for the helper. `by_chroot`: see sandbox.enter.
    """
    plane.start_helper(null, ours, by_chroot=by_chroot)


def enter(fd: int, userns: "int | None", netns: int) -> str:
    """Send the helper into the guest's namespaces; OSError if it cannot enter them.

    Returns why it has no filter on its system calls; "" if it has one.
    """
    sock = _socket.socket(fileno=os.dup(fd))
    try:
        for what, namespace in ((b"u", userns), (b"n", netns)):
            if namespace is not None:
                sock.sendmsg([what], [worker_protocol.rights([namespace])])
        answer = sock.recv(_RESULT_BYTES)
    finally:
        sock.close()
    number = int.from_bytes(answer, plane.BYTE_ORDER, signed=True) if len(answer) == _RESULT_BYTES else -errno.ECONNRESET
    if number < 0:
        raise OSError(-number, os.strerror(-number))
    return os.strerror(number) if number else ""


def listen(core: "plane.Plane", plan: model.WorkerPlan, warnings: "list[str]") -> "Iterator[tuple[tuple[int, int], int]]":
    """Bind plan.guest_ports on the loopback of the guest's namespace and forward them; HostError for one that cannot be bound.

    Yields (protocol, port) and a socket; most ports have a socket for each family. Best-effort ports (Listener.weak) stop with a
    warning before they use the descriptors that connections need.
    """
    room = hostports.room()
    for listener in plan.guest_ports:
        for offset in range(listener.count):
            try:
                for fd in _listen(core, plan, listener, offset, room):
                    yield (listener.proto, listener.port + offset), fd
            except _Full:
                first, last = listener.port + offset, listener.port + listener.count - 1
                which = f"{_NAMES[listener.proto]} ports {first}-{last} of the namespace"
                warnings.append(f"{which} are not forwarded: raise the limit of open files (ulimit -Hn)")
                break


def bind_loopback(core: "plane.Plane", proto: int, loopback: bytes, port: int) -> int:
    """A socket (TCP: listening) of the guest's namespace; OSError.

    LOOPBACK6: at ::1. LOOPBACK4: at every address of 127.0.0.0/8, or only at 127.0.0.1 if a program of the guest has the port at
    another address.
    """
    if loopback == LOOPBACK6:
        return core.listen_in_guest(proto, loopback, port)
    try:
        return core.listen_in_guest(proto, hostports.ANY4, port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    return core.listen_in_guest(proto, loopback, port)


class _Full(Exception):
    """No descriptors are left for a best-effort port."""


def _listen(core: "plane.Plane", plan: model.WorkerPlan, listener: model.Listener, offset: int, room: int) -> "list[int]":
    where = f"{_NAMES[listener.proto]} port {listener.port + offset}"
    made: list[int] = []
    for version, address in ((4, LOOPBACK4), (6, LOOPBACK6)):
        if not plan.family(version).on:
            continue
        try:
            fd = bind_loopback(core, listener.proto, address, listener.port + offset)
            made.append(fd)
            if listener.weak and fd >= room:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        except OSError as error:
            if error.errno == errno.EMFILE and listener.weak:
                for fd in made:
                    os.close(fd)
                raise _Full from None
            if error.errno in hostports.NO_FAMILY or listener.weak:
                continue
            host = "127.0.0.1" if address == LOOPBACK4 else "::1"
            why = reason(error, _HINTS.get(error.errno or 0, ""))
            raise HostError(f"Couldn't listen on namespace {where}, address {host}: {why}") from None
    for fd in made:
        core.add_listeners(listener, [fd], offset=offset, to_host=True)
    if not made and not listener.weak:
        raise HostError(f"Couldn't listen on namespace {where}: its loopback has no address: bring lo up there")
    return made
