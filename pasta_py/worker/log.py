"""Where log lines go: to standard error, to a log file of limited size, to syslog or to systemd-journald. As text or JSON.

A line that is about a flow has " [flow NAME]" in it, NAME as in docs/control.md. JSON and the journal get it as a field.

Invariant: a log never stops the worker. A line that cannot be written (full disk, full pipe) is dropped and counted; the count is
written before the next line that can be.

A full file keeps its newest half. It is shortened in place, because the sandboxed worker can neither rename nor open a file.
"""

import _socket
import posix as os  # os takes 0.8 ms to import
import time

from pasta_py.worker import plane

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.model import WorkerPlan

ERROR, WARNING, INFO, DEBUG, TRACE = range(5)
NAMES = ("error", "warning", "info", "debug", "trace")
_SEVERITIES = (3, 4, 6, 7, 7)  # RFC 5424, 6.2.1
_DAEMON = 3 << 3  # RFC 5424, 6.2.1: facility 3
_COPY_BYTES = 64 << 10
_CUT_CHARACTERS = 256  # of a JSON object that is larger than the file may be: 12 bytes at most for each, of 4096 or more


class Log:
    """One sink. `write` never raises and never waits for a reader."""

    def __init__(self, fd: int, plan: "WorkerPlan", pid: int) -> None:
        self._fd, self._level, self._limit = fd, plan.log_level, plan.log_size
        self._program, self.pid = plan.program, pid
        self.lost = 0  # lines since the last that was written
        self._socket = _socket.socket(fileno=fd) if plan.log_syslog else None
        self._format = plan.log_format
        if self._format == "json":
            from pasta_py.worker import json_lines  # noqa: F401  # read before the lock-in (later.py)

    def write(self, level: int, text: str, *, asked: bool = False) -> None:
        """Write one line, given without newline, if the log level includes it. `asked`: at any log level."""
        if (level > self._level and not asked) or self._fd < 0:
            return
        if self.lost:
            note = f"{self.lost} lines of the log were lost"
            if not self._put(WARNING, note):
                self.lost += 1
                return
            self.lost = 0
        if not self._put(level, text):
            self.lost += 1

    def close(self) -> None:
        """Close the descriptor; later lines are dropped."""
        if self._socket:
            self._socket.close()
        elif self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _put(self, level: int, text: str) -> bool:
        level = min(max(level, 0), TRACE)
        text = "".join(c if c >= " " else "?" for c in text)
        try:
            if self._socket and self._format == "journal":
                data = self._fields(level, text)
                return self._socket.send(data, _socket.MSG_DONTWAIT) == len(data)
            if self._socket:
                text = self._object(level, text) if self._format == "json" else text
                stamp = time.strftime("%b %e %H:%M:%S")  # RFC 3164, 4.1.2
                head = f"<{_DAEMON | _SEVERITIES[level]}>{stamp} {self._program}[{self.pid}]: "
                line = (head + text).encode("utf-8", "replace")
                return self._socket.send(line, _socket.MSG_DONTWAIT) == len(line)
            if self._format == "json":
                line = self._object(level, text).encode() + b"\n"
                if self._limit and len(line) > self._limit:
                    line = self._object(level, text[:_CUT_CHARACTERS]).encode() + b"\n"
                if self._limit:
                    return self._append(line)
                plane.log_line(self._fd, line)
                return True
            if self._limit:
                line = f"{_timestamp()} {NAMES[level]}: {text}\n".encode("utf-8", "replace")
                return self._append(line[: self._limit])
            prefix = "" if level in (INFO, DEBUG, TRACE) else f"{NAMES[level]}: "
            line = f"{self._program}: {prefix}{text}\n".encode("utf-8", "replace")
            plane.log_line(self._fd, line)
            return True
        except OSError:
            return False

    def _object(self, level: int, text: str) -> str:
        """The line as a JSON object."""
        from pasta_py.worker import json_lines

        message, flow = _divided(text)
        members: dict[str, json_lines.Value] = {
            "time": _timestamp(), "level": NAMES[level], "program": self._program, "pid": self.pid, "message": message
        }  # fmt: skip
        return json_lines.text({**members, "flow": flow} if flow else members)

    def _fields(self, level: int, text: str) -> bytes:
        """The line in journald's own protocol (systemd: JOURNAL_NATIVE_PROTOCOL): NAME=VALUE, a line each."""
        message, flow = _divided(text)
        fields = [
            f"MESSAGE={message}", f"PRIORITY={_SEVERITIES[level]}", f"SYSLOG_FACILITY={_DAEMON >> 3}",
            f"SYSLOG_IDENTIFIER={self._program}", f"SYSLOG_PID={self.pid}", f"PASTA_LEVEL={NAMES[level]}",
            *([f"PASTA_FLOW={flow}"] if flow else []),
        ]  # fmt: skip
        return ("\n".join(fields) + "\n").encode("utf-8", "replace")

    def _append(self, line: bytes) -> bool:
        size = os.fstat(self._fd).st_size
        if size + len(line) > self._limit:
            size = self._shorten(size, min(self._limit // 2, self._limit - len(line)))
        written = os.pwrite(self._fd, line, size)
        if written < len(line):
            os.ftruncate(self._fd, size)  # the disk is full: leave no part of a line
        return written == len(line)

    def _shorten(self, size: int, keep: int) -> int:
        """Move the whole lines among the newest `keep` bytes to the front; returns the new size."""
        source, target = max(size - keep, 0), 0
        piece = os.pread(self._fd, _COPY_BYTES, source)
        cut = piece.find(b"\n") + 1 if source else 0
        source += cut if cut else len(piece)
        while piece := os.pread(self._fd, _COPY_BYTES, source):
            source += len(piece)
            while piece:
                written = os.pwrite(self._fd, piece, target)
                target += written
                piece = piece[written:]
        os.ftruncate(self._fd, target)
        return target


def _divided(text: str) -> tuple[str, str]:
    """The message without the name of its flow, and the name or ""."""
    head, _, rest = text.partition(" [flow ")
    flow, _, tail = rest.partition("]")
    return head + tail, flow


def _timestamp() -> str:
    now = time.time_ns()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now // 10**9))}.{now // 1000 % 10**6:06}Z"
