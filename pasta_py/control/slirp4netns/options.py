"""The command line of slirp4netns: its options, as its callers give them and look for them in --help.

Options may follow the arguments, and the last value wins. --help and --version count when they stand before an error. Reads
nothing but its arguments.
"""

from pasta_py.control.commandline import getopt_long, port_spec
from pasta_py.control.commandline.option_values import MIN_MTU
from pasta_py.errors import UsageError
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pasta_py.control.ip import IPv4Address, IPv4Network, IPv6Address

PROGRAM = "slirp4netns"
#: The release whose options and API these are; callers that compare versions compare with this one.
COMPATIBLE = "1.3.3"
#: SLIRP_CONFIG_VERSION_MAX of libslirp 4.9.5: scripts read it as a measure of what is supported.
_LIBSLIRP_INTERFACE = 6
DEFAULT_MTU = 1500
MAX_MTU = 65521
DEFAULT_CIDR = "10.0.2.0/24"

USAGE = f"Usage: {PROGRAM} [OPTION]... PID|PATH|FD [TAPNAME]\n"
SUMMARY = "Connect an unprivileged network namespace to the host's network with ordinary sockets.\n"

#: Short form, long form, name of the value ("" for none), help.
TABLE = (
    ("c", "configure", "", "bring up the tap and lo, with address, routes, MTU and MAC address"),
    ("e", "exit-fd", "FD", "end when poll(2) reports anything about this descriptor"),
    ("r", "ready-fd", "FD", "write 1 to this descriptor, and close it, when everything works"),
    ("m", "mtu", "MTU", f"MTU of the tap (default={DEFAULT_MTU}, max={MAX_MTU})"),
    ("6", "enable-ipv6", "", "IPv6 as well, with the prefix fd00::/64"),
    ("a", "api-socket", "PATH", "take requests for port forwarding at this UNIX socket"),
    ("", "cidr", "CIDR", f"IPv4 network of the guest (default={DEFAULT_CIDR})"),
    ("", "disable-host-loopback", "", "the gateway's address does not lead to 127.0.0.1 of the host"),
    ("", "netns-type", "TYPE", "what the argument is ([path|pid|tapfd], default=pid)"),
    ("", "userns-path", "PATH", "user namespace to enter first"),
    ("", "enable-sandbox", "", "accepted: a sandbox is always there"),
    ("", "enable-seccomp", "", "accepted: system calls are always filtered"),
    ("", "outbound-addr", "IPv4", "source address of connections, or the interface they leave by"),
    ("", "outbound-addr6", "IPv6", "the same for IPv6"),
    ("", "disable-dns", "", "nothing answers at the DNS address (network + 3)"),
    ("", "macaddress", "MAC", "MAC address of the tap (only valid with -c)"),
    ("", "target-type", "TYPE", "netns, or a UNIX socket at PATH that carries frames ([netns|bess], default=netns)"),
    ("h", "help", "", "show this help and exit"),
    ("v", "version", "", "show version and exit"),
)


class SlirpOptions(Record):
    """What the user asked for."""

    action: str = "run"  # or "help", "version"
    configure: bool = False
    exit_fd: int = -1
    ready_fd: int = -1
    mtu: int = DEFAULT_MTU
    ipv6: bool = False
    api_socket: str = ""
    network: "IPv4Network"
    host_loopback: bool = True
    target_type: str = "pid"  # or "path", "tapfd", "bess"
    target: str = ""
    tapname: str = ""  # "": the kernel's choice
    userns: str = ""
    outbound4: "IPv4Address | None" = None
    outbound6: "IPv6Address | None" = None
    outbound_if4: str = ""
    outbound_if6: str = ""
    dns: bool = True
    mac: bytes = b""
    surplus: tuple[str, ...] = ()  # arguments beyond those that are used


def help_text() -> str:
    """Usage and all options."""
    lines = [USAGE + SUMMARY]
    for short, long, value, text in TABLE:
        names = (f"-{short}, " if short else "") + f"--{long}" + (f"={value}" if value else "")
        lines.append(f"{names.ljust(24)} {text}")
    return "\n".join(lines) + "\n"


def version_text() -> str:
    """What `podman info` stores; the lines that scripts read, with "none" for what is not in here."""
    from pasta_py import __version__
    from pasta_py.control.commandline.notices import commit

    values = {"commit": commit() or "none", "libslirp": "none"}
    values |= {"SLIRP_CONFIG_VERSION_MAX": str(_LIBSLIRP_INTERFACE), "libseccomp": "none"}
    lines = [f"{name}: {value}\n" for name, value in {**values, "pasta-py": __version__}.items()]
    return f"{PROGRAM} version {COMPATIBLE}\n{''.join(lines)}"


def parse(argv: "Sequence[str]") -> SlirpOptions:
    """The options, valid by themselves; UsageError."""
    from_user: dict[str, str] = {}
    arguments: list[str] = []
    for name, value in getopt_long.read(argv, *getopt_long.names(TABLE), arguments, permute=True):
        if name in ("help", "version"):
            return SlirpOptions(action=name, network=_network(DEFAULT_CIDR))
        from_user[name] = value
    values: dict[str, object] = {
        "configure": "configure" in from_user,
        "ipv6": "enable-ipv6" in from_user,
        "host_loopback": "disable-host-loopback" not in from_user,
        "dns": "disable-dns" not in from_user,
        "network": _network(from_user.get("cidr", DEFAULT_CIDR)),
        "api_socket": from_user.get("api-socket", ""),
        "userns": from_user.get("userns-path", ""),
    }
    for field, name in (("exit_fd", "exit-fd"), ("ready_fd", "ready-fd")):
        if name in from_user:
            values[field] = _fd(name, from_user[name])
    if "mtu" in from_user:
        values["mtu"] = _mtu(from_user["mtu"])
    if "macaddress" in from_user:
        values["mac"] = _mac(from_user["macaddress"], configure="configure" in from_user)
    for version, name in ((4, "outbound-addr"), (6, "outbound-addr6")):
        if name in from_user:
            values.update(_outbound(version, from_user[name]))
    values.update(_target(from_user, arguments))
    return SlirpOptions(**values)  # type: ignore[arg-type]


# ---- values ----


def _number(text: str) -> int:
    """-1 for anything but a decimal number."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else -1


def _fd(name: str, text: str) -> int:
    number = _number(text)
    if number < 0:
        raise UsageError(f"{name} must be a non-negative integer, not {text!r}")
    return number


def _mtu(text: str) -> int:
    number = _number(text)
    if not 0 < number <= MAX_MTU:
        raise UsageError(f"MTU must be a positive integer (< {MAX_MTU + 1}), not {text!r}")
    if number < MIN_MTU:
        raise UsageError(f"MTU {number} is less than IPv4 can have: expected {MIN_MTU} to {MAX_MTU}")
    return number


def _mac(text: str, configure: bool) -> bytes:
    if not configure:
        raise UsageError("--macaddress needs -c: without it the tap is left as it is")
    parts = text.split(":")
    digits = set("0123456789abcdefABCDEF")
    if len(parts) != 6 or not all(0 < len(part) <= 2 and set(part) <= digits for part in parts):
        raise UsageError(f"--macaddress {text!r}: expected six bytes in hexadecimal, such as 02:00:00:00:00:01")
    mac = bytes(int(part, 16) for part in parts)
    if mac[0] & 1 or mac == bytes(6):
        raise UsageError(f"--macaddress {text}: a group's address, or none: give one of a single neighbour")
    return mac


def _network(text: str) -> "IPv4Network":
    from pasta_py.control.ip import IPv4Address, IPv4Network

    address, slash, length = text.partition("/")
    try:
        start = IPv4Address(address)
        bits = _number(length)
        if not slash or bits < 0:
            raise ValueError
    except ValueError:
        raise UsageError(f"invalid CIDR: {text}: expected a network such as {DEFAULT_CIDR}") from None
    if not 1 <= bits <= 25:
        raise UsageError(f"--cidr {text}: prefix length needs to be 1-25")
    network = IPv4Network((start, bits), strict=False)
    if network.network_address != start:
        raise UsageError(f"CIDR needs to be a network address like {network}, not like {text}")
    return network


def _outbound(version: int, text: str) -> dict[str, object]:
    from pasta_py.control.ip import IPv4Address, IPv6Address

    convert: Callable[[str], object] = IPv4Address if version == 4 else IPv6Address
    try:
        return {f"outbound{version}": convert(text)}
    except ValueError:
        pass
    if not port_spec.valid_ifname(text, port_spec.ALTIFNAME_BYTES):
        option = "--outbound-addr" + ("6" if version == 6 else "")
        raise UsageError(f"{option} {text!r}: it has to be a valid ipv{version} address or interface name")
    return {f"outbound_if{version}": text}


def _target(from_user: dict[str, str], arguments: list[str]) -> dict[str, object]:
    """What is to be connected."""
    kind = from_user.get("target-type", "netns")
    if kind not in ("netns", "bess"):
        raise UsageError(f'--target-type must be either "netns" or "bess", not {kind!r}')
    if kind == "bess":
        clash = next((name for name in ("configure", "netns-type", "userns-path") if name in from_user), "")
        if clash:
            raise UsageError(f"--target-type=bess and --{clash} are both given: there is no namespace with bess; give one")
    else:
        kind = from_user.get("netns-type", "pid")
        if kind not in ("pid", "path", "tapfd"):
            raise UsageError(f'--netns-type must be "pid", "path" or "tapfd", not {kind!r}')
    if kind == "tapfd" and "configure" in from_user:
        raise UsageError("--netns-type=tapfd and --configure are both given: its namespace is not known; leave out -c")
    wanted = 1 if kind in ("tapfd", "bess") else 2
    if len(arguments) < wanted:
        missing = "no PID, PATH or FD is given" if not arguments else "no TAPNAME is given"
        raise UsageError(f"{missing}: say what to connect")
    target, tapname = arguments[0], arguments[1] if wanted == 2 else ""
    if kind == "pid" and _number(target) <= 0:
        raise UsageError(f"PID must be a positive integer, not {target!r}")
    if kind == "tapfd":
        _fd("the FD of a tap", target)
    if tapname and not port_spec.valid_ifname(tapname):
        raise UsageError(f"TAPNAME {tapname!r}: expected 1 to 15 bytes without '/', ':', '%' or space")
    return {"target_type": kind, "target": target, "tapname": tapname, "surplus": tuple(arguments[wanted:])}
