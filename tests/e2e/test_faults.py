"""What is stopped, full, taken away or brought back: the translator says so in one line, and no stream gets a wrong byte.

Each test has a stream both ways while something happens; at its end each side has received exactly what the other sent.
docs/reliability.md has the behaviour that is promised.
"""

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab import GATEWAY4, HOST4, REMOTE4, REMOTE6, UID, Guest, Lab, program, tool, wait_until
from traffic import LONG, Bulk, hear

PORT = 7690
PACED = 5_000_000  # bytes a second each way: a stream that is there, and leaves the processors alone
STOPPED_S = 30.0 if LONG else 2.0
OUTAGE_S = 1.0
RECOVERY_S = 15
BUSY_S = 0.5
QUIT_S = 3
TINY = "/run/tiny"

NETWORK4 = f"addr add {HOST4}/24 dev {{0}}\nroute add default via {GATEWAY4} dev {{0}}"


@pytest.fixture(scope="module")
def root_lab() -> Iterator[Lab]:
    """A host of mapped root, where `ip netns` works."""
    with Lab(mapped_root=True) as made:
        yield made


@contextlib.contextmanager
def streaming(lab: Lab, guest: Guest, rate: float = PACED, address: str = REMOTE4) -> Iterator[Bulk]:
    """A stream that is under way, and has been checked to its last byte at the end."""
    stream = Bulk(lab, guest, address, rate)
    try:
        yield stream
    except BaseException:
        stream.abandon()
        raise
    time.sleep(0.3)
    stream.finish()


def flows_on(guest: Guest, seconds: float = RECOVERY_S) -> None:
    """A new connection works, within so many seconds."""
    ask = f"import socket; socket.create_connection(('{REMOTE4}', {PORT + 1}), timeout=1).close()"
    wait_until(lambda: not guest.run(sys.executable, "-c", ask, check=False).returncode, seconds, "a new connection")


@pytest.fixture
def answering(lab: Lab) -> Iterator[None]:
    """Something to connect to at PORT + 1, which echoes UDP too."""
    server = lab.remote.start("crowd.py", REMOTE4, PORT + 1)
    yield
    server.result()


# --- resources that end ---

MANY = """
import errno, json, socket, sys
kind, count, LEAST = sys.argv[1], int(sys.argv[2]), 40
made, errors = [], {}
for number in range(count):
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    sock.settimeout(30 if kind == "tcp" or len(made) < LEAST else 0.05)  # what is refused over UDP is silent
    try:
        sock.connect((sys.argv[3], int(sys.argv[4])))
        if kind == "udp":
            sock.send(b"x")
            sock.recv(10)
        made.append(sock)
    except OSError as error:
        name = errno.errorcode.get(error.errno, "silence")
        errors[name] = errors.get(name, 0) + 1
print(json.dumps({"made": len(made), "errors": errors}))
"""


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_descriptors_end(lab: Lab, answering: None, kind: str) -> None:
    with lab.guest(limit="-n 100") as guest, streaming(lab, guest):
        many = json.loads(guest.run(sys.executable, "-c", MANY, kind, 150, REMOTE4, PORT + 1, timeout=240).stdout)
        assert 40 <= many["made"] < 100
        assert many["errors"] == {"ECONNREFUSED" if kind == "tcp" else "silence": 150 - many["made"]}
        hear(guest, rf"{kind.upper()} .*refused with \d+ open: Too many open files; raise the limit of open files")
        # The slow path answers as before. ip fails where traffic makes an entry again before it looks.
        guest.run("ip", "neigh", "flush", "all", check=False)
        if kind == "tcp":
            flows_on(guest)


@pytest.mark.unsanitized
def test_memory_ends(lab: Lab, answering: None) -> None:
    """With 256 KiB of address space left to the worker: flows are refused with a line, and it goes on."""
    with lab.guest() as guest, streaming(lab, guest):
        worker = lab.translator()
        status = Path(f"/proc/{worker.pid}/status").read_text()
        (size,) = re.findall(r"VmSize:\s+(\d+) kB", status)
        limit = (int(size) + 256) << 10
        as_user = {"user": UID, "group": UID} if os.geteuid() == 0 else {}
        subprocess.run(["prlimit", f"--pid={worker.pid}", f"--as={limit}"], check=True, **as_user)  # type: ignore[call-overload]
        many = json.loads(guest.run(sys.executable, "-c", MANY, "tcp", 5000, REMOTE4, PORT + 1, timeout=240).stdout)
        assert 0 < many["errors"].get("ECONNREFUSED", 0) < 5000, many
        hear(guest, r"TCP connection refused with \d+ open: Cannot allocate memory")
        # The slow path answers as before. ip fails where traffic makes an entry again before it looks.
        guest.run("ip", "neigh", "flush", "all", check=False)
        assert worker.pid == lab.translator().pid


@pytest.fixture
def tiny(lab: Lab) -> Iterator[str]:
    """A file system of 256 KiB that everybody may fill."""
    lab.host.run("mkdir", TINY, caps=True)
    lab.host.run("mount", "-t", "tmpfs", "-o", "size=256k,mode=777", "none", TINY, caps=True)
    yield TINY
    lab.host.run("umount", "-l", TINY, caps=True)
    lab.host.run("rmdir", TINY, caps=True)


def test_the_disk_is_full_under_a_capture(lab: Lab, tiny: str) -> None:
    with lab.guest("--pcap", f"{tiny}/all.pcap") as guest, streaming(lab, guest):
        hear(guest, "capture ended")
    read = lab.host.run("tshark", "-r", f"{tiny}/all.pcap", "-T", "fields", "-e", "frame.number")
    assert "cut short" not in read.stderr and int(read.stdout.split()[-1]) > 2


def test_the_disk_is_full_under_the_log(lab: Lab, tiny: str) -> None:
    lab.host.run("sh", "-c", f"head -c 1M /dev/zero >{tiny}/filler || true")
    with lab.guest("--trace", "--log-file", f"{tiny}/log") as guest, streaming(lab, guest):
        guest.run("ping", "-c1", "-W20", REMOTE4)  # of which there are lines that cannot be written
        lab.host.run("rm", f"{tiny}/filler")
        guest.run("ping", "-c1", "-W20", REMOTE4)
    lines = lab.host.run("cat", f"{tiny}/log").stdout.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z (error|warning|info|debug|trace): ", line) for line in lines)
    assert sum("lines of the log were lost" in line for line in lines) >= 1


@pytest.mark.parametrize("way", ["pipe", "socket", "fifo"])
def test_nobody_reads_the_log(lab: Lab, way: str) -> None:
    """Standard error and --log-file, each full for the whole time."""
    ours, theirs = socket.socketpair()
    options: list[object] = ["--trace"]
    if way == "fifo":
        lab.host.run("mkfifo", lab.directory / "fifo")
        options += ["--log-file", lab.directory / "fifo"]
    token = f"log-{way}"
    streams = {"stderr": theirs.fileno()} if way == "socket" else {}
    process = lab.host.popen(program(), "--config-net", *options, "--", tool(), "hold", token, **streams)
    with ours, theirs:
        assert process.stdout and process.stdout.readline() == "held\n"
        try:
            with streaming(lab, Guest(lab, process, lab.held("hold", token)), rate=50_000_000):
                time.sleep(1.5)
            assert process.stdin
            process.stdin.close()
            assert process.wait(30) == 0
        finally:
            process.terminate()
            for pid in lab.translators():
                os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not lab.translators(), QUIT_S, "the worker is gone")


# --- time ---


def test_we_are_stopped_for_a_while(lab: Lab) -> None:
    with lab.guest() as guest, streaming(lab, guest):
        pid = lab.translator().pid
        os.kill(pid, signal.SIGSTOP)
        time.sleep(STOPPED_S)
        os.kill(pid, signal.SIGCONT)
        flows_on_after_stop = Bulk(lab, guest, REMOTE6, PACED)
        time.sleep(0.5)
        flows_on_after_stop.finish()


def test_the_guest_is_stopped_for_a_while(lab: Lab) -> None:
    with lab.guest() as guest, streaming(lab, guest, rate=0) as stream:
        inside = [pid for pid in lab.descendants() if str(stream.port) in cmdline_of(pid) and "connect" in cmdline_of(pid)]
        assert inside
        for pid in inside:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(STOPPED_S)
        for pid in inside:
            os.kill(pid, signal.SIGCONT)


def freezers() -> list[tuple[Path, str, str, str, str]]:
    """A directory of each mounted hierarchy that freezes processes (v2, v1); its switch, what that takes, where it shows."""
    found = []
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, options = line.split()[:4]
        if kind == "cgroup2":
            found.append((Path(place), "cgroup.freeze", "1", "0", "cgroup.events"))
        elif kind == "cgroup" and "freezer" in options.split(","):
            found.append((Path(place), "freezer.state", "FROZEN", "THAWED", "freezer.state"))
    return [entry for entry in found if os.access(entry[0], os.W_OK)]


@contextlib.contextmanager
def frozen_group() -> Iterator[tuple[Path, Callable[[bool], object]]]:
    """A new group of processes, and what freezes and thaws it."""
    if not freezers():
        pytest.skip("no hierarchy of cgroups can be written by this user")
    place, switch, on, off, shown = freezers()[0]

    def freeze(frozen: bool) -> None:
        (group / switch).write_text(on if frozen else off)
        done = re.compile("frozen 1|FROZEN" if frozen else "frozen 0|THAWED")
        wait_until(lambda: done.search((group / shown).read_text()), RECOVERY_S, f"the group is frozen: {frozen}")

    group = place / f"pasta-test-{os.getpid()}"
    group.mkdir()
    try:
        yield group, freeze
    finally:
        (group / switch).write_text(off)
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (place / "cgroup.procs").write_text(pid)
        wait_until(lambda: not (group / "cgroup.procs").read_text(), RECOVERY_S, "the group is empty")
        group.rmdir()


def inside(lab: Lab, guest: Guest) -> list[int]:
    """The guest's processes; the helper, which has entered its network namespace, is the translator's."""
    own = os.readlink(f"/proc/{guest.pid}/ns/net")
    found = []
    for pid in lab.descendants():
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/ns/net") == own and Path(f"/proc/{pid}/comm").read_text() != "pasta-helper\n":
                found.append(pid)
    return found


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_guest_is_suspended_for_a_while(lab: Lab) -> None:
    """By the freezer, as runtimes pause containers: all its processes at once, in the middle of whatever they do."""
    with lab.guest() as guest, frozen_group() as (group, freeze), streaming(lab, guest, rate=0):
        pids, worker = inside(lab, guest), lab.translator().pid
        assert guest.pid in pids and worker not in pids and len(pids) > 1
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
        before = processor_s(worker)
        wait_until(lambda: processor_s(worker) > before + BUSY_S, 2, "the worker has much to do")
        freeze(True)
        time.sleep(1)  # what was under way comes to rest
        still, before = [processor_s(pid) for pid in pids], processor_s(worker)
        time.sleep(STOPPED_S)
        assert [processor_s(pid) for pid in pids] == still, "they are frozen"
        idle = processor_s(worker) - before
        freeze(False)
        assert idle < BUSY_S / 10 * STOPPED_S, f"{idle:.2f} s of processor in {STOPPED_S:.0f} s for a guest that does nothing"


def cmdline_of(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return []


# --- the guest's link ---


def test_the_tap_goes_down_and_up(lab: Lab, answering: None) -> None:
    with lab.guest() as guest, streaming(lab, guest):
        tap = guest.interface()
        guest.setup(f"link set {tap} down")
        time.sleep(OUTAGE_S)
        guest.setup(f"link set {tap} up\nroute add default via {GATEWAY4} dev {tap}")
        flows_on(guest)


def test_the_tap_is_deleted(lab: Lab) -> None:
    with lab.guest() as guest:
        stream = Bulk(lab, guest, REMOTE4, PACED)
        guest.setup(f"link del {guest.interface()}")
        wait_until(lambda: not lab.translators(), QUIT_S, "the worker is gone")
        assert guest.process.stderr
        lines = itertools.takewhile(lambda line: "the command has no network any more" not in line, guest.process.stderr)
        assert any("the tap is gone" in line for line in lines)
        remote = stream.abandon()
        assert any("reset" in error for error in remote["errors"]), remote["errors"]  # type: ignore[attr-defined]


def test_the_tap_is_deleted_from_a_namespace_that_was_joined(lab: Lab) -> None:
    """The namespace is there, and has no network any more: a failure, which passt's pasta ends with too."""
    with lab.stray() as guest:
        process = lab.host.popen(program(), "-f", "--config-net", "-I", "tap9", lab.inner_pid(guest.pid))
        wait_until(lambda: "tap9" in guest.run("ip", "-br", "link", "show", "up").stdout, 5, "the tap is up")
        wait_until(lambda: guest.run("ping", "-c1", "-W1", REMOTE4, check=False).returncode == 0, 10, "it serves")
        guest.run("ip", "link", "del", "tap9")
        assert process.wait(60) == 1
        assert process.stderr is not None and "the tap is gone" in process.stderr.read()


def test_a_namespace_goes_in_the_middle_of_a_transfer(root_lab: Lab) -> None:
    """The name is what is watched: the worker quits, the peer sees a reset and no end, another instance can attach at once."""
    lab = root_lab
    lab.host.run("ip", "netns", "add", "gone")
    log = lab.directory / "gone.log"
    lab.host.run(program(), "--config-net", "--log-file", log, "--netns", "/run/netns/gone")
    holder = lab.host.popen("ip", "netns", "exec", "gone", tool(), "hold", "gone")
    assert holder.stdout and holder.stdout.readline() == "held\n"
    inside = Guest(lab, holder, lab.held("hold", "gone"))
    stream = Bulk(lab, inside, REMOTE4, PACED)
    lab.host.run("ip", "netns", "del", "gone")
    wait_until(lambda: not lab.translators(), QUIT_S, "the worker is gone")
    assert "the network namespace gone is gone: quitting" in log.read_text()
    remote = stream.abandon()
    assert any("reset" in error for error in remote["errors"]), remote["errors"]  # type: ignore[attr-defined]
    lab.host.run(program(), "--config-net", lab.inner_pid(inside.pid))
    with streaming(lab, inside):
        pass
    assert holder.stdin
    holder.stdin.close()
    wait_until(lambda: not lab.translators(), QUIT_S, "the worker is gone")


# --- the host's link ---


def test_the_host_interface_goes_down_and_up(lab: Lab, answering: None) -> None:
    with lab.guest() as guest, streaming(lab, guest):
        lab.host.setup("link set eth0 down")
        answer = guest.script("probe.py", "tcp", REMOTE4, PORT + 1)
        assert answer["error"] == lab.host.script("probe.py", "tcp", REMOTE4, PORT + 1)["error"] == "ENETUNREACH"
        time.sleep(OUTAGE_S)
        lab.host.setup(f"link set eth0 up\nroute add default via {GATEWAY4}")
        lab.host.setup("addr add 2001:db8::2/64 dev eth0 nodad\n-6 route add default via 2001:db8::1")
        flows_on(guest)


def test_the_route_is_lost_and_comes_back(lab: Lab, answering: None) -> None:
    with lab.guest() as guest, streaming(lab, guest):
        lab.host.setup(f"route add unreachable {REMOTE4}")
        for kind in ("tcp", "udp"):
            answer = guest.script("probe.py", kind, REMOTE4, PORT + 1)
            assert answer["error"] == "EHOSTUNREACH", kind
        time.sleep(OUTAGE_S)
        lab.host.setup(f"route del unreachable {REMOTE4}")
        flows_on(guest)
        assert guest.script("probe.py", "echo", REMOTE4, PORT + 1, 100, 3) == {"returned": 3}


def test_the_nameserver_changes(lab: Lab) -> None:
    """An instance that does not follow keeps the one that it found; the next one has the new one."""
    first = lab.remote.start("answer.py", "name", REMOTE4, 53, "first")
    second = lab.remote.start("answer.py", "name", GATEWAY4, 53, "second")
    asked = ("probe.py", "ask-udp", "169.254.9.9", 53)
    lab.resolv(f"nameserver {REMOTE4}\n")
    try:
        with lab.guest("--dns-forward", "169.254.9.9", "--no-follow") as guest:
            assert str(guest.script(*asked)["answer"]).startswith("first ")
            lab.resolv(f"nameserver {GATEWAY4}\n")
            assert str(guest.script(*asked)["answer"]).startswith("first ")
        with lab.guest("--no-map-gw", "--dns-forward", "169.254.9.9") as guest:
            assert str(guest.script(*asked)["answer"]).startswith("second ")
    finally:
        lab.resolv("")
        first.result()
        second.result()
