"""`pasta-py capture`: captures the frames of a running instance, for a while.

The instance sends records of pcap or blocks of pcapng over its control socket (docs/control.md). Here they get a file, or a ring.
"""

import json
import os
import signal
import socket
import stat
import struct
import sys
from contextlib import contextmanager
from pathlib import Path

from pasta_py import defaults
from pasta_py.control.commandline.notices import complain
from pasta_py.control.start import capture_filter
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
_BLOCK_HEAD = struct.Struct("=II")  # type and length (draft-ietf-opsawg-pcapng, 3.1)
_FILE, _FRAME, _OTHER = range(3)  # kinds of records
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Section header, with which a file begins, and enhanced packet (draft-ietf-opsawg-pcapng, 4.1, 4.3)
_KINDS = {0x0A0D0D0A: _FILE, 6: _FRAME}


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
        snaplen: Annotated[
            int, typer.Option(metavar="BYTES", min=0, max=capture_filter.MAX_BYTES, help="How much of each frame; 0: all.")
        ] = 0,
        size: Annotated[
            int | None,
            typer.Option(metavar="BYTES", min=defaults.CAPTURE_FILE_MIN_BYTES, help="Write a ring of files of at most this size."),
        ] = None,
        files: Annotated[int, typer.Option(metavar="COUNT", min=2, max=1000, help="How many files --size writes in turn.")] = 2,
        count: Annotated[
            int, typer.Option("--count", "-c", metavar="FRAMES", min=0, help="End after this many frames; 0: do not.")
        ] = 0,
    ) -> int:
        if not write:
            raise UsageError("no file is named: give --write FILE, or --write - and a program behind a pipe")
        target, expression = _divide(words or [], instance)
        code = capture_filter.compiled(expression, "the filter")
        output = _Output(write, size or 0, files, snaplen or capture_filter.MAX_BYTES)
        return _Session(instances.find(target), code, snaplen, output.format, size or 0).run(output, count)

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
        self._size, self._files = size, files
        self._path, self._number, self._at, self._used = path, 0, 0, False
        self.format = "pcapng" if path.endswith(".pcapng") else "pcap"
        if size and path == "-":
            raise UsageError("--write - is a stream, and --size is for files: leave out one of them")
        if path == "-" and os.isatty(1):
            raise UsageError("standard output is a terminal: send the capture to a file or a program (> FILE, | PROGRAM)")
        self._head = b"" if self.format == "pcapng" else _pcap_head(snaplen)
        self._file = self._open()
        self.written = 0

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
        with self._refusing():
            file.write(self._head)
        self._at, self._used = len(self._head), False
        return file

    def add(self, kind: int, record: bytes) -> None:
        """The instance itself divides pcapng into files: each has the names of its own frames."""
        with self._refusing():
            full = self._head and kind == _FRAME and self._size and self._at + len(record) > self._size
            if self._used and (full or kind == _FILE):
                self._file.close()
                self._file = self._open()
            if kind == _FRAME:
                self._used = True
                self.written += 1
            self._file.write(record)
        self._at += len(record)

    def flush(self) -> None:
        """For a reader that shows what comes."""
        with self._refusing():
            self._file.flush()

    @contextmanager
    def _refusing(self) -> "Iterator[None]":
        """A file that takes nothing ends the capture. A reader that has gone is for the caller."""
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            what = "standard output" if self._path == "-" else f"the capture file {self._path!r}"
            raise HostError(f"Couldn't write to {what}: {reason(error, 'choose another place')}") from None


def _pcap_head(snaplen: int) -> bytes:
    """draft-ietf-opsawg-pcap, 4, with the magic number for nanoseconds."""
    return struct.pack("=IHHIIII", 0xA1B23C4D, 2, 4, 0, 0, snaplen, _ETHERNET)


def _pcap_record(data: bytes, at: int) -> tuple[int, int, bytes]:
    """Of what comes: its size, its kind, and what goes into the file. The file has no place for the direction."""
    seconds, nanoseconds, size, full_len = _RECORD_HEAD.unpack_from(data, at)
    end = at + _RECORD_HEAD.size + size
    head = _RECORD_HEAD.pack(seconds, nanoseconds, size, full_len & ~_TO_GUEST)
    return end - at, _FRAME, head + data[at + _RECORD_HEAD.size : end]


def _pcapng_block(data: bytes, at: int) -> tuple[int, int, bytes]:
    """The same for a block."""
    number, size = _BLOCK_HEAD.unpack_from(data, at)
    return size, _KINDS.get(number, _OTHER), data[at : at + size]


class _Session:
    """One capture over a control socket."""

    def __init__(self, instance: "instances.Instance", code: bytes, snaplen: int, form: str, size: int) -> None:
        if len(code) * 2 > _REQUEST_BYTES:
            raise UsageError("the filter is too long for a running instance: make it simpler, or start with --pcap-filter")
        self._instance, self._ended, self._format = instance, False, form
        request = {"v": instances.VERSION, "command": "capture", "filter": code.hex(), "snaplen": snaplen}
        self._request = {**request, "format": form, "size": size} if form != "pcap" else request
        self._dropped: int | None = None  # None: the instance has not said

    def run(self, output: _Output, count: int) -> int:
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(defaults.CONTROL_ANSWER_S)
                sock.connect(self._instance.path)
                self._begin(sock)
                self._capture(sock, output, count)
        except TimeoutError:
            raise ControlError(f"instance {self._instance.pid} does not answer: is it stopped?") from None
        except OSError as error:
            raise ControlError(f"instance {self._instance.pid} cannot be asked: {error.strerror}") from None
        try:
            output.flush()
        except BrokenPipeError:
            pass
        lost = "the instance has ended" if self._dropped is None else f"{self._dropped} left out"
        complain(f"pasta-py capture: {output.written} frames written, {lost}\n")
        return 0

    def _begin(self, sock: socket.socket) -> None:
        """Send the request. A signal that comes from then on asks for the end, also before the instance has answered."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        for number in _ENDING:
            signal.signal(number, lambda *_: self._end(sock))
        sock.sendall(json.dumps(self._request).encode() + b"\n")
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)

    def _end(self, sock: socket.socket) -> None:
        """Ask for the end, once: what was captured before still comes."""
        if not self._ended:
            self._ended = True
            sock.sendall(b'{"command":"end"}\n')

    def _capture(self, sock: socket.socket, output: _Output, count: int) -> None:
        chunks = self._chunks(sock)
        line, _, rest = self._line(chunks)
        answer = json.loads(line)
        if "error" in answer:
            raise ControlError(f"instance {self._instance.pid}: {instances.plain(answer['error'])}")
        if answer.get("format", "pcap") != self._format:
            raise ControlError(f"instance {self._instance.pid} is of a version that does not send pcapng: choose a .pcap file")
        sock.settimeout(None)
        try:
            for kind, record in self._records(rest, chunks, output):
                if kind != _FRAME or not self._ended or not count:
                    output.add(kind, record)
                if count and output.written >= count:
                    self._end(sock)
        except BrokenPipeError:  # the program behind the pipe has ended
            self._end(sock)
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

    def _records(self, data: bytes, chunks: "Iterator[bytes]", output: _Output) -> "Iterator[tuple[int, bytes]]":
        """Kinds and records, until the instance says that this is the end."""
        split = _pcap_record if self._format == "pcap" else _pcapng_block
        while True:
            at = 0
            while len(data) - at >= _RECORD_HEAD.size:
                if data[at : at + _RECORD_HEAD.size] == _END:
                    line = self._line_behind(data[at + _RECORD_HEAD.size :], chunks)
                    self._dropped = int(json.loads(line)["captured"]["dropped"])
                    return
                size, kind, record = split(data, at)
                if len(data) - at < size:
                    break
                yield kind, record
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
