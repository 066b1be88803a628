"""`--learn`: tells the writer (control/start/learn_writer.py) what the guest has opened and asked for, as records of text.

A record is a line with tabs: "connect" or "query", the name or "", the address, the port, the protocol, how often, and when first
in milliseconds of the epoch. A message has whole records, _MESSAGE_BYTES at most.

Invariants: at most _KEPT things are remembered, so a guest that invents names fills no memory. Nothing here waits: what the writer
has no room for goes with the next message.
"""

import posix as os  # lean imports: docs/architecture.md
import time

from pasta_py.worker import denials, dns_decide, event_readers, plane

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.worker.decisions import Origin

    #: kind, name, address, port, protocol
    Key = tuple[str, str, str, int, str]

_KEPT = 4096
_MESSAGE_BYTES = 32 << 10


class Learner:
    """Counts what is let pass, and sends it to the writer at `fd`."""

    def __init__(self, fd: int, origin: "Origin") -> None:
        self._fd, self._origin = fd, origin
        self._known: dict[Key, int] = {}  # when first
        self._unsent: dict[Key, int] = {}  # how often

    def on_records(self, records: bytes) -> None:
        """Records of flow events, as of Plane.take_events()."""
        clock_ms = event_readers.clock_ms()
        for flow in plane.judged_flows(records):
            if flow.outcome:
                continue
            found = self._origin(flow.dest, (flow.at_ms + 1) / 1000)
            protocol = "icmp" if flow.protocol == denials.PING else flow.protocol
            address = dns_decide.shown_address(flow.dest)
            self._count(("connect", found.name if found else "", address, flow.port, protocol), flow.at_ms + clock_ms)
        self._send()

    def on_query(self, judgement: "dns_decide.Judgement", name: str, _kind: int, _guest: bytes) -> None:
        """As Service.on_judged has it."""
        if judgement.what == dns_decide.ALLOWED:
            self._count(("query", name, "", 0, ""), time.time_ns() // 10**6)

    def finish(self) -> None:
        """The last message."""
        self._send()

    def _count(self, key: "Key", real_ms: int) -> None:
        if key not in self._known:
            if len(self._known) >= _KEPT:
                return
            self._known[key] = real_ms
        self._unsent[key] = self._unsent.get(key, 0) + 1

    def _send(self) -> None:
        while self._unsent:
            message, sent = b"", []
            for key, count in self._unsent.items():
                record = "\t".join((*map(str, key), str(count), str(self._known[key]))).encode("ascii", "replace") + b"\n"
                if len(message) + len(record) > _MESSAGE_BYTES:
                    break
                message += record
                sent.append(key)
            try:
                os.write(self._fd, message)
            except OSError:  # no room, or the writer is gone
                return
            for key in sent:
                del self._unsent[key]
