"""The option parser: every option of the table, getopt's manners and wording, and what is refused."""

import subprocess
import sys
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasta_py.control.commandline import detour, option_table, option_values, options, port_spec
from pasta_py.control.commandline.options import Options
from pasta_py.errors import UsageError


def parse(*argv: str, entry: str = "pasta") -> Options:
    return options.parse(argv, entry)


def refused(*argv: str, entry: str = "pasta") -> str:
    with pytest.raises(UsageError) as caught:
        options.parse(argv, entry)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ips(*texts: str) -> tuple[Any, ...]:
    return tuple(ip_address(text) for text in texts)


# Option, value (None: takes none), field, what the field is to hold
EACH: list[tuple[str, str | None, str, Any]] = [
    ("--netns", "/proc/1/ns/net", "netns", "/proc/1/ns/net"),
    ("--netns-only", None, "netns_only", True),
    ("--no-netns-quit", None, "netns_quit", False),
    ("--no-pidns", None, "pidns", False),
    ("--as-pid-1", None, "as_pid_1", True),
    ("--foreground", None, "foreground", True),
    ("-f", None, "foreground", True),
    ("--pid", "/run/p", "pid_file", "/run/p"),
    ("-P", "/run/p", "pid_file", "/run/p"),
    ("--debug", None, "log_level", 3),
    ("-d", None, "log_level", 3),
    ("--trace", None, "log_level", 4),
    ("--quiet", None, "log_level", 1),
    ("-q", None, "quiet", True),
    ("--log-file", "/tmp/l", "log_file", "/tmp/l"),
    ("-l", "/tmp/l", "log_file", "/tmp/l"),
    ("--log-size", "65536", "log_size", 65536),
    ("--log-format", "json", "log_format", "json"),
    ("--stats", "5", "stats", 5),
    ("--runas", "nobody:nogroup", "runas", "nobody:nogroup"),
    ("--fd", "7", "fd", 7),
    ("-F", "7", "fd", 7),
    ("--chroot-fallback", None, "chroot_fallback", True),
    ("--conf-path", "/run/c", "conf_path", "/run/c"),
    ("--threads", "16", "threads", 16),
    ("-c", "/run/c", "conf_path", "/run/c"),
    ("--config-net", None, "config_net", True),
    ("--ns-ifname", "tap0", "ns_ifname", "tap0"),
    ("-I", "tap0", "ns_ifname", "tap0"),
    ("--ns-mac-addr", "02:00:00:00:00:01", "ns_mac_addr", bytes.fromhex("020000000001")),
    ("--mac-addr", "2-0-0-0-0-A", "mac_addr", bytes.fromhex("02000000000a")),
    ("-M", "02:00:00:00:00:01", "mac_addr", bytes.fromhex("020000000001")),
    ("--mtu", "1500", "mtu", 1500),
    ("-m", "0", "mtu", 0),
    ("--address", "10.0.2.100/24", "address", (ip_interface("10.0.2.100/24"),)),
    ("-a", "fc00::3", "address", (ip_interface("fc00::3/64"),)),
    ("--netmask", "255.255.240.0", "netmask", 20),
    ("-n", "24", "netmask", 24),
    ("--gateway", "10.0.2.2", "gateway4", ip_address("10.0.2.2")),
    ("-g", "fe80::1", "gateway6", ip_address("fe80::1")),
    ("--interface", "eth0", "interface", "eth0"),
    ("-i", "eth0", "interface", "eth0"),
    ("--outbound", "192.0.2.1", "outbound4", ip_address("192.0.2.1")),
    ("-o", "::1", "outbound6", ip_address("::1")),
    ("--outbound-if4", "eth0", "outbound_if4", "eth0"),
    ("--outbound-if6", "eth0", "outbound_if6", "eth0"),
    ("--no-copy-routes", None, "copy_routes", False),
    ("--no-copy-addrs", None, "copy_addrs", False),
    ("--ipv4-only", None, "ipv6", False),
    ("-4", None, "ipv6", False),
    ("--ipv6-only", None, "ipv4", False),
    ("-6", None, "ipv4", False),
    ("--dns", "192.0.2.53", "dns", ips("192.0.2.53")),
    ("-D", "none", "dns", ()),
    ("--search", "example.org  example.net", "search", ("example.org", "example.net")),
    ("-S", "none", "search", ()),
    ("--hostname", "box", "hostname", "box"),
    ("-H", "box", "hostname", "box"),
    ("--fqdn", "box.example.org", "fqdn", "box.example.org"),
    ("--dhcp-dns", None, "dhcp_dns", True),
    ("--no-dhcp-dns", None, "dhcp_dns", False),
    ("--dhcp-search", None, "dhcp_search", True),
    ("--no-dhcp-search", None, "dhcp_search", False),
    ("--no-dhcp", None, "dhcp", False),
    ("--no-dhcpv6", None, "dhcpv6", False),
    ("--no-ndp", None, "ndp", False),
    ("--no-ra", None, "ra", False),
    ("--no-tcp", None, "tcp", False),
    ("--no-udp", None, "udp", False),
    ("--no-icmp", None, "icmp", False),
    ("--no-multicast", None, "multicast", False),
    ("--broadcast", None, "broadcast", True),
    ("--map-host-loopback", "10.0.2.9", "map_host_loopback", ips("10.0.2.9")),
    ("--no-map-gw", None, "map_gw", False),
    ("--map-guest-addr", "fc00::2", "map_guest_addr", ips("fc00::2")),
    ("--dns-forward", "169.254.1.1", "dns_forward", ips("169.254.1.1")),
    ("--dns-host", "127.0.0.53", "dns_host", ips("127.0.0.53")),
    ("--egress-dns", "rules", "egress_dns", "rules"),
    ("--pin-grace", "60", "pin_grace", 60),
    ("--redirect", "a.test:443@127.0.0.1:8443+proxy-v2", "redirects", (detour.redirect("a.test:443@127.0.0.1:8443+proxy-v2"),)),
    ("--proxy", "socks5://[::1]:1080", "proxy", detour.Proxy(host="::1", port=1080, kind=detour.SOCKS5, text="socks5://[::1]:1080")),
    ("--rate-out", "10mbit", "rate_out", 1_250_000),
    ("--rate-in", "2.5MB", "rate_in", 2_500_000),
    ("--verify-names", None, "verify_names", True),
    ("--host-lo-to-ns-lo", None, "host_lo_to_ns_lo", True),
    ("--no-splice", None, "splice", False),
    ("--splice-only", None, "splice_only", True),
    ("--tcp-ports", "8080", "tcp_ports", (port_spec.parse("8080"),)),
    ("-t", "8080", "tcp_ports", (port_spec.parse("8080"),)),
    ("--udp-ports", "53:5353", "udp_ports", (port_spec.parse("53:5353"),)),
    ("-u", "none", "udp_ports", (port_spec.NONE,)),
    ("--tcp-ns", "auto", "tcp_ns", (port_spec.DEFAULT,)),
    ("-T", "80", "tcp_ns", (port_spec.parse("80"),)),
    ("--udp-ns", "all", "udp_ns", (port_spec.parse("all"),)),
    ("-U", "80", "udp_ns", (port_spec.parse("80"),)),
    ("--freebind", None, "freebind", True),
    ("--network", "pasta:--mtu,1500", "mtu", 1500),
    ("--pcap", "out.pcap", "pcap", "out.pcap"),
    ("-p", "-", "pcap", "-"),
    ("--pcap-filter", "tcp port 80", "pcap_filter", "tcp port 80"),
    ("--pcap-snaplen", "96", "pcap_snaplen", 96),
    ("--pcap-files", "4", "pcap_files", 4),
    ("--metrics", "unix:/run/m", "metrics", "unix:/run/m"),
    ("--control", "/run/c", "control", "/run/c"),
    ("--no-control", None, "control_socket", False),
    ("--follow", None, "follow", True),
    ("--follow-grace", "5", "follow_grace", 5),
    ("--flow-log", "flows", "flow_log", "flows"),
    ("--flow-log-size", "1000000", "flow_log_size", 1000000),
    ("--decision-log", "decisions", "decision_log", "decisions"),
    ("--learn", "rules", "learn", "rules"),
    ("--report", "out.html", "report", "out.html"),
    ("--allow", "*:443", "egress_rules", (option_values.allow("*:443"),)),
    ("--deny", "*:25", "egress_rules", (option_values.deny("*:25"),)),
    ("--egress", "none", "egress", "none"),
    ("--egress-file", "/etc/egress", "egress_rules", ("/etc/egress",)),
    ("--sandbox", None, "sandbox", True),
]
#: The same of passt alone.
OF_PASST: list[tuple[str, str | None, str, Any]] = [
    ("--socket", "/run/s", "socket", "/run/s"),
    ("--socket-path", "/run/s", "socket", "/run/s"),
    ("-s", "/run/s", "socket", "/run/s"),
    ("--one-off", None, "one_off", True),
    ("-1", None, "one_off", True),
    ("--vhost-user", None, "vhost_user", True),
    ("--repair-path", "/run/r", "repair_path", "/run/r"),
    ("--print-capabilities", None, "action", "print-capabilities"),
]


@pytest.mark.parametrize(("name", "value", "field", "held"), EACH, ids=[f"{e[0]}{e[1] or ''}" for e in EACH])
def test_each_option_changes_its_field_in_every_spelling(name: str, value: str | None, field: str, held: Any) -> None:
    assert getattr(parse("1234"), field) != held
    if name in ("--no-pidns", "--as-pid-1"):
        assert getattr(parse(name, "--", "true"), field) == held
        return
    if value is None:
        assert getattr(parse(name, "1234") if name != "--netns" else parse(name), field) == held
        return
    tail = () if name == "--netns" else ("1234",)
    joined = f"{name}={value}" if name.startswith("--") else name + value
    assert getattr(parse(name, value, *tail), field) == held
    assert getattr(parse(joined, *tail), field) == held


@pytest.mark.parametrize(("name", "value", "field", "held"), OF_PASST, ids=[f"{e[0]}{e[1] or ''}" for e in OF_PASST])
def test_each_option_of_passt_changes_its_field_and_is_unknown_to_pasta(
    name: str, value: str | None, field: str, held: Any
) -> None:
    words = [name] if value is None else [name, value]
    assert getattr(parse(entry="passt"), field) != held
    assert getattr(parse(*words, entry="passt"), field) == held
    with pytest.raises(UsageError):
        parse(*words, "1234")


def test_the_list_above_covers_the_whole_table() -> None:
    tried = {name for name, *_ in EACH + OF_PASST} | {"--userns", "--stderr", "-e", "--help", "-h", "--version", "--sandbox-keep"}
    tried |= {"--no-proxy", "--proxy-auth-file"}
    tried |= {"--map-gw", "--no-config-net", "--no-follow", "--pcap-size", "--migrate-exit", "--migrate-no-linger"}
    table = {f"--{o.long}" for o in option_table.TABLE} | {f"-{o.short}" for o in option_table.TABLE if o.short}
    assert tried == table


def test_what_belongs_to_a_proxy_needs_one_and_credentials_stay_off_the_command_line() -> None:
    proxy = ("--proxy", "http://there.test:3128")
    with_both = parse(*proxy, "--no-proxy", "10.0.0.0/8", "--proxy-auth-file", "/f", "1")
    assert [str(rule) for rule in with_both.no_proxy] == ["10.0.0.0/8"] and with_both.proxy_auth_file == "/f"
    assert "--no-proxy is given without --proxy" in refused("--no-proxy", "10.0.0.0/8", "1")
    assert "--proxy-auth-file is given without --proxy" in refused("--proxy-auth-file", "/f", "1")
    assert "--proxy-auth-file" in refused("--proxy", "http://me:secret@there.test:3128", "1")
    assert "is not for TCP" in refused("--redirect", "*:443/udp@127.0.0.1:8443", "1")


def test_names_are_unique_and_every_destination_is_a_field() -> None:
    assert len(option_table.BY_LONG) == len(option_table.TABLE)
    assert len(option_table.LETTERS) == sum(bool(o.short) for o in option_table.TABLE)
    known = set(Options._fields) | {"", "help", "version", "print-capabilities", "only", "gateway", "outbound"}
    assert {o.dest for o in option_table.TABLE} <= known
    assert {o.section for o in option_table.TABLE} == set(option_table.SECTIONS)


def test_options_without_effect_and_pairs() -> None:
    assert parse("-e", "--stderr") == parse()
    assert parse("--userns", "/u", "--netns", "/n").userns == "/u"
    assert parse("--no-map-gw", "--map-gw").map_gw
    assert not parse("--map-gw", "--no-map-gw").map_gw
    assert parse("--no-follow", "--follow").follow and not parse("--follow", "--no-follow").follow
    assert parse("--pcap", "x", "--pcap-size", "1000000").pcap_size == 1000000
    assert parse("--vhost-user", "--migrate-exit", "--migrate-no-linger", entry="passt").vhost_user
    assert not parse("--config-net", "--no-config-net", entry="pasta-py").config_net


def test_of_the_two_families_the_last_one_counts() -> None:
    for words, families in ((("-4", "-6"), (False, True)), (("-6", "-4"), (True, False)), (("-46",), (False, True))):
        parsed = parse(*words)
        assert (parsed.ipv4, parsed.ipv6) == families


def test_entry_points_differ_only_in_configuring_the_network() -> None:
    assert parse("--", "curl", entry="pasta-py") == parse("--config-net", "curl").replace(program="pasta-py")
    assert parse(entry="pasta-py").config_net
    assert not parse("curl").config_net
    assert parse("12", entry="pasta-py") == parse("--config-net", "12").replace(program="pasta-py")
    assert parse("--netns", "lab", entry="pasta-py").config_net
    assert not parse("--fd", "5", entry="pasta-py").config_net  # there is none that could be configured


def test_what_is_run_and_what_that_implies() -> None:
    shell = parse()
    assert (shell.spawn, shell.command, shell.pid, shell.foreground, shell.quiet) == (True, (), None, True, True)
    assert parse("-f", "ls", "-l", "--nope").command == ("ls", "-l", "--nope")
    assert parse("--", "-x", "y").command == ("-x", "y")
    assert parse("-", "y").command == ("-", "y")
    assert parse("12", "34").command == ("12", "34")
    attached = parse("1234")
    assert (attached.pid, attached.spawn, attached.foreground, attached.quiet) == (1234, False, False, False)
    assert not attached.netns_only
    named = parse("--netns", "blue")
    assert (named.netns, named.netns_only, named.spawn, named.foreground) == ("blue", True, False, False)
    assert not parse("--netns", "blue", "--userns", "/u").netns_only
    assert parse("-d", "ls").log_level == option_table.DEBUG


def test_the_last_word_on_verbosity_counts_but_debug_keeps_trace() -> None:
    assert parse("-d", "-q", "1").log_level == option_table.WARNING
    assert parse("-q", "-d", "1").log_level == option_table.DEBUG
    assert parse("--trace", "-d", "1").log_level == option_table.TRACE


def test_prefixes_are_taken_while_unambiguous_and_exact_names_always() -> None:
    assert parse("--config", "1").config_net
    assert parse("--tcp-p=80", "1").tcp_ports == (port_spec.parse("80"),)
    assert parse("--netns", "x").netns == "x"
    assert parse("--dns", "192.0.2.1").dns == ips("192.0.2.1")
    assert refused("--tcp", "80") == "option '--tcp' is ambiguous; possibilities: '--tcp-ports' '--tcp-ns'"
    assert "'--no-dhcp-dns' '--no-dhcp-search'" in refused("--no-dhcp-")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--nope"], "unrecognized option '--nope'"),
        (["--nope=3"], "unrecognized option '--nope=3'"),
        (["-x"], "invalid option -- 'x'"),
        (["-fx"], "invalid option -- 'x'"),
        (["--mtu"], "option '--mtu' requires an argument"),
        (["--mt"], "option '--mtu' requires an argument"),
        (["-m"], "option requires an argument -- 'm'"),
        (["--foreground=1"], "option '--foreground' doesn't allow an argument"),
    ],
)
def test_getopts_own_wording(argv: list[str], message: str) -> None:
    assert refused(*argv) == message


def test_short_options_cluster_and_the_rest_is_a_value() -> None:
    both = parse("-fqm1500", "1")
    assert (both.foreground, both.quiet, both.mtu) == (True, True, 1500)
    assert parse("-fm", "1500", "1").mtu == 1500
    assert parse("-m", "1500", "-m9000", "1").mtu == 9000
    assert "'=80'" in refused("-t=80")
    assert refused("-t", "-u").startswith("--tcp-ports: port specification '-u'")


BAD_VALUES = [
    ("--mtu", ["67", "65536", "x", "", "-1", "1" * 5000, "²"]),
    ("--mac-addr", ["", "02:00:00:00:00", "02:00:00:00:00:001", "01:00:00:00:00:00", "0:0:0:0:0:0", "zz:0:0:0:0:1"]),
    ("--ns-mac-addr", ["ff:ff:ff:ff:ff:ff", "02 00 00 00 00 01"]),
    ("--ns-ifname", ["", "a/b", "sixteen-letters-", "a b", ".", "..", "a:b", "a%d"]),
    ("--interface", ["", "x" * 128]),
    ("--outbound-if4", ["a/b"]),
    ("--outbound-if6", [""]),
    ("--address", ["", "10.0.0.300", "127.0.0.1", "0.0.0.0", "::", "224.0.0.1", "10.0.0.1/33", "10.0.0.1/0",
                   "10.0.0.1/255.0.0.0", "fe80::1%eth0", "::ffff:10.0.0.1", "255.255.255.255",
                   "10.0.0.1/" + "9" * 5000]),
    ("--netmask", ["", "0", "33", "255.0.255.0", "0.0.0.0", "x"]),
    ("--gateway", ["", "127.0.0.1", "ff02::1", "host"]),
    ("--outbound", ["0.0.0.0", "x"]),
    ("--dns", ["", "x", "fe80::1%eth0"]),
    ("--search", ["", " ", "a..b", "x" * 64, "a_b c!d"]),
    ("--hostname", ["", "a b", "a" * 64, "-.é"]),
    ("--fqdn", [".".join(["a" * 60] * 5)]),
    ("--map-host-loopback", ["", "127.0.0.1", "None"]),
    ("--map-guest-addr", ["0.0.0.0"]),
    ("--dns-forward", ["none", "::1"]),
    ("--dns-host", ["none", "::"]),
    ("--pin-grace", ["-1", "604801", "1h"]),
    ("--rate-out", ["", "10", "10mbps", "10mb", "-1mbit", "1kbit", "801gbit", "1.mbi", "mbit", ".", "1e3kbit", "10 mbit"]),
    ("--rate-in", ["0", "7.999kbit", "1,5MB"]),
    ("--redirect", ["", "*:80", "@127.0.0.1:80", "*:80@127.0.0.1", "*:80@127.0.0.1:0", "*:80@::1:80", "*:80@there.test:80",
                    "*:80@127.0.0.1:80+proxy-v1", "*:80@127.0.0.1:65536"]),
    ("--proxy", ["", "socks4://127.0.0.1:1080", "socks5://", "http://there.test", "http://there.test:0", "127.0.0.1:80",
                 "https://127.0.0.1:443", "http://a b:80"]),
    ("--egress-dns", ["", "some", "All", "rules,all"]),
    ("--log-size", ["0", "4095", "x", "99999999999999"]),
    ("--stats", ["0", "-1", "1.5"]),
    ("--runas", ["", "a:b:c", ":x", "4294967295"]),
    ("--fd", ["2", "-1", "x"]),
    ("--threads", ["0", "17", "-1", "two", "1.5", ""]),
    ("--network", ["bridge", "slirp4netns:--mtu,1500", "pasta:--network,pasta:", "pasta:8080"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD_VALUES for value in values])
def test_a_refused_value_is_quoted_with_what_is_accepted(name: str, value: str) -> None:
    message = refused(f"{name}={value}", "1")
    assert repr(value) in message
    assert name in message


@pytest.mark.parametrize("name", ["netns", "userns", "pid", "log-file", "conf-path", "pcap", "network"])
def test_an_empty_text_is_refused(name: str) -> None:
    assert refused(f"--{name}=") == f"invalid value '' for --{name}: expected a text that is not empty"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--netns-only", "--userns", "/u", "1"], "--netns-only and --userns"),
        (["--netns", "x", "1"], "--netns and '1'"),
        (["--netns", "x", "ls"], "--netns and 'ls'"),
        (["--userns", "/u", "ls"], "--userns '/u' needs"),
        (["--splice-only", "--no-splice"], "--splice-only and --no-splice"),
        (["--host-lo-to-ns-lo", "--no-splice", "1"], "--host-lo-to-ns-lo and --no-splice"),
        (["--no-pidns", "1"], "--no-pidns is for a command"),
        (["--netns", "/n", "--no-pidns"], "--no-pidns is for a command"),
        (["--as-pid-1", "1"], "--as-pid-1 is for a command"),
        (["--as-pid-1", "--no-pidns", "true"], "--as-pid-1 and --no-pidns are both given"),
        (["-a", "10.0.0.1/8", "-n", "24"], "--netmask beside --address"),
        (["-n", "24", "-a", "10.0.0.1/8"], "--netmask beside --address"),
        (["0"], "invalid PID '0'"),
        ([""], "the command is an empty word"),
        (["--", "", "x"], "the command is an empty word"),
        (["99999999999"], "invalid PID '99999999999'"),
        (["-t", "80", "-t", "none"], "'none' after '80'"),
        (["-H", ".".join(["a" * 40] * 2), "ls"], "64 characters"),
        (["-T", "127.0.0.1/80"], "no listening address"),
        (["--sandbox", "--egress", "open"], "--sandbox and --egress open"),
        (["--sandbox", "--egress-dns", "all"], "--sandbox and --egress-dns all"),
        (["--sandbox", "--map-host-loopback", "192.0.2.1", "1"], "--sandbox and --map-host-loopback"),
        (["--sandbox", "--broadcast"], "--sandbox and --broadcast"),
        (["--sandbox", "--netns-only", "ls"], "--sandbox and --netns-only"),
        (["--sandbox", "--no-pidns", "ls"], "--sandbox and --no-pidns"),
        (["--sandbox-keep", "/tmp/x", "ls"], "--sandbox-keep '/tmp/x' is given without --sandbox"),
        (["--sandbox", "--sandbox-keep", "/tmp/x", "1"], "--sandbox-keep '/tmp/x' is for a command"),
    ],
)
def test_contradictions_are_refused(argv: list[str], words: str) -> None:
    assert words in refused(*argv)


def test_sandbox_closes_the_host_s_loopback_and_multicast() -> None:
    for argv in (["ls"], ["1"]):
        options = parse("--sandbox", *argv)
        assert (options.map_gw, options.multicast, options.map_host_loopback) == (False, False, None)
    assert parse("--sandbox", "--sandbox-keep", "/a", "--sandbox-keep", "/b", "ls").sandbox_keep == ("/a", "/b")


def test_addresses_are_kept_once_per_family_and_the_last_one_counts() -> None:
    many = parse("-a", "fc00::3", "-a", "10.0.0.1", "-a", "10.0.0.2", "-g", "fe80::1", "-g", "10.0.0.9", "1")
    assert many.address == (ip_interface("10.0.0.2/8"), ip_interface("fc00::3/64"))
    assert (many.gateway4, many.gateway6, many.netmask) == (*ips("10.0.0.9", "fe80::1"), None)
    assert parse("-a", "172.16.0.1", "1").address == (ip_interface("172.16.0.1/16"),)
    assert parse("-a", "192.0.2.1", "1").address == (ip_interface("192.0.2.1/24"),)
    assert parse("-a", "192.0.2.1/30", "1").netmask == 30
    assert parse("-n", "28", "-a", "192.0.2.1", "1").address == (ip_interface("192.0.2.1/28"),)
    assert parse("--map-guest-addr", "169.254.1.2", "--map-guest-addr=fc00::2", "1").map_guest_addr == ips(
        "169.254.1.2", "fc00::2"
    )


def test_none_clears_and_a_later_value_counts_again() -> None:
    assert parse("-D", "192.0.2.1", "-D", "none", "-D", "::1", "-D", "192.0.2.2").dns == ips("::1", "192.0.2.2")
    off = parse("--map-host-loopback", "10.0.0.1", "--map-host-loopback", "none", "1")
    assert (off.map_host_loopback, off.map_gw) == ((), False)
    again = parse("--map-host-loopback", "none", "--map-gw", "1")
    assert (again.map_host_loopback, again.map_gw) == (None, True)
    later = parse("--map-host-loopback", "none", "--map-host-loopback", "10.0.0.1", "1")
    assert (later.map_host_loopback, later.map_gw) == (ips("10.0.0.1"), False)
    assert parse("--map-guest-addr", "10.0.0.1", "--map-guest-addr", "none").map_guest_addr == ()
    assert parse("-t", "none", "-t", "80").tcp_ports == (port_spec.parse("80"),)
    assert parse("-S", "none.").search == ("none",)


def test_the_network_string_is_taken_as_podman_takes_it() -> None:
    plain = parse("--map-gw", "-t", "0.0.0.0%eth0/8080", "-t", "[::]/90", "1")
    text = "pasta:--map-gw,-t,0.0.0.0%eth0/8080,-t,[::]/90"
    assert parse("--no-map-gw", "--network", text, "1") == plain.replace(network=text)
    assert parse("--network=pasta", "1") == parse("1").replace(network="pasta")
    assert parse("--network=pasta:", "1") == parse("1").replace(network="pasta:")
    assert refused("--network=pasta:--nope,x").startswith("unrecognized option '--nope'")
    assert refused("--network=pasta:--mtu").startswith("option '--mtu' requires an argument")


def test_what_runtimes_pass_is_accepted() -> None:
    podman = parse("--config-net", "-t", "::1/8080-8080:80-80", "--dns-forward", "169.254.1.1", "-u", "none", "-T",
                   "none", "-U", "none", "--no-map-gw", "--quiet", "--netns", "/run/user/1/netns/x",
                   "--map-guest-addr", "169.254.1.2")  # fmt: skip
    assert (podman.netns_only, podman.quiet, podman.map_gw) == (True, True, False)
    rootlesskit = parse("--stderr", "--ns-ifname=tap0", "--mtu=65520", "--config-net", "--address=10.0.2.100",
                        "--netmask=24", "--gateway=10.0.2.2", "--dns-forward=10.0.2.3", "--no-map-gw", "--ipv4-only",
                        "--tcp-ports=auto", "--udp-ports=auto", "--host-lo-to-ns-lo", "4321")  # fmt: skip
    assert rootlesskit.address == (ip_interface("10.0.2.100/24"),)
    assert rootlesskit.pid == 4321
    assert parse("--host-lo-to-ns-lo", "--version").action == "version"


def test_help_and_version_end_the_parse_where_they_stand() -> None:
    assert parse("--version", "--nope").action == "version"
    assert parse("-fh", "--nope").action == "help"
    assert "nope" in refused("--nope", "--version")
    assert parse("ls", "--help").action == "run"


tokens = st.one_of(
    st.sampled_from([f"--{o.long}" for o in option_table.TABLE] + [f"-{o.short}" for o in option_table.TABLE if o.short]),
    st.sampled_from(["--", "-", "80", "none", "10.0.0.1", "fc00::1/64", "pasta:-t,80", "", "1500", "02:0:0:0:0:1"]),
    st.builds("--{}={}".format, st.sampled_from([o.long for o in option_table.TABLE]), st.text(max_size=8)),
    st.text(st.sampled_from("-=abtu46 ,:/.%\0é"), max_size=8),
)


@given(st.lists(tokens, max_size=8), st.sampled_from(["pasta", "pasta-py"]))
def test_any_command_line_gives_options_or_one_line_of_usage_error(argv: list[str], entry: str) -> None:
    try:
        parsed = options.parse(argv, entry)
    except UsageError as error:
        assert str(error)
        return
    assert isinstance(parsed, Options)
    assert hash(parsed) == hash(options.parse(argv, entry))


@pytest.mark.as_built
@pytest.mark.unsanitized
def test_the_parser_imports_nothing_slow() -> None:
    """Nothing that is read from a file; errno and its like are part of the interpreter."""
    code = (
        "import sys; before = set(sys.modules); from pasta_py.control.commandline import options;"
        "options.parse(['-t', '8080', '-fq', '--', 'curl'], 'pasta-py');"
        "new = set(sys.modules) - before - set(sys.builtin_module_names);"
        "print(*sorted(m for m in new if not m.startswith('pasta_py')))"
    )
    run = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"]
    assert subprocess.run(run, check=True, capture_output=True, text=True, timeout=30).stdout.split() == []
