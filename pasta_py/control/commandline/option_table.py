"""The one table of options, and that of subcommands. Four readers share it: the parser (options.py), plain help (start/main.py),
the typer command of `pasta-py --help` (start/typer_command.py), and the manual page (man.py).

A row holds the names of an option, what value it takes, where that goes and by which rule, and a sentence or two for the user.
"""

from pasta_py import defaults
from pasta_py.control.commandline import option_values as takes
from pasta_py.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ERROR, WARNING, INFO, DEBUG, TRACE = range(5)  # log levels, as in WorkerPlan.log_level

MAX_THREADS = 16  # SHARDS_MAX of csrc/plane_api.h

PORTS, OURS, GUEST, TRANSLATION, RUNNING = "Ports", "Capture and runtimes", "What the guest sees", "Translation", "Running"
EGRESS, VIRTUAL_MACHINES = "What the guest may reach", "Virtual machines (passt)"
#: In the order of the help: what is used most comes first.
SECTIONS = (PORTS, OURS, EGRESS, GUEST, TRANSLATION, RUNNING, VIRTUAL_MACHINES)
#: For files that may be standard output.
_STANDARD_OUTPUT = "`-` is standard output; the command's own output then goes to standard error."

#: Options that only `pasta` and `pasta-py` have: `passt` has no namespace.
PASTA_ONLY = frozenset((
    "netns", "userns", "netns-only", "no-netns-quit", "no-pidns", "as-pid-1", "config-net", "no-config-net", "ns-ifname",
    "ns-mac-addr", "no-copy-routes", "no-copy-addrs", "host-lo-to-ns-lo", "splice-only", "tcp-ns", "udp-ns", "network",
))  # fmt: skip


class Option(Record):
    """One option: its names, what it takes, where that goes, and what the help says."""

    section: str
    long: str  # without dashes
    short: str  # one character, or ""
    metavar: str  # "" for an option without a value
    dest: str  # field of Options, or a name that options.parse() knows
    rule: str  # "last", "family", "list", "ports", or for options without a value "set", "debug", "stop", "ignore"
    value: "Any"  # a converter of option_values, or is what a "set" option stores
    help: str
    mode: str = ""  # "pasta" or "passt", if only that program has it

    @property
    def names(self) -> str:
        """As in help: `-f, --foreground`."""
        return (f"-{self.short}, " if self.short else "") + f"--{self.long}"


def _table() -> tuple[Option, ...]:
    rows: list[Option] = []

    def add(section: str, names: str, metavar: str, dest: str, rule: str, value: "Any", text: str) -> None:
        short, _, long = names.rpartition(" ")
        fields = {"metavar": metavar, "dest": dest, "rule": rule, "value": value}
        mode = "pasta" if long in PASTA_ONLY else "passt" if section == VIRTUAL_MACHINES else ""
        rows.append(Option(section=section, long=long, short=short, help=text, mode=mode, **fields))

    _running(add)
    _guest(add)
    _translation(add)
    _virtual_machines(add)
    _egress(add)
    return tuple(rows)


def _running(add: "Callable[[str, str, str, str, str, Any, str], None]") -> None:
    for row in (
        ("netns", "PATH|NAME", "netns", "last", takes.text,
         "Join this network namespace; a NAME is looked up in /run/netns."),
        ("userns", "PATH", "userns", "last", takes.text, "Join this user namespace first."),
        ("netns-only", "", "netns_only", "set", True,
         "Join no user namespace, and make none for a command. Implied by --netns without --userns."),
        ("no-netns-quit", "", "netns_quit", "set", False,
         "Stay when the path or the process that names the namespace goes away. Default: quit within a second."),
        ("no-pidns", "", "pidns", "set", False,
         "Run the command in the caller's PID namespace, with the caller's /proc."),
        ("as-pid-1", "", "as_pid_1", "set", True,
         "Run the command as process 1, as an init wants it. Signals that it does not handle, such as Ctrl-C, do not reach it, and "
         "a resolv.conf of its own is not kept up to date."),
        ("f foreground", "", "foreground", "set", True, "Do not go to the background. Implied for a command."),
        ("P pid", "FILE", "pid_file", "last", takes.text,
         "Write the process ID, as seen from here, to FILE when everything is ready."),
        ("d debug", "", "log_level", "debug", DEBUG, "Also log connections that fail, and why."),
        ("trace", "", "log_level", "set", TRACE, "The same as --debug, and log every packet of the guest."),
        ("q quiet", "", "log_level", "set", WARNING, "Print warnings and errors only. Default for a command."),
        ("e stderr", "", "", "ignore", None, "Accepted for compatibility, without effect."),
        ("l log-file", "PATH", "log_file", "last", takes.text,
         "Log to a file that stays below --log-size. Default: standard error, and in the background syslog."),
        ("log-format", "text|json", "log_format", "last", takes.one_of("text", "json"),
         "Write each line of the log and of standard error as plain text, or as a JSON object. Default: text."),
        ("log-size", "BYTES", "log_size", "last", takes.number(4096, 1 << 31),
         f"Largest size of the log file, 4096 or more; its oldest lines are deleted first. Default: {defaults.LOG_SIZE_BYTES}."),
        ("stats", "SECONDS", "stats", "last", takes.number(1, 86400 * 365),
         "Log counters of frames, flows and drops at most that often, when they have changed."),
        ("runas", "USER[:GROUP]", "runas", "last", takes.runas,
         f"Started as root, serve the guest as this user. Default: UID and GID {defaults.RUNAS_ID}."),
        ("F fd", "FD", "fd", "last", takes.number(3, 1 << 20),
         "Instead of making a tap, use this open descriptor: a tap, or a socket with one frame in each message."),
        ("chroot-fallback", "", "chroot_fallback", "set", True,
         "Where pivot_root is refused, as on an initramfs, confine the worker to an empty directory by chroot."),
        ("metrics", "ADDRESS", "metrics", "last", takes.text,
         "Serve metrics for Prometheus over HTTP, at /metrics. ADDRESS is as 127.0.0.1:9090 or [::1]:9090, or unix:PATH."),
        ("c conf-path", "PATH", "conf_path", "last", takes.text,
         "Make a UNIX socket at PATH, for the command pesto to show and change forwarded ports."),
        ("control", "PATH", "control", "last", takes.text,
         "Make a control socket at PATH too, which takes commands that change this instance: docs/control.md."),
        ("no-control", "", "control_socket", "set", False,
         "Make no socket that lets pasta-py ps, flows, stats, show and top look at this instance."),
        ("threads", "N", "threads", "last", takes.number(1, MAX_THREADS),
         "Serve TCP and local connections with N threads, 1 to 16, where there are cores to spare. With --vhost-user each has a "
         "pair of queues of its own. Default: 1."),
        ("h help", "", "help", "stop", None, "Show this help and exit."),
        ("version", "", "version", "stop", None, "Show the version and exit."),
    ):  # fmt: skip
        add(RUNNING, *row)


def _guest(add: "Callable[[str, str, str, str, str, Any, str], None]") -> None:
    for row in (
        ("config-net", "", "config_net", "set", True,
         "Configure the interface in the namespace: addresses, routes, MTU, up. Default of pasta-py."),
        ("no-config-net", "", "config_net", "set", False,
         "Leave the interface down and bare, to be configured by DHCP, NDP and DHCPv6. Default of pasta."),
        ("I ns-ifname", "NAME", "ns_ifname", "last", takes.ifname,
         f"Interface name in the namespace. Default: that of the host's outbound interface, else {defaults.IFNAME}."),
        ("ns-mac-addr", "MAC", "ns_mac_addr", "last", takes.mac,
         "MAC address of the interface in the namespace. Default: what the kernel gives it."),
        ("M mac-addr", "MAC", "mac_addr", "last", takes.mac,
         f"MAC address of the translator on the guest's link. Default: {defaults.MAC.hex(':')}."),
        ("m mtu", "N", "mtu", "last", takes.mtu,
         f"MTU in bytes. 0: do not set one. Below 1280 there is no IPv6. Default: {defaults.MTU}."),
        ("a address", "ADDR[/LEN]", "address", "family", takes.guest_address,
         "Guest address, once per family. Default: those of the host's outbound interface but link-local ones."),
        ("n netmask", "MASK", "netmask", "last", takes.netmask,
         "IPv4 netmask, dotted or in bits. Default: that of the address; for -a without LEN by address class."),
        ("g gateway", "ADDR", "gateway", "family", takes.ip("of the default gateway"),
         "Default gateway of the guest, once per family. Default: the host's."),
        ("i interface", "NAME", "interface", "last", takes.host_ifname,
         "Host interface (any of its names) to take addresses and routes from. Default, per family: the first default route's."),
        ("o outbound", "ADDR", "outbound", "family", takes.ip("of the host", loopback=True),
         "Source address of sockets that leave the host, once per family. Default: the routing table's choice."),
        ("outbound-if4", "NAME", "outbound_if4", "last", takes.host_ifname,
         "Bind IPv4 sockets that leave the host to this interface. Without -i, addresses and routes are copied from it too."),
        ("outbound-if6", "NAME", "outbound_if6", "last", takes.host_ifname, "The same for IPv6."),
        ("follow", "", "follow", "set", True,
         "When the host's addresses, routes or nameservers change, change the guest's too. The default with --config-net."),
        ("no-follow", "", "follow", "set", False,
         "Leave the guest as it was set up. The default for guests that configure themselves."),
        ("follow-grace", "SECONDS", "follow_grace", "last", takes.number(0, 3600),
         f"How long an address or route stays that the host has lost and nothing replaces. Default: {defaults.FOLLOW_GRACE_S}."),
        ("no-copy-routes", "", "copy_routes", "set", False, "Deprecated: copy only the default route."),
        ("no-copy-addrs", "", "copy_addrs", "set", False, "Deprecated: copy only one address."),
        ("4 ipv4-only", "", "only", "set", 4, "IPv4 only; the last one of -4 and -6 counts."),
        ("6 ipv6-only", "", "only", "set", 6, "IPv6 only."),
        ("D dns", "ADDR", "dns", "list", takes.or_none(takes.ip("of a nameserver", loopback=True)),
         "Nameserver announced to the guest, and under pasta-py named in a command's resolv.conf; may be repeated. "
         "`none`: announce none, and do not forward 169.254.1.1. Default: those of /etc/resolv.conf."),
        ("S search", "LIST", "search", "last", takes.search,
         "Search domains, separated by spaces, announced to the guest, and under pasta-py named in a command's resolv.conf. "
         "`none`: none. Default: those of /etc/resolv.conf."),
        ("H hostname", "NAME", "hostname", "last", takes.domain,
         "Host name: DHCP option 12, and that of a command's own UTS namespace. Default for a command: pasta-HOST."),
        ("fqdn", "NAME", "fqdn", "last", takes.domain,
         "Full name of the guest: DHCP option 81, DHCPv6 option 39, for clients that ask."),
        ("dhcp-dns", "", "dhcp_dns", "set", True,
         "Announce nameservers by DHCP, NDP and DHCPv6. Default: only those of --dns; pasta-py, unless root starts it, also "
         "announces 169.254.1.1 where the guest reaches none of the host's."),
        ("no-dhcp-dns", "", "dhcp_dns", "set", False, "Announce no nameservers."),
        ("dhcp-search", "", "dhcp_search", "set", True,
         "Announce search domains by DHCP, NDP and DHCPv6. Default: only those of --search."),
        ("no-dhcp-search", "", "dhcp_search", "set", False, "Announce no search domains."),
        ("no-dhcp", "", "dhcp", "set", False, "Switch the DHCP service off."),
        ("no-dhcpv6", "", "dhcpv6", "set", False, "Switch the DHCPv6 service off."),
        ("no-ndp", "", "ndp", "set", False, "Switch answers to neighbour discovery off."),
        ("no-ra", "", "ra", "set", False, "Switch router advertisements off. Implied by --config-net."),
        ("no-tcp", "", "tcp", "set", False, "Switch TCP off: its frames get no answer, its ports are not forwarded."),
        ("no-udp", "", "udp", "set", False, "Switch UDP off in the same way; DHCP stays."),
        ("no-icmp", "", "icmp", "set", False, "Switch ICMP and ICMPv6 echo off; neighbour discovery stays."),
        ("no-multicast", "", "multicast", "set", False,
         "Drop the guest's UDP to multicast groups (SSDP, mDNS). Default: the host's network gets it, and may answer."),
        ("broadcast", "", "broadcast", "set", True,
         "Pass the guest's UDP broadcasts on to the host's network, except those of DHCP. Default: drop them."),
    ):  # fmt: skip
        add(GUEST, *row)


def _translation(add: "Callable[[str, str, str, str, str, Any, str], None]") -> None:
    default = "Default: auto."
    for row in (
        ("map-host-loopback", "ADDR", "map_host_loopback", "family", takes.or_none(takes.ip("that the guest is to use")),
         "Address by which the guest reaches the host's loopback, once per family, or `none`. Default: the gateway."),
        ("no-map-gw", "", "map_gw", "set", False,
         "Do not map the gateway's address to the host's loopback."),
        ("map-gw", "", "map_gw", "set", True,
         "Map the gateway's address to the host's loopback, which is the default: undoes --no-map-gw."),
        ("map-guest-addr", "ADDR", "map_guest_addr", "family", takes.or_none(takes.ip("that the guest is to use")),
         "Address by which the guest reaches the host's own global address, once per family."),
        ("dns-forward", "ADDR", "dns_forward", "family", takes.ip("that the guest is to use"),
         "Address whose ports 53 and 853 lead to the host's nameserver, once per family. Default of pasta-py, where the guest "
         "reaches none of the host's: 169.254.1.1, port 53 only."),
        ("dns-host", "ADDR", "dns_host", "family", takes.ip("of a nameserver", loopback=True),
         "Nameserver that --dns-forward leads to, once per family. Default: the first of /etc/resolv.conf."),
        ("egress-dns", "WHICH", "egress_dns", "last", takes.one_of("rules", "all", "none"),
         "Answer all DNS queries of the guest ourselves, whatever nameserver it asks, and say which names it may resolve: `all`, "
         "`rules`: those that rules allow, or `none`."),
        ("host-lo-to-ns-lo", "", "host_lo_to_ns_lo", "set", True,
         "Connections to the host's loopback arrive at the namespace's loopback, not at its public address."),
        ("no-splice", "", "splice", "set", False,
         "Do not join connections from the host's loopback socket to socket: send them through the tap."),
        ("splice-only", "", "splice_only", "set", True, "Make no tap: only forward ports between the two loopbacks."),
    ):  # fmt: skip
        add(TRANSLATION, *row)
    for row in (
        ("t tcp-ports", "SPEC", "tcp_ports", "ports", takes.ports("-t", listen=True),
         f"TCP ports forwarded to the namespace. {default}"),
        ("u udp-ports", "SPEC", "udp_ports", "ports", takes.ports("-u", listen=True),
         f"UDP ports forwarded to the namespace. {default}"),
        ("T tcp-ns", "SPEC", "tcp_ns", "ports", takes.ports("-T", listen=False),
         f"TCP ports forwarded from the namespace to the host. {default}"),
        ("U udp-ns", "SPEC", "udp_ns", "ports", takes.ports("-U", listen=False),
         f"UDP ports forwarded from the namespace to the host. {default}"),
        ("freebind", "", "freebind", "set", True,
         "Let -t and -u listen at addresses that the host does not have (yet)."),
    ):  # fmt: skip
        add(PORTS, *row)
    add(OURS, "network", "STRING", "network", "network", takes.text,
        "Options in the form of podman's --network, pasta:OPT,OPT. The options that podman itself adds are not added.")  # fmt: skip
    add(OURS, "p pcap", "FILE", "pcap", "last", takes.text,
        f"Capture all frames to FILE, or a FIFO; a name in .pcapng gives that format. {_STANDARD_OUTPUT}")  # fmt: skip
    for row in (
        ("pcap-filter", "EXPRESSION", "pcap_filter", "last", takes.text,
         "Capture only frames that match, in tcpdump's language (pcap-filter(7)). Needs libpcap."),
        ("pcap-snaplen", "BYTES", "pcap_snaplen", "last", takes.number(1, 262144),
         "Capture only the first bytes of each frame. Default: all."),
        ("pcap-size", "BYTES", "pcap_size", "last", takes.number(defaults.CAPTURE_FILE_MIN_BYTES, 1 << 38),
         "Capture to several files of at most this size, in turn: OUT.1.pcap, OUT.2.pcap for `--pcap OUT.pcap`. The oldest is "
         "overwritten."),
        ("pcap-files", "N", "pcap_files", "last", takes.number(2, 64),
         f"How many files --pcap-size writes in turn, 2 to 64. Default: {defaults.CAPTURE_FILES}."),
        ("flow-log", "FILE", "flow_log", "last", takes.text,
         f"Write a JSON line to FILE for each flow that is opened, refused or closed: docs/control.md. {_STANDARD_OUTPUT}"),
        ("report", "FILE", "report", "last", takes.text,
         "At the end, write an HTML page of what the guest talked to. `pasta-py report` makes one of a flow log. "
         f"{_STANDARD_OUTPUT}"),
        ("flow-log-size", "BYTES", "flow_log_size", "last", takes.number(65536, 1 << 38),
         "Keep the flow log, and the decision log, below this size, in two files FILE and FILE.1, which are written in turn. "
         f"Default: {defaults.FLOW_LOG_SIZE_BYTES >> 20} MiB."),
    ):  # fmt: skip
        add(OURS, *row)


def _egress(add: "Callable[[str, str, str, str, str, Any, str], None]") -> None:
    for row in (
        ("allow", "RULE", "egress_rules", "list", takes.allow,
         "Let the guest open connections to DEST[:PORT[-PORT]][/tcp|/udp|/icmp|/tls|/http]; may be repeated. DEST is a name, "
         "*.NAME for all names below it, an address or prefix (IPv6 in brackets), *, or one of @host @lan @private @metadata "
         "@multicast @internet. NAME=PREFIX: the name may resolve into a private network. NAME/tls, NAME/http: connections have "
         "to name it in TLS or HTTP. The first rule that matches counts; what no rule matches is denied."),
        ("deny", "RULE", "egress_rules", "list", takes.deny, "Do not let the guest do so; may be repeated."),
        ("egress", "PRESET", "egress", "list", takes.preset,
         "What no rule matches: `open`: allow it; `internet`: allow all but @host @lan @private @metadata @multicast; `none`: "
         "deny it. Default: none with any --allow, else open."),
        ("egress-file", "FILE", "egress_rules", "list", takes.text,
         "Read rules from FILE, as if they stood here: lines `allow RULE`, `deny RULE`, `default PRESET`, and notes behind #."),
        ("decision-log", "FILE", "decision_log", "last", takes.text,
         f"Write a JSON line to FILE for each decision about a connection or a name: docs/egress.md. {_STANDARD_OUTPUT} "
         "Without rules all is allowed, and logged."),
        ("sandbox", "", "sandbox", "set", True,
         "For what is not trusted: --egress none unless a preset is given, no host loopback, no multicast, and no start where a "
         "layer of the worker's sandbox is missing. A command finds /tmp, /run and $XDG_RUNTIME_DIR empty: the host's UNIX sockets "
         "there are ways out."),
        ("sandbox-keep", "PATH", "sandbox_keep", "list", takes.text,
         "Leave this file or directory to the command of --sandbox; may be repeated."),
        ("learn", "FILE", "learn", "last", takes.text,
         "Let pass what no rule and no closed group denies (--egress internet), and write the narrowest rules for it to FILE, "
         "beside those that FILE has: docs/egress.md."),
        ("redirect", "RULE@ADDR:PORT", "redirects", "list", takes.redirect,
         "Send connections that match RULE (of TCP, and allowed) to an inspector at this address of the host; may be repeated. "
         "With +proxy-v2 behind the port it gets a header of the PROXY protocol, which has the original destination."),
        ("proxy", "URL", "proxy", "last", takes.proxy,
         "Send all connections that are allowed through the proxy at socks5://HOST:PORT or http://HOST:PORT, by name where the "
         "name is known. UDP and ping are refused. Nothing goes around it but the host's own addresses and --no-proxy."),
        ("no-proxy", "RULE", "no_proxy", "list", takes.no_proxy, "Let what matches RULE go straight to it; may be repeated."),
        ("proxy-auth-file", "FILE", "proxy_auth_file", "last", takes.text,
         "Log in to the proxy with the line USER:PASSWORD of FILE."),
        ("rate-out", "RATE", "rate_out", "last", takes.rate,
         "Limit what the guest sends to RATE, all flows together: a number with kbit, mbit or gbit (bits a second), or kB, MB or "
         "GB (bytes a second). TCP waits, datagrams over the rate are dropped. Local connections have no limit."),
        ("rate-in", "RATE", "rate_in", "last", takes.rate, "Limit what the guest receives in the same way."),
        ("verify-names", "", "verify_names", "set", True,
         "--allow NAME:443 means NAME:443/tls, and NAME:80 means NAME:80/http: another name of the same address is not reached."),
        ("pin-grace", "SECONDS", "pin_grace", "last", takes.number(0, 604800),
         "How long the addresses of an allowed name may still be connected to after its answer has ended. "
         f"Default: {defaults.PIN_GRACE_S}."),
    ):  # fmt: skip
        add(EGRESS, *row)


def _virtual_machines(add: "Callable[[str, str, str, str, str, Any, str], None]") -> None:
    for row in (
        ("s socket", "PATH", "socket", "last", takes.text,
         "Listen for the virtual machine at this UNIX socket. "
         f"Default: the first free one of {defaults.MACHINE_SOCKET.format(1)} and following."),
        ("socket-path", "PATH", "socket", "last", takes.text, "The same as --socket."),
        ("1 one-off", "", "one_off", "set", True, "Quit when the virtual machine disconnects. Implied by --fd."),
        ("vhost-user", "", "vhost_user", "set", True, "Speak vhost-user instead of frames with their length."),
        ("print-capabilities", "", "print-capabilities", "stop", None, "Show what this back-end can do, as JSON, and exit."),
        ("repair-path", "PATH", "repair_path", "last", takes.text,
         "Accepted for compatibility: connections do not migrate with the virtual machine."),
        ("migrate-exit", "", "", "migrate", None, "Accepted with --vhost-user for compatibility, without effect."),
        ("migrate-no-linger", "", "", "migrate", None, "Accepted with --vhost-user for compatibility, without effect."),
    ):  # fmt: skip
        add(VIRTUAL_MACHINES, *row)


def of(program: str) -> tuple[Option, ...]:
    """The options that a program has."""
    mode = mode_of(program)
    return tuple(option for option in TABLE if option.mode in ("", mode))


def mode_of(program: str) -> str:
    return "passt" if program == "passt" else "pasta"


TABLE: tuple[Option, ...] = _table()
BY_LONG = {option.long: option for option in TABLE}
LETTERS = {option.short: option.long for option in TABLE if option.short}

#: What `pasta-py` understands as its first word: the module of control.subcommands with its main(argv), and a line for the user.
#: `pasta` has no subcommands: its callers mean programs.
SUBCOMMANDS: "dict[str, tuple[str, str]]" = {
    "ps": ("ps", "List the running instances: what they serve, since when, how much passed."),
    "flows": ("flows", "List the open flows of an instance, or follow what is opened, refused and closed."),
    "stats": ("stats", "Show the counters of an instance."),
    "top": ("top", "Watch the flows of an instance, live."),
    "show": ("show", "Show what an instance has set up: interface, addresses, DNS, ports."),
    "egress": ("egress", "Show or change the rules of an instance, or ask what they say of a destination."),
    "doctor": ("doctor", "Check whether this machine has what pasta-py needs, and say what mends it."),
    "capture": ("capture", "Capture the frames of a running instance."),
    "report": ("report", "Make one HTML page of a flow log: where a guest connected, when, how much, and what failed."),
    "man": ("man", "Show the manual page, or that of pesto or slirp4netns."),
}
#: The same, of pasta-py's first option.
COMPLETION: "dict[str, tuple[str, str]]" = {
    "--install-completion": ("completion", "Install completion for a shell. Default: that of $SHELL."),
    "--show-completion": ("completion", "Print the completion script of a shell."),
}
