"""A large file each way between nginx in the remote and curl in the guest, judged by SHA-256 and by tshark."""

import os
import signal
import sys

import pytest
from capture import PATIENT, assert_smooth, assert_sound, frames, payload
from lab import BIG, REMOTES, Lab
from servers import make_file, nginx

#: By MTU: tshark reads as many frames of each.
SIZES = {1500: 100_000_000, 65520: 1_000_000_000}
#: Connections that all write at once: some 1,500 frames.
CROWD = """
import fcntl, json, socket, subprocess, sys, time
SIOCOUTQ = 0x5411  # tcp(7): how much is sent and not acknowledged
streams = [socket.create_connection((sys.argv[1], 7100)) for _ in range(500)]
for stream in streams:
    stream.send(b"opens the window")
    stream.setblocking(False)
while any(any(fcntl.ioctl(stream, SIOCOUTQ, bytes(4))) for stream in streams):
    time.sleep(0.01)
print("ready", flush=True)
sys.stdin.readline()
for stream in streams:
    stream.send(bytes(200_000))
(link,) = json.loads(subprocess.run(["ip", "-s", "-j", "link", "show", "eth0"], capture_output=True, check=True).stdout)
print(link["stats64"]["tx"]["packets"], link["stats64"]["tx"]["dropped"], flush=True)
"""
URLS = {4: f"http://{REMOTES[4]}", 6: f"http://[{REMOTES[6]}]"}


@pytest.fixture(scope="module")
def digests(lab: Lab) -> dict[int, str]:
    """The SHA-256 of the file that nginx serves and curl sends, by MTU."""
    nginx(lab)
    return {mtu: make_file(lab, f"www/{mtu}.bin", size) for mtu, size in SIZES.items()}


@pytest.mark.parametrize("mtu", SIZES)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_large_file_arrives_unharmed(lab: Lab, digests: dict[int, str], direction: str, family: int, mtu: int) -> None:
    capture = f"{BIG}/bulk.pcap"
    try:
        with lab.guest("--mtu", mtu, "--pcap", capture) as guest:
            guest.run("sh", "-ec", PATIENT)
            if direction == "down":
                command = f"curl -sS -f --max-time 200 {URLS[family]}/{mtu}.bin | sha256sum"
                seen = guest.run("bash", "-o", "pipefail", "-ec", command, timeout=210).stdout.split()[0]
            else:
                upload = ("curl", "-sS", "-f", "--max-time", "200", "-T", f"{BIG}/www/{mtu}.bin")
                guest.run(*upload, f"{URLS[family]}/up.bin", timeout=210)
                seen = lab.host.run("sha256sum", f"{BIG}/www/up.bin").stdout.split()[0]
        assert seen == digests[mtu]
        lab.host.run("rm", "-f", f"{BIG}/www/up.bin")
        found = frames(lab.host, capture)
    finally:
        lab.host.run("rm", "-f", capture, f"{BIG}/www/up.bin")
    assert_sound(found)
    sent, received = payload(found, 80)
    assert (sent if direction == "down" else received) >= SIZES[mtu]
    assert_smooth(found)


def test_what_many_streams_send_at_once_finds_room_in_the_tap(lab: Lab) -> None:
    """The tap is not read meanwhile: the worst that a busy machine can do."""
    lab.remote.serve("socat", "-u", f"TCP-LISTEN:7100,bind={REMOTES[4]},fork,backlog=512", "OPEN:/dev/null,append", port=7100)
    with lab.guest() as guest:
        crowd = guest.popen(sys.executable, "-c", CROWD, REMOTES[4])
        assert crowd.stdin and crowd.stdout
        assert crowd.stdout.readline() == "ready\n"
        worker = lab.translator().pid
        os.kill(worker, signal.SIGSTOP)
        try:
            sent, dropped = map(int, crowd.communicate("go\n", timeout=240)[0].split())
        finally:
            os.kill(worker, signal.SIGCONT)
    assert dropped == 0 and sent > 1500
