"""Starts the program for the API, and reads how its start ended."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pasta_py
from pasta_py.control.api.arguments import Published
from pasta_py.errors import HostError, PastaError, UsageError, WorkerError

_SCRIPT = Path(pasta_py.__file__).with_name("control") / "start" / "script.py"
START = [sys.executable, "-IS", str(_SCRIPT)]
_KINDS = {each.__name__: each for each in (PastaError, UsageError, HostError, WorkerError)}
_TOLD_BYTES = 4096


class Start:
    """One start of the program: the words before its options, descriptors to pass, and how it ended. Context manager."""

    def __init__(self, published: Published) -> None:
        self._read, self._write = os.pipe()
        self._sockets = published.sockets

    def __enter__(self) -> "Start":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.passed()
        os.close(self._read)

    def command(self, name: str) -> list[str]:
        """The words before the options; `name`: "pasta" or "pasta-py"."""
        sockets = ",".join(f"{sock.fileno()}:{target}" for sock, target in self._sockets)
        return [*START, "pasta-api", str(self._write), sockets, name]

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self._write, *(sock.fileno() for sock, _target in self._sockets))

    def passed(self) -> None:
        """Close this process's end: the program has its own."""
        if self._write >= 0:
            os.close(self._write)
            self._write = -1

    def wait(self) -> None:
        """Wait until the start is over; the PastaError that ended it."""
        self.passed()
        told = b""
        while piece := os.read(self._read, _TOLD_BYTES):
            told += piece
        if told:
            kind, _, text = told.decode("utf-8", "replace").partition(": ")
            raise _KINDS.get(kind, PastaError)(text)


def pid_text(pid: int) -> str:
    """A PID as a word; UsageError for what is none."""
    if isinstance(pid, bool) or not isinstance(pid, int) or pid <= 0:
        raise UsageError(f"netns {pid!r}: expected a PID, a path or a name")
    return str(pid)


def command_words(args: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The words of a command; UsageError for what is none."""
    if isinstance(args, str | bytes) or not isinstance(args, Sequence) or not args:
        raise UsageError(f"command {args!r}: expected a list of words, the program first")
    words = [os.fspath(word) if isinstance(word, os.PathLike) else word for word in args]
    if not all(isinstance(word, str) for word in words):
        raise UsageError(f"command {args!r}: expected words of text")
    return words
