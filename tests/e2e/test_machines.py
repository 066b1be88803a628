"""passt: virtual machines over a socket, with frames behind their length. The machine here is a namespace (machines.py)."""

import ipaddress
import json
import re
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import packets
import pytest
import sid
from lab import (
    BIG,
    GATEWAY4,
    HOST4,
    HOST6,
    HOSTS,
    PATIENCE_S,
    REMOTE4,
    REMOTE6,
    REMOTES,
    Lab,
    program,
    wait_until,
)
from machines import Passt, configure_guest, is_socket, machine, passt
from servers import make_file, nginx
from test_autoconf import dhclient

ROOT = Path(__file__).resolve().parents[2]
SIZE = 50_000_000
URLS = {4: f"http://{REMOTES[4]}", 6: f"http://[{REMOTES[6]}]"}
GUEST_MAC = bytes.fromhex("525400123456")
OUR_MAC = bytes.fromhex("9a559a559a55")
BROADCAST = b"\xff" * 6


def arp_request(mac: bytes = GUEST_MAC, target: str = GATEWAY4, sender: str = HOST4) -> bytes:
    return packets.arp(mac, sender, target)


def framed(frame: bytes) -> bytes:
    return struct.pack("!I", len(frame)) + frame


class Client:
    """A client of passt's socket, frame by frame."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.data = sock, b""
        sock.settimeout(PATIENCE_S)

    def __del__(self) -> None:
        self.sock.close()

    @classmethod
    def connected(cls, path: Path) -> "Client":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(path))
        return cls(sock)

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(map(framed, frames)))

    def frame(self) -> bytes:
        while len(self.data) < 4 or len(self.data) < 4 + int.from_bytes(self.data[:4], "big"):
            piece = self.sock.recv(65536)
            assert piece, "passt closed"
            self.data += piece
        end = 4 + int.from_bytes(self.data[:4], "big")
        frame, self.data = self.data[4:end], self.data[end:]
        return frame

    def frame_of(self, kind: bytes) -> bytes:
        """The next frame with this type of Ethernet payload."""
        while (frame := self.frame())[12:14] != kind:
            pass
        return frame

    def is_served(self) -> bool:
        """Whether an ARP request gets its answer."""
        self.send(arp_request())
        while (frame := self.frame())[12:14] != b"\x08\x06" or frame[20:22] != b"\0\2":
            pass
        return frame[22:28] == OUR_MAC

    def has_ended(self) -> bool:
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True


@pytest.fixture
def served(lab: Lab) -> Iterator[Passt]:
    with passt(lab) as made:
        yield made


# ---- what a guest gets ----


def test_a_guest_is_told_everything_by_dhcp(lab: Lab) -> None:
    lab.resolv(f"nameserver {REMOTE4}\nnameserver {REMOTE6}\nsearch lab.example.test\n")
    with passt(lab) as made, machine(lab, made.socket, configure=False) as guest:
        told = dhclient(lab, guest, "-4")
        assert (told["new_ip_address"], told["new_routers"], told["new_interface_mtu"]) == (HOST4, GATEWAY4, "65520")
        assert (
            told["new_domain_name_servers"] == REMOTE4 and told["new_domain_search"].rstrip(".") == "lab.example.test"
        )
        guest.run("ping", "-c1", "-W20", REMOTE4)
        made.wait_said("New guest MAC address observed: ")


def test_a_guest_configures_ipv6_by_itself(lab: Lab) -> None:
    lab.resolv(f"nameserver {REMOTE6}\n")
    with passt(lab) as made, machine(lab, made.socket, configure=False) as guest:

        def usable() -> bool:
            links = json.loads(guest.run("ip", "-j", "-6", "addr", "show", "dev", "eth0", "scope", "global").stdout)
            return any(not a.get("tentative") for link in links for a in link.get("addr_info", []))

        wait_until(usable, 8, "an address by SLAAC")
        told = dhclient(lab, guest, "-6")
        assert (told["new_ip6_address"], told["new_dhcp6_name_servers"]) == (HOST6, REMOTE6)
        guest.run("ping", "-6", "-c1", "-W20", "-I", HOST6, REMOTE6)


@pytest.mark.option("--mtu")
def test_udhcpc_and_a_small_mtu(lab: Lab) -> None:
    hook = lab.directory / "udhcpc-hook"
    hook.write_text('#!/bin/sh\n[ "$1" != bound ] || echo "$ip/$mask $router $mtu"\n')
    hook.chmod(0o755)
    busybox = sid.program("busybox", "busybox")
    with (
        passt(lab, "-m", "1500", socket="other.sock") as made,
        machine(lab, made.socket, configure=False, mtu=1500) as guest,
    ):
        said = guest.run(busybox, "udhcpc", "-i", "eth0", "-f", "-n", "-q", "-t", "10", "-O", "mtu", "-s", hook)
        assert f"{HOST4}/24 {GATEWAY4} 1500\n" in said.stdout, said


def test_udhcpc6(lab: Lab) -> None:
    """busybox's client of DHCPv6."""
    lab.resolv(f"nameserver {REMOTE6}\n")
    hook = lab.directory / "udhcpc6-hook"
    hook.write_text('#!/bin/sh\n[ "$1" != bound ] || echo "$ipv6 $dns"\n')
    hook.chmod(0o755)
    busybox = sid.program("busybox", "busybox")
    with passt(lab, socket="other.sock") as made, machine(lab, made.socket, configure=False) as guest:
        words = ("udhcpc6", "-i", "eth0", "-f", "-n", "-q", "-t", "10", "-O", "dns", "-s", hook)
        usable = ("ip", "-6", "addr", "show", "dev", "eth0", "scope", "link", "-tentative")
        wait_until(lambda: "fe80" in guest.run(*usable).stdout, 10, "a link-local address")
        said = guest.run(busybox, *words)
        assert [str(ipaddress.ip_address(word)) for word in said.stdout.split()] == [HOST6, REMOTE6], said


# ---- traffic ----


@pytest.fixture(scope="module")
def digest(lab: Lab) -> str:
    nginx(lab)
    return make_file(lab, "www/big.bin", SIZE)


@pytest.mark.parametrize("mtu", [1500, 65520])
@pytest.mark.parametrize("family", [4, 6])
def test_files_arrive_unharmed_both_ways(lab: Lab, digest: str, served: Passt, family: int, mtu: int) -> None:
    up = f"{BIG}/www/up.bin"
    with machine(lab, served.socket, mtu=mtu) as guest:
        command = f"curl -sS -f --max-time 200 {URLS[family]}/big.bin | sha256sum"
        assert guest.run("bash", "-o", "pipefail", "-ec", command, timeout=210).stdout.split()[0] == digest
        guest.run(
            "curl", "-sS", "-f", "--max-time", "200", "-T", f"{BIG}/www/big.bin", f"{URLS[family]}/up.bin", timeout=210
        )
        try:
            assert lab.host.run("sha256sum", up).stdout.split()[0] == digest
        finally:
            lab.host.run("rm", "-f", up)


@pytest.mark.parametrize("family", [4, 6])
def test_a_forwarded_port_leads_into_the_machine(lab: Lab, family: int) -> None:
    with passt(lab, "-t", "7080:80", "-u", "7081") as made, machine(lab, made.socket) as guest:
        server = guest.popen("socat", f"TCP{family}-LISTEN:80,fork", "SYSTEM:echo in the machine", caps=True)
        wait_until(lambda: guest.run("ss", "-tlnH", "sport = :80").stdout, 5, "socat")
        said = lab.remote.run("socat", "-t20", "-", f"TCP{family}:{bracketed(family)}:7080").stdout
        server.kill()
        assert said == "in the machine\n"
        echo = guest.popen("socat", f"UDP{family}-LISTEN:7081,fork", "EXEC:cat")
        wait_until(lambda: guest.run("ss", "-ulnH", "sport = :7081").stdout, 5, "socat")
        assert lab.remote.script("probe.py", "echo", HOSTS[family], 7081, 100, 1) == {"returned": 1}
        echo.kill()


def bracketed(family: int) -> str:
    return HOSTS[4] if family == 4 else f"[{HOSTS[6]}]"


def test_nothing_is_forwarded_unless_asked_for(lab: Lab, served: Passt) -> None:
    with machine(lab, served.socket) as guest:
        server = guest.popen("socat", "TCP-LISTEN:7099,fork", "SYSTEM:echo hello")
        wait_until(lambda: guest.run("ss", "-tlnH", "sport = :7099").stdout, 5, "socat")
        refused = lab.remote.run("socat", "-", f"TCP:{HOST4}:7099", check=False)
        server.kill()
    assert refused.returncode and "refused" in refused.stderr
    assert "ports to the guest: none" in served.said()


def test_a_client_of_a_forwarded_port_waits_for_the_machine(lab: Lab) -> None:
    """It connects before any machine is there, and is served once one has come."""
    with passt(lab, "-t", "7080") as made:
        client = lab.remote.popen("socat", "-t20", "-", f"TCP:{HOST4}:7080")
        wait_until(
            lambda: lab.remote.run("ss", "-tnH", "state", "established", "dport = :7080").stdout, 5, "the connection"
        )
        with machine(lab, made.socket, configure=False) as guest:
            server = guest.popen("socat", "TCP-LISTEN:7080", "SYSTEM:echo at last")
            wait_until(lambda: guest.run("ss", "-tlnH", "sport = :7080").stdout, 5, "socat")
            configure_guest(guest)  # from now on the client gets there
            assert client.communicate(timeout=PATIENCE_S)[0] == "at last\n"
            server.kill()


def test_ports_change_by_pesto(lab: Lab) -> None:
    conf = lab.directory / "pesto.sock"
    with passt(lab, "-c", conf) as made, machine(lab, made.socket) as guest:
        server = guest.popen("socat", "TCP-LISTEN:7090,fork", "SYSTEM:echo by pesto")
        wait_until(lambda: guest.run("ss", "-tlnH", "sport = :7090").stdout, 5, "socat")
        lab.host.run(program("pesto"), "--add", "-t", "7090", conf)
        assert lab.remote.run("socat", "-t20", "-", f"TCP:{HOST4}:7090").stdout == "by pesto\n"
        server.kill()


def test_connections_outlive_a_machine_that_reconnects(lab: Lab, served: Passt) -> None:
    """As after `reconnect` of QEMU: the same guest, over a new connection to the socket."""
    with machine(lab, served.socket) as guest:
        listener = lab.remote.popen("socat", "TCP-LISTEN:7070,reuseaddr", "EXEC:cat")
        wait_until(lambda: lab.remote.run("ss", "-tlnH", "sport = :7070").stdout, 5, "socat")
        client = guest.popen("socat", "-t20", "-", f"TCP:{REMOTE4}:7070")
        assert client.stdin and client.stdout
        client.stdin.write("one\n")
        client.stdin.flush()
        assert client.stdout.readline() == "one\n"
        guest.tap.send_signal(signal.SIGUSR1)  # type: ignore[attr-defined]
        served.wait_said("accepted connection", 2)
        client.stdin.write("two\n")
        client.stdin.flush()
        assert client.stdout.readline() == "two\n"
        client.stdin.close()
        client.wait(PATIENCE_S)
        listener.kill()


# ---- the socket ----


def quiet_end(made: Passt, client: Client) -> int:
    client.sock.close()
    return made.end()


@pytest.mark.option("--socket", "--socket-path")
@pytest.mark.parametrize("option", ["-s", "--socket", "--socket-path"])
def test_the_socket_is_where_the_option_says(lab: Lab, option: str) -> None:
    path = lab.directory / f"{option.strip('-')}.sock"
    with passt(lab, option, path, listens=False) as made:
        wait_until(lambda: is_socket(path), 5, "the socket")
        assert Client.connected(path).is_served()
        made.wait_said("accepted connection")
    assert is_socket(path), "it stays, as passt's does"
    with passt(lab, option, path, listens=False):
        wait_until(lambda: connects(path), 5, "the next instance takes the stale socket's place")


def connects(path: Path) -> bool:
    try:
        Client.connected(path)
    except OSError:
        return False
    return True


def test_default_paths_are_numbered(lab: Lab) -> None:
    """In a /tmp of their own: one that is in use is passed over, one that nothing serves is taken."""
    script = f"""
        mount -t tmpfs none /mnt; mkdir /mnt/tmp; mount --rbind /tmp /mnt/tmp; mount -t tmpfs none /tmp; cd /tmp
        case {ROOT} in /tmp/*) mkdir -p {ROOT}; mount --rbind /mnt{ROOT} {ROOT} ;; esac
        p={program("passt")}
        $p -f 2>one & a=$!; while ! grep -q bound one; do sleep 0.05; done
        $p -f 2>two & b=$!; while ! grep -q bound two; do sleep 0.05; done
        kill -9 $a; while socat -u OPEN:/dev/null UNIX-CONNECT:passt_1.socket 2>/dev/null; do sleep 0.05; done
        $p -f 2>three & c=$!; while ! grep -q bound three; do sleep 0.05; done
        cat one two three; kill $b $c; wait"""
    done = lab.host.run("unshare", "-m", "sh", "-c", script, caps=True, check=False)
    assert re.findall(r"bound at (\S+)", done.stdout) == [f"/tmp/passt_{n}.socket" for n in (1, 2, 1)], done


def test_a_path_in_use_is_refused_and_its_owner_goes_on(lab: Lab) -> None:
    """Whether it is in use is found out by connecting, which is no client: even --one-off waits on."""
    with passt(lab, "--one-off") as made:
        done = lab.host.run(program("passt"), "-f", "-s", made.socket, check=False)
        assert done.returncode == 1 and f"Socket path {made.socket} already in use" in done.stderr
        client = Client.connected(made.socket)
        assert client.is_served()
        assert quiet_end(made, client) == 0


@pytest.mark.parametrize("what", ["file", "directory", "link"])
def test_what_is_no_socket_is_not_replaced(lab: Lab, what: str) -> None:
    path = lab.directory / f"no-socket-{what}"
    make = {"file": path.touch, "directory": path.mkdir, "link": lambda: path.symlink_to("nowhere")}[what]
    make()
    done = lab.host.run(program("passt"), "-f", "-s", path, check=False)
    assert done.returncode == 1 and "no socket" in done.stderr and len(done.stderr.splitlines()) == 1, done
    assert path.is_symlink() or path.exists()


@pytest.mark.parametrize(
    ("path", "why"),
    [("x" * 108, "Invalid socket path"), ("missing/x.sock", "No such file or directory")],
)
def test_paths_that_cannot_be(lab: Lab, path: str, why: str) -> None:
    done = lab.host.run(program("passt"), "-f", "-s", path, check=False)
    assert done.returncode == 1 and why in done.stderr and len(done.stderr.splitlines()) == 1, done


@pytest.mark.option("--one-off")
@pytest.mark.parametrize("option", ["-1", "--one-off"])
def test_one_off_ends_with_its_client(lab: Lab, option: str) -> None:
    with passt(lab, option) as made:
        Client.connected(made.socket).sock.close()  # no byte: no client
        client = Client.connected(made.socket)
        assert client.is_served()
        assert quiet_end(made, client) == 0
        assert "Client connection closed, exiting" in made.said()


def test_a_machine_that_never_sends_is_a_client(lab: Lab) -> None:
    """Its guest may have no driver; --one-off must not outlive it. What only looks has closed within a second."""
    with passt(lab, "-1") as made:
        client = Client.connected(made.socket)
        made.wait_said("accepted connection")
        time.sleep(1.2)
        assert quiet_end(made, client) == 0


def test_without_one_off_the_next_client_is_served(served: Passt) -> None:
    for _ in range(3):
        client = Client.connected(served.socket)
        assert client.is_served()
        client.sock.close()
    served.wait_said("Client connection closed", 3)


def test_half_closed_is_closed(served: Passt) -> None:
    client = Client.connected(served.socket)
    assert client.is_served()
    client.sock.shutdown(socket.SHUT_WR)
    assert client.has_ended()
    assert Client.connected(served.socket).is_served()


def test_a_second_client_is_closed_at_once_and_the_first_goes_on(served: Passt) -> None:
    first, second = Client.connected(served.socket), Client.connected(served.socket)
    assert first.is_served()
    assert second.sock.recv(100) == b""
    assert first.is_served()
    served.wait_said("discarding connection")


@pytest.mark.parametrize("length", [0, 13, 65536, 1 << 31])
def test_a_frame_that_cannot_be_ends_the_connection_alone(served: Passt, length: int) -> None:
    client = Client.connected(served.socket)
    assert client.is_served()
    client.sock.sendall(struct.pack("!I", length) + bytes(20))
    assert client.has_ended()
    served.wait_said("Bad frame size from guest, resetting connection")
    assert served.said().count("Bad frame size") == 1
    assert Client.connected(served.socket).is_served()


def test_a_client_is_asked_for_its_addresses_at_each_connect(served: Passt) -> None:
    for known in (BROADCAST, GUEST_MAC):
        client = Client.connected(served.socket)
        arp = client.frame_of(b"\x08\x06")
        assert arp[:6] == BROADCAST and arp[20:22] == b"\0\1" and arp[22:28] == OUR_MAC
        assert arp[28:32] == socket.inet_aton(GATEWAY4) and arp[38:42] == socket.inet_aton(HOST4)
        ns = client.frame_of(b"\x86\xdd")
        assert ns[:6] == known and ns[38:54] == ns[62:78] == socket.inet_pton(socket.AF_INET6, HOST6) and ns[54] == 135
        assert client.is_served()
        client.sock.close()
        served.wait_said("Client connection closed", 1 if known == BROADCAST else 2)


def test_a_client_that_never_reads_holds_up_neither_itself_nor_the_end(lab: Lab, served: Passt) -> None:
    client = Client.connected(served.socket)
    client.sock.settimeout(5)
    answers = 0
    try:
        while answers < 50000:
            client.send(arp_request())
            answers += 1
    except TimeoutError:
        pytest.fail("passt does not read what a client sends that reads nothing itself")
    served.process.send_signal(signal.SIGTERM)
    assert served.end() == 0


# ---- --fd ----


@pytest.mark.option("--fd")
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
def test_a_socket_that_is_handed_over(lab: Lab, kind: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with passt(lab, "--fd", theirs.fileno(), listens=False, pass_fds=(theirs.fileno(),)) as made:
        theirs.close()
        client = Client(ours)
        assert client.is_served()
        if kind != socket.SOCK_DGRAM:  # a datagram socket's other end does not see a close
            assert quiet_end(made, client) == 0


def test_the_socket_of_an_option_comes_before_fd(lab: Lab) -> None:
    ours, theirs = socket.socketpair()
    with theirs, ours, passt(lab, "--fd", theirs.fileno(), pass_fds=(theirs.fileno(),)) as made:
        assert Client.connected(made.socket).is_served()


@pytest.mark.parametrize(("fd", "why"), [("-1", "'-1'"), ("abc", "'abc'"), ("77", "Bad file descriptor")])
def test_descriptors_that_cannot_be(lab: Lab, fd: str, why: str) -> None:
    done = lab.host.run(program("passt"), "-f", "--fd", fd, check=False)
    assert done.returncode == 1 and why in done.stderr and len(done.stderr.splitlines()) == 1, done


def test_a_file_is_no_socket(lab: Lab) -> None:
    with (lab.directory / "resolv.conf").open() as file:
        process = lab.host.popen(program("passt"), "-f", "--fd", file.fileno(), pass_fds=(file.fileno(),))
        error = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == 1 and "connected UNIX socket" in error


# ---- the process ----


@pytest.mark.option("--pid", "--log-file")
def test_it_is_ready_when_it_goes_to_the_background(lab: Lab) -> None:
    path, pidfile, log = (lab.directory / f"background.{kind}" for kind in ("sock", "pid", "log"))
    done = lab.host.run(program("passt"), "-1", "-s", path, "-P", pidfile, "-l", log)
    assert f"UNIX domain socket bound at {path}" in done.stderr
    client = Client.connected(path)
    assert client.is_served()
    pid = pidfile.read_text()
    assert pid.endswith("\n") and pidfile.stat().st_mode & 0o777 == log.stat().st_mode & 0o777 == 0o600
    assert pid.strip() in lab.host.run("pidof", "passt").stdout.split()
    shown = lab.host.run("ps", "-o", "args=", "-p", pid.strip()).stdout
    assert shown.split()[1:] == ["-1", "-s", str(path), "-P", str(pidfile), "-l", str(log)]
    client.sock.close()
    wait_until(lambda: lab.host.run("kill", "-0", pid.strip(), check=False).returncode, 5, "its end")
    assert "accepted connection" in log.read_text() and "Client connection closed, exiting" in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_signals_end_it(served: Passt, number: int) -> None:
    served.process.send_signal(number)
    assert served.end() == 0


@pytest.mark.option("--print-capabilities")
def test_its_capabilities_are_json(lab: Lab) -> None:
    for more in ((), ("--vhost-user",)):
        done = lab.host.run(program("passt"), "--print-capabilities", *more)
        assert json.loads(done.stdout) == {"type": "net"} and not done.stderr


@pytest.mark.option("--repair-path")
def test_migration_is_not_offered(lab: Lab) -> None:
    with passt(lab, "--repair-path", "x.repair") as made:
        assert Client.connected(made.socket).is_served()
        assert made.said().count("migration") == 1
    with passt(lab, "--repair-path", "none") as made:
        assert "migration" not in made.said()


@pytest.mark.option("--migrate-exit", "--migrate-no-linger")
@pytest.mark.parametrize("option", ["--migrate-exit", "--migrate-no-linger"])
def test_options_of_migration_need_vhost_user(lab: Lab, option: str) -> None:
    done = lab.host.run(program("passt"), option, check=False)
    said = f"passt: {option} is for vhost-user mode only: leave it out, or give --vhost-user\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.option("--mac-addr", "--pcap")
def test_our_mac_address_and_a_capture(lab: Lab) -> None:
    capture = lab.directory / "vm.pcap"
    with passt(lab, "-M", "02:00:00:00:00:07", "-p", capture) as made:
        client = Client.connected(made.socket)
        client.send(arp_request())
        assert client.frame_of(b"\x08\x06")[6:12] == bytes.fromhex("020000000007")
    assert arp_request() in capture.read_bytes()


def test_what_only_pasta_has_is_refused_in_the_peers_words(lab: Lab) -> None:
    """And the other way round; both programs are asked."""
    theirs = sid.program("passt", "passt")
    for option in (
        "--config-net",
        "--netns=x",
        "--ns-mac-addr=52:54:00:00:00:01",
        "--no-copy-routes",
        "--splice-only",
        "--no-pidns",
    ):
        name = option.partition("=")[0]
        for command in (theirs, program("passt")):
            done = lab.host.run(command, "-f", option, check=False)
            assert done.returncode == 1 and f"{name} is for pasta mode only" in done.stderr
    for words, line in (
        (("-t", "auto"), "'auto' port forwarding is only allowed for pasta"),
        (("123",), "Extra non-option argument: 123"),
    ):
        for command in (theirs, program("passt")):
            done = lab.host.run(command, "-f", *words, check=False)
            assert done.returncode == 1 and line in done.stderr, done
    done = lab.host.run(program("pasta"), "--socket", "x", check=False)
    assert (done.returncode, done.stderr) == (1, "pasta: --socket is for passt mode only: start passt for a virtual machine\n")


# ---- callers' own command lines ----


@pytest.mark.parametrize(
    ("words", "ports"),
    [
        (("-t", "all", "--no-map-gw", "--fd"), (7080, 7080)),  # crun's krun handler
        (("-t", "all", "-u", "all", "--no-dhcp-dns", "--no-map-gw", "--fd"), (7080, 7080)),
        (("-q", "-f", "-t", f"{HOST4}/7070-7072:7080-7082", "--fd"), (7072, 7082)),  # muvm
        (("-f", "--fd"), None),  # libkrun's examples
        (("-t", "all", "-f", "--fd"), (7080, 7080)),
    ],
)
def test_command_lines_of_crun_muvm_and_libkrun(
    lab: Lab, words: tuple[str, ...], ports: tuple[int, int] | None
) -> None:
    """`ports`: one that the host forwards, and where it leads to."""
    ours, theirs = socket.socketpair()
    process = lab.host.popen(
        program("passt"),
        *words,
        theirs.fileno(),
        pass_fds=(theirs.fileno(),),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    theirs.close()
    if "-f" not in words:
        assert process.wait(4 * PATIENCE_S) == 0, "the caller waits for the parent"  # with -t all it binds 64,000 ports
    with machine(lab, ours.fileno(), pass_fds=(ours.fileno(),)) as guest:
        ours.close()
        for address in (REMOTE4, REMOTE6):
            guest.run("ping", "-c1", "-W20", address)
        if ports:
            server = guest.popen("socat", f"TCP-LISTEN:{ports[1]}", "SYSTEM:echo in the machine")
            wait_until(lambda: guest.run("ss", "-tlnH", f"sport = :{ports[1]}").stdout, 5, "socat")
            said = lab.remote.run("socat", "-t20", "-", f"TCP:{HOST4}:{ports[0]}").stdout
            server.kill()
            assert said == "in the machine\n"
    assert process.wait(PATIENCE_S) == 0
    wait_until(lambda: not lab.host.run("pidof", "passt", check=False).stdout, 5, "the end of what is in the background")


def test_the_command_line_of_libvirt(lab: Lab) -> None:
    path, pidfile, log = (lab.directory / f"1-vm-net0{end}" for end in (".socket", "-passt.pid", ".log"))
    words = (
        "--one-off", "--socket", path, "--pid", pidfile, "--mtu", "1500", "--interface", "eth0", "--log-file", log,
        "--hostname", "hh", "--fqdn", "hh.example.org", "--address", "192.0.2.99", "--netmask", "24",
        "--tcp-ports", "127.0.0.1/2222:22,3000-3010:4000-4010,~3005", "--udp-ports", "5353",
    )  # fmt: skip
    done = lab.host.run(program("passt"), *words)
    assert done.returncode == 0
    with machine(lab, path, mtu=1500, configure=False) as guest:
        told = dhclient(lab, guest, "-4")
        assert (told["new_ip_address"], told["new_interface_mtu"], told["new_host_name"]) == (
            "192.0.2.99",
            "1500",
            "hh",
        )
        listening = lab.host.run("ss", "-tlnH").stdout
        assert all(f"127.0.0.1:{port} " in listening for port in (2222, 3004)) and ":3005 " not in listening
    wait_until(lambda: lab.host.run("kill", "-0", pidfile.read_text().strip(), check=False).returncode, 5, "its end")


def test_it_starts_again_at_once_as_qemu_does(lab: Lab) -> None:
    """QEMU starts it anew with --fd when it has ended; libvirt with the same socket."""
    for _ in range(2):
        started = time.monotonic()
        with passt(lab, "--one-off") as made, machine(lab, made.socket) as guest:
            guest.run("ping", "-c1", "-W20", REMOTE4)
            made.process.kill()
            made.end()
        assert time.monotonic() - started < 2 * PATIENCE_S
