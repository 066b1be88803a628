"""Streams stay whole where the link to the guest loses packets, is narrow, or carries many at once."""

import re
import sys

import pytest
from lab import PROGRAMS, REMOTES, Guest, Lab, Script

PORT = 7500
LOSSY = """\
table inet loss {
	chain in { type filter hook input priority 0; meta l4proto tcp numgen inc mod 50 == 7 counter drop; }
	chain out { type filter hook output priority 0; meta l4proto tcp numgen inc mod 50 == 7 counter drop; }
}
"""


def stream(lab: Lab, guest: Guest, sender: str, address: str, port: int, size: int, timeout: float = 60) -> None:
    """One stream between guest and remote, judged by its SHA-256."""
    roles = {"guest": "read", "remote": "read", sender: "send"}
    remote = lab.remote.start("stream.py", roles["remote"], address, port, size, 0, "listen")
    ours = guest.script("stream.py", roles["guest"], address, port, size, 0, "connect", timeout=timeout)
    theirs = remote.result()
    assert ours["bytes"] == theirs["bytes"] == size
    assert ours["sha256"] == theirs["sha256"]


@pytest.mark.parametrize("mtu", [1500, 65520])
@pytest.mark.parametrize("sender", ["guest", "remote"])
def test_one_packet_in_fifty_is_lost_each_way(lab: Lab, sender: str, mtu: int) -> None:
    with lab.guest("--mtu", mtu) as guest:
        guest.run("nft", "-f", "-", input=LOSSY)
        stream(lab, guest, sender, REMOTES[4], PORT + (mtu == 1500) + 2 * (sender == "guest"), 50_000_000)
        lost = re.findall(r"counter packets (\d+)", guest.run("nft", "list", "table", "inet", "loss").stdout)
        assert len(lost) == 2 and all(map(int, lost)), f"packets lost each way: {lost}"


@pytest.mark.parametrize("sender", ["guest", "remote"])
@pytest.mark.parametrize(("mtu", "family"), [(128, 4), (576, 4), (1280, 6), (9000, 6), (65520, 6)])
def test_any_mtu_carries_a_stream(lab: Lab, mtu: int, family: int, sender: str) -> None:
    with lab.guest("--mtu", mtu, f"-{family}") as guest:
        stream(lab, guest, sender, REMOTES[family], PORT + 10, 1_000_000 if mtu == 128 else 10_000_000)


def test_streams_in_both_directions_at_once(lab: Lab) -> None:
    size, count = 20_000_000, 16
    with lab.guest() as guest:
        remotes, locals_ = [], []
        for index in range(count):
            here, there = ("send", "read") if index % 2 else ("read", "send")
            address, port = REMOTES[4 if index % 4 < 2 else 6], PORT + 20 + index
            remotes.append(lab.remote.start("stream.py", there, address, port, size, 0, "listen"))
            arguments = (here, address, port, size, 0, "connect")
            locals_.append(guest.popen(sys.executable, PROGRAMS / "stream.py", *arguments))
        for process, remote in zip(locals_, remotes, strict=True):
            ours, theirs = Script.finished(process, 60), remote.result()
            assert (ours["bytes"], ours["sha256"]) == (size, theirs["sha256"])


def test_what_exceeds_the_descriptors_is_refused_and_told_and_then_all_is_well(lab: Lab) -> None:
    """With 200 descriptors for us a client with 250 connections, all open before the first byte, fails; a later one succeeds."""
    server = lab.remote.start("exchange.py", "serve", REMOTES[4], PORT + 50)
    client = (PROGRAMS / "exchange.py", "connect", REMOTES[4], PORT + 50)
    with lab.guest(limit="-n 200") as guest:
        first = guest.run(sys.executable, *client, 250, 1000, check=False)
        assert "ConnectionRefusedError" in first.stderr
        assert guest.script("exchange.py", *client[1:], 150, 1000)["errors"] == []
    assert guest.process.stderr is not None
    assert "open files" in guest.process.stderr.read()
    server.process.kill()
