"""The server of the control socket (--conf-path): one client at a time, each with a few seconds for its one exchange.

The others wait in the backlog. Nothing here waits: what the socket does not take at once is sent at a tick, and a client
that says nothing is dropped by its deadline, so that neither the data plane nor the next client depends on it. What it may
send is bounded by confwire. Every change and every refusal is logged; a refusal is told to the client as well.

The sandbox decides how sockets are used: no fcntl(2), no ioctl(2), so no setblocking or timeouts, MSG_DONTWAIT instead.
"""

# ruff: noqa: SIM105 - contextlib is not imported here

import _socket
import time

from pasta_py import pesto_protocol
from pasta_py.errors import ConfError
from pasta_py.worker import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.worker import plane, port_rules

LIMIT_S = 5.0  # for a whole exchange
RETRY_S = 0.02  # where the client has not read yet
_RECEIVE_BYTES = 64 << 10
_NEVER = float("inf")


class Server:
    """The listening socket and its present client. `due` is when tick() wants to be called."""

    def __init__(
        self, core: "plane.Plane", fd: int, idents: "tuple[int, int]", rules: "port_rules.Rules", journal: "log.Log"
    ) -> None:
        self._core, self._rules, self._log = core, rules, journal
        self._listener = _socket.socket(fileno=fd)
        self._idents = idents  # of the listening socket and of the client, for the core
        self._client: _socket.socket | None = None
        self._reader = pesto_protocol.UpdateReader()
        self._unsent = b""
        self._deadline = _NEVER
        core.watch(fd, idents[0])

    @property
    def due(self) -> float:
        if not self._client:
            return _NEVER
        return min(self._deadline, time.monotonic() + RETRY_S) if self._unsent else self._deadline

    def on_listener(self) -> None:
        """A client wants to be served."""
        if self._client:
            return
        try:
            fd, _address = self._listener._accept()  # type: ignore[attr-defined]  # what socket.accept() is made of
        except OSError:
            return  # it has gone already, or there is no descriptor: it is asked again
        self._client = _socket.socket(fileno=fd)
        self._core.unwatch(self._listener.fileno())
        self._core.watch(fd, self._idents[1])
        self._reader = pesto_protocol.UpdateReader(ipv6=bool(self._rules.capabilities & pesto_protocol.IPV6))
        self._unsent = pesto_protocol.hello() + pesto_protocol.write_tables(self._rules.rules, self._rules.capabilities)
        self._deadline = time.monotonic() + LIMIT_S
        self._send()

    def on_client(self) -> bool:
        """The client has sent something, or closed; whether the rules are others now."""
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
            self._log.write(log.WARNING, f"control socket: a client did nothing for {LIMIT_S:.0f} s: it is let go")
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
                pass  # it does not wait for it: passt's pesto
        self._drop()

    def _drop(self) -> None:
        assert self._client is not None
        self._core.unwatch(self._client.fileno())
        self._client.close()
        self._client, self._unsent, self._deadline = None, b"", _NEVER
        self._reader = pesto_protocol.UpdateReader()
        self._core.watch(self._listener.fileno(), self._idents[0])
