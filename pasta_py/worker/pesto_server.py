"""The server of the control socket (--conf-path): one exchange (pesto_protocol) with one client at a time.

Other clients wait in the backlog.

Invariants: nothing here blocks. What the socket does not accept at once is sent at a later tick. A client is dropped at its
deadline, so it cannot hold up the next one. pesto_protocol bounds what a client can send. Each change and each refusal is logged,
and the client is told why it is refused.

The sandbox allows neither fcntl(2) nor ioctl(2), so MSG_DONTWAIT stands in for setblocking() and timeouts.
"""



import _socket
import time

from pasta_py import defaults, pesto_protocol
from pasta_py.errors import ConfError
from pasta_py.worker import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.worker import plane, port_rules

RETRY_S = 0.02  # between attempts to send to a client that has not read yet
_RECEIVE_BYTES = 64 << 10
_NEVER = float("inf")


class Server:
    """The listening socket and the client that is served."""

    def __init__(
        self, core: "plane.Plane", fd: int, idents: "tuple[int, int]", rules: "port_rules.Rules", journal: "log.Log"
    ) -> None:
        self._core, self._rules, self._log = core, rules, journal
        self._listener = _socket.socket(fileno=fd)
        self._idents = idents  # under which the core watches the listening socket and the client
        self._client: _socket.socket | None = None
        self._reader = pesto_protocol.UpdateReader()
        self._unsent = b""
        self._deadline = _NEVER
        core.watch(fd, idents[0])

    @property
    def due(self) -> float:
        """When on_tick() wants to be called (time.monotonic())."""
        if not self._client:
            return _NEVER
        return min(self._deadline, time.monotonic() + RETRY_S) if self._unsent else self._deadline

    def on_listener(self) -> None:
        """A client waits to be served."""
        if self._client:
            return
        try:
            fd, _address = self._listener._accept()  # type: ignore[attr-defined]  # socket.accept() is built on it
        except OSError:
            return  # the client has gone, or no descriptor is left: the core reports the socket again if one waits
        self._client = _socket.socket(fileno=fd)
        self._core.unwatch(self._listener.fileno())
        self._core.watch(fd, self._idents[1])
        self._reader = pesto_protocol.UpdateReader(ipv6=bool(self._rules.capabilities & pesto_protocol.IPV6))
        self._unsent = pesto_protocol.hello() + pesto_protocol.write_tables(self._rules.rules, self._rules.capabilities)
        self._deadline = time.monotonic() + defaults.PESTO_CLIENT_S
        self._send()

    def on_client(self) -> bool:
        """The client has sent something, or closed; True if the rules have changed."""
        if not self._client:
            return False
        try:
            data = self._client.recv(_RECEIVE_BYTES, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            if self._reader.started:
                self._log.write(log.WARNING, "control socket: a client closed in the middle of its update: nothing is changed")
            self._drop()
            return False
        try:
            self._reader.feed(data)
            if not self._reader.complete:
                return False
            self._rules.swap(tuple(self._reader.rules))
        except ConfError as error:
            self._refuse(str(error))
            return False
        self._log.write(log.INFO, f"control socket: {len(self._rules.rules)} rules of port forwarding are in force")
        self._drop()
        return True

    def on_tick(self) -> None:
        if self._client and time.monotonic() >= self._deadline:
            self._log.write(log.WARNING, f"control socket: a client did nothing for {defaults.PESTO_CLIENT_S:.0f} s: it is let go")
            self._drop()
        elif self._client and self._unsent:
            self._send()

    def _send(self) -> None:
        assert self._client is not None
        try:
            sent = self._client.send(self._unsent, _socket.MSG_DONTWAIT)
            self._unsent = self._unsent[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self._drop()

    def _refuse(self, why: str) -> None:
        assert self._client is not None
        self._log.write(log.ERROR, f"control socket: {why}; the rules are as before")
        if not self._unsent:
            try:
                self._client.send(why.replace("\n", " ").encode("utf-8", "replace") + b"\n", _socket.MSG_DONTWAIT)
            except OSError:
                pass  # passt's pesto does not wait for the answer
        self._drop()

    def _drop(self) -> None:
        assert self._client is not None
        self._core.unwatch(self._client.fileno())
        self._client.close()
        self._client, self._unsent, self._deadline = None, b"", _NEVER
        self._reader = pesto_protocol.UpdateReader()
        self._core.watch(self._listener.fileno(), self._idents[0])
