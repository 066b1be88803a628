"""The arguments of --redirect, --proxy and --no-proxy. Pure."""

from pasta_py.control.commandline import egress_rule
from pasta_py.control.commandline.egress_rule import Rule
from pasta_py.control.commandline.option_values import Refused
from pasta_py.control.ip import ip_address, packed
from pasta_py.errors import UsageError
from pasta_py.record import Record

#: What is said there, as in plane_detours() of csrc/plane_api.h.
NOTHING, PROXY_V2, SOCKS5, HTTP = range(4)
_SCHEMES = {"socks5": SOCKS5, "socks5h": SOCKS5, "http": HTTP}
_SUFFIX = "+proxy-v2"
_MAX_PORT = 65535
_TCP_UDP = egress_rule.TCP | egress_rule.UDP


class Redirect(Record):
    """One --redirect."""

    rule: Rule
    address: bytes  # 16 bytes
    port: int
    kind: int  # NOTHING or PROXY_V2
    text: str


class Proxy(Record):
    """--proxy."""

    host: str  # a name, or an address without brackets
    port: int
    kind: int  # SOCKS5 or HTTP
    text: str


def redirect(text: str) -> Redirect:
    said = text.removesuffix(_SUFFIX)
    destination, at, place = said.rpartition("@")
    host, port = _place(place)
    if not (at and destination and host and port):
        raise Refused(f"RULE@ADDRESS:PORT, as in *:443@127.0.0.1:8443, with {_SUFFIX} behind it or not")
    try:
        address = ip_address(host)
    except ValueError:
        raise Refused("an address of the host behind the last @, as in *:443@127.0.0.1:8443") from None
    rule = egress_rule.parse(destination, allow=True, where="--redirect")
    kind = PROXY_V2 if said != text else NOTHING
    return Redirect(rule=_streams(rule, text), address=packed(address), port=port, kind=kind, text=text)


def _streams(rule: Rule, text: str) -> Rule:
    """The rule for TCP, and for UDP, which is refused: beside the inspector it would be seen by nothing."""
    given = rule.protocols
    if given not in (egress_rule.ALL_PROTOCOLS, _TCP_UDP, egress_rule.TCP):
        raise UsageError(f"{text!r} is not for TCP, which alone is redirected: leave the protocol out")
    encoded = bytearray(rule.encoded)
    encoded[1] = _TCP_UDP
    return rule.replace(encoded=bytes(encoded))  # type: ignore[no-any-return]


def proxy(text: str) -> Proxy:
    scheme, _, rest = text.partition("://")
    kind = _SCHEMES.get(scheme)
    host, port = _place(rest.removesuffix("/"))
    if "@" in rest:
        raise UsageError("every process can read a command line: put USER:PASSWORD into a file for --proxy-auth-file")
    if not (kind and host and port):
        raise Refused("socks5://HOST:PORT or http://HOST:PORT")
    return Proxy(host=host, port=port, kind=kind, text=text)


def no_proxy(text: str) -> Rule:
    return egress_rule.parse(text, allow=False, where="--no-proxy")


def _place(text: str) -> "tuple[str, int]":
    """Host and port; port 0: there is none."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return "", 0
    valid = port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= _MAX_PORT
    plain = host.isascii() and all(c.isalnum() or c in ".-:_" for c in host)
    return (host, int(port)) if valid and plain else ("", 0)
