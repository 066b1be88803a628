"""Loss, duplicates and reordering on either side: every byte arrives once, and the tap's losses cost no more than passt's.

On the tap's side a relay (relay.c) stands between a tap of the guest and the program, which gets a socket with --fd. On the
host's side it stands between the host and the remote, or nft drops and doubles packets on the veth.
"""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator

import pytest
from lab import (
    GATEWAY4,
    HOST4,
    HOST6,
    NO_PORTS,
    REMOTE4,
    REMOTE6,
    Guest,
    Lab,
    program,
    remote_addresses,
    tool,
    wait_until,
)
from traffic import LONG, Bulk

SECONDS = 3.0 if LONG else 1.2
ROUNDS = 5 if LONG else 2
MTU = 1500
HALF = 0.5
MARGIN = 60
PASST = os.environ.get("PASTA_TESTS_PASST", "/usr/bin/pasta")
WITH_FD = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
sock.connect(sys.argv[1])
os.dup2(sock.fileno(), 9, inheritable=True)
os.execv(sys.argv[2], sys.argv[2:])
"""


@contextlib.contextmanager
def over_a_bad_tap(lab: Lab, chances: tuple[int, int, int]) -> Iterator[Guest]:
    """A guest whose frames go through the relay to the program."""
    path = f"{lab.directory}/wire-{time.monotonic_ns()}"
    with lab.stray() as guest, open(f"{path}.log", "w") as log:
        process = guest.popen(tool("relay"), *chances, 1, "tap:eth0", f"packets:{path}")
        assert process.stdout and process.stdout.readline() == "ready\n", process.communicate()
        guest.setup(
            f"link set eth0 mtu {MTU} up\naddr add {HOST4}/24 dev eth0\naddr add {HOST6}/64 dev eth0 nodad\n"
            f"route add default via {GATEWAY4}"
        )
        command = (program(), "-f", "--fd", "9", "-m", MTU, "-t", "none", "-u", "none")
        translator = lab.host.popen(sys.executable, "-c", WITH_FD, path, *command, stdout=log, stderr=log)
        try:
            reach = f"import socket; socket.create_connection(('{REMOTE4}', 1), 1)"
            wait_until(
                lambda: "refused" in guest.run(sys.executable, "-c", reach, check=False).stderr, 10, "the remote is reached"
            )
            yield guest
        finally:
            process.kill()
            translator.wait(30)


def stream(lab: Lab, guest: Guest, seconds: float, address: str = REMOTE4) -> tuple[float, float]:
    """Bytes a second from the guest, and to it, over one connection; checked to the last."""
    bulk = Bulk(lab, guest, address)
    started = time.monotonic()
    time.sleep(seconds)
    bulk.finish(MARGIN)
    took = time.monotonic() - started
    return int(str(bulk.ours["sent"])) / took, int(str(bulk.ours["received"])) / took


@pytest.mark.parametrize(
    "chances", [(100, 0, 0), (500, 0, 0), (0, 500, 0), (0, 0, 500), (100, 100, 100)],
    ids=["loss-1%", "loss-5%", "duplicates-5%", "reordered-5%", "all-1%"],
)  # fmt: skip
def test_every_byte_over_a_bad_tap(lab: Lab, chances: tuple[int, int, int]) -> None:
    with over_a_bad_tap(lab, chances) as guest:
        up, down = stream(lab, guest, SECONDS)
    print(f"{chances}: {8 * up / 1e6:.0f} Mb/s from the guest, {8 * down / 1e6:.0f} to it")


LOSSY = """
table inet loss {
    chain in { type filter hook input priority 0; meta l4proto tcp numgen random mod 100 < 1 counter drop; }
    chain out { type filter hook output priority 0; meta l4proto tcp numgen random mod 100 < 1 counter drop; }
}
"""


def wait_for_connection(guest: Guest, port: int) -> None:
    look = ("ss", "-tnH", "state", "established", f"dport = :{port}")
    wait_until(lambda: guest.run(*look).stdout, 30, f"a connection to port {port}")


@pytest.mark.quiet
def test_losses_on_the_tap_cost_no_more_than_passt_s(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nft in the guest, because passt cannot be given a relay: its --fd and its socket speak to a virtual machine.

    Nothing is lost before the connection stands: of passt's, one in sixty never does, and stays so for minutes.
    """
    theirs = shutil.which(PASST)
    assert theirs, "passt's pasta is needed for the comparison: apt-get install passt"
    totals = {program(): [0.0, 0.0], theirs: [0.0, 0.0]}
    for _ in range(ROUNDS):
        for name in totals:
            monkeypatch.setenv("PASTA_UNDER_TEST", name)
            with lab.guest("-m", MTU, *NO_PORTS) as guest:
                bulk = Bulk(lab, guest, REMOTE4, patience=0)
                wait_for_connection(guest, bulk.port)
                guest.run("nft", "-f", "-", input=LOSSY)
                time.sleep(SECONDS)
                bulk.stop()  # passt takes minutes to bring the rest
                for way, side in enumerate((bulk.theirs, bulk.ours)):
                    totals[name][way] += int(str(side["received"])) / SECONDS / ROUNDS
    shown = {name: [f"{8 * rate / 1e6:.0f} Mb/s" for rate in rates] for name, rates in totals.items()}
    print(f"1 % lost in the guest, from the guest and to it: {shown}")
    ours, passts = totals.values()
    for way in (0, 1):
        assert ours[way] >= HALF * passts[way], shown


NFT = """
table netdev bad {{
    chain in {{ type filter hook ingress device eth0 priority 0; meta l4proto tcp numgen random mod 10000 < {loss} counter drop; }}
    chain out {{
        type filter hook egress device eth0 priority 0
        meta l4proto tcp numgen random mod 10000 < {loss} counter drop
        meta l4proto tcp numgen random mod 10000 < {double} counter dup to "eth0"
    }}
}}
"""


@pytest.mark.parametrize("loss", [100, 500])
def test_every_byte_over_a_bad_veth(lab: Lab, loss: int) -> None:
    lab.remote.run("nft", "-f", "-", input=NFT.format(loss=loss, double=loss), caps=True)
    try:
        with lab.guest() as guest:
            stream(lab, guest, SECONDS)
            stream(lab, guest, SECONDS, REMOTE6)
        counters = lab.remote.run("nft", "list", "table", "netdev", "bad", caps=True).stdout
        assert "packets 0 " not in counters
    finally:
        lab.remote.run("nft", "delete", "table", "netdev", "bad", caps=True)


def test_every_byte_over_a_wire_that_reorders() -> None:
    def link(lab: Lab) -> None:
        process = lab.host.popen(tool("relay"), 100, 100, 500, 1, "tap:eth0", f"tap:eth0:{lab.remote.net}", caps=True)
        assert process.stdout and process.stdout.readline() == "ready\n", process.communicate()
        lab.host.setup(f"link set eth0 up\naddr add {HOST4}/24 dev eth0\nroute add default via {GATEWAY4}")
        lab.remote.setup("link set eth0 up")
        remote_addresses(lab)

    with Lab(link) as lab, lab.stray() as guest:
        lab.host.run(program(), "-4", "--config-net", lab.inner_pid(guest.pid))
        stream(lab, guest, SECONDS)
