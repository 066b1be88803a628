"""`pasta-py capture`: captures the frames of a running instance, for a while.

The instance sends records over its control socket (docs/control.md). Here they get a file: pcap or pcapng, one or a ring.
"""

import contextlib
import ipaddress
import json
import os
import signal
import socket
import stat
import struct
import sys
import threading
import time
from pathlib import Path

from pasta_py import defaults
from pasta_py.control.start import capture_filter
from pasta_py.control.start.notices import complain
from pasta_py.control.subcommands import command, instances
from pasta_py.errors import ControlError, HostError, UsageError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

_SUMMARY = "Capture the frames of a running instance to a file or a program, until Ctrl-C or the instance's end."
_RECEIVE_BYTES = 256 << 10
_RECORD_HEAD = struct.Struct("=IIII")  # seconds, nanoseconds, captured and full length (draft-ietf-opsawg-pcap, 5)
_END = b"\xff" * _RECORD_HEAD.size
_TO_GUEST = 1 << 31  # in the full length
_ETHERNET = 1  # LINKTYPE_ETHERNET
_REQUEST_BYTES = 15 << 10
_NAMES_MAX = 8192


def main(argv: "Sequence[str]") -> int:
    from typing import Annotated

    import typer

    def capture(
        words: Annotated[
            list[str] | None,
            typer.Argument(metavar="[PID|SOCKET] [FILTER]...", help="Which instance; which frames, in tcpdump's language."),
        ] = None,
        write: Annotated[
            str, typer.Option("--write", "-w", metavar="FILE", help="`-` is standard output; .pcapng gives that format.")
        ] = "",
        instance: Annotated[str, typer.Option("--instance", "-i", metavar="NAME", help="An instance by its name in ps.")] = "",
        snaplen: Annotated[int, typer.Option(min=0, max=capture_filter.MAX_BYTES, help="Bytes of each frame; 0: all.")] = 0,
        size: Annotated[int, typer.Option(min=0, help="Write a ring of files, each of this many bytes at most.")] = 0,
        files: Annotated[int, typer.Option(min=2, max=1000, help="How many files --size writes in turn.")] = 2,
        count: Annotated[int, typer.Option("--count", "-c", min=0, help="End after this many frames; 0: do not.")] = 0,
    ) -> int:
        if not write:
            raise UsageError("no file is named: give --write FILE, or --write - and a program behind a pipe")
        target, expression = _divide(words or [], instance)
        code = capture_filter.compiled(expression, "the filter")
        output = _Output(write, size, files, snaplen or capture_filter.MAX_BYTES)
        return _Session(instances.find(target), code, snaplen).run(output, count)

    return command.run("capture", argv, capture, summary=_SUMMARY)


def _divide(words: "list[str]", instance: str) -> tuple[str, str]:
    """Which instance is meant, and the filter. A filter never begins with a number or a path of a socket."""
    if not instance and words and (words[0].isdigit() or ("/" in words[0] and _is_socket(words[0]))):
        return words[0], " ".join(words[1:])
    return instance, " ".join(words)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


class _Output:
    """Where records go."""

    def __init__(self, path: str, size: int, files: int, snaplen: int) -> None:
        self._size, self._files, self._snaplen = size, files, snaplen
        self._path, self._number, self._at, self._used = path, 0, 0, False
        self._ng = path.endswith(".pcapng")
        if size and path == "-":
            raise UsageError("--write - is a stream, and --size is for files: leave out one of them")
        if path == "-" and os.isatty(1):
            raise UsageError("standard output is a terminal: send the capture to a file or a program (> FILE, | PROGRAM)")
        self._file = self._open()
        self.written = 0
        self.names: dict[str, str] = {}  # by address; another thread adds some

    def _open(self) -> "BinaryIO":
        self._number = self._number % self._files + 1
        path = Path(self._path)
        if self._size:
            path = path.with_name(f"{path.stem}.{self._number}{path.suffix}")
        try:
            file: BinaryIO = sys.stdout.buffer if self._path == "-" else path.open("wb", buffering=1 << 18)
        except OSError as error:
            why = reason(error, "choose a path that can be written")
            raise HostError(f"Couldn't open the capture file {str(path)!r}: {why}") from None
        head = _ng_head(self._snaplen) if self._ng else _pcap_head(self._snaplen)
        file.write(head)
        self._at, self._used, self._named = len(head), False, 0
        return file

    def add(self, seconds: int, nanoseconds: int, full_len: int, data: bytes) -> None:
        """`full_len`: with the bit for the direction."""
        if self._ng:
            record = _ng_packet(seconds * 10**9 + nanoseconds, full_len, data)
        else:
            record = _RECORD_HEAD.pack(seconds, nanoseconds, len(data), full_len & ~_TO_GUEST) + data
        self._write_names()
        if self._size and self._used and self._at + len(record) > self._size:
            self._file.close()
            self._file = self._open()
            self._write_names()
        self._file.write(record)
        self._at, self._used = self._at + len(record), True
        self.written += 1

    @property
    def wants_names(self) -> bool:
        return self._ng

    def flush(self) -> None:
        """For a reader that shows what comes."""
        self._file.flush()

    def _write_names(self) -> None:
        """Write the names that this file does not have yet, unless they would take the room of frames."""
        if not self._ng or len(self.names) == self._named:
            return
        known = [*self.names.items()]
        block, self._named = _ng_names(dict(known[self._named :])), len(known)
        if not self._size or self._at + len(block) < self._size // 2:
            self._file.write(block)
            self._at += len(block)

    def close(self, matched: int, dropped: int) -> None:
        if self._ng:
            self._write_names()
            self._file.write(_ng_statistics(matched, dropped))
        self._file.flush()


def _pcap_head(snaplen: int) -> bytes:
    """draft-ietf-opsawg-pcap, 4, with the magic number for nanoseconds."""
    return struct.pack("=IHHIIII", 0xA1B23C4D, 2, 4, 0, 0, snaplen, _ETHERNET)


def _ng_block(kind: int, body: bytes) -> bytes:
    """draft-ietf-opsawg-pcapng, 3.1."""
    size = struct.pack("=I", len(body) + 12)
    return struct.pack("=I", kind) + size + body + size


def _ng_head(snaplen: int) -> bytes:
    """Section header and interface (draft-ietf-opsawg-pcapng, 4.1 and 4.2), times in nanoseconds."""
    section = struct.pack("=IHHq", 0x1A2B3C4D, 1, 0, -1)
    interface = struct.pack("=HHI", _ETHERNET, 0, snaplen) + struct.pack("=HHB3xI", 9, 1, 9, 0)
    return _ng_block(0x0A0D0D0A, section) + _ng_block(1, interface)


def _ng_packet(time_ns: int, full_len: int, data: bytes) -> bytes:
    """draft-ietf-opsawg-pcapng, 4.3; inbound is to the guest."""
    head = struct.pack("=IIIII", 0, time_ns >> 32, time_ns & 0xFFFFFFFF, len(data), full_len & ~_TO_GUEST)
    flags = struct.pack("=HHII", 2, 4, 1 if full_len & _TO_GUEST else 2, 0)
    return _ng_block(6, head + data + bytes(-len(data) % 4) + flags)


def _ng_names(names: "dict[str, str]") -> bytes:
    """draft-ietf-opsawg-pcapng, 4.5: a name for each address, in records of 4 and 16 bytes and the name with a zero."""
    records = b""
    for address, name in names.items():
        packed = ipaddress.ip_address(address).packed
        value = packed + name.encode("ascii", "replace") + b"\0"
        records += struct.pack("=HH", 1 if len(packed) == 4 else 2, len(value)) + value + bytes(-len(value) % 4)
    return _ng_block(4, records + bytes(4))


def _ng_statistics(matched: int, dropped: int) -> bytes:
    """draft-ietf-opsawg-pcapng, 4.6: frames dropped, and taken by the filter."""
    now = time.time_ns()
    options = struct.pack("=HHQ", 5, 8, dropped) + struct.pack("=HHQ", 6, 8, matched) + bytes(4)
    return _ng_block(5, struct.pack("=III", 0, now >> 32, now & 0xFFFFFFFF) + options)


def _learn(names: "dict[str, str]", flows: "list[dict[str, object]]") -> None:
    for flow in flows:
        if flow.get("name") and len(names) < _NAMES_MAX:
            names[str(ipaddress.ip_address(str(flow["dest"])))] = str(flow["name"])


class _Session:
    """One capture over a control socket."""

    def __init__(self, instance: "instances.Instance", code: bytes, snaplen: int) -> None:
        if len(code) * 2 > _REQUEST_BYTES:
            raise UsageError("the filter is too long for a running instance: make it simpler, or start with --pcap-filter")
        self._instance, self._ended = instance, False
        self._request = {"v": instances.VERSION, "command": "capture", "filter": code.hex(), "snaplen": snaplen}
        self._dropped: int | None = None  # None: the instance has not said

    def run(self, output: _Output, count: int) -> int:
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(defaults.CONTROL_ANSWER_S)
                sock.connect(self._instance.path)
                sock.sendall(json.dumps(self._request).encode() + b"\n")
                if output.wants_names:
                    threading.Thread(target=self._follow_names, args=[output.names], daemon=True).start()
                self._capture(sock, output, count)
        except TimeoutError:
            raise ControlError(f"instance {self._instance.pid} does not answer: is it stopped?") from None
        except OSError as error:
            raise ControlError(f"instance {self._instance.pid} cannot be asked: {error.strerror}") from None
        if output.wants_names:
            with contextlib.suppress(ControlError, ValueError, KeyError):
                _learn(output.names, self._instance.flows())  # those whose beginning has not been told yet
        dropped = self._dropped or 0
        try:
            output.close(output.written + dropped, dropped)
        except BrokenPipeError:
            pass
        lost = "the instance has ended" if self._dropped is None else f"{dropped} left out"
        complain(f"pasta-py capture: {output.written} frames written, {lost}\n")
        return 0

    def _follow_names(self, names: "dict[str, str]") -> None:
        """What the instance knows of names, from the flows that are open and those that come: a connection of its own."""
        with contextlib.suppress(ControlError, ValueError, KeyError):
            for answer in self._instance.lines("flows", follow=True):
                _learn(names, answer.get("flows", [answer]))

    def _capture(self, sock: socket.socket, output: _Output, count: int) -> None:
        chunks = self._chunks(sock)
        line, _, rest = self._line(chunks)
        answer = json.loads(line)
        if "error" in answer:
            raise ControlError(f"instance {self._instance.pid}: {instances.plain(answer['error'])}")
        sock.settimeout(None)

        def end(*_: object) -> None:
            """Ask for the end, once: what was captured before still comes."""
            if not self._ended:
                self._ended = True
                sock.sendall(b'{"command":"end"}\n')

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, end)
        try:
            for record in self._records(rest, chunks, output):
                if not self._ended or not count:
                    output.add(*record)
                if count and output.written >= count:
                    end()
        except BrokenPipeError:  # the program behind the pipe has ended
            end()
            self._dropped = 0
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    @staticmethod
    def _line(chunks: "Iterator[bytes]") -> tuple[bytes, bytes, bytes]:
        data = b""
        for chunk in chunks:
            data += chunk
            if b"\n" in data:
                return data.partition(b"\n")
        raise ControlError("the instance has ended, or is not yours")

    @staticmethod
    def _chunks(sock: socket.socket) -> "Iterator[bytes]":
        while data := sock.recv(_RECEIVE_BYTES):
            yield data

    def _records(self, data: bytes, chunks: "Iterator[bytes]", output: _Output) -> "Iterator[tuple[int, int, int, bytes]]":
        """Seconds, nanoseconds, full length with the direction, and bytes, until the instance says that this is the end."""
        while True:
            at = 0
            while len(data) - at >= _RECORD_HEAD.size:
                if data[at : at + _RECORD_HEAD.size] == _END:
                    line = self._line_behind(data[at + _RECORD_HEAD.size :], chunks)
                    self._dropped = int(json.loads(line)["captured"]["dropped"])
                    return
                seconds, nanoseconds, size, full_len = _RECORD_HEAD.unpack_from(data, at)
                if len(data) - at - _RECORD_HEAD.size < size:
                    break
                at += _RECORD_HEAD.size
                yield seconds, nanoseconds, full_len, data[at : at + size]
                at += size
            output.flush()
            chunk = next(chunks, b"")
            if not chunk:
                return
            data = data[at:] + chunk

    def _line_behind(self, data: bytes, chunks: "Iterator[bytes]") -> bytes:
        while b"\n" not in data:
            chunk = next(chunks, b"")
            if not chunk:
                raise ControlError("the instance has ended in the middle of a line")
            data += chunk
        return data.partition(b"\n")[0]
