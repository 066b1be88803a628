"""What `flows` says of a connection's network, beside what the kernel says of the same socket (ss), on a lossy path."""

import json
import re
import subprocess
import sys

import pytest
from lab import NO_PORTS, PATIENCE_S, REMOTE4, REMOTE6, Lab, program, wait_until

PORT, BYTES = 7000, 8 << 20
#: Of what the remote machine gets and sends, 8 of 100 packets are lost.
LOSSY = """
table inet loss {
    chain in { type filter hook input priority 0; meta l4proto tcp numgen random mod 100 < 8 counter drop; }
    chain out { type filter hook output priority 0; meta l4proto tcp numgen random mod 100 < 8 counter drop; }
}
"""
SINK = f"""
import socket, sys
listener = socket.create_server(("::", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
sock, _ = listener.accept()
left = {BYTES}
while left:
    left -= len(sock.recv(min(left, 1 << 20)))
sock.sendall(b"got")
sys.stdin.read()
"""
SOURCE = f"""
import socket, sys
sock = socket.create_connection((sys.argv[1], {PORT}))
sock.sendall(bytes({BYTES}))
assert sock.recv(3, socket.MSG_WAITALL) == b"got"
print("sent", flush=True)
sys.stdin.read()
"""


def kernel(lab: Lab) -> dict[str, float]:
    """Of the one socket that the translator has there: round trip and its variation in microseconds, segments sent again."""
    text = lab.host.run("ss", "-tinH", "state", "established", f"dport = :{PORT}").stdout
    rtt, variation = map(float, re.findall(r" rtt:([\d.]+)/([\d.]+)", text)[0])
    resent = re.findall(r" retrans:\d+/(\d+)", text)
    window = re.findall(r" snd_wnd:(\d+)", text)
    found = {"rtt_us": round(rtt * 1000), "rtt_variation_us": round(variation * 1000), "retransmits": int(*resent or [0])}
    return {**found, **({"peer_window": int(window[0])} if window else {})}


@pytest.mark.parametrize("address", [REMOTE4, REMOTE6])
def test_round_trip_and_retransmissions_are_the_kernels_own(lab: Lab, address: str) -> None:
    path = lab.directory / "details.sock"
    lab.remote.run("nft", "-f", "-", input=LOSSY, caps=True)
    try:
        with (
            lab.guest(*NO_PORTS, "--control", path, entry="pasta-py") as guest,
            lab.remote.popen(sys.executable, "-c", SINK, stdin=subprocess.PIPE) as sink,
        ):
            assert sink.stdout is not None and sink.stdout.readline() == "ready\n"
            with guest.popen(sys.executable, "-c", SOURCE, address, stdin=subprocess.PIPE) as source:
                assert source.stdout is not None and source.stdout.readline() == "sent\n"
                seen: list[tuple[dict[str, float], dict[str, float]]] = []

                def agree() -> bool:
                    """The connection is silent, so that both soon say the same."""
                    done = lab.host.run(program("pasta-py"), "flows", "--json", path).stdout
                    (flow,) = [flow for flow in map(json.loads, done.splitlines()) if flow["dest_port"] == PORT]
                    told = kernel(lab)
                    seen.append((told, {name: flow[name] for name in told}))
                    return told == seen[-1][1]

                try:
                    wait_until(agree, PATIENCE_S, "the same")
                except AssertionError:
                    raise AssertionError(seen[-1]) from None
                assert seen[-1][0]["retransmits"] > 0
                source.communicate(timeout=PATIENCE_S)
            sink.communicate(timeout=PATIENCE_S)
    finally:
        lab.remote.run("nft", "delete", "table", "inet", "loss", caps=True)
