"""slirp4netns's API: port forwardings added, removed and listed over a UNIX socket, one JSON request per connection.

The answers are slirp4netns's, to the letter where callers read them. Requests with which it forwards the wrong port or crashes
(ports over 65535, no "proto") are refused. `list_hostfwd` has its entries in both places: where slirp4netns puts them, and where
its manual says. A slow client delays neither other clients nor the traffic.
"""

import os
import select
import socket
import time
from contextlib import suppress
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from pasta_py import hostports, model
from pasta_py.control.commandline import port_spec
from pasta_py.control.forwarding import bind_ports
from pasta_py.errors import PastaError, WorkerError

if TYPE_CHECKING:
    from pasta_py.control.start.worker_process import WorkerProcess

MAX_REQUEST_BYTES = 4096  # a request of this size is refused
_MAX_CLIENTS = 64
_PATIENCE_S = 2.0  # for the rest of a request, and for a client to take its answer
_BACKLOG = 64
_PROTOCOLS = {"tcp": model.IPPROTO_TCP, "udp": model.IPPROTO_UDP}
_ANY = "0.0.0.0"


class _BadRequest(Exception):
    """The text says what is wrong with the request."""


class HostForwards:
    """The forwardings that clients have added: bound here, handed over to the worker."""

    def __init__(self, worker: "WorkerProcess", guest: IPv4Address) -> None:
        self._worker, self._guest = worker, guest
        self._entries: dict[int, dict[str, object]] = {}
        self._rules: dict[int, model.ForwardRule] = {}
        self._next = 1

    def answer(self, request: bytes) -> bytes:
        """The answer to one request, valid or not. WorkerError when the worker has gone."""
        try:
            reply = self._execute(request)
        except _BadRequest as error:
            reply = {"error": {"desc": f"bad request: {error}"}}
        import json

        return json.dumps(reply, separators=(",", ":")).encode()

    def _execute(self, request: bytes) -> dict[str, object]:
        if len(request) >= MAX_REQUEST_BYTES:
            raise _BadRequest("too large message")
        try:
            value = _first_value(request)
        except (ValueError, RecursionError):
            raise _BadRequest("cannot parse JSON") from None
        if not isinstance(value, dict):
            raise _BadRequest("json_object() failed")
        execute, arguments = value.get("execute"), value.get("arguments")
        if not isinstance(execute, str):
            raise _BadRequest("no execute found")
        arguments = arguments if isinstance(arguments, dict) else {}
        if execute == "add_hostfwd":
            return {"return": {"id": self._add(arguments)}}
        if execute == "remove_hostfwd":
            self._remove(arguments)
            return {"return": {}}
        if execute == "list_hostfwd":
            entries = list(self._entries.values())
            return {"entries": entries, "return": {"entries": entries}}
        raise _BadRequest("unknown execute")

    def _add(self, arguments: dict[str, object]) -> int:
        proto = arguments.get("proto")
        if not isinstance(proto, str) or proto not in _PROTOCOLS:
            raise _BadRequest("add_hostfwd: bad arguments.proto")
        host = _address(arguments, "host_addr", _ANY)
        host_port = _port(arguments, "host_port")
        guest = _address(arguments, "guest_addr", str(self._guest))
        guest_port = _port(arguments, "guest_port")
        number = _PROTOCOLS[proto]
        rule = bind_ports.forward_rule(number, False, _rule(host, host_port, guest, guest_port))
        try:
            fd = hostports.bind(number, rule.address, "", host_port)
        except OSError as error:
            raise _BadRequest(f"add_hostfwd: slirp_add_hostfwd failed: {error.strerror}") from None
        try:
            self._worker.change(rule, fd)
        except WorkerError as error:
            raise _BadRequest(f"add_hostfwd: slirp_add_hostfwd failed: {error}") from None
        finally:
            os.close(fd)
        entry = {"id": self._next, "proto": proto, "host_addr": host, "host_port": host_port}
        self._entries[self._next] = {**entry, "guest_addr": guest, "guest_port": guest_port}
        self._rules[self._next] = rule
        self._next += 1
        return self._next - 1

    def _remove(self, arguments: dict[str, object]) -> None:
        number = arguments.get("id")
        if not isinstance(number, (int, float)) or isinstance(number, bool) or number not in self._entries:
            raise _BadRequest("remove_hostfwd: bad arguments.id")
        try:
            self._worker.change(self._rules[int(number)])
        except WorkerError as error:
            raise _BadRequest(f"remove_hostfwd: slirp_remove_hostfwd failed: {error}") from None
        del self._entries[int(number)], self._rules[int(number)]


def _rule(host: str, host_port: int, guest: str, guest_port: int) -> port_spec.Rule:
    return port_spec.Rule(
        address=IPv4Address(host), ifname="", first=host_port, last=host_port, target=IPv4Address(guest),
        target_first=guest_port, weak=False, scan=False,
    )  # fmt: skip


def _address(arguments: dict[str, object], name: str, default: str) -> str:
    text = arguments.get(name)
    if not isinstance(text, str) or not text:
        return default
    try:
        return str(IPv4Address(text))
    except ValueError:
        raise _BadRequest(f"add_hostfwd: bad arguments.{name}") from None


def _port(arguments: dict[str, object], name: str) -> int:
    value = arguments.get(name)
    number = 0
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= port_spec.MAX_PORT:
        number = int(value)
    if not 0 < number <= port_spec.MAX_PORT:
        raise _BadRequest(f"add_hostfwd: bad arguments.{name}")
    return number


def listen(path: str) -> socket.socket:
    """The API's socket, in place of any file of that name. PastaError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
        sock.bind(path)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except (OSError, ValueError) as error:
        sock.close()
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PastaError(f"Couldn't listen at the API socket {path!r}: {why}: choose another path") from None
    return sock


class _Client:
    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.request, self.deadline = sock, b"", time.monotonic() + _PATIENCE_S


class Server:
    """The connections at the API's socket, driven by the caller's poll object."""

    def __init__(self, listener: socket.socket, forwards: HostForwards, poll: "select.poll") -> None:
        self._listener, self._forwards, self._poll = listener, forwards, poll
        self._clients: dict[int, _Client] = {}
        poll.register(listener, select.POLLIN)

    def timeout_ms(self) -> int | None:
        """How long until expire() has something to do; None: it has nothing."""
        if not self._clients:
            return None
        first = min(client.deadline for client in self._clients.values())
        return max(0, int((first - time.monotonic()) * 1000) + 1)

    def expire(self) -> None:
        """Answer clients that have not finished in time, by what they have sent."""
        now = time.monotonic()
        for client in [client for client in self._clients.values() if client.deadline <= now]:
            self._finish(client)

    def event(self, fd: int) -> None:
        """Handle an event at fd, if it is ours."""
        if fd == self._listener.fileno():
            self._accept()
        elif fd in self._clients:
            self._read(self._clients[fd])

    def _accept(self) -> None:
        try:
            sock, _address = self._listener.accept()
        except OSError:
            return  # the client has gone, or descriptors are short: try again at the next event
        sock.setblocking(False)
        if len(self._clients) >= _MAX_CLIENTS:
            self._finish(next(iter(self._clients.values())))
        self._clients[sock.fileno()] = _Client(sock)
        self._poll.register(sock, select.POLLIN)

    def _read(self, client: _Client) -> None:
        try:
            piece = client.sock.recv(MAX_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        client.request += piece
        if not piece or len(client.request) >= MAX_REQUEST_BYTES or _is_object(client.request):
            self._finish(client)

    def _finish(self, client: _Client) -> None:
        fd = client.sock.fileno()
        self._poll.unregister(fd)
        del self._clients[fd]
        with client.sock as sock:
            answer = self._forwards.answer(client.request)
            with suppress(OSError):  # the client has not waited for the answer
                sock.settimeout(_PATIENCE_S)
                sock.sendall(answer)
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        for client in self._clients.values():
            client.sock.close()


def _is_object(request: bytes) -> bool:
    """Whether the request is complete: many clients wait for the answer without closing their side."""
    try:
        return isinstance(_first_value(request), dict)
    except (ValueError, RecursionError):
        return False


def _first_value(request: bytes) -> object:
    """The first JSON value; what follows is ignored, as by slirp4netns. ValueError, RecursionError."""
    import json  # imports re: at the first request, not at the start

    value: object = json.JSONDecoder().raw_decode(request.decode().lstrip())[0]
    return value
