"""What an option takes: each function here turns the text of a value into what Options holds.

Invariants: a converter reads nothing but its argument, and either returns a value that is valid by itself or raises
Refused, whose text completes "expected ...".
"""

from pasta_py.control.commandline import port_spec
from pasta_py.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pasta_py.control.commandline.detour import Proxy, Redirect
    from pasta_py.control.commandline.egress_rule import Rule
    from pasta_py.control.ip import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

MIN_MTU = 68  # RFC 791, 3.2
MAX_MTU = 65535
MAX_DOMAIN_CHARS = 253  # RFC 1035, 2.3.4, as text without the final dot


class Refused(Exception):
    """A value is not valid; the text says what is."""


def text(text: str) -> str:
    if not text or "\0" in text:
        raise Refused("a text that is not empty")
    return text


def number(low: int, high: int) -> "Callable[[str], int]":
    def convert(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 12 and low <= int(text) <= high):
            raise Refused(f"a number from {low} to {high}")
        return int(text)

    return convert


def one_of(*words: str) -> "Callable[[str], str]":
    def convert(text: str) -> str:
        if text not in words:
            raise Refused(f"one of {', '.join(words)}")
        return text

    return convert


def mtu(text: str) -> int:
    accepted = f"0, or a number from {MIN_MTU} to {MAX_MTU} (1280 or more for IPv6)"
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise Refused(accepted)
    value = int(text)
    if value and not MIN_MTU <= value <= MAX_MTU:
        raise Refused(accepted)
    return value


def mac(text: str) -> bytes:
    digits = text.split("-" if "-" in text else ":")
    if len(digits) != 6 or not all(d and len(d) <= 2 and set(d) <= set("0123456789abcdefABCDEF") for d in digits):
        raise Refused("a MAC address such as 9a:55:9a:55:9a:55")
    value = bytes(int(d, 16) for d in digits)
    if value[0] & 1 or not any(value):
        raise Refused("an address of a single interface, not all zeros and with an even first byte")
    return value


def ifname(text: str) -> str:
    if not port_spec.valid_ifname(text):
        raise Refused("an interface name of 1 to 15 characters without '/', ':', '%' or space")
    return text


def host_ifname(text: str) -> str:
    if not port_spec.valid_ifname(text, port_spec.ALTIFNAME_BYTES):
        raise Refused("the name of one of the host's interfaces, 1 to 127 characters without '/', ':', '%' or space")
    return text


def domain(text: str) -> str:
    labels = text.removesuffix(".").split(".")
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    if len(text) > MAX_DOMAIN_CHARS or not all(0 < len(label) <= 63 and set(label) <= allowed for label in labels):
        raise Refused("a name of letters, digits and '-', up to 63 characters between dots and 253 in all")
    return text


def search(text: str) -> tuple[str, ...]:
    if text == "none":
        return ()
    names = tuple("." if name == "." else domain(name) for name in text.split())
    if not names:
        raise Refused("domain names with spaces between them, or 'none'")
    # A final dot changes nothing, except that "none." is a domain
    return tuple(name.removesuffix(".") or name for name in names)


def runas(text: str) -> str:
    parts = text.split(":")
    if len(parts) > 2 or not all(parts) or any(c.isspace() or c == "\0" for c in text):
        raise Refused("UID, UID:GID, LOGIN or LOGIN:GROUP")
    for part in parts:
        if part.isascii() and part.isdigit() and (len(part) > 10 or int(part) >= 0xFFFFFFFF):
            raise Refused("an ID from 0 to 4294967294")
    return text


def ip(what: str, *, loopback: bool = False) -> "Callable[[str], Any]":
    def convert(text: str) -> "IPv4Address | IPv6Address":
        from pasta_py.control.ip import ip_address

        try:
            if "%" in text:
                raise ValueError
            address = ip_address(text)
        except ValueError:
            raise Refused(f"an IPv4 or IPv6 address ({what})") from None
        _check_unicast(address, what, loopback)
        return address

    return convert


def _check_unicast(address: "IPv4Address | IPv6Address", what: str, loopback: bool) -> None:
    broadcast = address.version == 4 and int(address) == 0xFFFFFFFF
    mapped = address.version == 6 and address.ipv4_mapped is not None
    if address.is_unspecified or address.is_multicast or broadcast or mapped or (address.is_loopback and not loopback):
        raise Refused(f"an ordinary unicast address ({what})")


#: Bits a second.
_RATE_UNITS = {
    "bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9,
    "B": 8, "kB": 8 * 10**3, "KB": 8 * 10**3, "MB": 8 * 10**6, "GB": 8 * 10**9,
}  # fmt: skip
_MIN_RATE, _MAX_RATE = 1000, 10**11  # bytes a second


def rate(text: str) -> int:
    """Bytes a second. Units that tc(8) and others read differently (`mbps`, `mb`, no unit) are refused."""
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = text[len(digits) :]
    whole, _, part = digits.partition(".")
    factor = _RATE_UNITS.get(unit) or _RATE_UNITS.get(unit.lower(), 0)
    if not (factor and (whole + part).isascii() and (whole + part).isdigit() and len(whole) <= 12 and len(part) <= 6):
        raise Refused("a number with a unit: kbit, mbit or gbit for bits a second, kB, MB or GB for bytes, as in 10mbit or 2.5MB")
    value: int = int(whole or "0") * factor // 8 + int(part or "0") * factor // (8 * 10 ** len(part))
    if not _MIN_RATE <= value <= _MAX_RATE:
        raise Refused("a rate from 8kbit to 800gbit")
    return value


def or_none(convert: "Callable[[str], Any]") -> "Callable[[str], Any]":
    return lambda text: None if text == "none" else convert(text)


def guest_address(text: str) -> "tuple[IPv4Interface | IPv6Interface, bool]":
    """The address with a prefix length, and whether that was given. Without: by class (IPv4), or 64 (IPv6)."""
    from pasta_py.control.ip import ip_address, ip_interface

    host, slash, length = text.partition("/")
    try:
        if "%" in text or (slash and not (length.isascii() and length.isdigit() and int(length) > 0)):
            raise ValueError
        address = ip_address(host)
        if not slash:
            length = "64" if address.version == 6 else str(_class_length(int(address)))
        value = ip_interface(f"{host}/{length}")
    except ValueError:
        raise Refused("an IPv4 or IPv6 address, with /LENGTH or without") from None
    _check_unicast(address, "of the guest", False)
    return value, bool(slash)


def _class_length(address: int) -> int:
    """The prefix length by class (RFC 791, 3.2)."""
    return 8 if address < 0x80000000 else 16 if address < 0xC0000000 else 24


def netmask(text: str) -> int:
    accepted = "a mask such as 255.255.255.0, or a number of bits from 1 to 32"
    if text.isascii() and text.isdigit() and len(text) <= 2 and 1 <= int(text) <= 32:
        return int(text)
    from pasta_py.control.ip import IPv4Address

    try:
        mask = int(IPv4Address(text))
    except ValueError:
        raise Refused(accepted) from None
    bits = mask.bit_count()
    if not bits or mask != (0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF:
        raise Refused(accepted)
    return bits


def allow(text: str) -> "Rule":
    from pasta_py.control.commandline import egress_rule

    return egress_rule.parse(text, allow=True, where="--allow")


def deny(text: str) -> "Rule":
    from pasta_py.control.commandline import egress_rule

    return egress_rule.parse(text, allow=False, where="--deny")


def redirect(text: str) -> "Redirect":
    from pasta_py.control.commandline import detour

    return detour.redirect(text)


def proxy(text: str) -> "Proxy":
    from pasta_py.control.commandline import detour

    return detour.proxy(text)


def no_proxy(text: str) -> "Rule":
    from pasta_py.control.commandline import detour

    return detour.no_proxy(text)


def preset(text: str) -> str:
    from pasta_py.control.commandline import egress_rule

    if text not in egress_rule.PRESETS:
        raise Refused(f"one of {', '.join(egress_rule.PRESETS)}")
    return text


def ports(option: str, *, listen: bool) -> "Callable[[str], port_spec.PortSpec]":
    """`option`: its short form. A value in the form of podman and Docker is refused with the one that means the same here."""

    def convert(text: str) -> port_spec.PortSpec:
        try:
            return port_spec.parse(text, listen=listen)
        except UsageError:
            meant = port_spec.published_as(text, option)
            if not meant:
                raise
        raise UsageError(f"port specification {text!r} is in podman's form: did you mean {meant}?")

    return convert
