"""The one option table, and the parser that a runtime meets.

Three readers share TABLE: parse() here, the typer command of `pasta-py --help` (cli.py), and the man page (man.py).

parse() behaves like getopt_long with "+": unambiguous prefixes, `--x=v`, `--x v`, `-xV`, `-x V`, clustered short
options, an end at the first argument that is no option, or at `--`. Its errors have getopt's wording, which podman
and rootlesskit look for. The last value wins, except where the table says "family" (once for IPv4, once for IPv6)
or "list".

Rejected: argparse and typer for parsing. They cost 15 and 150 ms of every container start, take options after the
command, and word errors differently. So nothing slow is imported here: ipaddress only once an address is given.

Invariants: parse() either returns Options whose values are valid by themselves, or raises UsageError; it reads
nothing but its arguments. What depends on the host is checked where the host is known.
"""

from pasta_py.control import portspec
from pasta_py.errors import UsageError
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
    from typing import Any

DEFAULT_MTU = 65520
DEFAULT_MAC = bytes.fromhex("9a559a559a55")
LOG_SIZE_BYTES = 1 << 20
ERROR, WARNING, INFO, DEBUG, TRACE = range(5)  # log levels, as in WorkerPlan.log_level
MIN_MTU = 68  # RFC 791, 3.2
MAX_MTU = 65535
MAX_DOMAIN_CHARS = 253  # RFC 1035, 2.3.4, as text without the final dot
MAX_HOSTNAME_CHARS = 64  # __NEW_UTS_LEN, for a command's own UTS namespace


class Options(Record):
    """What was asked for: a field for each option, named after its long form where that is not a negation."""

    program: str
    action: str = "run"  # or "help", "version": met before any error
    # Running
    command: tuple[str, ...] = ()  # () with neither pid nor netns: a login shell
    pid: "int | None" = None
    spawn: bool = False  # neither pid nor netns: new namespaces
    netns: str = ""
    userns: str = ""
    netns_only: bool = False  # true also for netns without userns
    netns_quit: bool = True
    pidns: bool = True
    foreground: bool = False  # true also for spawn
    pid_file: str = ""
    quiet: bool = False  # log_level is WARNING or less; true also for spawn, unless -d or --trace
    log_level: int = INFO
    log_file: str = ""
    log_size: int = LOG_SIZE_BYTES
    stats: "int | None" = None  # seconds
    runas: str = ""
    fd: "int | None" = None
    chroot_fallback: bool = False
    conf_path: str = ""
    # What the guest sees
    config_net: bool = False
    ns_ifname: str = ""
    ns_mac_addr: bytes = b""
    mac_addr: bytes = DEFAULT_MAC
    mtu: "int | None" = None  # None: 65520; 0: do not assign
    address: "tuple[IPv4Interface | IPv6Interface, ...]" = ()  # at most one per family, IPv4 first
    netmask: "int | None" = None  # IPv4 prefix length, if said by -n or -a; else that of `address` is by class
    gateway4: "IPv4Address | None" = None
    gateway6: "IPv6Address | None" = None
    interface: str = ""
    outbound4: "IPv4Address | None" = None
    outbound6: "IPv6Address | None" = None
    outbound_if4: str = ""
    outbound_if6: str = ""
    copy_routes: bool = True
    copy_addrs: bool = True
    ipv4: bool = True
    ipv6: bool = True
    dns: "tuple[IPv4Address | IPv6Address, ...] | None" = None  # None: those of resolv.conf; (): none
    search: "tuple[str, ...] | None" = None  # None: those of resolv.conf; (): none
    hostname: str = ""
    fqdn: str = ""
    dhcp_dns: "bool | None" = None  # None: not said
    dhcp_search: "bool | None" = None
    dhcp: bool = True
    dhcpv6: bool = True
    ndp: bool = True
    ra: bool = True
    tcp: bool = True
    udp: bool = True
    icmp: bool = True
    # Translation
    map_host_loopback: "tuple[IPv4Address | IPv6Address, ...] | None" = None  # None: the gateway, if map_gw; (): none
    map_gw: bool = True  # for families that map_host_loopback does not name
    map_guest_addr: "tuple[IPv4Address | IPv6Address, ...]" = ()
    dns_forward: "tuple[IPv4Address | IPv6Address, ...]" = ()
    dns_host: "tuple[IPv4Address | IPv6Address, ...]" = ()
    host_lo_to_ns_lo: bool = False
    splice: bool = True
    splice_only: bool = False
    tcp_ports: tuple[portspec.PortSpec, ...] = ()  # (): not said, which means auto
    udp_ports: tuple[portspec.PortSpec, ...] = ()
    tcp_ns: tuple[portspec.PortSpec, ...] = ()
    udp_ns: tuple[portspec.PortSpec, ...] = ()
    freebind: bool = False
    # Ours
    network: str = ""
    pcap: str = ""


class _Refused(Exception):
    """A value is not taken; the text says what would be."""


# ---- values: text -> what Options holds ----


def _text(text: str) -> str:
    if not text or "\0" in text:
        raise _Refused("a text that is not empty")
    return text


def _number(low: int, high: int) -> "Callable[[str], int]":
    def convert(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 12 and low <= int(text) <= high):
            raise _Refused(f"a number from {low} to {high}")
        return int(text)

    return convert


def _mtu(text: str) -> int:
    accepted = f"0, or a number from {MIN_MTU} to {MAX_MTU} (1280 or more for IPv6)"
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise _Refused(accepted)
    value = int(text)
    if value and not MIN_MTU <= value <= MAX_MTU:
        raise _Refused(accepted)
    return value


def _mac(text: str) -> bytes:
    digits = text.split("-" if "-" in text else ":")
    if len(digits) != 6 or not all(d and len(d) <= 2 and set(d) <= set("0123456789abcdefABCDEF") for d in digits):
        raise _Refused("six bytes such as 9a:55:9a:55:9a:55")
    value = bytes(int(d, 16) for d in digits)
    if value[0] & 1 or not any(value):
        raise _Refused("an address of a single interface, not all zeros and with an even first byte,")
    return value


def _ifname(text: str) -> str:
    if not portspec.valid_ifname(text):
        raise _Refused("an interface name of 1 to 15 characters without '/', ':' or space")
    return text


def _domain(text: str) -> str:
    labels = text.removesuffix(".").split(".")
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    if len(text) > MAX_DOMAIN_CHARS or not all(0 < len(label) <= 63 and set(label) <= allowed for label in labels):
        raise _Refused("a name of letters, digits and '-', up to 63 characters between dots and 253 in all,")
    return text


def _search(text: str) -> tuple[str, ...]:
    if text == "none":
        return ()
    names = tuple("." if name == "." else _domain(name) for name in text.split())
    if not names:
        raise _Refused("domain names with spaces between them, or 'none',")
    # A final dot changes nothing, except that "none." is a domain
    return tuple(name.removesuffix(".") or name for name in names)


def _runas(text: str) -> str:
    parts = text.split(":")
    if len(parts) > 2 or not all(parts) or any(c.isspace() or c == "\0" for c in text):
        raise _Refused("UID, UID:GID, LOGIN or LOGIN:GROUP")
    for part in parts:
        if part.isascii() and part.isdigit() and (len(part) > 10 or int(part) >= 0xFFFFFFFF):
            raise _Refused("an ID from 0 to 4294967294")
    return text


def _ip(what: str, *, loopback: bool = False) -> "Callable[[str], Any]":
    def convert(text: str) -> "IPv4Address | IPv6Address":
        from ipaddress import ip_address

        try:
            if "%" in text:
                raise ValueError
            address = ip_address(text)
        except ValueError:
            raise _Refused(f"an IPv4 or IPv6 address ({what})") from None
        _check_unicast(address, what, loopback)
        return address

    return convert


def _check_unicast(address: "IPv4Address | IPv6Address", what: str, loopback: bool) -> None:
    broadcast = address.version == 4 and int(address) == 0xFFFFFFFF
    mapped = address.version == 6 and address.ipv4_mapped is not None
    if address.is_unspecified or address.is_multicast or broadcast or mapped or (address.is_loopback and not loopback):
        raise _Refused(f"an ordinary unicast address ({what})")


def _or_none(convert: "Callable[[str], Any]") -> "Callable[[str], Any]":
    return lambda text: None if text == "none" else convert(text)


def _guest_address(text: str) -> "tuple[IPv4Interface | IPv6Interface, bool]":
    """The address with a prefix length, and whether that was given. Without: by class (IPv4), or 64 (IPv6)."""
    from ipaddress import ip_address, ip_interface

    host, slash, length = text.partition("/")
    try:
        if "%" in text or (slash and not (length.isascii() and length.isdigit() and int(length) > 0)):
            raise ValueError
        address = ip_address(host)
        if not slash:
            length = "64" if address.version == 6 else str(_class_length(int(address)))
        value = ip_interface(f"{host}/{length}")
    except ValueError:
        raise _Refused("an IPv4 or IPv6 address, with /LENGTH or without") from None
    _check_unicast(address, "of the guest", False)
    return value, bool(slash)


def _class_length(address: int) -> int:
    """RFC 791, 3.2."""
    return 8 if address < 0x80000000 else 16 if address < 0xC0000000 else 24


def _netmask(text: str) -> int:
    accepted = "a mask such as 255.255.255.0, or a number of bits from 1 to 32"
    if text.isascii() and text.isdigit() and len(text) <= 2 and 1 <= int(text) <= 32:
        return int(text)
    from ipaddress import IPv4Address

    try:
        mask = int(IPv4Address(text))
    except ValueError:
        raise _Refused(accepted) from None
    bits = mask.bit_count()
    if not bits or mask != (0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF:
        raise _Refused(accepted)
    return bits


def _listening(text: str) -> portspec.PortSpec:
    return portspec.parse(text)


def _outgoing(text: str) -> portspec.PortSpec:
    return portspec.parse(text, listen=False)


# ---- the table ----

RUNNING, GUEST, TRANSLATION, OURS = "Running", "What the guest sees", "Translation", "Capture and runtimes"
SECTIONS = (RUNNING, GUEST, TRANSLATION, OURS)


class Option(Record):
    """One option: its names, what it takes, where that goes, and what the help says."""

    section: str
    long: str  # without dashes
    short: str  # one character, or ""
    metavar: str  # "" for an option without a value
    dest: str  # field of Options, or a name that _finish knows
    rule: str  # "last", "family", "list", "ports", or for options without a value "set", "debug", "stop", "ignore"
    value: "Any"  # converts the text, or is what a "set" option stores
    help: str

    @property
    def names(self) -> str:
        """As in help: `-f, --foreground`."""
        return (f"-{self.short}, " if self.short else "") + f"--{self.long}"


def _table() -> tuple[Option, ...]:
    rows: list[Option] = []

    def add(section: str, names: str, metavar: str, dest: str, rule: str, value: "Any", text: str) -> None:
        short, _, long = names.rpartition(" ")
        takes = {"metavar": metavar, "dest": dest, "rule": rule, "value": value}
        rows.append(Option(section=section, long=long, short=short, help=text, **takes))

    _running(add)
    _guest(add)
    _translation(add)
    return tuple(rows)


def _running(add: "Callable[[str, str, str, str, str, Any, str], None]") -> None:
    for row in (
        ("netns", "PATH|NAME", "netns", "last", _text,
         "Join this network namespace; a NAME is looked up in /run/netns."),
        ("userns", "PATH", "userns", "last", _text, "Join this user namespace first."),
        ("netns-only", "", "netns_only", "set", True,
         "Join no user namespace and make none. Implied by --netns without --userns."),
        ("no-netns-quit", "", "netns_quit", "set", False, "Stay when the network namespace goes away."),
        ("no-pidns", "", "pidns", "set", False, "Run the command in the present PID namespace."),
        ("f foreground", "", "foreground", "set", True, "Do not go to the background."),
        ("P pid", "FILE", "pid_file", "last", _text, "Write the process ID to FILE when ready."),
        ("d debug", "", "log_level", "debug", DEBUG, "Print more about what happens."),
        ("trace", "", "log_level", "set", TRACE, "Print single packets, too."),
        ("q quiet", "", "log_level", "set", WARNING, "Print warnings and errors only."),
        ("e stderr", "", "", "ignore", None, "Accepted for compatibility, without effect."),
        ("l log-file", "PATH", "log_file", "last", _text, "Log to a file, kept under the size of --log-size."),
        ("log-size", "BYTES", "log_size", "last", _number(4096, 1 << 31), "Limit of the log file. Default: 1048576."),
        ("stats", "SECONDS", "stats", "last", _number(1, 86400 * 365), "Print event counters at most that often."),
        ("runas", "UID|UID:GID|LOGIN|LOGIN:GROUP", "runas", "last", _runas,
         "Change to this user. Default: nobody, when started as root."),
        ("F fd", "FD", "fd", "last", _number(3, 1 << 20), "Use this open frame descriptor instead of making a tap."),
        ("chroot-fallback", "", "chroot_fallback", "set", True, "Use chroot where pivot_root cannot be used."),
        ("c conf-path", "PATH", "conf_path", "last", _text, "Make a control socket for changes of port forwarding."),
        ("h help", "", "help", "stop", None, "Show this help and exit."),
        ("version", "", "version", "stop", None, "Show the version and exit."),
    ):  # fmt: skip
        add(RUNNING, *row)


def _guest(add: "Callable[[str, str, str, str, str, Any, str], None]") -> None:
    for row in (
        ("config-net", "", "config_net", "set", True,
         "Configure the interface in the namespace: addresses, routes, MTU, up. Default for `pasta-py -- COMMAND`."),
        ("no-config-net", "", "config_net", "set", False, "Leave that to DHCP, NDP and DHCPv6. Default for `pasta`."),
        ("I ns-ifname", "NAME", "ns_ifname", "last", _ifname,
         "Interface name in the namespace. Default: that of the host's outbound interface, else tap0."),
        ("ns-mac-addr", "MAC", "ns_mac_addr", "last", _mac, "MAC address of the interface in the namespace."),
        ("M mac-addr", "MAC", "mac_addr", "last", _mac, "Our own MAC address. Default: 9a:55:9a:55:9a:55."),
        ("m mtu", "N", "mtu", "last", _mtu, "MTU in bytes; 0: do not assign one. Default: 65520."),
        ("a address", "ADDR[/LEN]", "address", "family", _guest_address,
         "Guest address, once per family. Default: those of the host's outbound interface but link-local ones."),
        ("n netmask", "MASK", "netmask", "last", _netmask, "IPv4 netmask, dotted or in bits."),
        ("g gateway", "ADDR", "gateway", "family", _ip("of the default gateway"),
         "Default gateway of the guest, once per family. Default: the host's."),
        ("i interface", "NAME", "interface", "last", _ifname,
         "Host interface to take addresses and routes from. Default, per family: the one of the first default route."),
        ("o outbound", "ADDR", "outbound", "family", _ip("of the host", loopback=True),
         "Source address of outbound sockets, once per family."),
        ("outbound-if4", "NAME", "outbound_if4", "last", _ifname, "Bind outbound IPv4 sockets to this interface."),
        ("outbound-if6", "NAME", "outbound_if6", "last", _ifname, "Bind outbound IPv6 sockets to this interface."),
        ("no-copy-routes", "", "copy_routes", "set", False, "Deprecated: copy only the default route."),
        ("no-copy-addrs", "", "copy_addrs", "set", False, "Deprecated: copy only one address."),
        ("4 ipv4-only", "", "only4", "set", True, "IPv4 only."),
        ("6 ipv6-only", "", "only6", "set", True, "IPv6 only."),
        ("D dns", "ADDR", "dns", "list", _or_none(_ip("of a nameserver", loopback=True)),
         "Nameserver told to the guest; may be repeated. `none`: tell none. Default: those of /etc/resolv.conf."),
        ("S search", "LIST", "search", "last", _search,
         "Search domains, separated by spaces. `none`: tell none. Default: those of /etc/resolv.conf."),
        ("H hostname", "NAME", "hostname", "last", _domain, "Host name of the guest (DHCP option 12)."),
        ("fqdn", "NAME", "fqdn", "last", _domain, "Full name of the guest (DHCP option 81, DHCPv6 option 39)."),
        ("dhcp-dns", "", "dhcp_dns", "set", True, "Tell nameservers by DHCP, NDP and DHCPv6."),
        ("no-dhcp-dns", "", "dhcp_dns", "set", False, "Do not."),
        ("dhcp-search", "", "dhcp_search", "set", True, "Tell search domains by DHCP, NDP and DHCPv6."),
        ("no-dhcp-search", "", "dhcp_search", "set", False, "Do not."),
        ("no-dhcp", "", "dhcp", "set", False, "Switch the DHCP service off."),
        ("no-dhcpv6", "", "dhcpv6", "set", False, "Switch the DHCPv6 service off."),
        ("no-ndp", "", "ndp", "set", False, "Switch answers to neighbour discovery off."),
        ("no-ra", "", "ra", "set", False, "Switch router advertisements off."),
        ("no-tcp", "", "tcp", "set", False, "Switch TCP off."),
        ("no-udp", "", "udp", "set", False, "Switch UDP off."),
        ("no-icmp", "", "icmp", "set", False, "Switch ICMP and ICMPv6 echo off."),
    ):  # fmt: skip
        add(GUEST, *row)


def _translation(add: "Callable[[str, str, str, str, str, Any, str], None]") -> None:
    default = "Default: auto."
    for row in (
        ("map-host-loopback", "ADDR", "map_host_loopback", "family", _or_none(_ip("that the guest is to use")),
         "Address that means the host's loopback to the guest, once per family, or `none`. Default: the gateway."),
        ("no-map-gw", "", "map_gw", "set", False, "The gateway's address does not mean the host's loopback."),
        ("map-gw", "", "map_gw", "set", True, "It does. This undoes --no-map-gw."),
        ("map-guest-addr", "ADDR", "map_guest_addr", "family", _or_none(_ip("that the guest is to use")),
         "Address that means the host's own global address to the guest, once per family."),
        ("dns-forward", "ADDR", "dns_forward", "family", _ip("that the guest is to use"),
         "Address whose ports 53 and 853 mean the host's nameserver, once per family."),
        ("dns-host", "ADDR", "dns_host", "family", _ip("of a nameserver", loopback=True),
         "That nameserver, once per family. Default: the first of /etc/resolv.conf."),
        ("host-lo-to-ns-lo", "", "host_lo_to_ns_lo", "set", True,
         "Connections to the host's loopback arrive at the namespace's loopback."),
        ("no-splice", "", "splice", "set", False, "Do not join local connections socket to socket."),
        ("splice-only", "", "splice_only", "set", True, "Make no tap: only join local connections."),
        ("t tcp-ports", "SPEC", "tcp_ports", "ports", _listening, f"TCP ports forwarded to the namespace. {default}"),
        ("u udp-ports", "SPEC", "udp_ports", "ports", _listening, f"UDP ports forwarded to the namespace. {default}"),
        ("T tcp-ns", "SPEC", "tcp_ns", "ports", _outgoing, f"TCP ports forwarded from it to the host. {default}"),
        ("U udp-ns", "SPEC", "udp_ns", "ports", _outgoing, f"UDP ports forwarded from it to the host. {default}"),
        ("freebind", "", "freebind", "set", True, "Bind addresses that the host does not have (yet)."),
    ):  # fmt: skip
        add(TRANSLATION, *row)
    add(OURS, "network", "STRING", "network", "network", _text,
        "Options as a runtime passes them: pasta:OPT,OPT, without the defaults that a runtime adds.")  # fmt: skip
    add(OURS, "p pcap", "FILE", "pcap", "last", _text,
        "Capture all frames to FILE; a name in .pcapng gives that format, `-` streams to standard output.")  # fmt: skip


TABLE: tuple[Option, ...] = _table()
BY_SHORT = {option.short: option for option in TABLE if option.short}
BY_LONG = {option.long: option for option in TABLE}


# ---- the parser ----


def _find_long(written: str) -> Option:
    """`written`: what follows the dashes, with any =VALUE."""
    name = written.partition("=")[0]
    if name in BY_LONG:
        return BY_LONG[name]
    matches = [option for option in TABLE if option.long.startswith(name)]
    if not matches:
        raise UsageError(f"unrecognized option '--{written}'")
    if len(matches) > 1:
        listed = " ".join(f"'--{option.long}'" for option in matches)
        raise UsageError(f"option '--{written}' is ambiguous; possibilities: {listed}")
    return matches[0]


class _Parser:
    """The state of one parse: what remains to be read, and the values so far."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.action = "run"
        self.in_network = False

    def run(self, args: "Sequence[str]") -> tuple[str, ...]:
        """Read options; the arguments after them."""
        index = 0
        while index < len(args) and self.action == "run":
            arg = args[index]
            if arg == "--":
                return tuple(args[index + 1 :])
            if not arg.startswith("-") or arg == "-":
                return tuple(args[index:])
            index += 1
            following = args[index] if index < len(args) else None
            index += self._long(arg[2:], following) if arg.startswith("--") else self._cluster(arg[1:], following)
        return ()

    def _long(self, written: str, following: "str | None") -> int:
        """Take one long option; how many further arguments it used."""
        option = _find_long(written)
        _, equals, value = written.partition("=")
        if not option.metavar:
            if equals:
                raise UsageError(f"option '--{option.long}' doesn't allow an argument")
            self._store(option, "")
            return 0
        if equals:
            self._store(option, value)
            return 0
        if following is None:
            raise UsageError(f"option '--{option.long}' requires an argument")
        self._store(option, following)
        return 1

    def _cluster(self, letters: str, following: "str | None") -> int:
        for position, letter in enumerate(letters, 1):
            option = BY_SHORT.get(letter)
            if option is None:
                raise UsageError(f"invalid option -- '{letter}'")
            if not option.metavar:
                self._store(option, "")
                if self.action != "run":
                    return 0
                continue
            if letters[position:]:
                self._store(option, letters[position:])
                return 0
            if following is None:
                raise UsageError(f"option requires an argument -- '{letter}'")
            self._store(option, following)
            return 1
        return 0

    def _store(self, option: Option, text: str) -> None:
        values, dest = self.values, option.dest
        if option.rule == "stop":
            self.action = dest
        elif option.rule == "set":
            values[dest] = option.value
            if dest == "map_gw" and option.value and values.get("map_host_loopback") == {None: None}:
                del values["map_host_loopback"]
        elif option.rule == "debug":
            values[dest] = max(values.get(dest, DEBUG), DEBUG)
        elif option.rule != "ignore":
            self._store_value(option, text, self._convert(option, text))

    def _convert(self, option: Option, text: str) -> "Any":
        try:
            return option.value(text)
        except _Refused as refused:
            accepted = str(refused).removesuffix(",")
            raise UsageError(f"invalid value {text!r} for --{option.long}: {accepted} is accepted") from None
        except UsageError as error:
            raise UsageError(f"--{option.long}: {error}") from None

    def _store_value(self, option: Option, text: str, value: "Any") -> None:
        values, dest = self.values, option.dest
        if option.rule == "ports":
            try:
                values[dest] = portspec.add(values.get(dest, ()), value)
            except UsageError as error:
                raise UsageError(f"--{option.long}: {error}") from None
        elif option.rule == "list":
            values[dest] = () if value is None else (*values.get(dest, ()), value)
        elif option.rule == "family":
            self._store_family(dest, value)
        elif option.rule == "network":
            self._network(text)
        else:
            values[dest] = value

    def _store_family(self, dest: str, value: "Any") -> None:
        """{version: value}; {None: None} after `none`, which also takes the gateway's mapping away."""
        kept = self.values.setdefault(dest, {})
        if value is None:
            kept.clear()
            kept[None] = None
            if dest == "map_host_loopback":
                self.values["map_gw"] = False
            return
        kept.pop(None, None)
        kept[(value[0] if isinstance(value, tuple) else value).version] = value

    def _network(self, text: str) -> None:
        """The option string of podman's --network: cut at the first ":", split at ",", each piece one argument."""
        if self.in_network:
            raise UsageError(f"invalid value {text!r} for --network: it stands inside another --network")
        mode, _, rest = text.partition(":")
        if mode != "pasta":
            raise UsageError(f"invalid value {text!r} for --network: pasta, or pasta:OPTION,OPTION is accepted")
        self.values["network"] = text
        self.in_network = True
        try:
            left = self.run(rest.split(",")) if rest else ()
        except UsageError as error:
            raise UsageError(f"{error} (in --network {text!r})") from None
        finally:
            self.in_network = False
        if left:
            raise UsageError(f"invalid value {text!r} for --network: {left[0]!r} is not an option")


def parse(argv: "Sequence[str]", entry: str) -> Options:
    """The options in `argv` (without the program's name) for the entry point "pasta" or "pasta-py"."""
    parser = _Parser()
    rest = parser.run(argv)
    if parser.action != "run":
        return Options(program=entry, action=parser.action)
    values = parser.values
    _positional(values, rest)
    _finish(values, entry)
    return Options(program=entry, **values)


def _positional(values: "dict[str, Any]", rest: tuple[str, ...]) -> None:
    if values.get("netns") is not None and rest:
        raise UsageError(f"--netns and {rest[0]!r} are both given: give --netns, or a PID or command")
    if len(rest) == 1 and rest[0].isascii() and rest[0].isdigit():
        if len(rest[0]) > 10 or not 0 < int(rest[0]) < 1 << 31:
            raise UsageError(f"invalid PID {rest[0]!r}: a number from 1 to {(1 << 31) - 1} is accepted")
        values["pid"] = int(rest[0])
    elif rest:
        values["command"] = rest
    values["spawn"] = "netns" not in values and "pid" not in values


def _finish(values: "dict[str, Any]", entry: str) -> None:
    """Defaults that depend on other options, and options that contradict each other."""
    spawn = values["spawn"]
    _exclusive(values, "netns_only", "userns", "--netns-only", "--userns")
    _exclusive(values, "only4", "only6", "-4", "-6")
    if values.get("splice_only") and values.get("splice") is False:
        raise UsageError("--splice-only and --no-splice are both given: give one of them")
    if spawn and values.get("userns"):
        raise UsageError(f"--userns {values['userns']!r} needs a namespace to join: give --netns or a PID")
    values["ipv4"], values["ipv6"] = not values.pop("only6", False), not values.pop("only4", False)
    if "netns" in values and "userns" not in values:
        values["netns_only"] = True
    if spawn:
        values["foreground"] = True
        if len(values.get("hostname", "")) > MAX_HOSTNAME_CHARS:
            raise UsageError(
                f"invalid value {values['hostname']!r} for --hostname: "
                f"up to {MAX_HOSTNAME_CHARS} characters are accepted for a command's own name"
            )
    values.setdefault("config_net", spawn and entry == "pasta-py")
    level = values.setdefault("log_level", WARNING if spawn else INFO)
    values["quiet"] = level <= WARNING
    _finish_addresses(values)


def _exclusive(values: "dict[str, Any]", one: str, other: str, one_name: str, other_name: str) -> None:
    if values.get(one) and values.get(other):
        raise UsageError(f"{one_name} and {other_name} are both given: give one of them")


def _finish_addresses(values: "dict[str, Any]") -> None:
    for dest in ("gateway", "outbound"):
        for version, address in values.pop(dest, {}).items():
            values[f"{dest}{version}"] = address
    for dest in ("map_host_loopback", "map_guest_addr", "dns_forward", "dns_host"):
        if dest in values:
            kept = values[dest]
            values[dest] = tuple(kept[version] for version in (4, 6) if version in kept)
    given = values.pop("address", {})
    if 4 in given:
        address, said = given[4]
        if said and "netmask" in values:
            raise UsageError(f"--netmask beside --address {str(address)!r}: give the length in one of the two")
        if said:
            values["netmask"] = address.network.prefixlen
        elif "netmask" in values:
            given[4] = (type(address)(f"{address.ip}/{values['netmask']}"), True)
    values["address"] = tuple(given[version][0] for version in (4, 6) if version in given)
