"""What the guest's root tries against the egress policy, each way by its name. The witnesses are outside: packet sockets on the far
machine's link and on the host's loopback, and the nameserver's list of what it was asked.

Ways that need more than this file's guest are tested where that is: an expired pin and the clock in
tests/csrc/test_egress_verdicts.py, the moment between an answer and its pin in test_egress_scenarios.py, UNIX sockets, the
control socket among them, in test_sandboxed_command.py.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import packets
import pytest
from lab import (
    GATEWAY4,
    GATEWAY6,
    HOST4,
    HOST6,
    NO_PORTS,
    PROGRAMS,
    REMOTE4,
    REMOTE6,
    Guest,
    Lab,
    Script,
    tool,
    wait_until,
)
from packets import ICMP, TCP, ip, packed, summed
from reached import METADATA, PORT, PUBLIC4, PUBLIC6, ether, neighbours, payloads, watch

SHARED = "192.0.2.77"  # of --map-guest-addr
FORWARDED, OFFERED = 7500, 7501
INNER = ("::ffff:192.0.2.10", "64:ff9b::c000:20a", "2002:c000:20a::1", "2001:0:c000:20a::3fff:fdf5")


@dataclass
class Outside:
    lab: Lab
    guest: Guest
    asked: Path


@pytest.fixture(scope="module")
def outside(lab: Lab) -> Iterator[Outside]:
    """A guest that may reach good.test at PORT, and has reached it; ports are forwarded both ways."""
    lab.remote.setup(f"addr add {PUBLIC4}/32 dev lo\naddr add {METADATA}/32 dev lo\naddr add {PUBLIC6}/128 dev lo")
    servers = [lab.remote.start("answer.py", "name", address, PORT, "far") for address in (PUBLIC4, REMOTE4, REMOTE6)]
    asked = lab.directory / "asked"
    known = ("--address=/good.test/8.8.8.8", "--log-queries", f"--log-facility={asked}", f"--listen-address={REMOTE4}")
    line = ("dnsmasq", "-k", "-C", "/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces", "--user=", *known)
    lab.remote.serve(*line, port=53, proto="udp", caps=True)
    lab.resolv(f"nameserver {REMOTE4}\n")
    ports = ("-t", str(FORWARDED), "-T", str(OFFERED), "-u", "none", "-U", "none", "--map-guest-addr", SHARED)
    with lab.guest("--allow", f"good.test:{PORT}", *ports, entry="pasta-py") as guest:
        assert guest.run("getent", "ahostsv4", "good.test").stdout.split()[0] == PUBLIC4
        assert connect(guest, PUBLIC4, PORT) == "answered"
        yield Outside(lab, guest, asked)
    lab.resolv("")
    for server in servers:
        server.result()


def connect(guest: Guest, address: str, port: int, kind: str = "tcp") -> str:
    done = guest.run(sys.executable, PROGRAMS / "denied.py", input=json.dumps([[kind, address, port]]))
    return str(json.loads(done.stdout)["results"][0][0])


# ---- frames ----


def tcp(src: str, dst: str, port: int, flags: int, data: bytes = b"") -> bytes:
    return ip(src, dst, TCP, packets.tcp(src, 41000, dst, port, flags, seq=1000, ack=77, payload=data))


def plain(src: str, dst: str, port: int = PORT, sport: int = 42000) -> list[bytes]:
    """A SYN, a datagram and a ping."""
    return [ether(ip(src, dst, proto, body)) for proto, body in payloads(src, dst, sport, port)]


def each(sources: tuple[str, ...], targets: tuple[str, ...], port: int = PORT) -> list[bytes]:
    return [frame for src in sources for dst in targets for frame in plain(src, dst, port)]


def as_mac(frame: bytes, mac: str) -> bytes:
    return frame[:6] + bytes.fromhex(mac) + frame[12:]


def cut(size: int) -> list[bytes]:
    """A SYN to a port that is closed, in fragments, the later ones first as well."""
    (_, body), *_ = payloads(HOST4, PUBLIC4, 42001, PORT + 1)
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    made = [
        ether(ip(HOST4, PUBLIC4, 6, part, fragment=(0x2000 if n + 1 < len(parts) else 0) | n * size // 8))
        for n, part in enumerate(parts)
    ]
    return made + made[::-1]


FRAMES = {
    "another address of ours as source": each(("192.0.2.3", "198.51.100.3", "10.0.0.3"), (REMOTE4, METADATA)),
    "another IPv6 address as source": each(("2001:db8::3", "fd00::3", "fe80::3"), (REMOTE6, PUBLIC6)),
    "the address of an allowed peer as source": each((PUBLIC4,), (REMOTE4,)),
    "another MAC address": [
        as_mac(f, mac) for mac in ("020000000001", "9a559a559a55", "ffffffffffff") for f in each((HOST4,), (REMOTE4,))
    ],
    "to another MAC address": [bytes.fromhex("020000000009") + f[6:] for f in each((HOST4,), (REMOTE4,))],
    "fragments of 8 bytes": cut(8),
    "fragments of 16 bytes": cut(16),
    "IPv4 inside of IPv6": each((HOST6,), INNER),
    "the gateway": each((HOST4,), (GATEWAY4,)) + each((HOST6,), (GATEWAY6,)),
    "the host's own address": each(("192.0.2.3",), (HOST4,)) + each(("2001:db8::3",), (HOST6,)),
    "the mapped address": each((HOST4,), (SHARED,)),
    "the metadata service": each((HOST4,), (METADATA,), 80),
    "multicast": each((HOST4,), ("224.0.0.251", "239.1.1.1", "232.0.0.1"), 5353),
    "IPv6 multicast": each((HOST6,), ("ff02::fb", "ff05::2", "ff0e::1"), 5353),
    "broadcast": each((HOST4,), ("255.255.255.255", "192.0.2.255"), 67),
    "link-local": each((HOST4,), ("169.254.7.7",)) + each(("fe80::3",), ("fe80::7", "fe80::1")),
    "port 0": each((HOST4,), (PUBLIC4, REMOTE4), 0),
    "a pinned address at another port": each((HOST4,), (PUBLIC4,), PORT + 1),
    "ICMP with a message in it": [
        ether(ip(HOST4, dst, ICMP, summed(HOST4, dst, ICMP, bytes((kind, 0, 0, 0, 0, 1, 0, 1)) + b"secret" * 20)))
        for dst in (PUBLIC4, REMOTE4) for kind in (0, 3, 5, 8, 13, 15, 17)
    ],
    "data without a connection": [ether(tcp(HOST4, REMOTE4, PORT, flags, b"secret")) for flags in (0x10, 0x18, 0x19, 0x00)],
    "data in a SYN": [ether(tcp(HOST4, REMOTE4, PORT, 2, b"secret"))],
    "an answer that was not asked for": [ether(tcp(HOST4, REMOTE4, PORT, flags)) for flags in (0x12, 0x14)],
    "other protocols": [
        ether(ip(HOST4, REMOTE4, proto, b"secret" * 8)) for proto in (2, 4, 41, 46, 47, 50, 51, 103, 132, 136, 255)
    ],
    "other protocols of IPv6": [ether(ip(HOST6, REMOTE6, proto, b"secret" * 8)) for proto in (4, 41, 47, 50, 59, 132, 135)],
    "a source route": [
        ether(ip(HOST4, PUBLIC4, 6, payload, options=bytes((kind, 7, 4)) + packed(REMOTE4) + b"\0"))
        for kind in (131, 137) for proto, payload in payloads(HOST4, PUBLIC4, 42002, PORT + 1) if proto == 6
    ],
    "a routing header": [
        ether(ip(HOST6, PUBLIC6, 43, bytes((6, 2, kind, 1)) + bytes(4) + packed(REMOTE6) + bytes(20))) for kind in (0, 2, 3, 4)
    ],
    "a tag": [f[:12] + b"\x81\x00\x00\x07" + f[12:] for f in each((HOST4,), (REMOTE4,))],
    "other kinds of frames": [
        b"\xff" * 6 + bytes(6) + bytes.fromhex(kind) + b"secret" * 8 for kind in ("8863", "86dc", "88cc", "0020")
    ],
    "a lying length": [
        ether(syn[:2] + struct.pack("!H", n) + syn[4:]) for syn in (tcp(HOST4, REMOTE4, PORT, 2),) for n in (0, 20, 39, 41, 65535)
    ],
}  # fmt: skip


def send_all(lab: Lab, guest: Guest) -> tuple[list[str], int]:
    """What the far link saw of the frames, and how many packets the host's loopback."""
    lo = Script(lab.host.popen(sys.executable, PROGRAMS / "reach.py", "watch", "lo", caps=True))
    link = watch(lab, "eth0")
    text = "\n".join(frame.hex() for each_way in FRAMES.values() for frame in each_way)
    guest.run(sys.executable, PROGRAMS / "reach.py", "send", guest.interface(), input=text)
    seen = [packet for packet in link.result()["first"] if not neighbours(packet)]  # type: ignore[attr-defined]
    return seen, int(str(lo.result()["packets"]))


def test_no_frame_gets_round_the_policy(outside: Outside) -> None:
    """29 ways with frames of the guest's own making: not one packet of them on the far link, none on the host's loopback."""
    assert len(FRAMES) == 29
    assert send_all(outside.lab, outside.guest) == ([], 0)
    assert connect(outside.guest, PUBLIC4, PORT) == "answered"  # what is allowed still is


def test_the_witnesses_see_the_same_frames_where_there_is_no_policy(lab: Lab) -> None:
    with lab.guest(*NO_PORTS) as guest:
        seen, looped = send_all(lab, guest)
        assert seen and looped


# ---- sockets ----


def test_no_socket_gets_round_the_policy(outside: Outside) -> None:
    """io_uring, TCP fast open, the guest's loopback routes, the client of a forwarded port, ports that are not offered."""
    guest = outside.guest
    assert guest.run(tool("uring"), PUBLIC4, PORT).stdout == "connected\n"
    for address, port in ((REMOTE4, PORT), (PUBLIC4, PORT + 1), (METADATA, 80)):
        assert guest.run(tool("uring"), address, port).stdout == "Connection refused\n"
    fast = f"import socket; socket.socket().sendto(b'secret', 0x20000000, ({REMOTE4!r}, {PORT}))"  # MSG_FASTOPEN
    guest.run("sh", "-c", "echo 3 >/proc/sys/net/ipv4/tcp_fastopen", check=False)
    assert "ConnectionRefusedError" in guest.run(sys.executable, "-c", fast, check=False).stderr
    near = outside.lab.host.start("answer.py", "name", "127.0.0.1", OFFERED, "offered")
    closed = outside.lab.host.start("answer.py", "name", "127.0.0.1", OFFERED + 1, "closed")
    assert connect(guest, "127.0.0.1", OFFERED) == "answered" and connect(guest, "127.0.0.1", OFFERED + 1) == "ECONNREFUSED"
    guest.run("sh", "-c", "ip route del local 127.0.0.0/8 table local; ip route add 127.0.0.0/8 dev eth0")
    assert connect(guest, "127.0.0.1", OFFERED + 1) != "answered"
    guest.run("sh", "-c", "ip route del 127.0.0.0/8 dev eth0; ip route add local 127.0.0.0/8 dev lo table local")
    near.result()
    closed.result()
    client_of_a_forwarded_port(outside)


def client_of_a_forwarded_port(outside: Outside) -> None:
    """It is answered, and cannot be called back."""
    serve = f"import socket; s = socket.create_server(('', {FORWARDED})); c, peer = s.accept(); c.send(b'page'); print(peer[1])"
    server = outside.guest.popen(sys.executable, "-c", serve)
    wait_until(lambda: outside.guest.run("ss", "-tlnH", f"sport = :{FORWARDED}").stdout, 10, "the guest's server")
    ask = f"import socket; print(socket.create_connection(({HOST4!r}, {FORWARDED}), 20).recv(9).decode())"
    assert outside.lab.remote.run(sys.executable, "-c", ask).stdout == "page\n"
    assert server.wait(20) == 0
    assert connect(outside.guest, REMOTE4, PORT) == "ECONNREFUSED"


# ---- names ----


def test_no_query_gets_round_the_policy(outside: Outside) -> None:
    """Other nameservers, TCP in pieces, look-alikes, types, labels below: the nameserver is asked for good.test alone."""
    guest = outside.guest
    before = outside.asked.read_text().count("query[")
    names = [(name,) for name in ("secret.bad.test", "secret.good.test", "GOOD.test.bad.test", "xn--god-0la.test")]
    names.append(("+tcp", "secret.bad.test"))
    for server in ("169.254.1.1", REMOTE4, PUBLIC4, GATEWAY4, "203.0.113.9", REMOTE6):
        for words in names:
            shown = guest.run("dig", "+tries=1", "+time=20", f"@{server}", *words).stdout
            assert "status: NXDOMAIN" in shown, shown
    odd = (("g\u043eod.test",), ("good.test", "CH", "TXT"), ("good.test", "TYPE999"), ("good.test", "ANY"), ("-x", "10.0.0.1"))
    for words in odd:
        assert "8.8.8.8" not in guest.run("dig", "+tries=1", "+time=20", *words, check=False).stdout
    pieces = (
        "import socket, time\n"
        "q = bytes.fromhex('12340100000100000000000006736563726574036261640474657374000001 0001'.replace(' ', ''))\n"
        f"s = socket.create_connection(({PUBLIC4!r}, 53), 20)\n"
        "for b in len(q).to_bytes(2, 'big') + q: s.send(bytes((b,)))\n"
        "got = b''\nwhile len(got) < 6: got += s.recv(100)\nprint(got[5] & 15)"
    )
    assert guest.run(sys.executable, "-c", pieces).stdout == "3\n"  # NXDOMAIN
    for port in (853, 443, 5353):
        assert connect(guest, REMOTE4, port) == connect(guest, PUBLIC4, port) == "ECONNREFUSED"
    queries = [line for line in outside.asked.read_text().splitlines() if "query[" in line][before:]
    assert all(" good.test from " in line.lower() for line in queries), queries
