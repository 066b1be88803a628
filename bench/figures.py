"""From samples to figures: medians, ratios pair by pair, and whether a target is met."""

from dataclasses import dataclass
from statistics import median
from typing import Any

from .model import DIRECT, OURS, PEER, Cell, Work

Samples = list[dict[str, Any]]
Taken = dict[str, Samples]
OPERATORS = {">=": lambda value, limit: value >= limit, "<=": lambda value, limit: value <= limit}
RELATIONS = {"worst": " in the worst round", "steady": " of the median in the slowest half second"}
SHORT = {"cpu_s_per_gb": "CPU", "resent": "sent again"}


def good(samples: Samples, metric: str) -> list[float]:
    return [sample["values"][metric] for sample in samples if not sample["error"] and metric in sample["values"]]


def middle(values: list[float]) -> float | None:
    return median(values) if values else None


def ratio(mine: Samples, theirs: Samples, metric: str) -> float | None:
    """The median over the rounds of mine/theirs, each from the same round."""
    pairs = [(good([a], metric), good([b], metric)) for a, b in zip(mine, theirs, strict=False)]
    return middle([a[0] / b[0] for a, b in pairs if a and b and b[0]])


def failures(samples: Samples) -> str:
    errors = [sample["error"] for sample in samples if sample["error"]]
    return f"{len(errors)} of {len(samples)}: {max(set(errors), key=errors.count)}" if errors else ""


def divided(samples: Samples, base: Samples, metric: str) -> Samples:
    """These samples with their metric divided by that of the same round of `base`."""
    quotients = []
    for each, below in zip(samples, base, strict=False):
        error = each["error"] or below["error"]
        values = {}
        if not error and metric in each["values"] and below["values"].get(metric):
            values = {metric: each["values"][metric] / below["values"][metric]}
        quotients.append({"values": values, "error": error})
    return quotients


@dataclass(frozen=True)
class Target:
    """What is asked of our figure, in words: `METRIC >= LIMIT [OF]`, or <=.

    OF is `direct` or `passt`: the ratio to theirs, pair by pair; `worst`: the worst round, for what must never be; `steady`:
    the slowest half second of all rounds over the median, for `gbit`; or nothing: the median itself.
    """

    metric: str
    operator: str
    limit: float
    of: str

    @classmethod
    def parse(cls, words: str) -> "Target":
        metric, operator, limit, *of = words.split()
        if operator not in OPERATORS or len(of) > 1 or (of and of[0] not in (DIRECT, PEER, *RELATIONS)):
            raise ValueError(f"target '{words}': not METRIC >= or <= LIMIT, and direct, passt, worst, steady or nothing")
        return cls(metric, operator, float(limit), of[0] if of else "")

    def reached(self, taken: Taken, ours: str) -> float | None:
        """What we have got, in the target's own terms."""
        if self.of in (DIRECT, PEER):
            return ratio(taken.get(ours, []), taken.get(self.of, []), self.metric)
        mine = taken.get(ours, [])
        values = good(mine, self.metric)
        if self.of == "worst":
            return (min if self.operator == ">=" else max)(values, default=None)
        if self.of == "steady":
            slowest = good(mine, f"slowest_{self.metric}")
            return min(slowest) / median(values) if slowest and median(values) else None
        return middle(values)

    def text(self, shown: str) -> str:
        """For the table; the metric that the cell shows anyway is not named."""
        sign = {">=": "≥", "<=": "≤"}[self.operator]
        what = "" if self.metric == shown else SHORT.get(self.metric, self.metric) + " "
        of = {"": "", **RELATIONS}.get(self.of, f" × {self.of}")
        return f"{what}{sign} {self.limit:g}{of}"

    def judge(self, taken: Taken, ours: str, shown: str) -> dict[str, Any]:
        """Missed where we failed in any round; not measured (None) where we did not, but there is nothing to compare with."""
        value = self.reached(taken, ours)
        met = None if value is None else bool(OPERATORS[self.operator](value, self.limit))
        if failures(taken.get(ours, [])):
            met = False
        return {"text": self.text(shown), "of": self.of, "metric": self.metric, "limit": self.limit, "value": value, "met": met}


def cell_figures(cell: Cell, works: dict[Work, Taken], names: list[str]) -> dict[str, Any]:
    """Everything about one cell, ready for JSON; ratios of ours (or the first translator) to each other subject."""
    taken = works[cell.work]
    if cell.base:
        base = works[cell.base]
        taken = {name: divided(samples, base.get(name, []), cell.metric) for name, samples in taken.items()}
    translators = [name for name in names if name != DIRECT]
    ours = OURS if OURS in names else next(iter(translators), DIRECT)
    shown = [name for name in names if name in taken]
    carries = cell.work.role in ("tcp", "udp", "quic") and not cell.base
    return {
        "key": cell.key,
        "name": cell.name,
        "unit": cell.unit,
        "more_is_better": cell.more,
        "metric": cell.metric,
        "median": {name: middle(good(taken[name], cell.metric)) for name in shown},
        "ratio": {name: ratio(taken.get(ours, []), taken[name], cell.metric) for name in shown if name != ours},
        "cpu_s_per_gb": {n: middle(good(taken[n], "cpu_s_per_gb")) for n in shown if n != DIRECT} if carries else {},
        "cpu_ratio": ratio(taken.get(ours, []), taken.get(PEER, []), "cpu_s_per_gb") if carries else None,
        "targets": [Target.parse(words).judge(taken, OURS, cell.metric) for words in cell.targets],
        "failed": {name: text for name in shown if (text := failures(taken[name]))},
        "samples": {name: taken[name] for name in shown},
    }


def counts(cells: list[dict[str, Any]]) -> tuple[int, int, int]:
    """How many targets are met, missed, and not measured."""
    verdicts = [target["met"] for cell in cells for target in cell["targets"]]
    return verdicts.count(True), verdicts.count(False), verdicts.count(None)
