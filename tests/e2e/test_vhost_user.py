"""passt --vhost-user: a machine whose memory passt maps. The machine here is a namespace (machines.py, vhost_tap.c)."""

import array
import os
import signal
import socket
import struct
import time

import pytest
from calls import MACHINE, rows, used
from lab import BIG, GATEWAY4, HOST4, HOST6, PATIENCE_S, REMOTE4, REMOTE6, REMOTES, Lab, program, wait_until
from machines import Passt, machine, passt
from servers import make_file, nginx
from test_autoconf import dhclient

pytestmark = pytest.mark.option("--vhost-user")

SIZE = 50_000_000
URLS = {4: f"http://{REMOTES[4]}", 6: f"http://[{REMOTES[6]}]"}
#: Features of VIRTIO 1.2, 5.1.3: what a guest takes of those that are offered.
ALL = 2**64 - 1
NONE = 0
NO_EVENT_INDEX = ALL & ~(1 << 29)
GET_FEATURES, SET_VRING_NUM = 1, 8


@pytest.fixture(scope="module")
def digest(lab: Lab) -> str:
    nginx(lab)
    return make_file(lab, "www/big.bin", SIZE)


def front_end(made: Passt) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE_S)
    sock.connect(str(made.socket))
    return sock


def asks(sock: socket.socket) -> int:
    """The features that are offered."""
    sock.send(struct.pack("=III", GET_FEATURES, 1, 0))
    return int(struct.unpack("=IIIQ", sock.recv(20))[3])


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("features", "mtu"), [(ALL, 1500), (ALL, 65520), (NONE, 1500), (NO_EVENT_INDEX, 9000)])
def test_files_arrive_unharmed_both_ways(lab: Lab, digest: str, family: int, features: int, mtu: int) -> None:
    up = f"{BIG}/www/up.bin"
    url = URLS[family]
    with passt(lab, "--vhost-user", "-m", mtu) as made, machine(lab, made.socket, mtu=mtu, vhost_user=features) as guest:
        command = f"curl -sS -f --max-time 200 {url}/big.bin | sha256sum"
        assert guest.run("bash", "-o", "pipefail", "-ec", command, timeout=210).stdout.split()[0] == digest
        guest.run("curl", "-sS", "-f", "--max-time", "200", "-T", f"{BIG}/www/big.bin", f"{url}/up.bin", timeout=210)
        try:
            assert lab.host.run("sha256sum", up).stdout.split()[0] == digest
        finally:
            lab.host.run("rm", "-f", up)
        guest.run("ping", f"-{family}", "-c1", "-W20", "-s", "3000", REMOTES[family])


def test_a_guest_is_told_everything_by_dhcp(lab: Lab) -> None:
    lab.resolv(f"nameserver {REMOTE4}\nnameserver {REMOTE6}\n")
    with passt(lab, "--vhost-user") as made, machine(lab, made.socket, configure=False, vhost_user=ALL) as guest:
        told = dhclient(lab, guest, "-4")
        assert (told["new_ip_address"], told["new_routers"], told["new_interface_mtu"]) == (HOST4, GATEWAY4, "65520")
        assert dhclient(lab, guest, "-6")["new_ip6_address"] == HOST6
        made.wait_said("New guest MAC address observed: ")


def test_connections_outlive_a_machine_that_reconnects(lab: Lab) -> None:
    """Its rings begin anew, as after a restart of its front end."""
    with passt(lab, "--vhost-user") as made, machine(lab, made.socket, vhost_user=ALL) as guest:
        listener = lab.remote.popen("socat", "TCP-LISTEN:7071,reuseaddr", "EXEC:cat")
        wait_until(lambda: lab.remote.run("ss", "-tlnH", "sport = :7071").stdout, 5, "socat")
        client = guest.popen("socat", "-t20", "-", f"TCP:{REMOTE4}:7071")
        assert client.stdin and client.stdout
        for number, word in enumerate(("one\n", "two\n", "three\n"), 1):
            client.stdin.write(word)
            client.stdin.flush()
            assert client.stdout.readline() == word
            guest.tap.send_signal(signal.SIGUSR1)  # type: ignore[attr-defined]
            made.wait_said("accepted connection", number + 1)
        client.stdin.close()
        client.wait(PATIENCE_S)
        listener.kill()


def test_a_forwarded_port_leads_into_the_machine(lab: Lab) -> None:
    with passt(lab, "--vhost-user", "-t", "7083:80") as made, machine(lab, made.socket, vhost_user=ALL) as guest:
        server = guest.popen("socat", "TCP-LISTEN:80,fork", "SYSTEM:echo in the machine", caps=True)
        wait_until(lambda: guest.run("ss", "-tlnH", "sport = :80").stdout, 5, "socat")
        assert lab.remote.run("socat", "-t20", "-", f"TCP:{HOST4}:7083").stdout == "in the machine\n"
        server.kill()


def test_a_socket_that_is_given(lab: Lab) -> None:
    """As QEMU's -netdev passt does it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fd = theirs.fileno()
        with passt(lab, "--vhost-user", "--fd", fd, listens=False, pass_fds=[fd]) as made:
            theirs.close()
            with machine(lab, ours.fileno(), vhost_user=ALL, pass_fds=[ours.fileno()]) as guest:
                guest.run("ping", "-c1", "-W20", REMOTE4)
                ours.close()
            assert made.end() == 0


def test_one_off_ends_with_its_front_end(lab: Lab) -> None:
    with passt(lab, "--vhost-user", "-1") as made:
        front_end(made).close()  # no byte: no client
        with front_end(made) as sock:
            assert asks(sock)
        assert made.end() == 0
        assert "Client connection closed, exiting" in made.said()


def test_a_front_end_that_talks_nonsense_is_left_and_the_next_is_served(lab: Lab) -> None:
    with passt(lab, "--vhost-user") as made:
        with front_end(made) as sock:
            assert asks(sock)
            sock.send(struct.pack("=IIIII", SET_VRING_NUM, 1, 8, 77, 256))
            assert sock.recv(1) == b""
        made.wait_said("the guest's machine gave us a queue that does not exist: it is disconnected")
        made.wait_said("Client connection closed")
        with machine(lab, made.socket, vhost_user=ALL) as guest:
            guest.run("ping", "-c1", "-W20", REMOTE4)
            with front_end(made) as second:
                assert second.recv(1) == b""
            guest.run("ping", "-c1", "-W20", REMOTE4)
        assert made.said().count("WARNING") + made.said().count("gave us") == 1


def test_memory_that_shrinks_ends_the_connection_only(lab: Lab) -> None:
    """The worker's filter on system calls lets it survive the signal."""
    with passt(lab, "--vhost-user") as made:
        with front_end(made) as sock:
            memory = os.memfd_create("guest")
            os.ftruncate(memory, 1 << 20)
            kick, call = os.eventfd(0), os.eventfd(0)

            def tell(request: int, payload: bytes, *fds: int) -> None:
                extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
                sock.sendmsg([struct.pack("=III", request, 1, len(payload)) + payload], extra)

            tell(2, struct.pack("=Q", 1 << 32 | 1 << 15))
            tell(5, struct.pack("=II4Q", 1, 0, 0, 1 << 20, 0, 0), memory)
            tell(8, struct.pack("=II", 1, 256))
            tell(9, struct.pack("=II4Q", 1, 0, 0, 0x8000, 0x4000, 0))
            tell(12, struct.pack("=Q", 1), kick)
            assert asks(sock)
            os.ftruncate(memory, 0)
            os.eventfd_write(kick, 1)
            assert sock.recv(1) == b""
            for fd in (memory, kick, call):
                os.close(fd)
        made.wait_said("the guest's machine gave us memory that has shrunk: it is disconnected")
        with machine(lab, made.socket, vhost_user=ALL) as guest:
            guest.run("ping", "-c1", "-W20", REMOTE4)


@pytest.mark.unsanitized
def test_each_row_of_its_system_calls_is_used(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = lab.directory / f"traces{time.monotonic_ns()}"
    lab.host.run("mkdir", folder)
    traced = lab.directory / "passt"
    real = program("passt")
    lab.host.run("sh", "-c", f"cat >{traced}; chmod 755 {traced}", input=(
        f'#!/bin/sh\nexec strace -ff -qq -n -e raw=all -e signal=none -o {folder}/t{time.monotonic_ns()}-$$ {real} "$@"\n'
    ))  # fmt: skip
    monkeypatch.setenv("PASTA_UNDER_TEST", str(traced))
    with passt(lab, "--vhost-user") as made:
        with machine(lab, made.socket, vhost_user=ALL) as guest:
            guest.run("ping", "-c1", "-W20", REMOTE4)
        lab.host.run("kill", (lab.directory / "passt.pid").read_text().strip())  # strace takes no signal
        made.end()
    found, strange = used(list(folder.iterdir()), MACHINE)
    assert not strange
    ours = [row for row in rows() if row.who & MACHINE]
    assert ours and not [str(row) for row in ours if not sum(n for (_, r), n in found.items() if r == row)]
