"""The tap device: made inside the guest's network namespace, handed to control as a descriptor.

Offloads are requested best first. Those that the kernel refuses are left out: the core then segments and checksums itself.
"""

import _socket
import errno
import fcntl
import posix as os  # lean imports: docs/architecture.md
import struct

from pasta_py import worker_protocol
from pasta_py.errors import HostError, UsageError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pasta_py.control.guest.namespaces import Guest
    from pasta_py.control.planning.plan import LinkPlan

_DEVICE = "/dev/net/tun"

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_TUNGETIFF = 0x800454D2
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_IFF_TUN = 0x0001
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_MULTI_QUEUE = 0x0100
_IFF_TUN_EXCL = 0x8000
_TUN_F_CSUM = 0x01
_TUN_F_TSO4 = 0x02
_TUN_F_TSO6 = 0x04
_TUN_F_USO4 = 0x20
_TUN_F_USO6 = 0x40
_TUN_F_UDP_TUNNEL_GSO = 0x080  # since Linux 6.17
_TUN_F_UDP_TUNNEL_GSO_CSUM = 0x100
_SIOCGIFHWADDR = 0x8927  # linux/sockios.h; a tap answers it on its own descriptor

_IFREQ_BYTES = 40
_VNET_HDR_BYTES = 10  # struct virtio_net_hdr without num_buffers
_VNET_HDR_TUNNEL_BYTES = 24  # struct virtio_net_hdr_v1_hash_tunnel
_TSO = _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6
_USO = _TUN_F_USO4 | _TUN_F_USO6
_TUNNELS = _TUN_F_UDP_TUNNEL_GSO | _TUN_F_UDP_TUNNEL_GSO_CSUM


class Tap:
    """An open frame descriptor, or one for each of its queues.

    vnet_hdr: frames have virtio headers. uso: with UDP segments too. tunnels: also with segments inside UDP tunnels, and longer
    headers. mac: b"" if unknown. index: of the interface in its namespace, 0 if unknown. stream: each frame has its length before
    it. path: that of the socket, if `fd` listens for the other end. lossy: frames may get lost on the way.
    """

    def __init__(
        self,
        fd: int,
        *,
        vnet_hdr: bool,
        uso: bool,
        tunnels: bool = False,
        mac: bytes,
        index: int = 0,
        warnings: tuple[str, ...] = (),
        more: "Sequence[int]" = (),
        stream: bool = False,
        path: str = "",
        lossy: bool = False,
    ) -> None:
        self.fd, self.vnet_hdr, self.uso, self.tunnels, self.mac = fd, vnet_hdr, uso, tunnels, mac
        self.index, self.warnings, self.fds = index, warnings, [fd, *more]
        self.stream, self.path, self.lossy = stream, path, lossy


def create(name: str, queues: int = 1, *, tunnels: bool = True) -> Tap:
    """Make the tap `name` in the present network namespace; HostError if the kernel or the namespace refuses.

    `tunnels`: ask for segments inside of UDP tunnels too.
    """
    fds: list[int] = []
    try:
        for _queue in range(queues):
            fds.append(_open_device())
            vnet_hdr = _set_interface(fds[-1], name, _flags(queues, first=len(fds) == 1))
        uso, has_tunnels = _set_offloads(fds[0], tunnels=tunnels) if vnet_hdr else (False, False)
        return Tap(fds[0], vnet_hdr=vnet_hdr, uso=uso, tunnels=has_tunnels, mac=mac_of(fds[0]), more=fds[1:])
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def _open_device() -> int:
    try:
        return os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise HostError(f"Couldn't open {_DEVICE}: {reason(error, _hint(error))}") from None


def _hint(error: OSError) -> str:
    from pasta_py.control.requirements import tun

    return str(tun.cause(error.errno or 0) or "")


def _flags(queues: int, *, first: bool) -> int:
    """Only the first of several queues makes the interface, and fails if it exists: the queues would join that one."""
    flags = _IFF_TAP | _IFF_NO_PI
    if queues > 1:
        flags |= _IFF_MULTI_QUEUE | (_IFF_TUN_EXCL if first else 0)
    return flags


def _set_interface(fd: int, name: str, flags: int) -> bool:
    data = name.encode("utf-8", "surrogateescape")
    try:
        try:
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", data, flags | _IFF_VNET_HDR))
            fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", _VNET_HDR_BYTES))
            return True
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", data, flags))
        return False
    except OSError as error:
        hints = {
            errno.EBUSY: "the namespace has an interface of that name, perhaps of another instance: choose one with -I",
            errno.EPERM: "no privilege over this network namespace: it must belong to this user (see --userns)",
            errno.EINVAL: "it cannot be called that: choose another name with -I",
        }
        hint = hints.get(error.errno or 0, "") or _hint(error)
        raise HostError(f"Couldn't make the tap {name!r} in the namespace: TUNSETIFF: {reason(error, hint)}") from None


def _set_offloads(fd: int, *, tunnels: bool) -> tuple[bool, bool]:
    """Request segmentation offloads; whether UDP's are among them, and those inside UDP tunnels, which take a longer header."""
    for offloads in (_TSO | _USO | (_TUNNELS if tunnels else 0), _TSO | _USO, _TSO, 0):
        try:
            # The argument is the value itself, not a pointer to it.
            fcntl.ioctl(fd, _TUNSETOFFLOAD, offloads)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            continue
        if offloads & _TUNNELS:
            fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", _VNET_HDR_TUNNEL_BYTES))
        return bool(offloads & _USO), bool(offloads & _TUNNELS)
    return False, False


def mac_of(fd: int) -> bytes:
    """The MAC address of the interface behind a tap's descriptor."""
    reply = fcntl.ioctl(fd, _SIOCGIFHWADDR, bytes(_IFREQ_BYTES))
    return reply[18:24]


def adopt(number: int, *, tunnels: bool = True) -> Tap:
    """The frame descriptor of --fd: a tap as it was set up, or a socket that keeps message boundaries. `tunnels`: see create()."""
    try:
        fd = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError as error:
        raise UsageError(f"--fd {number}: {error.strerror}: open it for this process first") from None
    try:
        return _adopt(fd, number, tunnels=tunnels)
    except BaseException:
        os.close(fd)
        raise


def _adopt(fd: int, number: int, *, tunnels: bool) -> Tap:
    try:
        reply = fcntl.ioctl(fd, _TUNGETIFF, bytes(_IFREQ_BYTES))
    except OSError:
        try:
            sock = _socket.socket(fileno=os.dup(fd))
            boundaries = sock.type in (_socket.SOCK_SEQPACKET, _socket.SOCK_DGRAM)
            sock.close()
        except OSError:
            boundaries = False
        if not boundaries:
            why = "not a tap nor a datagram or seqpacket socket: frames need boundaries"
            raise UsageError(f"--fd {number}: {why}") from None
        return Tap(fd, vnet_hdr=False, uso=False, mac=b"")
    flags: int = struct.unpack_from("H", reply, 16)[0]
    if not flags & _IFF_TAP or flags & _IFF_TUN:
        raise UsageError(f"--fd {number}: a tun device carries no Ethernet frames: make it with IFF_TAP")
    # The kernel does not show whether the tap was made with IFF_NO_PI: it always reports that flag.
    vnet_hdr = bool(flags & _IFF_VNET_HDR)
    if vnet_hdr:
        fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", _VNET_HDR_BYTES))
    uso, has_tunnels = _set_offloads(fd, tunnels=tunnels) if vnet_hdr else (False, False)
    return Tap(fd, vnet_hdr=vnet_hdr, uso=uso, tunnels=has_tunnels, mac=mac_of(fd))


def make_inside(guest: "Guest", link: "LinkPlan", queues: int = 1, *, stay: bool = False, tunnels: bool = True) -> Tap:
    """Make the tap in the guest's namespace and configure it; the descriptors returned are ours to close. `tunnels`: see create().

    With `stay`, this process makes it, and stays in the namespace.
    """
    from pasta_py.control.guest import interface  # before the fork, so that it is imported once
    from pasta_py.control.guest.namespaces import call_inside, stay_inside

    def job() -> "tuple[worker_protocol.Value, list[int]]":
        tap = create(link.ifname, queues, tunnels=tunnels)
        result = interface.configure(link)
        return (tap.vnet_hdr, tap.uso, tap.tunnels, result.mac, result.index, tuple(result.warnings)), tap.fds

    return _taken(*(stay_inside if stay else call_inside)(guest, job))


def bare_inside(guest: "Guest", name: str) -> Tap:
    """Make the tap in the guest's namespace, and leave the rest to the guest; the descriptor returned is ours to close."""
    from pasta_py.control.guest.namespaces import call_inside

    def job() -> "tuple[worker_protocol.Value, list[int]]":
        tap = create(name)
        return (tap.vnet_hdr, tap.uso, tap.tunnels, tap.mac, 0, ()), [tap.fd]

    return _taken(*call_inside(guest, job))


def _taken(value: "worker_protocol.Value", fds: list[int]) -> Tap:
    if not isinstance(value, tuple) or len(value) != 6 or not fds:
        raise HostError("Couldn't set up the namespace: the process that configures it sent nonsense: please report it")
    vnet_hdr, uso, tunnels, mac, index, warnings = value
    assert isinstance(mac, bytes) and isinstance(index, int) and isinstance(warnings, tuple)
    return Tap(
        fds[0],
        vnet_hdr=bool(vnet_hdr),
        uso=bool(uso),
        tunnels=bool(tunnels),
        mac=mac,
        index=index,
        warnings=tuple(map(str, warnings)),
        more=fds[1:],
    )


def none_inside(guest: "Guest", queues: int = 1) -> Tap:
    """In place of a tap, for local connections only: sockets without a peer. Brings up the namespace's loopback."""
    from pasta_py.control.guest import interface
    from pasta_py.control.guest.namespaces import call_inside

    def job() -> "tuple[worker_protocol.Value, list[int]]":
        interface.bring_loopback_up()
        return True, []

    call_inside(guest, job)
    kind = _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
    nowhere = [_socket.socket(_socket.AF_UNIX, kind).detach() for _queue in range(queues)]
    return Tap(nowhere[0], vnet_hdr=False, uso=False, mac=b"", more=nowhere[1:])
