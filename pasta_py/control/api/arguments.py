"""From keyword arguments to words of the command line, which parses and refuses them as anybody else's."""

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pasta_py.control.commandline import port_spec
from pasta_py.control.commandline.option_table import BY_LONG
from pasta_py.errors import HostError, UsageError, reason

#: The value of a keyword argument that is named after an option.
Value = str | int | bool | os.PathLike[str] | Sequence[str | int | os.PathLike[str]] | None


class Port(NamedTuple):
    """A published port."""

    address: str  # of the host; "": any
    port: int  # of the host
    target: int  # of the guest
    protocol: str  # "tcp" or "udp"


class Published:
    """The published ports of one start: words for those that the program binds, sockets for those that were to be any free one.

    words: -t and -u. ports: all of them. sockets: bound, and of the caller until `close`.
    """

    def __init__(self, ports: Sequence[str]) -> None:
        self.words: list[str] = []
        self.ports: tuple[Port, ...] = ()
        self.sockets: list[tuple[socket.socket, int]] = []  # with the guest's port
        if isinstance(ports, str) or not isinstance(ports, Sequence) or not all(isinstance(port, str) for port in ports):
            raise UsageError(f"ports {ports!r}: expected a list of texts such as '8080:80' or '127.0.0.1:0:80/tcp'")
        try:
            for port in ports:
                self._add(port)
        except BaseException:
            self.close()
            raise

    def _add(self, text: str) -> None:
        option, spec = port_spec.published(text)
        address, _, numbers = spec.rpartition("/")
        host, colon, target = numbers.partition(":")
        protocol = "udp" if option == "-u" else "tcp"
        if host == "0" and colon:
            port = self._bind(text, address, target, protocol)
            self.ports += (Port(address.strip("[]"), port, int(target), protocol),)
            return
        try:
            chunks = port_spec.parse(spec).chunks
        except UsageError as error:
            raise UsageError(f"--{protocol}-ports: {error}") from None
        for chunk in chunks:
            for offset in range(chunk.last - chunk.first + 1):
                self.ports += (Port(address.strip("[]"), chunk.first + offset, chunk.target_first + offset, protocol),)
        self.words += [option, spec]

    def _bind(self, text: str, address: str, target: str, protocol: str) -> int:
        """Bind any free port; returns it."""
        if not (target.isascii() and target.isdigit() and 1 <= int(target) <= port_spec.MAX_PORT):
            raise UsageError(f"port mapping {text!r}: a free port is for one port of the guest: expected [ADDRESS:]0:PORT")
        plain = address.strip("[]")
        family = socket.AF_INET6 if ":" in plain else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM)
        self.sockets.append((sock, int(target)))
        try:
            sock.bind((plain, 0))
            if protocol == "tcp":
                sock.listen(socket.SOMAXCONN)
        except OSError as error:
            raise HostError(f"port mapping {text!r}: {reason(error)}") from None
        number: int = sock.getsockname()[1]
        return number

    def close(self) -> None:
        """Close the sockets: the program has its own."""
        for sock, _target in self.sockets:
            sock.close()


def network_words(network: str) -> list[str]:
    """The word for options in podman's form."""
    if not isinstance(network, str):
        raise UsageError(f"network {network!r}: expected a text such as 'pasta:--map-gw,--mtu,1500'")
    return [] if network == "pasta" else [f"--network={network}"]


def option_words(options: Mapping[str, Value]) -> list[str]:
    """Words for keyword arguments: `mtu=1500` is --mtu 1500, `map_gw=False` --no-map-gw, `dns=["192.0.2.1"]` --dns 192.0.2.1."""
    words: list[str] = []
    for name, value in options.items():
        words += _option(name, value)
    return words


def _option(name: str, value: Value) -> Iterable[str]:
    long = name.replace("_", "-")
    known = BY_LONG.get(long)
    if known is None or known.rule == "stop":
        raise UsageError(f"{name}={value!r}: there is no option --{long}: docs/api.md says how options become arguments")
    if value is None:
        return []
    if not known.metavar:
        if not isinstance(value, bool):
            raise UsageError(f"{name}={value!r}: --{long} takes no value: expected True or False")
        negated = long.removeprefix("no-") if long.startswith("no-") else f"no-{long}"
        if value:
            return [f"--{long}"]
        return [f"--{negated}"] if negated in BY_LONG else []
    if isinstance(value, bool):
        raise UsageError(f"{name}={value!r}: --{long} takes a value: expected {known.metavar}")
    if isinstance(value, str | int | os.PathLike):
        return [f"--{long}", _text(name, value)]
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise UsageError(f"{name}={value!r}: expected a text, a number, or several of them")
    return [word for each in value for word in (f"--{long}", _text(name, each))]


def _text(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | os.PathLike):
        raise UsageError(f"{name}={value!r}: expected a text or a number")
    text = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    if not isinstance(text, str):
        raise UsageError(f"{name}={value!r}: expected a path of text, not of bytes")
    return text
