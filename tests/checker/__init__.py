"""Composable assertions on frames: a test reads like a sentence.

    check(frame, ethernet(dst=GUEST_MAC), ipv4(src="192.0.2.10", ttl=64), tcp(sport=80, flags="SA", mss=1460), empty)

`check` decodes the frame first, which already asserts that every length and checksum is right, and returns what it
decoded. A field's expectation is a value (an address may be text) or a predicate on the value.
"""

from collections.abc import Callable

from .frame import Frame, address, decode

Check = Callable[[Frame], None]

__all__ = [
    "Check",
    "Frame",
    "arp",
    "check",
    "decode",
    "empty",
    "ethernet",
    "icmp",
    "icmp6",
    "invoking",
    "ipv4",
    "ipv6",
    "payload",
    "tcp",
    "udp",
]


def check(raw: bytes | None, *checks: Check, partial: bool = False) -> Frame:
    """Decode a frame, then apply every check; `partial` as for `decode`."""
    assert raw is not None, "a frame was expected, there is none"
    frame = decode(raw, partial=partial)
    for one in checks:
        one(frame)
    return frame


def _fields(name: str, layer: object, expected: dict[str, object]) -> None:
    assert layer is not None, f"the frame has no {name} header"
    for key, want in expected.items():
        got = getattr(layer, key)
        if callable(want):
            assert want(got), f"{name}.{key} is {got!r}, which {getattr(want, '__name__', want)} refuses"
        else:
            assert got == address(want), f"{name}.{key} is {got!r}, expected {want!r}"


def ethernet(**expected: object) -> Check:
    return lambda frame: _fields("ethernet", frame.ethernet, expected)


def arp(**expected: object) -> Check:
    return lambda frame: _fields("arp", frame.arp, expected)


def ipv4(**expected: object) -> Check:
    return lambda frame: _ip(4, frame, expected)


def ipv6(**expected: object) -> Check:
    return lambda frame: _ip(6, frame, expected)


def _ip(version: int, frame: Frame, expected: dict[str, object]) -> None:
    assert frame.ip is not None, f"the frame has no IPv{version} header"
    assert frame.ip.src.version == version, f"IPv{frame.ip.src.version} where IPv{version} was expected"
    _fields(f"ipv{version}", frame.ip, expected)


def tcp(**expected: object) -> Check:
    """Flags are compared as a set of letters: flags="SA" is SYN and ACK and nothing else."""
    flags = expected.get("flags")
    if isinstance(flags, str):
        expected["flags"] = lambda got, want=frozenset(flags): frozenset(got) == want
    return lambda frame: _fields("tcp", frame.tcp, expected)


def udp(**expected: object) -> Check:
    return lambda frame: _fields("udp", frame.udp, expected)


def icmp(**expected: object) -> Check:
    def apply(frame: Frame) -> None:
        _ip(4, frame, {"protocol": 1})
        _fields("icmp", frame.icmp, expected)

    return apply


def icmp6(**expected: object) -> Check:
    def apply(frame: Frame) -> None:
        _ip(6, frame, {"protocol": 58})
        _fields("icmp6", frame.icmp, expected)

    return apply


def invoking(packet: bytes) -> Check:
    """An ICMP error that carries the start of this IP packet."""

    def apply(frame: Frame) -> None:
        assert frame.icmp is not None, "the frame has no ICMP header"
        body = frame.icmp.body
        assert len(body) >= 28 and packet.startswith(body), f"the error quotes {body.hex()}, not {packet.hex()}"

    return apply


def payload(expected: bytes | Callable[[bytes], bool]) -> Check:
    def apply(frame: Frame) -> None:
        if callable(expected):
            assert expected(frame.payload), f"payload of {len(frame.payload)} bytes: {frame.payload[:64]!r}"
        else:
            got = frame.payload
            assert got == expected, f"payload is {len(got)} bytes, expected {len(expected)}: {got[:64]!r}"

    return apply


def empty(frame: Frame) -> None:
    """No payload."""
    payload(b"")(frame)
