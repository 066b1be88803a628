"""`pasta-py capture`: what it gets of a running instance, beside tshark, tcpdump and the instance's own --pcap; bad clients."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from lab import NO_PORTS, PATIENCE_S, REMOTE4, UID, Lab, cmdline, program, tool, wait_until

END = b"\xff" * 16


class Instance(NamedTuple):
    """A translator with a guest that pings the remote machine whenever a line with a count comes."""

    lab: Lab
    path: Path  # of its control socket
    process: "subprocess.Popen[str]"

    def ping(self, count: int = 1, size: int = 56) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{count} {size}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "0\n"

    def capture(self, file: Path, *words: object, first: str = "") -> "subprocess.Popen[str]":
        """The command, once the instance captures for it. `first`: the name of the first file of a ring."""
        return capturing(self.lab, self.path, file, *words, first=first)


def capturing(lab: Lab, path: Path, file: Path, *words: object, first: str = "") -> "subprocess.Popen[str]":
    """`pasta-py capture` to a file, once the instance captures: its file begins when the instance has answered."""
    process = lab.host.popen(program("pasta-py"), "capture", path, "-w", file, *words)
    begun = file.with_name(first or file.name)
    wait_until(lambda: process.poll() is not None or (begun.exists() and begun.stat().st_size), PATIENCE_S, "it captures")
    assert process.poll() is None, process.communicate()
    return process


@pytest.fixture
def instance(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Instance]:
    path, threads = lab.directory / "capture.sock", getattr(request, "param", 1)
    ask = f"while read count size; do ping -q -c$count -s$size -i0.002 -W20 {REMOTE4} >/dev/null; echo $?; done"
    command = (program("pasta-py"), *NO_PORTS, "--control", path, "--threads", threads, "--", "sh", "-c", f"echo up; {ask}")
    with lab.host.popen(*command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None and process.stdout.readline() == "up\n"
        yield Instance(lab, path, process)
        process.stdin.close()
        process.wait(PATIENCE_S)


def fields(path: Path, *names: str) -> list[list[str]]:
    words = [word for name in names for word in ("-e", name)]
    done = subprocess.run(["tshark", "-r", path, "-T", "fields", *words], capture_output=True, text=True, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.mark.parametrize("instance", [1, 3], indirect=True)
def test_a_capture_begins_and_ends_while_the_guest_goes_on(instance: Instance) -> None:
    """Ctrl-C ends it; what came before and after is not in it."""
    path = instance.lab.directory / "attached.pcap"
    instance.ping(3)
    capture = instance.capture(path, "icmp", "and", "host", REMOTE4)
    instance.ping(5)
    capture.send_signal(signal.SIGINT)
    out, said = capture.communicate(timeout=PATIENCE_S)
    instance.ping(2)
    assert (capture.returncode, out, said) == (0, "", "pasta-py capture: 10 frames written, 0 left out\n")
    assert sorted(fields(path, "icmp.seq", "icmp.type")) == [[str(n), kind] for n in range(1, 6) for kind in ("0", "8")]
    path.unlink()


def test_pcapng_has_the_direction_and_the_number_of_frames_that_are_missing(instance: Instance) -> None:
    path = instance.lab.directory / "attached.pcapng"
    capture = instance.capture(path, "--snaplen", "60", "icmp")
    instance.ping(2, 500)
    capture.send_signal(signal.SIGTERM)
    capture.communicate(timeout=PATIENCE_S)
    found = fields(path, "frame.packet_flags_direction", "frame.cap_len", "frame.len")
    assert sorted(found) == [["0x00000001", "60", "542"]] * 2 + [["0x00000002", "60", "542"]] * 2  # an answer may come late
    assert b"\x05\x00\x08\x00" + bytes(8) in path.read_bytes()  # isb_ifdrop: 0
    path.unlink()


@pytest.mark.parametrize("reader", ["tshark -l -i - -c 4", "tcpdump -n -r - -c 4"])
def test_a_program_reads_it_live_and_ends_it(instance: Instance, reader: str) -> None:
    command = f"{program('pasta-py')} capture {instance.path} -w - icmp | {reader}"
    capture = instance.lab.host.popen("sh", "-c", command)
    deadline = time.monotonic() + PATIENCE_S
    while capture.poll() is None and time.monotonic() < deadline:
        instance.ping(2)
    out, said = capture.communicate(timeout=PATIENCE_S)
    assert capture.returncode == 0, said
    assert len(out.splitlines()) == 4 and REMOTE4 in out


def test_a_ring_of_files_and_an_end_after_a_count(instance: Instance) -> None:
    path = instance.lab.directory / "ring.pcap"
    capture = instance.capture(path, "--size", "4096", "--files", "2", "--count", "100", "icmp", first="ring.1.pcap")
    instance.ping(60)
    _, said = capture.communicate(timeout=PATIENCE_S)
    assert said == "pasta-py capture: 100 frames written, 0 left out\n"
    files = [instance.lab.directory / f"ring.{number}.pcap" for number in (1, 2)]
    assert all(file.stat().st_size <= 4096 for file in files) and not path.exists()
    kept = sorted({int(seq) for file in files for (seq,) in fields(file, "icmp.seq")})
    assert kept == list(range(kept[0], 51)) and 10 < len(kept) < 50


def test_a_file_that_takes_nothing_ends_it(instance: Instance) -> None:
    """The line is about the file, not about the instance."""
    done = instance.lab.host.run(program("pasta-py"), "capture", instance.path, "-w", "/dev/full", check=False)
    full = "Couldn't write to the capture file '/dev/full': No space left on device: choose another place"
    assert (done.returncode, done.stderr) == (1, f"pasta-py capture: {full}\n")


@pytest.mark.parametrize("instance", [3], indirect=True)
def test_several_capture_at_once_up_to_a_limit(instance: Instance) -> None:
    paths = [instance.lab.directory / f"one-of-{number}.pcap" for number in range(4)]
    captures = [instance.capture(path, "icmp") for path in paths]
    done = instance.lab.host.run(program("pasta-py"), "capture", instance.path, "-w", "/dev/null", check=False)
    assert done.returncode == 1 and "others capture already, as many as can: end one of them" in done.stderr
    instance.ping(3)
    for capture, path in zip(captures, paths):
        capture.send_signal(signal.SIGINT)
        assert capture.communicate(timeout=PATIENCE_S)[1] == "pasta-py capture: 6 frames written, 0 left out\n"
        path.unlink()
    instance.ping()


def handles(pid: int, number: int) -> bool:
    """Whether it is a `pasta-py capture` with a handler of this signal (proc(5), SigCgt)."""
    words = cmdline(pid)
    if "capture" not in words or words[0] == tool():
        return False
    return bool(int(Path(f"/proc/{pid}/status").read_text().partition("SigCgt:")[2].split()[0], 16) >> number - 1 & 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_instance_has_answered_ends_it_as_later_ones_do(instance: Instance, number: int) -> None:
    """The instance is busy: it has not accepted yet. The request is there, so the signal asks for the end behind it."""
    path = instance.lab.directory / "early.pcap"
    worker = instance.lab.translator().pid
    os.kill(worker, signal.SIGSTOP)
    try:
        capture = instance.lab.host.popen(program("pasta-py"), "capture", instance.path, "-w", path, "icmp")
        wait_until(lambda: any(handles(pid, signal.SIGHUP) for pid in instance.lab.descendants()), PATIENCE_S, "it is about to ask")
        capture.send_signal(number)
    finally:
        os.kill(worker, signal.SIGCONT)
    _, said = capture.communicate(timeout=PATIENCE_S)
    assert (capture.returncode, said) == (0, "pasta-py capture: 0 frames written, 0 left out\n")
    instance.ping()


class Raw:
    """A client of the socket that does what it should not."""

    def __init__(self, path: Path, more: bytes = b"", **members: object) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        root = os.geteuid() == 0  # the instance serves its own user alone, whom the socket names at connect(2)
        if root:
            os.seteuid(UID)
        try:
            self.sock.connect(str(path))
        finally:
            if root:
                os.seteuid(0)
        self.sock.sendall(json.dumps({"command": "capture", **members}).encode() + b"\n" + more)

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def line(self) -> dict[str, object]:
        data = b""
        while not data.endswith(b"\n"):
            data += self.sock.recv(1)
        found: dict[str, object] = json.loads(data)
        return found


def test_a_client_that_does_not_read_loses_frames_and_the_guest_none(instance: Instance) -> None:
    with Raw(instance.path) as client:
        assert client.line()["capturing"] is True
        instance.ping(300, 30000)  # 18 MB: more than a socket holds
        client.sock.sendall(b"x")
        data = b""
        while not (END in data and data.endswith(b"\n")):
            data += client.sock.recv(1 << 20)
        records, _, line = data.partition(END)
        captured = json.loads(line)["captured"]
        assert captured["dropped"] > 0 and captured["frames"] > 0
        assert captured["bytes"] + 16 * captured["frames"] == len(records)
        client.sock.sendall(b'{"command":"status"}\n')  # the connection goes on
        assert client.line()["program"] == "pasta-py"


def test_what_follows_on_the_request_ends_the_capture_though_it_comes_in_one_piece_with_it(instance: Instance) -> None:
    with Raw(instance.path, more=b'{"command":"end"}\n') as client:
        assert client.line()["capturing"] is True
        assert client.sock.recv(len(END), socket.MSG_WAITALL) == END
        assert client.line()["captured"] == {"frames": 0, "bytes": 0, "dropped": 0}
        client.sock.sendall(b'{"command":"status"}\n')
        assert client.line()["program"] == "pasta-py"


def test_one_that_leaves_is_forgotten(instance: Instance) -> None:
    for _ in range(6):  # more than there may be at once
        with Raw(instance.path) as client:
            assert client.line()["capturing"] is True
        instance.ping()


HOSTILE = """
import socket, sys, threading
def client():
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(sys.argv[1])
    return sock
def forever(action):
    while True:
        try:
            with client() as sock:
                action(sock)
        except OSError:
            pass
def endless(sock):
    while True:
        sock.sendall(b"x" * 65536)
def garbage(sock):
    sock.sendall(bytes(range(256)) * 8 + b"\\n{\\n[]\\n")
    sock.recv(1000)
def deaf(sock):
    while True:
        sock.sendall(b'{"command":"flows"}\\n{"command":"show"}\\n')
half = [client() for _ in range(6)]
for sock in half:
    sock.sendall(b'{"comm')
for action in (endless, garbage, deaf, deaf):
    threading.Thread(target=forever, args=[action], daemon=True).start()
print("up", flush=True)
sys.stdin.read()
"""


def test_hostile_clients_of_the_socket_keep_no_packet_of_the_guest_from_passing(instance: Instance) -> None:
    """A line without end, garbage, halves, and those who ask and do not read, over and over; others are served meanwhile."""
    host = instance.lab.host
    with host.popen(sys.executable, "-c", HOSTILE, instance.path, stdin=subprocess.PIPE) as hostile:
        assert hostile.stdout is not None and hostile.stdout.readline() == "up\n"
        instance.ping(500)
        listed = host.run(program("pasta-py"), "flows", "--json", instance.path).stdout
        hostile.communicate("")
    (flow,) = [each for each in map(json.loads, listed.splitlines()) if each["protocol"] == "ping"]
    assert (flow["sent_packets"], flow["received_packets"]) == (500, 500)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"filter": "zz"}, "filter is a program of classic BPF in hexadecimal digits"),
        ({"filter": 7}, "filter is a program of classic BPF in hexadecimal digits"),
        ({"filter": "0600"}, "filter is no program: instructions have 8 bytes"),
        ({"filter": "ff" * 8}, "the filter is refused: Invalid argument"),
        ({"snaplen": -1}, "snaplen is a number from 0 to 262144"),
        ({"size": -1}, "size is a number from 0 to 274877906944"),
        ({"snaplen": True}, "snaplen is a number from 0 to 262144"),
    ],
)
def test_requests_that_cannot_be_are_refused(instance: Instance, members: dict[str, object], said: str) -> None:
    with Raw(instance.path, **members) as client:
        assert client.line()["error"] == said


def test_the_end_of_the_instance_is_told(instance: Instance) -> None:
    path = instance.lab.directory / "end.pcap"
    capture = instance.capture(path, "icmp")
    instance.ping(2)
    assert instance.process.stdin is not None
    instance.process.stdin.close()
    _, said = capture.communicate(timeout=PATIENCE_S)
    assert (capture.returncode, said) == (0, "pasta-py capture: 4 frames written, the instance has ended\n")
    assert len(fields(path, "icmp.seq")) == 4
    path.unlink()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no file is named: give --write FILE"),
        (("-w", "/none/x"), "Couldn't open the capture file '/none/x': No such file or directory: choose a path"),
        (("-w", "/dev/null", "tcp", "prt"), "syntax error"),
        (("-w", "-", "--size", "5000"), "--write - is a stream, and --size is for files"),
        (("-i", "/none.sock", "-w", "/dev/null"), "'/none.sock': No such file or directory: give the socket of --control, a PID"),
    ],
)
def test_words_that_do_not_go_together_are_told(lab: Lab, words: tuple[str, ...], said: str) -> None:
    done = lab.host.run(program("pasta-py"), "capture", *words, check=False)
    assert done.returncode == 1 and said in done.stderr
