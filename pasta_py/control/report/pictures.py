"""The two pictures of the page, as SVG without script and without style of their own: page.css colours them."""

from collections.abc import Sequence

from pasta_py.control.report.flows import Flow
from pasta_py.control.report.units import duration, safe, size

_WIDTH, _LEFT, _RIGHT = 1000, 250, 20
_BINS = 120
_ROW, _HEAD = 22, 26
_MAX_ROWS = 60
_MAX_MARKS = 400  # of a row
_LABEL_CHARS = 34
_HEIGHT = 170


def _scale(start: float, end: float) -> float:
    return (_WIDTH - _LEFT - _RIGHT) / max(end - start, 1e-3)


def _axis(start: float, end: float, height: int) -> list[str]:
    """Four steps of time behind the beginning."""
    parts = []
    for step in range(5):
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / 4
        anchor = "end" if step == 4 else "middle" if step else "start"
        parts.append(f'<line class="grid" x1="{x:.0f}" y1="{_HEAD}" x2="{x:.0f}" y2="{height}"/>')
        text = duration((end - start) * step / 4) if step else "start"
        parts.append(f'<text class="soft" x="{x:.0f}" y="17" text-anchor="{anchor}">{text}</text>')
    return parts


def traffic(flows: Sequence[Flow], start: float, end: float) -> str:
    """Bytes over time, received above the line and sent below it. A flow's bytes are spread evenly over its time."""
    received, sent = [0.0] * _BINS, [0.0] * _BINS
    width = max(end - start, 1e-3) / _BINS
    for flow in flows:
        first = min(_BINS - 1, max(0, int((flow.started - start) / width)))
        last = min(_BINS - 1, max(first, int((flow.ended - start) / width)))
        for into, total in ((received, flow.received), (sent, flow.sent)):
            if total:
                share = total / (last - first + 1)
                for at in range(first, last + 1):
                    into[at] += share
    most = max(*received, *sent, 1.0)
    middle, half = _HEAD + (_HEIGHT - _HEAD) / 2, (_HEIGHT - _HEAD) / 2 - 8
    parts = _axis(start, end, _HEIGHT)
    column = (_WIDTH - _LEFT - _RIGHT) / _BINS
    for at in range(_BINS):
        x = _LEFT + at * column
        for value, kind in ((received[at], "in"), (sent[at], "out")):
            tall = max(half * value / most, 1.0) if value else 0
            if tall:
                y = middle - tall if kind == "in" else middle
                parts.append(f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{column * 0.85:.1f}" height="{tall:.1f}"/>')
    parts.append(f'<line class="grid" x1="{_LEFT}" y1="{middle}" x2="{_WIDTH - _RIGHT}" y2="{middle}"/>')
    rate = f"at most {size(round(most / width))} a second"
    parts.append(f'<text x="12" y="{middle - 14:.0f}">received</text><text x="12" y="{middle + 24:.0f}">sent</text>')
    parts.append(f'<text class="soft" x="12" y="{middle + 5:.0f}">{rate}</text>')
    return _svg(_HEIGHT, "Traffic over time", parts)


def timeline(rows: Sequence[tuple[str, Sequence[Flow]]], start: float, end: float) -> str:
    """A row for each destination, a bar for each connection, a cross for each that failed or was denied."""
    scale = _scale(start, end)
    shown = rows[:_MAX_ROWS]
    height = _HEAD + _ROW * len(shown) + 8 + (_ROW if len(rows) > len(shown) else 0)
    parts = _axis(start, end, height)
    for at, (label, flows) in enumerate(shown):
        y = _HEAD + at * _ROW
        text = label if len(label) <= _LABEL_CHARS else label[: _LABEL_CHARS - 1] + "…"
        parts.append(f'<g><title>{safe(label)}</title><text x="12" y="{y + 15}">{safe(text)}</text>')
        for x, wide in _bars(flows, start, scale):
            parts.append(f'<rect class="bar" x="{x:.1f}" y="{y + 5}" width="{wide:.1f}" height="12" rx="2"/>')
        crosses = {round(_LEFT + (flow.ended - start) * scale) for flow in flows if flow.outcome in ("failed", "denied")}
        for x in sorted(crosses)[:_MAX_MARKS]:
            parts.append(f'<path class="bad" d="M{x - 5} {y + 6}l10 10m0 -10l-10 10"/>')
        parts.append("</g>")
    if len(rows) > len(shown):
        parts.append(f'<text class="soft" x="12" y="{height - 8}">and {len(rows) - len(shown)} more, in the table above</text>')
    return _svg(height, "Connections over time, by destination", parts)


def _bars(flows: Sequence[Flow], start: float, scale: float) -> list[tuple[float, float]]:
    """Place and width of the bars of a row. Those that touch become one, so that any number of flows fits."""
    bars: list[tuple[float, float]] = []
    for flow in flows:
        if flow.outcome in ("failed", "denied") and flow.started == flow.ended:
            continue
        x, wide = _LEFT + (flow.started - start) * scale, max((flow.ended - flow.started) * scale, 3.0)
        if bars and x <= bars[-1][0] + bars[-1][1] + 0.5:
            bars[-1] = (bars[-1][0], max(bars[-1][1], x + wide - bars[-1][0]))
        else:
            bars.append((x, wide))
    return bars


def _svg(height: float, title: str, parts: list[str]) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{title}">{"".join(parts)}</svg>'
