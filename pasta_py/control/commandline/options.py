"""What the user asked for, and the parser that a runtime meets. The options themselves are in option_table.

The command line is read as getopt_long reads it with "+" (getopt_long.py): options end at the first argument that is none, which
is the command or the PID. The last value wins, except where the table says "family" (once for IPv4, once for IPv6), "list" or
"ports".

Rejected: argparse and typer for parsing. They cost 15 and 150 ms of every container start, take options after the
command, and word errors differently.

Invariants: parse() either returns Options whose values are valid by themselves, or raises UsageError; it reads
nothing but its arguments. What depends on the host is checked where the host is known.
"""

from pasta_py import defaults
from pasta_py.control.commandline import getopt_long, port_spec
from pasta_py.control.commandline.option_table import (
    BY_LONG,
    COMPLETION,
    DEBUG,
    INFO,
    LETTERS,
    TABLE,
    WARNING,
    Option,
    mode_of,
)
from pasta_py.control.commandline.option_values import Refused
from pasta_py.errors import UsageError
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pasta_py.control.commandline.detour import Proxy, Redirect
    from pasta_py.control.commandline.egress_rule import Rule
    from pasta_py.control.ip import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

MAX_HOSTNAME_CHARS = 64  # __NEW_UTS_LEN, for a command's own UTS namespace
_TAKES_VALUE = {option.long: bool(option.metavar) for option in TABLE}


class Options(Record):
    """A field for each option, named after its long form where that is not a negation."""

    @property
    def has_policy(self) -> bool:
        """Whether there may be an egress policy."""
        said = self.egress or self.egress_rules or self.decision_log or self.learn or self.sandbox
        return bool(said or self.redirects or self.proxy)

    program: str
    action: str = "run"  # or "help", "version": met before any error
    # Running
    command: tuple[str, ...] = ()  # () with neither pid nor netns: a login shell
    pid: "int | None" = None
    spawn: bool = False  # neither pid nor netns: new namespaces
    greets: bool = False  # a shell on a terminal says where it is: pasta-py without a command and without -q
    netns: str = ""
    userns: str = ""
    netns_only: bool = False  # true also for netns without userns
    netns_quit: bool = True
    pidns: bool = True
    as_pid_1: bool = False
    foreground: bool = False  # true also for spawn
    pid_file: str = ""
    quiet: bool = False  # log_level is WARNING or less; true also for spawn, unless -d or --trace
    log_level: int = INFO
    log_file: str = ""
    log_format: str = "text"
    log_size: int = defaults.LOG_SIZE_BYTES
    stats: "int | None" = None  # seconds
    runas: str = ""
    fd: "int | None" = None
    chroot_fallback: bool = False
    conf_path: str = ""
    control_socket: bool = True
    control: str = ""
    flow_log: str = ""
    report: str = ""
    flow_log_size: int = defaults.FLOW_LOG_SIZE_BYTES
    decision_log: str = ""
    learn: str = ""
    metrics: str = ""
    threads: int = 1
    # What the guest sees
    config_net: bool = False
    ns_ifname: str = ""
    ns_mac_addr: bytes = b""
    mac_addr: bytes = defaults.MAC
    mtu: "int | None" = None  # None: the default; 0: do not assign
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
    multicast: bool = True
    broadcast: bool = False
    # Following the host
    follow: bool = False
    follow_grace: int = defaults.FOLLOW_GRACE_S
    # Translation
    map_host_loopback: "tuple[IPv4Address | IPv6Address, ...] | None" = None  # None: the gateway, if map_gw; (): none
    map_gw: bool = True  # for families that map_host_loopback does not name
    map_guest_addr: "tuple[IPv4Address | IPv6Address, ...]" = ()
    dns_forward: "tuple[IPv4Address | IPv6Address, ...]" = ()
    dns_host: "tuple[IPv4Address | IPv6Address, ...]" = ()
    egress_dns: str = ""  # "rules", "all" or "none": which names the worker answers itself; "": it answers none
    host_lo_to_ns_lo: bool = False
    splice: bool = True
    splice_only: bool = False
    tcp_ports: tuple[port_spec.PortSpec, ...] = ()  # (): not said, which means auto
    udp_ports: tuple[port_spec.PortSpec, ...] = ()
    tcp_ns: tuple[port_spec.PortSpec, ...] = ()
    udp_ns: tuple[port_spec.PortSpec, ...] = ()
    freebind: bool = False
    # Egress
    pin_grace: int = defaults.PIN_GRACE_S
    redirects: "tuple[Redirect, ...]" = ()
    proxy: "Proxy | None" = None
    no_proxy: "tuple[Rule, ...]" = ()
    proxy_auth_file: str = ""
    rate_out: int = 0  # bytes a second; 0: no limit
    rate_in: int = 0
    verify_names: bool = False
    egress: str = ""  # a preset; "": not said
    egress_rules: "tuple[Rule | str, ...]" = ()  # in order; a str is the path of a file with rules
    sandbox: bool = False
    sandbox_keep: tuple[str, ...] = ()
    # Ours
    network: str = ""
    pcap: str = ""
    pcap_filter: str = ""
    pcap_snaplen: int = 0  # 0: whole frames
    pcap_size: int = 0  # bytes of each file; 0: one file without limit
    pcap_files: int = 0  # 0: not said
    # Virtual machines
    socket: str = ""  # "": the first free default, unless there is fd
    one_off: bool = False
    vhost_user: bool = False
    repair_path: str = ""


class _Parser:
    """The state of one parse: the values so far."""

    def __init__(self, entry: str) -> None:
        self.mode = mode_of(entry)
        self.first_words = [name[2:] for name in COMPLETION] if entry == "pasta-py" else []
        self.values: dict[str, Any] = {}
        self.action = "run"
        self.in_network = False

    def run(self, args: "Sequence[str]") -> tuple[str, ...]:
        """Read options; the arguments after them."""
        rest: list[str] = []
        for long, text in getopt_long.read(args, _TAKES_VALUE, LETTERS, rest, first_words=self.first_words):
            self._store(BY_LONG[long], text)
            if self.action != "run":
                break
        return tuple(rest)

    def _store(self, option: Option, text: str) -> None:
        values, dest = self.values, option.dest
        if option.mode not in ("", self.mode):
            hint = "start passt for a virtual machine" if option.mode == "passt" else "leave it out"
            raise UsageError(f"--{option.long} is for {option.mode} mode only: {hint}")
        if option.rule == "stop":
            self.action = dest
        elif option.rule == "migrate":
            values["migrates"] = option.long
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
        except Refused as refused:
            raise UsageError(f"invalid value {text!r} for --{option.long}: expected {refused}") from None
        except UsageError as error:
            raise UsageError(f"--{option.long}: {error}") from None

    def _store_value(self, option: Option, text: str, value: "Any") -> None:
        values, dest = self.values, option.dest
        if option.rule == "ports":
            try:
                values[dest] = port_spec.add(values.get(dest, ()), value)
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
        """Store {version: value}, or {None: None} for `none`, which also removes the gateway's mapping."""
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
            raise UsageError(f"invalid value {text!r} for --network: it stands inside another --network: leave it out")
        mode, _, rest = text.partition(":")
        if mode != "pasta":
            raise UsageError(f"invalid value {text!r} for --network: expected pasta, or pasta:OPTION,OPTION")
        self.values["network"] = text
        self.in_network = True
        try:
            left = self.run(rest.split(",")) if rest else ()
        except UsageError as error:
            raise UsageError(f"{error} (in --network {text!r})") from None
        finally:
            self.in_network = False
        if left:
            expected = "expected those of pasta, as in -t,8080"
            raise UsageError(f"invalid value {text!r} for --network: {left[0]!r} is not an option: {expected}")


def parse(argv: "Sequence[str]", entry: str) -> Options:
    """The options in `argv` (without the program's name) for the entry point "pasta", "pasta-py" or "passt"."""
    parser = _Parser(entry)
    rest = parser.run(argv)
    if parser.action != "run":
        return Options(program=entry, action=parser.action)
    values = parser.values
    if entry == "passt":
        _for_virtual_machines(values, rest)
    else:
        _positional(values, rest)
    _finish(values, entry)
    return Options(program=entry, **values)


def _for_virtual_machines(values: "dict[str, Any]", rest: tuple[str, ...]) -> None:
    """Defaults of passt, and what it refuses."""
    if rest:
        raise UsageError(f"Extra non-option argument: {rest[0]}: passt runs no command, a virtual machine connects to its socket")
    for dest in ("tcp_ports", "udp_ports"):
        specs = values.setdefault(dest, (port_spec.NONE,))
        if any(chunk.kind == port_spec.AUTO for spec in specs for chunk in spec.chunks):
            raise UsageError("'auto' port forwarding is only allowed for pasta: name the ports")
        values[f"{dest[:3]}_ns"] = (port_spec.NONE,)
    migrates = values.pop("migrates", "")
    if values.get("threads", 1) > 1 and not values.get("vhost_user"):
        raise UsageError("--threads is for vhost-user mode only, where each has queues: leave it out, or give --vhost-user")
    if migrates and not values.get("vhost_user"):
        raise UsageError(f"--{migrates} is for vhost-user mode only: leave it out, or give --vhost-user")
    if "socket" in values:
        values.pop("fd", None)
    elif "fd" in values:
        values["one_off"] = True
    values["spawn"] = values["splice"] = False


def _positional(values: "dict[str, Any]", rest: tuple[str, ...]) -> None:
    if values.get("netns") is not None and rest:
        raise UsageError(f"--netns and {rest[0]!r} are both given: give --netns, or a PID or command")
    if len(rest) == 1 and rest[0].isascii() and rest[0].isdigit():
        if len(rest[0]) > 10 or not 0 < int(rest[0]) < 1 << 31:
            raise UsageError(f"invalid PID {rest[0]!r}: expected a number from 1 to {(1 << 31) - 1}")
        values["pid"] = int(rest[0])
    elif rest:
        if not rest[0]:
            raise UsageError("the command is an empty word: give the path of a program, or the name of one in $PATH")
        values["command"] = rest
    values["spawn"] = "netns" not in values and "pid" not in values


def _finish(values: "dict[str, Any]", entry: str) -> None:
    """Defaults that depend on other options, and options that contradict each other."""
    spawn = values["spawn"]
    _exclusive(values, "netns_only", "userns", "--netns-only", "--userns")
    if values.get("splice_only") and values.get("splice") is False:
        raise UsageError("--splice-only and --no-splice are both given: give one of them")
    _exclusive(values, "splice_only", "follow", "--splice-only", "--follow")
    for direction in ("out", "in"):
        _exclusive(values, "splice_only", f"rate_{direction}", "--splice-only", f"--rate-{direction}")
    if values.get("host_lo_to_ns_lo") and values.get("splice") is False:
        raise UsageError("--host-lo-to-ns-lo and --no-splice are both given: give one of them")
    if not spawn and values.get("pidns") is False:
        raise UsageError("--no-pidns is for a command, and there is none: leave it out")
    if not spawn and values.get("as_pid_1"):
        raise UsageError("--as-pid-1 is for a command, and there is none: leave it out")
    if values.get("as_pid_1") and values.get("pidns") is False:
        raise UsageError("--as-pid-1 and --no-pidns are both given: give one of them")
    if spawn and values.get("userns"):
        raise UsageError(f"--userns {values['userns']!r} needs a namespace to join: give --netns or a PID")
    only = values.pop("only", 0)
    values["ipv4"], values["ipv6"] = only != 6, only != 4
    if "netns" in values and "userns" not in values:
        values["netns_only"] = True
    if spawn:
        values["foreground"] = True
        if len(values.get("hostname", "")) > MAX_HOSTNAME_CHARS:
            raise UsageError(
                f"invalid value {values['hostname']!r} for --hostname: "
                f"expected up to {MAX_HOSTNAME_CHARS} characters for a command's own name"
            )
    values.setdefault("config_net", entry == "pasta-py" and "fd" not in values)
    values["greets"] = entry == "pasta-py" and spawn and "command" not in values and values.get("log_level", INFO) >= INFO
    copied = values["config_net"] and entry != "passt" and "fd" not in values and not values.get("splice_only")
    values.setdefault("follow", copied)
    level = values.setdefault("log_level", WARNING if spawn else INFO)
    values["quiet"] = level <= WARNING
    presets = tuple(dict.fromkeys(values.pop("egress", ())))
    if len(presets) > 1:
        raise UsageError(f"--egress {presets[0]} and --egress {presets[1]} are both given: give one of them")
    values["egress"] = presets[0] if presets else ""
    for name, option in (("no_proxy", "--no-proxy"), ("proxy_auth_file", "--proxy-auth-file")):
        if values.get(name) and not values.get("proxy"):
            raise UsageError(f"{option} is given without --proxy: give both or none")
    _finish_addresses(values)
    _finish_sandbox(values)


def _finish_sandbox(values: "dict[str, Any]") -> None:
    """What --sandbox closes, and what would open it again."""
    if not values.get("sandbox"):
        if values.get("sandbox_keep"):
            raise UsageError(f"--sandbox-keep {values['sandbox_keep'][0]!r} is given without --sandbox: nothing is covered")
        return
    if values.get("sandbox_keep") and not values["spawn"]:
        raise UsageError(f"--sandbox-keep {values['sandbox_keep'][0]!r} is for a command, and there is none: leave it out")
    against = (
        (values["egress"] == "open", "--egress open"),
        (values.get("egress_dns") == "all" and values["egress"] != "internet", "--egress-dns all"),
        (values.get("map_host_loopback"), "--map-host-loopback"),
        (values.get("broadcast"), "--broadcast"),
        (values["spawn"] and values.get("netns_only"), "--netns-only"),
        (values["spawn"] and values.get("pidns") is False, "--no-pidns"),
    )
    for given, name in against:
        if given:
            raise UsageError(f"--sandbox and {name} are both given: what one closes, the other opens: leave out one of them")
    values["map_gw"] = values["multicast"] = False


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
    from_user = values.pop("address", {})
    if 4 in from_user:
        address, said = from_user[4]
        if said and "netmask" in values:
            raise UsageError(f"--netmask beside --address {str(address)!r}: give the length in one of the two")
        if said:
            values["netmask"] = address.network.prefixlen
        elif "netmask" in values:
            from_user[4] = (type(address)(f"{address.ip}/{values['netmask']}"), True)
    values["address"] = tuple(from_user[version][0] for version in (4, 6) if version in from_user)
