"""The virtual machine at the other end of the link: it connects, sends frames, leaves, and may come again.

One client is served at a time; another is closed at once. A client that leaves at once, without a frame or a message of
vhost-user, was none: it only looked whether the socket is in use. Flows and ports outlive a client, and so does what was learnt of
its addresses.

At connect the guest is asked for its MAC address, so that forwarded connections reach one that is silent: an ARP request and a
neighbour solicitation for the addresses that it has, or gets.
"""

import _socket
import errno
import posix as os  # os takes 0.8 ms to import
import time

from pasta_py.worker import frames, log, ndp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.model import WorkerPlan
    from pasta_py.worker import plane

_LOOK_S = 1.0  # a program that looks whether the socket is in use has closed by then
_ARP_REQUEST = b"\0\1\x08\0\6\4\0\1"  # RFC 826: Ethernet, IPv4, lengths 6 and 4, request


class Server:
    """The listening socket, if there is one, and the client."""

    def __init__(self, core: "plane.Plane", plan: "WorkerPlan", listener: int, ident: int, journal: log.Log) -> None:
        """`listener`: -1 if the core has its only client already. `ident`: under which the core watches the listener."""
        self._core, self._plan, self._log = core, plan, journal
        self._listener = _socket.socket(fileno=listener) if listener >= 0 else None
        self._client: _socket.socket | None = None
        self._received_before, self._came_at = 0, 0.0
        self._mac = b""
        if self._listener:
            core.watch(listener, ident)
        else:
            self._ask()

    def on_listener(self) -> "int | None":
        """A client waits to be accepted; the exit status, if the end of the one before was the end."""
        assert self._listener is not None
        try:
            fd, _address = self._listener._accept()  # type: ignore[attr-defined]  # socket.accept() is built on it
        except OSError:
            return None  # the client has gone, or no descriptor is left: the core reports the socket again if one waits
        client = _socket.socket(fileno=fd)
        if self._client and self._has_left(self._client):
            status = self.on_end(errno.ENODEV)
            if status is not None:
                return status
        if self._client:
            client.close()
            self._log.write(log.INFO, "discarding connection: another client is connected")
            return None
        try:
            self._core.attach(fd)
        except OSError as error:
            client.close()
            self._log.write(log.WARNING, f"a client cannot be served: {error.strerror}")
            return None
        self._client = client
        self._received_before, self._came_at = self._received(), time.monotonic()
        self._log.write(log.INFO, "accepted connection")
        self._ask()
        return None

    @staticmethod
    def _has_left(client: "_socket.socket") -> bool:
        """Whether the client has closed, and the core only does not know it yet."""
        try:
            return not client.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def on_frame(self, frame: bytes) -> None:
        """A frame of the slow path: whose MAC address is it?"""
        mac = frame[6:12]
        if mac != self._mac and not mac[0] & 1:
            self._mac = mac
            self._log.write(log.INFO, f"New guest MAC address observed: {mac.hex(':')}")

    def on_end(self, number: int) -> "int | None":
        """The client has gone, or the core cannot read it; the exit status, if that is the end."""
        if self._plan.vhost_user and number in (errno.EPROTO, errno.EFAULT):
            pass  # the core has said what was wrong
        elif number == errno.EPROTO:
            self._log.write(log.WARNING, "Bad frame size from guest, resetting connection")
        elif number not in (errno.ENODEV, errno.ECONNRESET, errno.EPIPE):
            self._log.write(log.WARNING, f"the socket of the virtual machine: {os.strerror(number)}")
        heard = self._received() > self._received_before or number == errno.EPROTO
        served = heard or time.monotonic() > self._came_at + _LOOK_S
        if self._plan.one_off and (served or not self._listener):
            self._log.write(log.INFO, "Client connection closed, exiting")
            return 0
        self._core.detach()
        if self._client:
            self._client.close()
        self._client = None
        self._log.write(log.INFO, "Client connection closed")
        return None

    def _received(self) -> int:
        return self._core.counters()["vhost_messages" if self._plan.vhost_user else "tap_rx_frames"]

    def _ask(self) -> None:
        plan = self._plan
        own, gateway = frames.ipv4(plan.family4.guest), frames.ipv4(plan.family4.gateway)
        if plan.family4.on and own and gateway:
            # passt leaves the target's hardware address at all ones, too: RFC 826 gives it no meaning in a request.
            body = _ARP_REQUEST + plan.our_mac + gateway + frames.BROADCAST_MAC + own
            self._core.send(frames.BROADCAST_MAC + plan.our_mac + frames.ETHERTYPE_ARP + body)
        own6 = frames.ipv6(plan.family6.guest)
        if plan.ndp and own6 and plan.our_link_local:
            self._core.send(ndp.solicitation(plan, self._mac or frames.BROADCAST_MAC, own6))
