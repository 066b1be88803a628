"""The text of metrics, read by Prometheus's own parsers; which format a scraper gets; the dashboard's expressions."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_plain

from pasta_py import __version__
from pasta_py.worker import metrics

ROOT = Path(__file__).parents[2]
#: The counters of the core, each with a value of its own.
NAMES = re.findall(r"X\((\w+)\)", (ROOT / "csrc" / "core" / "counters.h").read_text())
COUNTERS = {name: number for number, name in enumerate(NAMES, 7)}
SINCE = 1_796_000_000.125


def families(*, as_open: bool) -> dict[str, Any]:
    text = metrics.text(COUNTERS, SINCE, as_open=as_open)
    return {family.name: family for family in (read_open if as_open else read_plain)(text)}


@pytest.mark.parametrize("as_open", [False, True])
def test_every_counter_is_there_once_with_help_type_and_its_value(as_open: bool) -> None:
    found = families(as_open=as_open)
    ours = {name: family for name, family in found.items() if name not in ("pasta_build_info", "pasta_start_time_seconds")}
    values = [int(sample.value) for family in ours.values() for sample in family.samples]
    assert sorted(values) == sorted(COUNTERS.values())
    assert all(family.documentation and family.type in ("counter", "gauge") for family in found.values())
    assert {sample.labels["version"] for sample in found["pasta_build_info"].samples} == {__version__}
    assert found["pasta_start_time_seconds"].samples[0].value == SINCE


def test_names_follow_the_conventions() -> None:
    """Counters end in _total, gauges do not; bytes and seconds are base units (prometheus.io, naming)."""
    for name, family in families(as_open=True).items():
        assert re.fullmatch(r"pasta_[a-z0-9_]+", name)
        assert all(sample.name == name + ("_total" if family.type == "counter" else "") for sample in family.samples)
        assert family.unit == (name.rpartition("_")[2] if name.endswith(("_bytes", "_seconds")) else "")
    plain = metrics.text(COUNTERS, SINCE, as_open=False)
    assert "# TYPE pasta_guest_bytes_total counter\n" in plain and "# EOF" not in plain
    assert f'pasta_guest_bytes_total{{direction="sent"}} {COUNTERS["tap_rx_bytes"]}\n' in plain


def test_an_answer_fits_into_the_buffer_of_a_new_connection() -> None:
    """With counters as long as they get; some more may come."""
    assert len(metrics.text(dict.fromkeys(NAMES, 2**64 - 1), SINCE, as_open=True)) < 12 << 10


def test_every_counter_of_a_family_exists_in_the_core() -> None:
    assert {counter for _name, _kind, _help, members in metrics.FAMILIES for counter in members} <= set(NAMES)


@pytest.mark.parametrize(
    ("accept", "as_open"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2", True),
        ("text/plain;version=0.0.4;q=0.9,application/openmetrics-text;q=0.2", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=x,text/plain", False),
        (",;=,;q=,", False),
    ],
)
def test_a_scraper_gets_the_format_that_it_prefers(accept: str, as_open: bool) -> None:
    assert metrics.wants_open_metrics(accept) is as_open


def test_the_dashboard_asks_only_for_metrics_that_there_are() -> None:
    board = json.loads((ROOT / "contrib" / "grafana" / "pasta-py.json").read_text())
    known = {sample.name for family in families(as_open=True).values() for sample in family.samples}
    asked = set()
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            asked |= set(re.findall(r"\bpasta_\w+", target["expr"]))
    assert asked <= known and len(asked) >= 6


def test_the_dashboard_has_what_grafana_needs_to_load_it() -> None:
    """The members that Grafana's model of a dashboard requires (grafana.com, "JSON model")."""
    board = json.loads((ROOT / "contrib" / "grafana" / "pasta-py.json").read_text())
    assert isinstance(board["schemaVersion"], int) and board["title"] and len(board["uid"]) <= 40 and board["id"] is None
    assert {"from", "to"} <= board["time"].keys()
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "instance"]
    places = set()
    for panel in board["panels"]:
        assert panel["title"] and panel["type"] in ("timeseries", "stat")
        place = panel["gridPos"]
        assert place.keys() == {"x", "y", "w", "h"} and place["x"] + place["w"] <= 24
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & places
        places |= cells
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
