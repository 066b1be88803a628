"""The capture, against tshark, a reader of our own, and every way in which its file or its reader can fail."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import capture_build
from quickest import least

FROM_GUEST, TO_GUEST = 0, 1


class Record(NamedTuple):
    time_ns: int
    frame: bytes
    direction: int | None


def read_pcap(data: bytes) -> tuple[list[Record], int]:
    """The whole records of a pcap file, and how many bytes of it are left over."""
    *fixed, snaplen, linktype = struct.unpack_from("=IHHIIII", data)
    assert (fixed, linktype) == ([0xA1B23C4D, 2, 4, 0, 0], 1)
    at, records = 24, []
    while at + 16 <= len(data):
        seconds, ns, captured, original = struct.unpack_from("=IIII", data, at)
        assert captured <= original <= 65550 and captured <= snaplen and ns < 10**9
        if at + 16 + captured > len(data):
            break
        records.append(Record(seconds * 10**9 + ns, data[at + 16 : at + 16 + captured], None))
        at += 16 + captured
    return records, len(data) - at


def read_pcapng(data: bytes) -> tuple[list[Record], int]:
    """The same for pcapng; checks both lengths of every block."""
    at, records = 0, []
    while at + 12 <= len(data):
        kind, size = struct.unpack_from("=II", data, at)
        if at + size > len(data):
            break
        assert size % 4 == 0 and struct.unpack_from("=I", data, at + size - 4)[0] == size
        if kind == 6:
            interface, high, low, captured, original = struct.unpack_from("=IIIII", data, at + 8)
            assert interface == 0 and captured <= original
            option, length, flags = struct.unpack_from("=HHI", data, at + 28 + (captured + 3) // 4 * 4)
            assert (option, length) == (2, 4)
            direction = {1: TO_GUEST, 2: FROM_GUEST}[flags]
            records.append(Record(high << 32 | low, data[at + 28 : at + 28 + captured], direction))
        at += size
    return records, len(data) - at


class Capture:
    """A thin wrapper round the C functions; stops in any case."""

    def __init__(
        self, module: Any, *fds: int, pcapng: bool = False, file_bytes: int = 0, snaplen: int = 0, code: bytes = b"",
        names: Any = None,
    ) -> None:  # fmt: skip
        self.ffi, self.lib = module.ffi, module.lib
        out = self.ffi.new("struct capture **")
        held, program = self.ffi.new("int[]", list(fds)), self.ffi.from_buffer("struct packet_filter_insn[]", code)
        config = self.ffi.new("struct capture_config *", [
            held, len(fds), file_bytes, pcapng, snaplen, program, len(code) // 8, names or self.ffi.NULL,
        ])  # fmt: skip
        error = self.lib.capture_open(out, config)
        if error:
            raise OSError(-error, os.strerror(-error))
        self.c = out[0]

    def frame(
        self, *parts: bytes, direction: int = TO_GUEST, csum: tuple[int, int] | None = None, udp_size: int = 0
    ) -> None:
        buffers = [self.ffi.from_buffer(part) for part in parts]
        iov = self.ffi.new("struct iovec[]", len(parts))
        for i, part in enumerate(parts):
            iov[i].iov_base, iov[i].iov_len = buffers[i], len(part)
        offload = self.ffi.new("struct capture_offload *", [csum is not None, *(csum or (0, 0)), udp_size])
        self.lib.capture_frame(self.c, direction, iov, len(parts), offload)

    def error(self) -> int:
        return int(self.lib.capture_error(self.c))

    def counters(self) -> tuple[int, int, int]:
        counters = self.lib.capture_counters(self.c)
        return counters.frames, counters.bytes, counters.dropped

    def stop(self) -> int:
        c, self.c = self.c, None
        return int(self.lib.capture_stop(c, self.ffi.NULL))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.c is not None:
            self.stop()


@pytest.fixture(scope="module")
def module() -> Any:
    return capture_build.build_module()


@pytest.fixture(scope="module")
def stress(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capture_build.build_stress(tmp_path_factory.mktemp("stress"), "-O2")


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capture_build.build_stress(tmp_path_factory.mktemp("tsan"), "-O1", "-g", "-fsanitize=thread")


@pytest.fixture
def pipe() -> Iterator[list[int]]:
    ends = list(os.pipe())
    yield ends
    for fd in ends:
        if fd >= 0:
            os.close(fd)


def drain(fd: int, into: bytearray) -> threading.Thread:
    """Reads fd to its end in a thread."""

    def run() -> None:
        while data := os.read(fd, 1 << 20):
            into.extend(data)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def until(true: Callable[[], object]) -> None:
    """What another thread has to do, on a machine however busy."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


def fold(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1])) + (data[-1] << 8 if len(data) & 1 else 0)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def partial(version: int, protocol: int, payload: bytes) -> tuple[bytes, tuple[int, int]]:
    """A TCP (6) or UDP (17) frame whose checksum field holds only the pseudo-header's sum, and where that field is."""
    source, target = ("192.0.2.1", "192.0.2.2") if version == 4 else ("2001:db8::1", "2001:db8::2")
    addresses = ip_address(source).packed + ip_address(target).packed
    length = len(payload) + (20 if protocol == 6 else 8)
    pseudo = fold(addresses + struct.pack("!II", length, protocol))
    if protocol == 6:
        transport = struct.pack("!HHIIBBHHH", 1000, 80, 1, 1, 0x50, 0x10, 1024, pseudo, 0) + payload
    else:
        transport = struct.pack("!HHHH", 1000, 9, length, pseudo) + payload
    if version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, protocol, 0)
        check = ~fold(head + addresses) & 0xFFFF
        packet = head[:10] + struct.pack("!H", check) + addresses + transport
    else:
        packet = struct.pack("!IHBB", 0x60000000, length, protocol, 64) + addresses + transport
    frame = bytes(12) + (b"\x08\x00" if version == 4 else b"\x86\xdd") + packet
    return frame, (14 + (20 if version == 4 else 40), 16 if protocol == 6 else 6)


@pytest.mark.parametrize("pcapng", [False, True])
def test_every_frame_comes_back_with_its_bytes_length_direction_and_time(
    module: Any, tmp_path: Path, pcapng: bool
) -> None:
    """40 MB through an 8 MiB ring, in parts and of all lengths: it wraps several times, at every alignment."""
    rng = random.Random(1)
    noise = rng.randbytes(1 << 17)
    path, sent = tmp_path / "c", []
    before = time.time_ns()
    with open(path, "wb") as file, Capture(module, file.fileno(), pcapng=pcapng) as capture:
        for i in range(2400):
            start, length = rng.randrange(60000), rng.choice([0, 1, 14, 60, rng.randrange(65551), 65550])
            frame, cut = noise[start : start + length], rng.randrange(length + 1)
            capture.frame(frame[:cut], b"", frame[cut:], direction=i & 1)
            sent.append((frame, i & 1))
        assert capture.counters() == (len(sent), sum(len(frame) for frame, _ in sent), 0)
        assert capture.stop() == 0
    records, rest = (read_pcapng if pcapng else read_pcap)(path.read_bytes())
    assert rest == 0 and sum(len(frame) for frame, _ in sent) > 3 * (8 << 20)
    assert [record.frame for record in records] == [frame for frame, _ in sent]
    if pcapng:
        assert [record.direction for record in records] == [direction for _, direction in sent]
    times = [record.time_ns for record in records]
    assert before <= times[0] and times == sorted(times) and times[-1] <= time.time_ns()


@pytest.mark.parametrize("pcapng", [False, True])
def test_tshark_finds_every_checksum_good(module: Any, tmp_path: Path, pcapng: bool) -> None:
    """Both families, TCP and UDP, odd and even lengths, up to one 64 KiB segment."""
    path, lengths = tmp_path / "c", []
    payload = random.Random(2).randbytes(65536)
    with open(path, "wb") as file, Capture(module, file.fileno(), pcapng=pcapng) as capture:
        for version in (4, 6):
            for protocol in (6, 17):
                for size in (0, 1, 2, 63, 1400, 9001, 65495 if protocol == 6 else 65507):
                    frame, csum = partial(version, protocol, payload[:size])
                    capture.frame(frame[:54], frame[54:], csum=csum)
                    lengths.append(len(frame))
        assert capture.stop() == 0
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-e", "frame.len", "-e", "frame.cap_len"]
    for protocol_name in ("tcp", "udp", "ip"):
        command += ["-o", f"{protocol_name}.check_checksum:TRUE", "-e", f"{protocol_name}.checksum.status"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [(int(row[0]), int(row[1])) for row in rows] == [(length, length) for length in lengths]
    for row, expected in zip(
        rows, [("1", "", "1")] * 7 + [("", "1", "1")] * 7 + [("1", "", "")] * 7 + [("", "1", "")] * 7
    ):
        assert tuple(row[2:5]) == expected


def test_udp_checksum_that_comes_out_as_zero_is_written_as_all_ones(module: Any, tmp_path: Path) -> None:
    """RFC 768: a checksum of zero would mean that there is none."""
    frame, (start, offset) = partial(4, 17, b"\0\0")
    missing = ~fold(frame[start:]) & 0xFFFF
    frame = frame[:-2] + struct.pack("!H", missing)
    with open(tmp_path / "c", "wb") as file, Capture(module, file.fileno()) as capture:
        capture.frame(frame, csum=(start, offset))
        assert capture.stop() == 0
    record = read_pcap((tmp_path / "c").read_bytes())[0][0]
    assert record.frame[start + offset : start + offset + 2] == b"\xff\xff"


def offloaded(version: int, payload: bytes, options: bytes = b"") -> tuple[bytes, int]:
    """A UDP frame as it looks before segmentation, with IPv4 options or IPv6 extension headers, and where UDP begins."""
    frame, (start, _) = partial(version, 17, payload)
    if version == 4:
        head = bytearray(frame[14:34])
        head[0] += len(options) // 4
        head[2:4] = struct.pack("!H", len(frame) - 14 + len(options))
        head[4:6], head[10:12] = b"\xff\xff", bytes(2)  # an identification that overflows
        head[10:12] = struct.pack("!H", ~fold(bytes(head) + options) & 0xFFFF)
    else:
        head = bytearray(frame[14:54])
        head[4:6] = struct.pack("!H", len(frame) - 54 + len(options))
        head[6] = 60 if options else 17  # destination options (RFC 8200, 4.6)
    return frame[:14] + head + options + frame[start:], start + len(options)


@pytest.mark.parametrize("pcapng", [False, True])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("with_options", [False, True])
def test_each_datagram_of_an_offload_frame_is_a_packet_of_its_own(
    module: Any, tmp_path: Path, version: int, with_options: bool, pcapng: bool
) -> None:
    """Both ways (one buffer from the guest, head and body to it), up to 128 of them, the last one shorter or not."""
    path, rng, sent = tmp_path / "c", random.Random(3), []
    options = (bytes([1, 1, 1, 0]) if version == 4 else bytes([17, 0, 1, 4, 0, 0, 0, 0])) if with_options else b""
    with open(path, "wb") as file, Capture(module, file.fileno(), pcapng=pcapng) as capture:
        for size, length in ((1400, 2801), (1400, 2800), (1, 128), (499, 128 * 499), (999, 64 * 999 + 1), (32000, 64001)):
            payload = rng.randbytes(length)
            frame, udp = offloaded(version, payload, options)
            for parts, direction in (([frame], FROM_GUEST), ([frame[: udp + 8], frame[udp + 8 :]], TO_GUEST)):
                capture.frame(*parts, direction=direction, csum=(udp, 6), udp_size=size)
                sent += [(payload[at : at + size], direction) for at in range(0, length, size)]
        assert capture.counters()[::2] == (len(sent), 0)
        assert capture.stop() == 0
    names = ["udp.length", "udp.checksum.status", "ip.len", "ip.checksum.status", "ipv6.plen", "frame.len", "udp.payload"]
    checks = [word for name in ("ip", "udp") for word in ("-o", f"{name}.check_checksum:TRUE")]
    command = ["tshark", "-n", "-r", str(path), "-d", "udp.port==9,data", *checks, "-T", "fields"]
    fields = [word for name in names for word in ("-e", name)]
    result = subprocess.run([*command, *fields], capture_output=True, text=True, timeout=60, check=True)
    head = (20 if version == 4 else 40) + len(options)
    expected = []
    for data, _ in sent:
        udp_length = 8 + len(data)
        ip4, ip6 = (f"{head + udp_length}\t1", "") if version == 4 else ("\t", str(head - 40 + udp_length))
        expected.append(f"{udp_length}\t1\t{ip4}\t{ip6}\t{14 + head + udp_length}\t{data.hex()}")
    assert result.stdout.splitlines() == expected
    records, rest = (read_pcapng if pcapng else read_pcap)(path.read_bytes())
    assert rest == 0
    if pcapng:
        assert [record.direction for record in records] == [direction for _, direction in sent]
    if version == 4:
        marks = [int.from_bytes(record.frame[18:20], "big") for record in records]
        assert marks[:4] == [0xFFFF, 0, 1, 0xFFFF], "each datagram has the next identification, as the kernel gives them"


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_no_sound_offload_frame_is_kept_as_it_came(module: Any, tmp_path: Path, version: int) -> None:
    """A guest writes what it likes into the virtio-net header: nothing is cut, and no more than 128 pieces are made."""
    frame, udp = offloaded(version, bytes(1000))
    proto, first = (23, 0x65) if version == 4 else (20, 0x60)
    other = frame[:proto] + b"\x06" + frame[proto + 1 :]
    longer = frame[:14] + bytes([first + 1 if version == 4 else 0x50]) + frame[15:]
    odd = [(frame, udp, 6, size) for size in (0, 1000, 65535, 7, 1)]
    odd += [(frame, start, 6, 100) for start in (0, 13, 14, 15, 33, udp - 1, udp - 14, 1000, 1041, 65535)]
    odd += [(other, udp, 6, 100), (longer, udp, 6, 100), (frame, udp, 4, 100), (frame[: udp + 7], udp, 6, 100)]
    odd += [(frame[:12] + b"\x81\0" + frame[14:], udp, 6, 100)]
    if version == 4:
        odd += [(frame[:20] + flags + frame[22:], udp, 6, 100) for flags in (b"\x20\0", b"\0\1")]
        too_long, after = offloaded(version, bytes(1000), bytes(44))  # the length would be 16 words: IP version 5
        odd += [(too_long, after, 6, 100)]
    with open(tmp_path / "c", "wb") as file, Capture(module, file.fileno()) as capture:
        for each, start, offset, size in odd:
            capture.frame(each, csum=(start, offset), udp_size=size)
        capture.frame(frame, udp_size=100)
        capture.frame(frame[: udp + 7], frame[udp + 7 :], csum=(udp, 6), udp_size=100)
        capture.frame(frame[: udp + 8], frame[udp + 8 : 500], frame[500:], csum=(udp, 6), udp_size=100)
        assert capture.stop() == 0
    records, _ = read_pcap((tmp_path / "c").read_bytes())
    assert [len(record.frame) for record in records] == [*(len(each) for each, *_ in odd), *[len(frame)] * 3]


def test_datagrams_that_find_no_room_are_counted_one_by_one(module: Any, pipe: list[int]) -> None:
    """The reader is stuck: 8 MiB are kept and no more, whatever the frames are cut into."""
    frame, udp = offloaded(4, bytes(128))
    with Capture(module, pipe[1]) as capture:
        for _ in range(2000):
            capture.frame(frame, csum=(udp, 6), udp_size=1)
        frames, _, dropped = capture.counters()
        assert frames + dropped == 2000 * 128 and 100_000 < frames <= (8 << 20) // (16 + 43) + (1 << 20) // (16 + 43)


@pytest.mark.parametrize("csum", [(60, 0), (59, 1), (0, 59), (65535, 65535), (61, 0)])
def test_checksum_field_outside_the_frame_leaves_it_as_it_came(
    module: Any, tmp_path: Path, csum: tuple[int, int]
) -> None:
    frame = bytes(range(60))
    with open(tmp_path / "c", "wb") as file, Capture(module, file.fileno()) as capture:
        capture.frame(frame, csum=csum)
        assert capture.stop() == 0
    assert read_pcap((tmp_path / "c").read_bytes())[0][0].frame == frame


@pytest.mark.parametrize("pcapng", [False, True])
def test_file_shows_each_frame_within_100_ms_and_is_whole_when_traffic_rests(
    module: Any, tmp_path: Path, pcapng: bool
) -> None:
    path, read = tmp_path / "c", read_pcapng if pcapng else read_pcap
    with open(path, "wb") as file, Capture(module, file.fileno(), pcapng=pcapng) as capture:
        assert read(path.read_bytes()) == ([], 0)
        total = 0

        def seconds(burst: int) -> float:
            nonlocal total
            for _ in range(burst):
                capture.frame(bytes(1500))
            total += burst
            started = time.monotonic()
            until(lambda: len(read(path.read_bytes())[0]) == total)
            took = time.monotonic() - started
            assert read(path.read_bytes())[1] == 0
            return took

        for burst in (1, 2, 500, 1):
            least(lambda burst=burst: seconds(burst), below=0.1)


def test_writer_is_named_blocks_all_signals_and_sleeps_when_idle(module: Any, tmp_path: Path) -> None:
    with open(tmp_path / "c", "wb") as file, Capture(module, file.fileno()) as capture:
        capture.frame(bytes(60))
        until(lambda: [t for t in Path("/proc/self/task").iterdir() if (t / "comm").read_text() == "pasta-capture\n"])
        (task,) = [t for t in Path("/proc/self/task").iterdir() if (t / "comm").read_text() == "pasta-capture\n"]
        status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())
        blocked = int(status["SigBlk"], 16)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            assert blocked >> (number - 1) & 1

        def rests() -> bool:
            """It has not gone to sleep again, so it was not awake, for half a second."""
            found = []
            for pause in (0.5, 0):
                text = (task / "status").read_text()
                found.append(text[text.index("voluntary_ctxt_switches") :].split()[1])
                time.sleep(pause)
            return found[0] == found[1]

        until(rests)


def test_stuck_reader_costs_the_loop_100_ms_once_then_frames_are_dropped_and_counted(
    module: Any, pipe: list[int]
) -> None:
    got = bytearray()
    with Capture(module, pipe[1]) as capture:
        assert _seconds_of_2000_frames(capture) >= 0.1
        frames, _, dropped = capture.counters()
        assert frames + dropped == 2000 and frames >= 100 and dropped > 1000
        assert [capture.error(), capture.error()] == [errno.EAGAIN, 0]
        reader = drain(pipe[0], got)
        deadline = time.monotonic() + 30
        while len(got) < 24 + frames * 65566 and time.monotonic() < deadline:
            time.sleep(0.01)
        capture.frame(b"after" * 20)
        assert capture.counters() == (frames + 1, frames * 65550 + 100, dropped)
        assert capture.stop() == 0
    os.close(pipe[1])
    pipe[1] = -1
    reader.join(30)
    records, rest = read_pcap(bytes(got))
    assert (len(records), rest) == (frames + 1, 0) and records[-1].frame == b"after" * 20

    def seconds() -> float:
        with _stuck(module) as capture:
            return _seconds_of_2000_frames(capture)

    least(seconds, below=0.6)


@contextlib.contextmanager
def _stuck(module: Any) -> "Iterator[Capture]":
    """Into a pipe that nobody reads."""
    reader, writer = os.pipe()
    try:
        with Capture(module, writer) as capture:
            yield capture
    finally:
        os.close(reader)
        os.close(writer)


def _seconds_of_2000_frames(capture: Capture) -> float:
    frame, start = bytes(65550), time.monotonic()
    for _ in range(2000):
        capture.frame(frame)
    return time.monotonic() - start


def test_stop_does_not_wait_for_ever_for_a_stuck_reader(module: Any) -> None:
    def seconds() -> float:
        with _stuck(module) as capture:
            for _ in range(50):
                capture.frame(bytes(65550))
            start = time.monotonic()
            assert capture.stop() == errno.ECANCELED
            return time.monotonic() - start

    least(seconds, below=3)


def test_reader_that_leaves_ends_the_capture_with_one_report(module: Any, pipe: list[int]) -> None:
    with Capture(module, pipe[1]) as capture:
        os.close(pipe[0])
        pipe[0] = -1
        capture.frame(bytes(60))
        errors: list[int] = []
        until(lambda: errors.append(capture.error()) or errors[-1])
        assert [errors[-1], capture.error()] == [errno.EPIPE, 0]
        capture.frame(bytes(60))
        assert capture.counters() == (0, 0, 2)
        assert b"reader" in module.ffi.string(module.lib.capture_error_text(errno.EPIPE))
        assert capture.stop() == 0


def test_reader_that_leaves_does_not_kill_a_process_with_default_signals(stress: Path, pipe: list[int]) -> None:
    command = [stress, f"/proc/self/fd/{pipe[1]}", "pcap", "65550", "1000000"]
    child = subprocess.Popen(command, pass_fds=[pipe[1]], stdout=subprocess.PIPE, restore_signals=True)
    try:
        os.read(pipe[0], 100000)
        os.close(pipe[0])
        pipe[0] = -1
        output = child.communicate(timeout=60)[0].split()
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0 and int(output[4]) in (errno.EPIPE, errno.EAGAIN)


def test_full_device_is_refused_when_opening(module: Any) -> None:
    with open("/dev/full", "wb") as full, pytest.raises(OSError) as caught:
        Capture(module, full.fileno())
    assert caught.value.errno == errno.ENOSPC


def test_file_size_limit_ends_the_capture_after_a_whole_record(stress: Path, tmp_path: Path) -> None:
    """EFBIG, without dying of SIGXFSZ."""
    path = tmp_path / "c"
    limit = 1_000_003
    result = subprocess.run(
        [stress, path, "pcap", "0", "1000"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        restore_signals=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    error = result.stdout.split()[4]
    records, rest = read_pcap(path.read_bytes())
    assert result.returncode == 0 and int(error) == errno.EFBIG
    assert rest == 0 and limit - 65566 < path.stat().st_size <= limit and len(records) > 10


@pytest.mark.parametrize("kind", ["pcap", "pcapng"])
def test_full_file_system_ends_the_capture_after_a_whole_record(stress: Path, tmp_path: Path, kind: str) -> None:
    """A tmpfs of 1 MiB in a user namespace of its own."""
    script = 'set -e; mount -t tmpfs -o size=1m none "$1"; "$2" "$1/c" "$3" 0 1000 >&2; cat "$1/c"'
    (tmp_path / "mnt").mkdir()
    result = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script, "sh", str(tmp_path / "mnt"), str(stress), kind],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert int(result.stderr.split()[-1]) == errno.ENOSPC
    records, rest = (read_pcapng if kind == "pcapng" else read_pcap)(result.stdout)
    assert rest == 0 and len(result.stdout) > (1 << 20) - 70000 and len(records) > 10


def test_file_that_takes_nothing_for_2_s_costs_frames_and_one_report_but_not_the_loop(
    stress: Path, tmp_path: Path
) -> None:
    """The writer alone is stopped, as a hung disk would, by tracing its thread; the loop has gone on before that one does."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    path = tmp_path / "c"
    command = [stress, path, "pcap", "1000", "100000000", "400"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 30
        tasks: list[Path] = []
        while not tasks and time.monotonic() < deadline:
            tasks = [t for t in Path(f"/proc/{child.pid}/task").iterdir() if "pasta-cap" in (t / "comm").read_text()]
        tid = int(tasks[0].name)
        assert libc.ptrace(0x4206, tid, None, None) == 0, os.strerror(ctypes.get_errno())  # PTRACE_SEIZE
        assert libc.ptrace(0x4207, tid, None, None) == 0  # PTRACE_INTERRUPT
        os.waitpid(tid, 0x40000000)  # __WALL
        assert child.stderr and select.select([child.stderr], [], [], 60)[0] and child.stderr.readline() == "stops\n"
        assert libc.ptrace(17, tid, None, None) == 0  # PTRACE_DETACH
        output = child.communicate(timeout=60)[0].split()
    finally:
        child.kill()
        child.wait()
    frames, dropped, fed, _, error = int(output[0]), int(output[1]), float(output[2]), output[3], int(output[4])
    assert error == errno.ETIMEDOUT and dropped == 1 and 2 <= fed < 10  # on a busy machine more than the 2 s
    records, rest = read_pcap(path.read_bytes())
    assert (len(records), rest) == (frames, 0)


@pytest.mark.parametrize("arguments", [["pcap", "0", "2000", "50"], ["pcapng", "0", "3000"], ["pcap", "100", "100000"]])
def test_loop_and_writer_have_no_data_race(sanitized: Path, tmp_path: Path, arguments: list[str]) -> None:
    """ThreadSanitizer, with bursts and rests, wraps and a full ring."""
    # `make sanitize` loads another sanitizer's library into everything.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    result = subprocess.run(
        [sanitized, tmp_path / "c", *arguments], env=environment, check=False, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0 and not result.stderr, result.stderr
    records, rest = (read_pcapng if arguments[0] == "pcapng" else read_pcap)((tmp_path / "c").read_bytes())
    assert (len(records), rest) == (int(arguments[2]), 0)
    (tmp_path / "c").unlink()


# ---- filters, cut frames, rings of files ----

#: ld [12]; jeq #0x2a2a2a2a -> all of the frame, else none
ONLY_STARS = struct.pack("=HBBIHBBIHBBIHBBI", 0x20, 0, 0, 12, 0x15, 0, 1, 0x2A2A2A2A, 6, 0, 0, 65535, 6, 0, 0, 0)


def end_counts(data: bytes) -> list[tuple[int, int, int]]:
    """Of each interface statistics block: frames seen, dropped, taken by the filter (draft-ietf-opsawg-pcapng, 4.6)."""
    at, found = 0, []
    while at + 12 <= len(data):
        kind, size = struct.unpack_from("=II", data, at)
        if kind == 5:
            options = [struct.unpack_from("=HHQ", data, at + 20 + 12 * i) for i in range(3)]
            assert [option[:2] for option in options] == [(4, 8), (5, 8), (6, 8)]
            found.append((options[0][2], options[1][2], options[2][2]))
        at += size
    return found


@pytest.mark.parametrize("pcapng", [False, True])
def test_a_filter_leaves_frames_out_and_the_end_tells_how_many_there_were(module: Any, tmp_path: Path, pcapng: bool) -> None:
    path = tmp_path / "c"
    frames = [(b"*" if i % 3 == 0 else b"-") * 60 for i in range(30)]
    with open(path, "wb") as file, Capture(module, file.fileno(), pcapng=pcapng, code=ONLY_STARS) as capture:
        for frame in frames:
            capture.frame(frame[:14], frame[14:])
        assert capture.counters() == (10, 600, 0)
    records, rest = (read_pcapng if pcapng else read_pcap)(path.read_bytes())
    assert [record.frame for record in records] == [b"*" * 60] * 10 and not rest
    assert not pcapng or end_counts(path.read_bytes()) == [(30, 0, 10)]


@pytest.mark.parametrize("pcapng", [False, True])
def test_snaplen_cuts_frames_and_keeps_their_length(module: Any, tmp_path: Path, pcapng: bool) -> None:
    path = tmp_path / "c"
    frame = bytes(range(200))
    with open(path, "wb") as file, Capture(module, file.fileno(), pcapng=pcapng, snaplen=50) as capture:
        capture.frame(frame[:30], frame[30:150], frame[150:], csum=(34, 16))
        capture.frame(frame[:40])
    said = tshark(path, "frame.cap_len", "frame.len")
    assert said == ["50\t200", "40\t40"]
    records, _ = (read_pcapng if pcapng else read_pcap)(path.read_bytes())
    assert [record.frame for record in records] == [frame[:50], frame[:40]]


def tshark(path: Path, *fields: str) -> list[str]:
    words = [word for field in fields for word in ("-e", field)]
    done = subprocess.run(["tshark", "-r", str(path), "-T", "fields", *words], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("pcapng", [False, True])
@pytest.mark.parametrize("size", [60, 9000, 65000])
def test_a_ring_of_files_keeps_the_newest_frames_each_file_whole_and_below_its_size(
    module: Any, tmp_path: Path, pcapng: bool, size: int
) -> None:
    """Also a frame that is longer than a file may be: it has a file of its own."""
    limit = 20000
    paths = [tmp_path / f"c{i}" for i in range(3)]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        capture = stack.enter_context(Capture(module, *(file.fileno() for file in files), pcapng=pcapng, file_bytes=limit))
        count = 40 * limit // size + 7
        for i in range(count):
            capture.frame(struct.pack(">I", i) * (size // 4))
        assert capture.counters()[0] == count
    numbers: list[int] = []
    for path in paths:
        records, rest = (read_pcapng if pcapng else read_pcap)(path.read_bytes())
        assert records and not rest
        assert path.stat().st_size <= limit or len(records) == 1
        numbers += [struct.unpack(">I", record.frame[:4])[0] for record in records]
    assert sorted(numbers) == list(range(count - len(numbers), count))


@pytest.fixture
def names(module: Any) -> Iterator[Any]:
    held = module.ffi.new("struct capture_names *")
    assert module.lib.capture_names_init(held) == 0
    yield held
    module.lib.capture_names_free(held)


def learn(module: Any, names: Any, address: str, name: bytes) -> None:
    number = ip_address(address)
    packed = number.packed if number.version == 6 else bytes(10) + b"\xff\xff" + number.packed
    module.lib.capture_names_learn(names, module.ffi.new("struct addr *", [packed]), name, len(name))


GUEST4, DEST4, GUEST6, DEST6 = "192.0.2.1", "198.51.100.7", "2001:db8::1", "2001:db8:7::7"


def packet(src: str, dst: str, ports: tuple[int, int], *, syn: bool = False, proto: int = 6, data: bytes = b"") -> bytes:
    """An Ethernet frame, of which only the headers count here."""
    a, b = ip_address(src), ip_address(dst)
    tcp, udp = struct.pack(">HHIIBBHHH", *ports, 0, 0, 0x50, 2 if syn else 16, 0, 0, 0), struct.pack(">HHHH", *ports, 8, 0)
    transport = tcp if proto == 6 else udp
    size = len(transport) + len(data)
    if a.version == 4:
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + size, 0, 0, 64, proto, 0) + a.packed + b.packed
    else:
        header = struct.pack(">IHBB", 6 << 28, size, proto, 64) + a.packed + b.packed
    return bytes(12) + (b"\x08\x00" if a.version == 4 else b"\x86\xdd") + header + transport + data


def comments(path: Path) -> list[str]:
    return [line.strip('"') for line in tshark(path, "frame.comment")]


def test_the_frame_that_opens_a_flow_has_its_name_in_pcapng(module: Any, names: Any, tmp_path: Path) -> None:
    """Once a flow, whichever end it begins at and whatever its protocol; again for another connection between the same ports."""
    learn(module, names, DEST4, b"www.example.org")
    learn(module, names, DEST6, b"v6.example.org")
    path, last = tmp_path / "c.pcapng", "x" * 253
    with open(path, "wb") as file, Capture(module, file.fileno(), pcapng=True, names=names) as capture:
        for frame, direction in (
            (packet(GUEST4, DEST4, (1000, 443), syn=True), FROM_GUEST),
            (packet(DEST4, GUEST4, (443, 1000)), TO_GUEST),
            (packet(GUEST4, DEST4, (1000, 443), data=b"abc"), FROM_GUEST),
            (packet(GUEST4, DEST4, (1000, 443), proto=17), FROM_GUEST),
            (packet(GUEST4, DEST4, (1000, 443), proto=17), FROM_GUEST),
            (packet(GUEST6, DEST6, (1000, 443), syn=True, data=b"a"), FROM_GUEST),
            (packet(GUEST4, "198.51.100.8", (1000, 443), syn=True), FROM_GUEST),
            (packet(DEST6, GUEST6, (7, 8), proto=17, data=b"ab"), TO_GUEST),
            (packet(GUEST4, DEST4, (1000, 443), syn=True), FROM_GUEST),
            (b"\0" * 14, FROM_GUEST),
        ):
            capture.frame(frame, direction=direction)
        learn(module, names, "198.51.100.8", last.encode())
        capture.frame(packet("198.51.100.8", GUEST4, (443, 1000))[:54], b"payload", direction=TO_GUEST)
        assert capture.counters()[0] == 11
    named = ["www.example.org", "", "", "www.example.org", "", "v6.example.org", "", "v6.example.org", "www.example.org", ""]
    assert comments(path) == [*named, last]
    words = ["tshark", "-r", str(path), "-Nn", "-T", "fields", "-e", "ip.dst_host", "-e", "ipv6.dst_host"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert path.read_bytes().count(struct.pack("=HH", 1, 4 + 16) + ip_address(DEST4).packed) == 1, "and once"
    assert shown[0] == "www.example.org\t" and shown[5] == "\tv6.example.org", "the name comes before the frame"


@pytest.mark.parametrize("pcapng", [False, True])
def test_without_a_name_or_a_place_for_it_nothing_is_added(module: Any, names: Any, tmp_path: Path, pcapng: bool) -> None:
    learn(module, names, DEST4 if not pcapng else GUEST4, b"www.example.org")
    learn(module, names, DEST4, b"y" * 254)  # no name of a host is so long
    sizes = []
    for held in (names, None):
        path = tmp_path / "c"
        with open(path, "wb") as file, Capture(module, file.fileno(), pcapng=pcapng, names=held) as capture:
            capture.frame(packet(GUEST4, DEST4, (1000, 443), syn=True), direction=FROM_GUEST)
        sizes.append(path.stat().st_size)
    assert sizes[0] == sizes[1]


def test_each_file_of_a_ring_has_the_names_of_its_frames(module: Any, names: Any, tmp_path: Path) -> None:
    """A flow that goes on in the next file is named there too, within the size of a file."""
    learn(module, names, DEST4, b"www.example.org")
    paths, limit = [tmp_path / f"c{i}.pcapng" for i in range(2)], 20000
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        held = [file.fileno() for file in files]
        capture = stack.enter_context(Capture(module, *held, pcapng=True, file_bytes=limit, names=names))
        capture.frame(packet(GUEST4, DEST4, (1000, 443), syn=True), direction=FROM_GUEST)
        while os.fstat(held[1]).st_size == 0:  # the writer goes on with the second file
            capture.frame(packet(GUEST4, DEST4, (1000, 443), data=bytes(500)), direction=FROM_GUEST)
            time.sleep(0.001)  # less than a file has room for, until it is written
        capture.frame(packet(GUEST4, DEST4, (1000, 443), data=b"last"), direction=FROM_GUEST)
    assert all(comments(path).count("www.example.org") == 1 for path in paths)
    assert all(path.stat().st_size <= limit for path in paths)


def test_a_write_that_stops_in_a_name_leaves_whole_blocks(module: Any, names: Any, tmp_path: Path) -> None:
    """The file system takes a part of what is written: the file ends with a whole block, and frames alone are counted."""
    learn(module, names, DEST4, b"www.example.org")
    frame = packet(GUEST4, DEST4, (1000, 443), syn=True)
    with open(tmp_path / "whole", "wb") as file, Capture(module, file.fileno(), pcapng=True, names=names) as capture:
        capture.frame(frame, direction=FROM_GUEST)
    head = len((tmp_path / "whole").read_bytes()) - 64  # without the statistics
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for cut in (1, 60, 140):
        path = tmp_path / f"cut{cut}"
        with open(path, "wb") as file:
            capture = Capture(module, file.fileno(), pcapng=True, names=names)
            before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (head - cut, limits[1]))
            try:
                capture.frame(frame, direction=FROM_GUEST)
                assert capture.stop() == errno.EFBIG
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
                signal.signal(signal.SIGXFSZ, before)
        records, rest = read_pcapng(path.read_bytes())
        assert (records, rest) == ([], 0)


def test_a_filter_that_is_no_program_is_refused(module: Any, tmp_path: Path) -> None:
    with open(tmp_path / "c", "wb") as file, pytest.raises(OSError) as caught:
        Capture(module, file.fileno(), code=b"\xff" * 8)
    assert caught.value.errno == errno.EINVAL
    assert (tmp_path / "c").read_bytes() == b""
