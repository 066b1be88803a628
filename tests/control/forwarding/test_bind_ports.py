"""Sockets for -t and -u: bound as asked, or refused by name, with nothing left bound.

In network namespaces of their own, where no other program has a port.
"""

import fcntl
import os
import socket
import subprocess
import sys
from contextlib import closing

import pytest
from isolated import isolated

from pasta_py.control.commandline import options
from pasta_py.control.forwarding import bind_ports
from pasta_py.errors import HostError
from pasta_py.model import IPPROTO_TCP, IPPROTO_UDP

PORT = 8080


def _bind(*arguments: str) -> list[tuple[int, int, bytes, int, socket.socket]]:
    bound = bind_ports.bind(options.parse([*arguments, "1"], "pasta"), pytest.fail)
    return [
        (each.proto, each.port + i, each.target, each.target_port + i, socket.socket(fileno=fd))
        for each, fds in bound
        for i, fd in enumerate(fds)
    ]


def test_by_default_nothing_is_bound() -> None:
    assert _bind() == []


@isolated
def test_a_plain_tcp_port_listens_on_both_families() -> None:
    ((proto, number, target, target_port, sock),) = _bind("-t", str(PORT))
    with sock:
        assert (proto, number, target, target_port) == (IPPROTO_TCP, PORT, b"", PORT)
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, PORT), timeout=30).close()
        assert not os.get_blocking(sock.fileno())
        assert fcntl.fcntl(sock.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC


@isolated
def test_a_udp_port_tells_where_a_datagram_was_sent_to() -> None:
    ((proto, _number, _target, _target_port, sock),) = _bind("-u", str(PORT))
    with sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        assert proto == IPPROTO_UDP
        client.sendto(b"x", ("127.0.0.9", PORT))
        sock.settimeout(30)
        _data, ancillary, _flags, peer = sock.recvmsg(16, 256)
        levels = {(level, kind): data for level, kind, data in ancillary}
        assert peer[0] == "::ffff:127.0.0.1"
        assert levels[(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)][:16] == bytes(10) + b"\xff\xff\x7f\x00\x00\x09"


@isolated
def test_one_family_alone_leaves_the_other_one_free() -> None:
    ((*_, sock),) = _bind("-4", "-t", str(PORT))
    with sock:
        assert sock.family == socket.AF_INET
    ((*_, sock),) = _bind("-6", "-t", str(PORT))
    with sock, socket.socket(socket.AF_INET) as other:
        other.bind(("0.0.0.0", PORT))


@pytest.mark.parametrize("kind", ["-t", "-u"])
@isolated
def test_any_address_of_each_family_is_that_family_alone(kind: str) -> None:
    bound = _bind(kind, f"::/{PORT}", kind, f"0.0.0.0/{PORT}")
    assert [sock.family for *_, sock in bound] == [socket.AF_INET6, socket.AF_INET]
    for *_, sock in bound:
        sock.close()


@isolated
def test_ranges_targets_and_exclusions() -> None:
    bound = _bind("-t", "127.0.0.1/18000-18003:192.0.2.7/19000-19003,~18002")
    try:
        wanted = bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 7])
        assert [(port, target, to) for _, port, target, to, _ in bound] == [
            (18000, wanted, 19000),
            (18001, wanted, 19001),
            (18003, wanted, 19003),
        ]
        assert {sock.getsockname() for *_, sock in bound} == {("127.0.0.1", port) for port in (18000, 18001, 18003)}
    finally:
        for *_, sock in bound:
            sock.close()


@isolated
def test_an_interface_binds_to_the_device() -> None:
    ((*_, sock),) = _bind("-t", "%lo/8080")
    with sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") == b"lo"


@isolated
def test_a_port_in_use_is_refused_by_name_and_the_others_are_let_go() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        first = port - 1
        parsed = options.parse(["-t", f"127.0.0.1/{first}-{port}", "1"], "pasta")
        said = rf"host TCP port {port}, address 127.0.0.1: Address already in use: TCP {port}'s owner listens there: stop it"
        with pytest.raises(HostError, match=said):
            bind_ports.bind(parsed, pytest.fail, lambda proto, number: f"{proto} {number}'s owner")
        with pytest.raises(HostError, match="another program listens there"):
            bind_ports.bind(parsed, pytest.fail)
        with closing(socket.create_server(("127.0.0.1", first))):
            pass


@pytest.mark.option("--freebind")
@isolated
def test_an_address_the_host_lacks_needs_freebind() -> None:
    with pytest.raises(HostError, match=r"address 192\.0\.2\.77: Cannot assign requested address: .*--freebind"):
        _bind("-t", "192.0.2.77/8080")
    ((*_, sock),) = _bind("--freebind", "-t", "192.0.2.77/8080")
    sock.close()


def test_an_unknown_interface_is_named() -> None:
    with pytest.raises(HostError, match="the host has no interface 'nosuch0'"):
        _bind("-t", "%nosuch0/8080")


def test_an_address_of_a_family_that_is_off_is_refused() -> None:
    with pytest.raises(HostError, match="address ::1: IPv6 is switched off"):
        _bind("-4", "-t", "[::1]/8080")


def test_a_protocol_that_is_off_listens_on_nothing() -> None:
    assert _bind("--no-tcp", "-t", "8080") == []


def test_ports_of_the_namespace_are_left_to_the_worker() -> None:
    parsed = options.parse(["-T", "8080-8090:9080-9090,~8085", "-U", "53", "1"], "pasta")
    assert _bind("-T", "8080") == []
    assert [(p.proto, p.port, p.target_port, p.count, p.weak) for p in bind_ports.guest_ports(parsed)] == [
        (IPPROTO_TCP, 8080, 9080, 5, False),
        (IPPROTO_TCP, 8086, 9086, 5, False),
        (IPPROTO_UDP, 53, 53, 1, False),
    ]


def test_automatic_rules_are_the_default_of_all_four_and_leave_out_ephemeral_ports() -> None:
    rules = bind_ports.auto_rules(options.parse(["1"], "pasta"))
    assert {(rule.proto, rule.to_host) for rule in rules} == {
        (proto, to_host) for proto in (IPPROTO_TCP, IPPROTO_UDP) for to_host in (False, True)
    }
    assert not any(rule.first <= 40000 <= rule.last for rule in rules)
    assert bind_ports.auto_rules(options.parse(["-t", "none", "-u", "none", "-T", "none", "-U", "none", "1"], "pasta")) == ()


def test_an_automatic_rule_keeps_what_stands_beside_it() -> None:
    others = ["-u", "none", "-T", "none", "-U", "none", "1"]
    (rule,) = bind_ports.auto_rules(options.parse(["-t", "192.0.2.1%lo/auto,8080-8089", *others], "pasta"))
    assert (rule.ifname, rule.first, rule.last) == ("lo", 8080, 8089)
    assert rule.address == bytes(10) + b"\xff\xff\xc0\x00\x02\x01"


@isolated
def test_all_ports_end_with_a_warning_where_descriptors_do() -> None:
    """In a process of its own, since a limit that was lowered stays low."""
    program = (
        "import resource\n"
        "from pasta_py.control.commandline import options; from pasta_py.control.forwarding import bind_ports as ports\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (1200, 1200))\n"
        "bound = ports.bind(options.parse(['-t', '127.0.0.1/all', '1'], 'pasta'), print)\n"
        "print(sum(listener.count for listener, _fds in bound) <= 1200 // 2)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    lines = result.stdout.splitlines()
    assert lines[-1] == "True" and len(lines) >= 2, result
    assert all(line.startswith("TCP ports ") and "raise the limit of open files" in line for line in lines[:-1])
