"""Purpose: automatic forwarding. While a program listens on one side, we listen at its port on the other side.

How: at each scan sock_diag(7) lists the listening sockets of both namespaces, and ports are bound and unbound to match. We know our
own sockets by their inodes and never forward them back. A service is offered only at the families and addresses that reach it:
- a service of IPv4 only is not offered over IPv6;
- a service on the guest's loopback is offered where connections go to that loopback;
- a service at 127.0.0.53 of the host is offered at 127.0.0.53 of the guest.
A port that cannot be bound (taken, privileged) is tried again at the next scan.

Rejected: /proc/net/tcp, which lists every connection as well; binding through control, which may have ended.
"""

import _socket
import posix as os  # os takes 0.8 ms to import
import time

from pasta_py import defaults, hostports, model
from pasta_py.hostports import ANY4, ANY6, is_ipv4
from pasta_py.worker import helper, plane

TYPE_CHECKING = False
if TYPE_CHECKING:
    #: family (4 or 6), port, address (16 bytes), index of the interface that it is bound to or 0, inode
    Socket = tuple[int, int, bytes, int, int]
    #: address to listen at, port
    Port = tuple[bytes, int]

_NEVER = float("inf")

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
AF_NETLINK = 16
_NETLINK_SOCK_DIAG = 4
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_REQUEST_DUMP = 0x301
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_BYTES = 72
_HEADER_BYTES = 16
_MESSAGE_BYTES = 72
_INET_DIAG_SKV6ONLY = 11
_STATES = {model.IPPROTO_TCP: 1 << 10, model.IPPROTO_UDP: 1 << 7}  # TCP_LISTEN; TCP_CLOSE: not connected
_RECEIVE_BYTES = 64 << 10
_TIMEOUT_S = 1.0
_ORDER = plane.BYTE_ORDER

_LOOPBACK_INDEX = 1  # of lo in every network namespace (the kernel's LOOPBACK_IFINDEX)


def diag_socket(fileno: "int | None" = None) -> "_socket.socket":
    """A sock_diag socket: a new one, of this network namespace, or the descriptor given."""
    sock = _socket.socket(AF_NETLINK, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG, fileno=fileno)
    sock.settimeout(_TIMEOUT_S)
    return sock


def listening(sock: "_socket.socket", proto: int) -> "list[Socket]":
    """Each listening socket of TCP, or unconnected one of UDP; OSError.

    A dual-stack socket at `::` is in the list twice, once for each family.
    """
    found: list[Socket] = []
    for family in (_socket.AF_INET, _socket.AF_INET6):
        request = _REQUEST_BYTES.to_bytes(4, _ORDER) + _SOCK_DIAG_BY_FAMILY.to_bytes(2, _ORDER)
        request += _NLM_F_REQUEST_DUMP.to_bytes(2, _ORDER) + bytes(8)
        request += bytes([family, proto, 0, 0]) + _STATES[proto].to_bytes(4, _ORDER)
        sock.send(request.ljust(_REQUEST_BYTES, b"\0"))
        while not _take(sock.recv(_RECEIVE_BYTES), found):
            pass
    return found


def _take(data: bytes, found: "list[Socket]") -> bool:
    """Add the sockets in one batch of messages; True at the end of the dump."""
    at = 0
    while at + _HEADER_BYTES <= len(data):
        size = int.from_bytes(data[at : at + 4], _ORDER)
        kind = int.from_bytes(data[at + 4 : at + 6], _ORDER)
        if kind == _NLMSG_DONE or size < _HEADER_BYTES:
            return True
        if kind == _NLMSG_ERROR:
            number = -int.from_bytes(data[at + 16 : at + 20], _ORDER, signed=True)
            raise OSError(number, os.strerror(number))
        _take_socket(data[at + _HEADER_BYTES : at + size], found)
        at += (size + 3) & ~3
    return False


def _take_socket(body: bytes, found: "list[Socket]") -> None:
    """One struct inet_diag_msg with its attributes."""
    if len(body) < _MESSAGE_BYTES:
        return
    port = int.from_bytes(body[4:6], "big")
    device = int.from_bytes(body[40:44], _ORDER)
    inode = int.from_bytes(body[68:72], _ORDER)
    address = ANY4[:12] + body[8:12] if body[0] == _socket.AF_INET else body[8:24]
    found.append((4 if is_ipv4(address) else 6, port, address, device, inode))
    if address == ANY6 and not _v6only(body[_MESSAGE_BYTES:]):
        found.append((4, port, ANY4, device, inode))


def _is_loopback4(address: bytes) -> bool:
    return address[:13] == helper.LOOPBACK4[:13]


def _has_loopback(address: bytes, device: int) -> bool:
    """Whether a socket at `address`, bound to interface `device` (0: none), can be reached at a loopback address."""
    if address in (ANY4, ANY6):
        return device in (0, _LOOPBACK_INDEX)
    return address == helper.LOOPBACK6 or _is_loopback4(address)


def _v6only(attributes: bytes) -> bool:
    at = 0
    while at + 4 <= len(attributes):
        size = int.from_bytes(attributes[at : at + 2], _ORDER)
        if int.from_bytes(attributes[at + 2 : at + 4], _ORDER) == _INET_DIAG_SKV6ONLY:
            return attributes[at + 4 : at + 5] == b"\x01"
        at += max(4, (size + 3) & ~3)
    return False


def _place_in_guest(address: bytes, device: int) -> "bytes | None":
    """Where to listen in the guest for a service of the host; None: the host's loopback does not reach it.

    ANY4 means all of 127.0.0.0/8.
    """
    if not _has_loopback(address, device):
        return None
    return helper.LOOPBACK6 if address == ANY6 else address


class AutoPorts:
    """Carries out the automatic rules of a plan. Owns each socket that it binds."""

    def __init__(self, core: "plane.Plane", plan: model.WorkerPlan, guest: "_socket.socket") -> None:
        self._core, self._plan = core, plan
        self.rules = plan.auto_rules
        self._diag = {False: guest, True: diag_socket()}  # by to_host: of the namespace that has the targets
        self._bound: dict[tuple[model.AutoRule, Port], int] = {}
        self._own: set[int] = set()  # inodes of our sockets
        self._scan_at = _NEVER

    @property
    def due(self) -> float:
        """When scan() wants to be called (time.monotonic())."""
        return self._scan_at if self.rules else _NEVER

    def exclude(self, fd: int) -> None:
        """Never forward to this socket: the worker has it, but AutoPorts did not bind it."""
        self._own.add(os.fstat(fd).st_ino)

    def forget(self, fd: int) -> None:
        """Undo exclude(), before the socket is closed."""
        self._own.discard(os.fstat(fd).st_ino)

    def holds(self, proto: int, port: int) -> bool:
        """Whether a port of the host is bound here."""
        return any((rule.proto, rule.to_host) == (proto, False) and number == port for rule, (_at, number) in self._bound)

    def release(self, proto: int, to_host: bool, port: int) -> bool:
        """Close the sockets of a port, until the next scan; whether there were any."""
        held = [key for key in self._bound if key[1][1] == port and (key[0].proto, key[0].to_host) == (proto, to_host)]
        for key in held:
            self._unbind(key)
        return bool(held)

    def scan(self) -> None:
        """Bind and unbind what has changed. OSError if the kernel cannot list the sockets; no scan is due then."""
        self._scan_at = _NEVER
        seen: dict[tuple[bool, int], list[Socket]] = {}
        for key in [key for key in self._bound if key[0] not in self.rules]:
            self._unbind(key)
        for rule in self.rules:
            targets: set[Port] = set()
            # As with -u and -U: a service of TCP often has the same port of UDP (HTTP/3, DNS), on sockets that come and go.
            for proto in {model.IPPROTO_TCP, rule.proto}:
                if (rule.to_host, proto) not in seen:
                    seen[rule.to_host, proto] = listening(self._diag[rule.to_host], proto)
                targets |= self._targets(rule, seen[rule.to_host, proto])
            # ANY4 includes every address of 127.0.0.0/8.
            self._follow(rule, {(at, port) for at, port in targets if not _is_loopback4(at) or (ANY4, port) not in targets})
        self._scan_at = time.monotonic() + defaults.PORT_SCAN_S

    def _targets(self, rule: model.AutoRule, found: "list[Socket]") -> "set[Port]":
        """The ports to bind for the sockets found, and at which address."""
        shift = rule.target_first - rule.first
        return {
            (at, port - shift)
            for family, port, address, device, inode in found
            if inode not in self._own
            and self._plan.family(family).on
            and rule.first <= port - shift <= rule.last
            and (at := _place_in_guest(address, device) if rule.to_host else self._place_on_host(rule, family, address, device))
        }

    def _place_on_host(self, rule: model.AutoRule, family: int, address: bytes, device: int) -> "bytes | None":
        """Where to listen on the host for a service of the guest; None: no connection would reach it.

        Connections go to the guest's own address; with lo_to_lo, those of local clients go to its loopback.
        """
        at_loopback = _has_loopback(address, device)
        at_own = device != _LOOPBACK_INDEX if address in (ANY4, ANY6) else not at_loopback
        if not (at_loopback and self._plan.lo_to_lo) and not (at_own and not self._plan.local_only):
            return None
        if rule.address and is_ipv4(rule.address) != (family == 4):
            return None
        return rule.address or (ANY4 if family == 4 else ANY6)

    def _follow(self, rule: model.AutoRule, targets: "set[Port]") -> None:
        for held in [key for key in self._bound if key[0] == rule and key[1] not in targets]:
            self._unbind(held)
        for port in targets:
            if (rule, port) not in self._bound:
                self._bind(rule, port)

    def _unbind(self, key: "tuple[model.AutoRule, Port]") -> None:
        fd = self._bound.pop(key)
        self.forget(fd)
        self._core.remove_listener(fd)
        os.close(fd)

    def _bind(self, rule: model.AutoRule, port: "Port") -> None:
        address, number = port
        try:
            if not rule.to_host:
                fd = hostports.bind(rule.proto, address, rule.ifname, number)
            elif address == ANY4:
                fd = helper.bind_loopback(self._core, rule.proto, helper.LOOPBACK4, number)
            else:
                fd = self._core.listen_in_guest(rule.proto, address, number)
        except OSError:
            return  # taken, or privileged: the next scan tries again
        target_port = rule.target_first + number - rule.first
        listener = model.Listener(proto=rule.proto, port=number, target=rule.target, target_port=target_port)
        self._own.add(os.fstat(fd).st_ino)
        self._core.add_listeners(listener, [fd], to_host=rule.to_host)
        self._bound[rule, port] = fd
