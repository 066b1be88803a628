"""The page: one HTML file that fetches nothing, and that says everything without its script.

Text from outside passes units.safe(). A second wall is the content security policy: it allows the script and the style of this page
by their digests and nothing else, so that text which got through could not run.
"""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from pasta_py.control.report import pictures
from pasta_py.control.report.flows import Flow, Log
from pasta_py.control.report.units import count, duration, moment, safe, size

MAX_ROWS = 20000  # of the table of connections
_HERE = Path(__file__).parent
_WORDS = {"ok": "finished", "open": "open", "failed": "failed", "denied": "denied"}
_BAD = ("failed", "denied")


class _Destination:
    """A row of the table: all flows with the same other end."""

    def __init__(self, flow: Flow) -> None:
        self.name, self.address, self.port, self.protocol = flow.destination
        self.flows: list[Flow] = []

    @property
    def label(self) -> str:
        return place(self.name or self.address, self.port)

    def total(self, field: str) -> int:
        return sum(getattr(flow, field) for flow in self.flows)

    def bad(self) -> int:
        return sum(flow.outcome in _BAD for flow in self.flows)


def place(host: str, port: int) -> str:
    """An address or a name, with its port."""
    if not port:
        return host or "unknown"
    return f"[{host}]:{port}" if ":" in host else f"{host or 'unknown'}:{port}"


def render(log: Log, title: str) -> str:
    """The whole page. `title`: what was watched, a command or a file."""
    style, script = (_HERE.joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    ours = f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    policy = f"default-src 'none'; {ours}; base-uri 'none'; form-action 'none'"
    return "".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>Network report: {safe(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n",
            *_body(log, title),
            f"<script>{script}</script>\n</body>\n</html>\n",
        )
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _body(log: Log, title: str) -> list[str]:
    flows = log.flows
    parts = [f'<header><p class="soft">Network report</p><h1>{safe(title)}</h1>']
    if not flows:
        return [*parts, '<p class="lead">It talked to nothing: the log has no connection.</p></header>', *_gaps(log)]
    start, end = flows[0].started, max(flow.ended for flow in flows)
    found: dict[tuple[str, str, int, str], _Destination] = {}
    for flow in flows:
        found.setdefault(flow.destination, _Destination(flow)).flows.append(flow)
    destinations = sorted(found.values(), key=lambda d: -(d.total("sent") + d.total("received")))
    parts += [*_lead(flows, destinations, start, end), "</header>", *_gaps(log), '<div id="search" class="search"></div>']
    bad = [flow for flow in flows if flow.outcome in _BAD]
    if bad:
        parts += ["<h2>What failed or was denied</h2>", *_problems(bad, start)]
    parts += ["<h2>Where it connected</h2>", *_table_of(destinations, start)]
    parts += ["<h2>When</h2>", _key(), pictures.timeline([(d.label, d.flows) for d in _by_start(destinations)], start, end)]
    parts += ["<h2>Traffic over time</h2>", pictures.traffic(flows, start, end)]
    return [*parts, "<h2>Every connection</h2>", *_connections(flows, start)]


def _by_start(destinations: Sequence[_Destination]) -> list[_Destination]:
    return sorted(destinations, key=lambda d: d.flows[0].started)


def _lead(flows: Sequence[Flow], destinations: Sequence[_Destination], start: float, end: float) -> list[str]:
    outbound = {flow.name or flow.address for flow in flows if not flow.inbound}
    inbound = sum(flow.inbound for flow in flows)
    said = f"{count(len(flows) - inbound, 'connection')} to {count(len(outbound), 'host')}"
    said += f" and {count(inbound, 'connection')} from outside" if inbound else ""
    tiles = [
        (size(sum(flow.received for flow in flows)), "received"),
        (size(sum(flow.sent for flow in flows)), "sent"),
        (f"{len(destinations):,}", "destinations"),
        (f"{sum(flow.outcome == 'failed' for flow in flows):,}", "failed"),
        (f"{sum(flow.outcome == 'denied' for flow in flows):,}", "denied"),
    ]
    shown = "".join(f"<li><b>{value}</b>{word}</li>" for value, word in tiles)
    return [
        f'<p class="lead">{said}, in {duration(end - start)}.</p>',
        f'<p class="soft">{moment(start)} to {moment(end)}. Times below count from the first connection.</p>',
        f'<ul class="tiles">{shown}</ul>',
    ]


def _gaps(log: Log) -> list[str]:
    said = []
    if log.lost:
        said.append(f"{count(log.lost, 'record')} did not find room in the log: some connections are missing here.")
    if log.unreadable:
        said.append(f"{count(log.unreadable, 'line')} of the log could not be read.")
    return [f'<p class="failed">{" ".join(said)}</p>'] if said else []


def _key() -> str:
    bar = '<svg viewBox="0 0 16 16" aria-hidden="true"><rect class="bar" x="0" y="3" width="16" height="10" rx="2"/></svg>'
    cross = '<svg viewBox="0 0 16 16" aria-hidden="true"><path class="bad" d="M3 3l10 10m0 -10l-10 10"/></svg>'
    return f'<ul class="key"><li>{bar} open</li><li>{cross} failed or denied</li></ul>'


def _cell(text: str, value: float | None = None, kind: str = "") -> str:
    """`text` is harmless already. `value`: what the column is sorted by, in place of the text."""
    attributes = (f' class="{kind}"' if kind else "") + (f' data-v="{value:.6g}"' if value is not None else "")
    return f"<td{attributes}>{text}</td>"


def _number(text: str, value: float) -> str:
    return f'<td class="n" data-v="{value:.15g}">{text}</td>'


def _who(name: str, address: str) -> str:
    """The name above its address; without a name the address alone."""
    return _cell(f"{safe(name)}<small>{safe(address)}</small>" if name else safe(address or "unknown"), kind="d")


def _table(ident: str, headers: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> list[str]:
    """Headers that begin with # are of columns of numbers."""
    head = "".join(f'<th class="n">{h[1:]}</th>' if h[0] == "#" else f"<th>{h}</th>" for h in headers)
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    top = f'<table id="{ident}" data-rows="{len(rows)}"><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
    return ['<div class="box">', top, f"<tbody>\n{body}\n</tbody></table></div>"]


def _table_of(destinations: Sequence[_Destination], start: float) -> list[str]:
    rows = []
    for d in destinations:
        bad, busy = d.bad(), sum(flow.ended - flow.started for flow in d.flows)
        rows.append(
            (
                _who(d.name, d.address),
                _number(str(d.port or ""), d.port),
                _cell(safe(d.protocol)),
                _number(f"{len(d.flows):,}", len(d.flows)),
                _number(f'<span class="failed">{bad:,}</span>' if bad else "0", bad),
                _number(size(d.total("received")), d.total("received")),
                _number(size(d.total("sent")), d.total("sent")),
                _number(duration(busy), busy),
                _number(duration(d.flows[0].started - start), d.flows[0].started - start),
            )
        )
    headers = ("Host", "#Port", "Protocol", "#Connections", "#Failed", "#Received", "#Sent", "#Open for", "#First after")
    return _table("destinations", headers, rows, f"{count(len(rows), 'destination')}, the busiest first")


def _problems(bad: Sequence[Flow], start: float) -> list[str]:
    """One row for the same thing that went wrong many times."""
    found: dict[tuple[tuple[str, str, int, str], str, str], list[Flow]] = {}
    for flow in bad:
        found.setdefault((flow.destination, flow.outcome, flow.why), []).append(flow)
    rows = []
    for ((name, address, port, protocol), outcome, why), flows in found.items():
        after = flows[0].started - start
        rows.append(
            (
                _cell(f'<span class="{outcome}">{_WORDS[outcome]}</span>'),
                _who(name, address),
                _number(str(port or ""), port),
                _cell(safe(protocol)),
                _cell(safe(why)),
                _number(f"{len(flows):,}", len(flows)),
                _number(duration(after), after),
            )
        )
    headers = ("What", "Host", "#Port", "Protocol", "Why", "#Times", "#First after")
    return _table("problems", headers, rows, count(len(bad), "connection"))


def _connections(flows: Sequence[Flow], start: float) -> list[str]:
    rows = []
    for flow in flows[:MAX_ROWS]:
        lasted = flow.ended - flow.started
        word = _WORDS[flow.outcome]
        rows.append(
            (
                _number(duration(flow.started - start), flow.started - start),
                _who(flow.name, flow.address),
                _number(str(flow.port or ""), flow.port),
                _cell(safe(flow.protocol)),
                _cell("from outside" if flow.inbound else "to it"),
                _number(duration(lasted), lasted),
                _number(size(flow.received), flow.received),
                _number(size(flow.sent), flow.sent),
                _cell(f'<span class="{flow.outcome}">{word}</span>' + (f"<small>{safe(flow.why)}</small>" if flow.why else "")),
            )
        )
    caption = count(len(flows), "connection")
    if len(flows) > len(rows):
        caption += f", the first {len(rows):,} of them"
    headers = ("#After", "Host", "#Port", "Protocol", "Direction", "#Lasted", "#Received", "#Sent", "End")
    return ["<details open><summary>Show or hide the list</summary>", *_table("connections", headers, rows, caption), "</details>"]
