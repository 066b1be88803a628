"""Metrics for Prometheus over HTTP/1.1 (--metrics), in its text format 0.0.4 or as OpenMetrics 1.0. Loaded with that option only.

docs/metrics.md lists what there is. A request costs one look at the counters, as --stats does.

Invariants: nothing here blocks. A client has one request of at most REQUEST_BYTES and one answer. There are at most CLIENTS: a
newer one takes the place of the oldest, so that one which says nothing cannot keep others out. An answer is shorter than what any
new connection has room for (16 KiB, tcp(7)), so it is sent at once or not at all.
"""

import _socket
import time

from pasta_py import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pasta_py.worker import plane

CLIENTS = 8
REQUEST_BYTES = 8 << 10
_RECEIVE_BYTES = 4 << 10
PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

#: Families of several counters: the name (of a counter without _total), the type, the help, and for each counter of the core its
#: labels. Every other counter is a family of its own.
FAMILIES = (
    ("pasta_guest_bytes", "counter", "Bytes of the Ethernet frames that crossed the guest's link.",
     {"tap_rx_bytes": 'direction="sent"', "tap_tx_bytes": 'direction="received"'}),
    ("pasta_guest_frames", "counter", "Ethernet frames that crossed the guest's link.",
     {"tap_rx_frames": 'direction="sent"', "tap_tx_frames": 'direction="received"'}),
    ("pasta_frames_dropped", "counter", "Frames of the guest, or for it, that went no further, by reason.",
     {"tap_tx_dropped": 'reason="tap_full"', "drop_malformed": 'reason="malformed"', "drop_unsupported": 'reason="unsupported"',
      "drop_fragment": 'reason="fragment"', "drop_disabled": 'reason="disabled"', "drop_policy": 'reason="policy"',
      "drop_source": 'reason="source"', "drop_rate": 'reason="rate"',
      "punt_dropped": 'reason="slow_path"', "shard_dropped": 'reason="shard"'}),
    ("pasta_flows", "gauge", "Flows that are open now.",
     {"tcp_flows": 'protocol="tcp"', "udp_flows": 'protocol="udp"', "icmp_flows": 'protocol="ping"',
      "splice_flows": 'protocol="tcp-splice"', "udp_splice_flows": 'protocol="udp-splice"'}),
    ("pasta_flows_opened", "counter", "Flows that were opened.",
     {"tcp_opened": 'protocol="tcp"', "udp_opened": 'protocol="udp"', "splice_opened": 'protocol="tcp-splice"'}),
    ("pasta_flows_failed", "counter", "Flows that were not opened, by reason.",
     {"tcp_refused": 'protocol="tcp",reason="peer"', "tcp_limit": 'protocol="tcp",reason="limit"',
      "tcp_displaced": 'protocol="tcp",reason="displaced"', "tcp_rate_limit": 'protocol="tcp",reason="rate"',
      "udp_limit": 'protocol="udp",reason="limit"', "udp_rate_limit": 'protocol="udp",reason="rate"',
      "splice_limit": 'protocol="tcp-splice",reason="limit"', "icmp_limit": 'protocol="ping",reason="limit"',
      "icmp_rate_limit": 'protocol="ping",reason="rate"'}),
)  # fmt: skip


class Server:
    """A listening socket and its clients."""

    def __init__(self, core: "plane.Plane", fd: int, first_ident: int, handlers: "dict[int, Callable[[], int | None]]") -> None:
        """`first_ident`: the core watches client n under this number plus n."""
        self._core, self._listener, self._handlers, self._since = core, _socket.socket(fileno=fd), handlers, time.time()
        self._first = first_ident
        self._clients: dict[int, _Client] = {}  # the oldest first

    def on_listener(self) -> None:
        """A client waits."""
        try:
            fd, _address = self._listener._accept()  # type: ignore[attr-defined]  # socket.accept() is built on it
        except OSError:
            return  # it has gone
        if len(self._clients) == CLIENTS:
            next(iter(self._clients.values())).drop()
        number = next(n for n in range(CLIENTS) if n not in self._clients)
        client = self._clients[number] = _Client(self, _socket.socket(fileno=fd), number)
        self._handlers[self._first + number] = client.on_ready
        self._core.watch(fd, self._first + number)

    def forget(self, client: "_Client") -> None:
        self._core.unwatch(client.sock.fileno())
        del self._clients[client.number], self._handlers[self._first + client.number]

    def answer(self, request: bytes) -> bytes:
        """The whole answer to a request, of which the head has come."""
        lines = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _reply("400 Bad Request", "this is no HTTP/1 request\n")
        method, target, _version = words
        if method not in ("GET", "HEAD"):
            return _reply("405 Method Not Allowed", "metrics are read with GET\n", more="Allow: GET, HEAD\r\n")
        if target.partition("?")[0] != "/metrics":
            return _reply("404 Not Found", "metrics are at /metrics\n")
        asked = [line.partition(":")[2] for line in lines[1:] if line.partition(":")[0].lower() == "accept"]
        as_open = wants_open_metrics(",".join(asked))
        body = text(self._core.counters(), self._since, as_open=as_open)
        return _reply("200 OK", body, OPEN_METRICS if as_open else PLAIN, without_body=method == "HEAD")


class _Client:
    def __init__(self, server: Server, sock: "_socket.socket", number: int) -> None:
        self.sock, self.number = sock, number
        self._server, self._request = server, b""

    def on_ready(self) -> None:
        """Bytes of the request, or its end."""
        try:
            data = self.sock.recv(_RECEIVE_BYTES, _socket.MSG_DONTWAIT)
            self._request += data
            if not data:
                self.drop()
            elif b"\r\n\r\n" in self._request:
                self._end(self._server.answer(self._request))
            elif len(self._request) > REQUEST_BYTES:
                self._end(_reply("431 Request Header Fields Too Large", "the request is too long\n"))
        except BlockingIOError:
            pass
        except OSError:
            self.drop()

    def _end(self, answer: bytes) -> None:
        """Send it, as the last on this connection."""
        self.sock.send(answer, _socket.MSG_DONTWAIT)
        self.drop()

    def drop(self) -> None:
        self._server.forget(self)
        self.sock.close()


def _reply(status: str, body: str, kind: str = "text/plain; charset=utf-8", *, more: str = "", without_body: bool = False) -> bytes:
    """An answer of HTTP/1.1 (RFC 9112), the last on its connection."""
    data = body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n{more}Connection: close\r\n\r\n"
    return head.encode() + (b"" if without_body else data)


def wants_open_metrics(accept: str) -> bool:
    """Whether a value of Accept (RFC 9110, 12.5.1) prefers OpenMetrics to plain text."""
    weights: dict[str, float] = {}
    for item in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in item.split(";"))
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        weights[kind] = max(weight, weights.get(kind, 0.0))
    plain = max(weights.get("text/plain", 0.0), weights.get("text/*", 0.0))
    return 0 < weights.get("application/openmetrics-text", 0.0) >= plain


def text(counters: "Mapping[str, int]", since: float, *, as_open: bool) -> str:
    """All metrics."""
    lines = [line for family in _families(counters, since) for line in _lines(*family, as_open=as_open)]
    return "\n".join([*lines, "# EOF"] if as_open else lines) + "\n"


def _families(counters: "Mapping[str, int]", since: float) -> "Iterator[tuple[str, str, str, list[tuple[str, str]]]]":
    """Name without _total, type, help, and labels and value of each sample."""
    yield "pasta_build_info", "gauge", "The version, as a label.", [(f'version="{__version__}"', "1")]
    yield "pasta_start_time_seconds", "gauge", "When it started, in seconds since 1970.", [("", f"{since:.3f}")]
    grouped: set[str] = set()
    for name, kind, help_text, members in FAMILIES:
        grouped |= members.keys()
        samples = [(label, str(counters[counter])) for counter, label in members.items() if counter in counters]
        if samples:
            yield name, kind, help_text, samples
    for counter, value in counters.items():
        if counter not in grouped:
            gauge = counter.endswith("_flows")
            yield f"pasta_{counter}", "gauge" if gauge else "counter", f"The counter {counter} of --stats.", [("", str(value))]


def _lines(name: str, kind: str, help_text: str, samples: "list[tuple[str, str]]", *, as_open: bool) -> "Iterator[str]":
    sample = f"{name}_total" if kind == "counter" else name
    head = name if as_open else sample  # OpenMetrics names a family without _total
    yield f"# HELP {head} {help_text}"
    yield f"# TYPE {head} {kind}"
    if as_open and name.endswith(("_bytes", "_seconds")):
        yield f"# UNIT {head} {name.rpartition('_')[2]}"
    for label, value in samples:
        yield f"{sample}{{{label}}} {value}" if label else f"{sample} {value}"
