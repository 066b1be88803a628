"""DNS, refused ports, large datagrams, path MTU."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from capture import GOOD, assert_sound, fields, frames
from lab import BIG, FAR4, FAR6, NO_PORTS, REMOTES, Guest, Lab, routed
from quickest import least
from servers import DNS4, DNS6, DNS_LONG, DNS_NAME, dnsmasq

pytestmark = pytest.mark.sanitize_quick

LARGE = 60_000
PATH_MTU = 1400
FAR = {4: FAR4, 6: FAR6}
IDLE_FLOWS, IDLE_S = 900, 2
HEADERS = {4: 28, 6: 48}  # IP and UDP


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Iterator[Guest]:
    with lab.guest() as made:
        yield made


@pytest.fixture(scope="module")
def far_lab() -> Iterator[Lab]:
    with Lab(routed) as made:
        yield made


@pytest.fixture(scope="module")
def resolver(lab: Lab) -> None:
    dnsmasq(lab)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol", ["+notcp", "+tcp"])
def test_dig_gets_its_answers(guest: Guest, resolver: None, protocol: str, family: int) -> None:
    options = ("dig", f"@{REMOTES[family]}", "+short", "+tries=1", "+time=20", protocol)
    assert guest.run(*options, DNS_NAME, "A").stdout.split() == [DNS4]
    assert guest.run(*options, DNS_NAME, "AAAA").stdout.split() == [DNS6]


def test_dig_goes_over_to_tcp_for_a_long_answer(guest: Guest, resolver: None) -> None:
    done = guest.run("dig", f"@{REMOTES[4]}", "+noedns", "+tries=1", "+time=20", DNS_LONG, "TXT").stdout
    assert "Truncated, retrying in TCP mode" in done
    assert done.count("x" * 240) == 5


@pytest.mark.parametrize("family", [4, 6])
def test_a_closed_udp_port_refuses(guest: Guest, family: int) -> None:
    answer = guest.script("probe.py", "udp", REMOTES[family], 4999)
    assert answer["error"] == "ECONNREFUSED"  # how soon: test_errors.py


@pytest.mark.parametrize("family", [4, 6])
def test_large_datagrams_both_ways(lab: Lab, guest: Guest, family: int) -> None:
    server = lab.remote.start("answer.py", "echo", REMOTES[family], 5000 + family)
    assert guest.script("probe.py", "echo", REMOTES[family], 5000 + family, LARGE, 50) == {"returned": 50}
    assert server.result()["largest"] == LARGE


@pytest.mark.parametrize("suffix", ["pcap", "pcapng"])
@pytest.mark.parametrize("family", [4, 6])
def test_a_capture_shows_each_datagram_of_a_burst(far_lab: Lab, family: int, suffix: str) -> None:
    """A burst comes from the guest as one frame, and goes to it as one: tshark sees what the programs have sent."""
    path, port, size, count = f"{BIG}/burst.{suffix}", 5060 + family, 1200, 40
    server = far_lab.remote.start("answer.py", "joined", FAR[family], port)
    with far_lab.guest("--pcap", path) as guest:
        assert guest.script("probe.py", "burst", FAR[family], port, size, count) == {"returned": count}
    assert server.result()["largest"] == size * count, "it did not travel as one frame"
    assert_sound(frames(far_lab.host, path))
    names = ("udp.dstport", "udp.length", "udp.checksum.status", "udp.payload")
    found = fields(far_lab.host, path, names, f"udp.port=={port}")
    sent = [index.to_bytes(4, "big").ljust(size, b"b").hex() for index in range(count)]
    for to_server in (True, False):
        way = [frame for frame in found if (frame["udp.dstport"] == str(port)) == to_server]
        assert [frame["udp.payload"] for frame in way] == sent
        assert {(frame["udp.length"], frame["udp.checksum.status"]) for frame in way} == {(str(size + 8), GOOD)}


@pytest.mark.parametrize("family", [4, 6])
def test_udp_learns_the_path_mtu(far_lab: Lab, family: int) -> None:
    address, port = FAR[family], 5010 + family
    server = far_lab.remote.start("answer.py", "echo", address, port)
    with far_lab.guest() as guest:
        learnt = guest.script("probe.py", "mtu", address, port, 3000)
        assert learnt["first"] == 65520
        assert (learnt["error"], learnt["mtu"]) == ("EMSGSIZE", PATH_MTU)
        fits = PATH_MTU - HEADERS[family]
        assert guest.script("probe.py", "echo", address, port, fits, 3) == {"returned": 3}
    assert server.result()["largest"] == fits


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("sender", ["guest", "remote"])
def test_tcp_finds_the_path_mtu(far_lab: Lab, sender: str, family: int) -> None:
    address, port, size = FAR[family], 5020 + family + (10 if sender == "guest" else 0), 20_000_000
    mine, theirs = ("send", "read") if sender == "guest" else ("read", "send")
    remote = far_lab.remote.start("stream.py", theirs, address, port, size, 0, "listen")
    with far_lab.guest() as guest:
        local = guest.script("stream.py", mine, address, port, size, 0, "connect", timeout=240)
        if sender == "guest":
            (route,) = json.loads(far_lab.host.run("ip", "-j", "route", "get", address).stdout)
            assert route["metrics"][0]["mtu"] == PATH_MTU, "the host's own kernel has not learnt the path MTU"
    there = remote.result()
    assert local["bytes"] == there["bytes"] == size
    assert local["sha256"] == there["sha256"]


def test_idle_flows_wake_nobody(far_lab: Lab) -> None:
    """Many that have been answered, and one that was a flood a moment ago."""
    script = f"""
import socket, sys
flows = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range({IDLE_FLOWS})]
for flow in flows:
    flow.settimeout(20)
    flow.connect(("{FAR4}", 5070))
    flow.send(b"?")
    flow.recv(10)
for _ in range(300):
    flow.send(bytes(1000))
flow.settimeout(0.5)
try:
    while flow.recv(2000):
        pass
except TimeoutError:
    print("answered", flush=True)
sys.stdin.read()
"""
    server = far_lab.remote.start("answer.py", "echo", FAR4, 5070)
    with far_lab.guest(*NO_PORTS) as guest:
        program = guest.popen(sys.executable, "-I", "-S", "-c", script)
        assert program.stdin and program.stdout and program.stdout.readline() == "answered\n"
        time.sleep(1)
        worker = far_lab.translator().pid
        least(lambda: woken(worker), below=2)  # what looks after flows would be in each
        program.communicate(timeout=30)
    server.result()


def woken(pid: int) -> int:
    """How often in a while it goes to sleep, or is made to."""
    counts = []
    for pause_s in (IDLE_S, 0):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        counts.append(sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line))
        time.sleep(pause_s)
    return counts[1] - counts[0]
