"""passt whose machine comes and goes: hundreds of times, in the middle of a file, and one that takes nothing for a while."""

import array
import contextlib
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import BIG, REMOTE4, REMOTES, Lab, children, wait_until
from machines import Passt, machine, passt
from servers import make_file, nginx

pytestmark = pytest.mark.option("--vhost-user")

LONG = bool(os.environ.get("PASTA_LONG"))
TIMES, FEW = (500, 3) if LONG else (100, 1)
SIZE = 50_000_000
PAUSE_S = 60 if LONG else 1
ALL = 2**64 - 1
MEMORY = 1 << 20
ARP = b"\xff" * 6 + b"\x02\0\0\0\0\x09" + bytes.fromhex("0806 0001 0800 0604 0001") + b"\x02\0\0\0\0\x09" + bytes(4 + 6 + 4)
KINDS = pytest.mark.parametrize(("words", "features"), [((), None), (("--vhost-user", "--threads", 2), ALL)])


@pytest.fixture(scope="module")
def digest(lab: Lab) -> str:
    nginx(lab)
    return make_file(lab, "www/storms.bin", SIZE)


def held(made: Passt) -> tuple[int, int, int]:
    """Descriptors, mappings, and anonymous memory in KiB of all processes of it."""
    pids = [pid for pid in made.lab.descendants() if "passt" in Path(f"/proc/{pid}/comm").read_text()]
    assert pids
    descriptors = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    mappings = sum(Path(f"/proc/{pid}/maps").read_text().count("\n") for pid in pids)
    lines = "".join(Path(f"/proc/{pid}/status").read_text() for pid in pids).splitlines()
    return descriptors, mappings, sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def connected(made: Passt) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(str(made.socket))
    return sock


def by_stream(sock: socket.socket) -> bytes:
    """A frame, then half of one."""
    sock.send(struct.pack("!I", len(ARP)) + ARP + struct.pack("!I", 1000) + bytes(100))
    return sock.recv(4, socket.MSG_WAITALL)


def by_vhost_user(sock: socket.socket) -> bytes:
    """A device whose rings run, and that never stops them."""
    memory, kick = os.memfd_create("guest"), os.eventfd(0)

    def tell(request: int, payload: bytes, *fds: int) -> None:
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sock.sendmsg([struct.pack("=III", request, 1, len(payload)) + payload], extra)

    try:
        os.ftruncate(memory, MEMORY)
        tell(2, struct.pack("=Q", 1 << 32 | 1 << 15))
        tell(5, struct.pack("=II4Q", 1, 0, 0, MEMORY, 0, 0), memory)
        for queue in range(4):
            at = queue * 0x10000
            tell(8, struct.pack("=II", queue, 256))
            tell(9, struct.pack("=II4Q", queue, 0, at, at + 0x8000, at + 0x4000, 0))
            tell(12, struct.pack("=Q", queue), kick)
            tell(13, struct.pack("=Q", queue), kick)
        tell(1, b"")
        return sock.recv(20, socket.MSG_WAITALL)
    finally:
        os.close(memory)
        os.close(kick)


def comes_and_goes(made: Passt, what: Callable[[socket.socket], bytes]) -> None:
    """Until it is served: as long as the one before has not been seen to leave, the next is closed at once."""
    while True:
        with connected(made) as sock, contextlib.suppress(ConnectionError):
            if what(sock):
                return


def served(lab: Lab) -> int:
    """Connections to the remote's server."""
    return len(lab.remote.run("ss", "-tnH", "state", "established", "sport = :80").stdout.splitlines())


@pytest.mark.unsanitized  # AddressSanitizer keeps what was freed for a while
@KINDS
def test_hundreds_of_machines_leave_nothing(lab: Lab, words: tuple[object, ...], features: "int | None") -> None:
    come = by_vhost_user if features else by_stream
    with passt(lab, *words) as made:
        for number in range(TIMES + 1):
            comes_and_goes(made, come)
            if number in (TIMES // 2, TIMES):
                made.wait_said("Client connection closed", number + 1)
            if number == TIMES // 2:
                before = held(made)
        after = held(made)
        assert after[0] <= before[0] and after[1] <= before[1] + 4 and after[2] < before[2] + 200, (before, after)
        with machine(lab, made.socket, vhost_user=features) as guest:
            guest.run("ping", "-c1", "-W20", REMOTE4)


@KINDS
def test_a_machine_that_is_killed_under_load(lab: Lab, digest: str, words: tuple[object, ...], features: "int | None") -> None:
    """The next has all that the first had, and the files of the first end."""
    with passt(lab, *words) as made:
        for _ in range(FEW):
            with machine(lab, made.socket, vhost_user=features) as guest:
                busy = [
                    guest.popen("curl", "-sS", "--limit-rate", "10M", "-o", "/dev/null", f"http://{REMOTES[4]}/storms.bin"),
                    guest.popen("curl", "-sS", "--limit-rate", "10M", "-T", f"{BIG}/www/storms.bin", f"http://[{REMOTES[6]}]/storms-up.bin"),
                ]
                wait_until(lambda: served(lab) >= 2, 20, "both files are under way")
                guest.tap.send_signal(signal.SIGKILL)  # type: ignore[attr-defined]
                for each in busy:
                    each.kill()
                    each.wait()
        with machine(lab, made.socket, vhost_user=features) as guest:
            command = f"curl -sS -f --max-time 60 http://{REMOTES[4]}/storms.bin | sha256sum"
            assert guest.run("bash", "-o", "pipefail", "-ec", command, timeout=70).stdout.split()[0] == digest
        assert "gave us" not in made.said()
    lab.host.run("rm", "-f", f"{BIG}/www/storms-up.bin")


@KINDS
def test_a_machine_that_takes_nothing_for_a_while(
    lab: Lab, digest: str, words: tuple[object, ...], features: "int | None"
) -> None:
    """As one whose host is overloaded: the file goes on when it does."""
    got = lab.directory / "storms-down.bin"
    got.unlink(missing_ok=True)

    def rests() -> bool:
        before = got.stat().st_size
        time.sleep(0.5)
        return got.stat().st_size == before

    with passt(lab, *words) as made, machine(lab, made.socket, vhost_user=features) as guest:
        command = ("curl", "-sS", "-f", "--max-time", 300, "--limit-rate", "10M", "-o", got)
        file = guest.popen(*command, f"http://{REMOTES[4]}/storms.bin")
        wait_until(lambda: got.exists() and got.stat().st_size, 20, "the file begins")
        stopped = [guest.tap.pid, *children(guest.tap.pid)]  # type: ignore[attr-defined]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        wait_until(rests, 20, "the guest has had what was under way")
        before = got.stat().st_size
        time.sleep(PAUSE_S)
        assert got.stat().st_size == before < SIZE and file.poll() is None, "it takes something"
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        assert file.wait(300) == 0
        assert lab.host.run("sha256sum", got).stdout.split()[0] == digest
        assert made.said().count("accepted connection") == 1
