"""The command `capture` of the control socket: from its answer on, the connection carries captured frames (docs/control.md).

The core writes them itself, records of pcap or a whole pcapng file, so that a busy guest costs no Python. Any byte from the client
ends it.
"""

from pasta_py.errors import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

    from pasta_py.worker import event_readers, plane
    from pasta_py.worker.json_lines import Object, Value

#: In place of the header of a record: what follows is a line again.
END = b"\xff" * 16
_ROOM_BYTES = 2 << 20  # asked for in the socket; the kernel gives what it allows (net.core.wmem_max)
_MAX_SNAPLEN, _MAX_SIZE = 262144, 1 << 38
_SOL_SOCKET, _SO_SNDBUF = 1, 7  # asm-generic/socket.h


def format_of(request: "Object") -> str:
    """What is asked for: pcap or pcapng. ControlError: something else."""
    name = request.get("format", "pcap")
    if name == "pcap" or name == "pcapng":
        return name
    raise ControlError("format is pcap or pcapng")


def _number(request: "Object", name: str, most: int) -> int:
    value = request.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ControlError(f"{name} is a number from 0 to {most}")
    return value


class Capture:
    """A capture to one client."""

    def __init__(
        self, core: "plane.Plane", readers: "event_readers.Readers", sock: "_socket.socket", request: "Object", answer: bytes
    ) -> None:  # fmt: skip
        """`answer`: the line that goes before the frames. ControlError: what is asked for is refused."""
        code = request.get("filter", "")
        snaplen, size = _number(request, "snaplen", _MAX_SNAPLEN), _number(request, "size", _MAX_SIZE)
        try:
            if not isinstance(code, str):
                raise ValueError
            program = bytes.fromhex(code)
        except ValueError:
            raise ControlError("filter is a program of classic BPF in hexadecimal digits") from None
        if len(program) % 8:
            raise ControlError("filter is no program: instructions have 8 bytes")
        pcapng = format_of(request) == "pcapng"
        sock.setsockopt(_SOL_SOCKET, _SO_SNDBUF, _ROOM_BYTES)
        try:
            self._number = core.attach_capture(sock.fileno(), program, snaplen, answer, pcapng=pcapng, size=size)
        except BlockingIOError:
            raise ControlError("others capture already, as many as can: end one of them") from None
        except OSError as error:
            raise ControlError(f"the filter is refused: {error.strerror}") from None
        self._core, self._named_by = core, readers if pcapng else None
        if self._named_by:
            self._named_by.name_captures(True)

    def end(self) -> "tuple[bytes, dict[str, Value]]":
        """What of the last record, and of the end of a pcapng file, the client has not got; and what there was."""
        if self._named_by:
            self._named_by.name_captures(False)
        rest, frames, size, dropped = self._core.detach_capture(self._number)
        return rest, {"captured": {"frames": frames, "bytes": size, "dropped": dropped}}
