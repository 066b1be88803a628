"""The picture of a run: our ratios to no translator and to the peer, and the processor time against the peer's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .model import DIRECT, PEER
from .report import figure as digits

COLOURS = {True: "#2a7f3f", False: "#c0392b", None: "#7f8c9b"}
PANELS = {DIRECT: (0.05, 2.0), PEER: (0.1, 100.0), "cpu": (0.1, 100.0)}
TICKS = (0.1, 1, 10, 100)


@dataclass(frozen=True)
class Bar:
    """A ratio, more being better, and the target that it stands against, if any."""

    value: float
    limit: float | None
    met: bool | None


def bar(cell: dict[str, Any], panel: str) -> Bar | None:
    """The cell's bar in a panel: direct, passt, or cpu, which is the processor time for a gigabyte as times less than passt's."""
    cpu = panel == "cpu"
    value = cell["cpu_ratio"] if cpu else cell["ratio"].get(panel)
    if not value:
        return None
    of, metric = (PEER, "cpu_s_per_gb") if cpu else (panel, cell["metric"])
    target = next((each for each in cell["targets"] if (each["of"], each["metric"]) == (of, metric)), None)
    limit, met = (target["limit"], target["met"]) if target else (None, None)
    if cpu or not cell["more_is_better"]:
        return Bar(1 / value, 1 / limit if limit else None, met)
    return Bar(value, limit, met)


def draw(results: dict[str, Any], path: Path) -> None:
    """Write the picture; as SVG with its text as text."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 7, "font.family": "sans-serif"})
    cells = [cell for cell in results["cells"] if any(bar(cell, panel) for panel in PANELS)][::-1]
    height = 1 + 0.15 * len(cells)
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(10, height), sharey=True, squeeze=False)
    peer = f"× {PEER} {results['subjects'].get(PEER, '')}"
    titles = {DIRECT: "× no translator", PEER: peer, "cpu": f"CPU s/GB, times less than {PEER}"}
    for axis, (panel, (lowest, highest)) in zip(axes[0], PANELS.items(), strict=True):
        for row, cell in enumerate(cells):
            found = bar(cell, panel)
            if not found:
                continue
            end = min(max(found.value, lowest), highest)
            axis.barh(row, end - lowest, left=lowest, color=COLOURS[found.met], height=0.7)
            axis.annotate(digits(found.value), (end, row), xytext=(3, 0), textcoords="offset points", va="center", fontsize=6)
            if found.limit:
                axis.plot([found.limit] * 2, [row - 0.5, row + 0.5], color="black", linewidth=1.5)
        axis.set_xscale("log")
        axis.set_xlim(lowest, highest * 3)
        axis.set_xticks([tick for tick in TICKS if lowest <= tick <= highest], [f"{t:g}" for t in TICKS if lowest <= t <= highest])
        axis.minorticks_off()
        axis.axvline(1, color="#444444", linewidth=0.6)
        axis.set_yticks(range(len(cells)), [cell["name"] for cell in cells])
        axis.set_ylim(-0.7, len(cells) - 0.3)
        axis.tick_params(axis="y", length=0)
        axis.set_title(titles[panel], fontsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    legend = "To the right is better. The stroke is the target: green where it is met, red where not; grey: none."
    figure.text(0.01, 0.1 / height, legend)
    figure.tight_layout(rect=(0, 0.25 / height, 1, 1))
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
