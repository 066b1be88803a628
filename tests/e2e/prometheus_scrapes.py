"""`make test-prometheus`: Debian's Prometheus scrapes --metrics and answers the dashboard's queries; Grafana's types know it."""

import json
import os
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import NO_PORTS, PATIENCE_S, REMOTE4, Lab, program, wait_until

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = Path(os.environ.get("PASTA_PROMETHEUS") or ROOT / "build/prometheus/usr/bin/prometheus")
METRICS, API = "127.0.0.1:9464", "127.0.0.1:9090"
CONFIG = f"""
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - {{job_name: pasta-py, static_configs: [{{targets: ["{METRICS}"]}}]}}
"""


@pytest.fixture(scope="module")
def scraped() -> Iterator[Lab]:
    """A host with an instance whose guest pings, and Prometheus."""
    with Lab() as lab:
        config = lab.directory / "prometheus.yml"
        config.write_text(CONFIG)
        words = ("--config.file", config, "--storage.tsdb.path", lab.directory / "tsdb", "--web.listen-address", API)
        command = (program("pasta-py"), *NO_PORTS, "--metrics", METRICS, "--", "ping", "-q", "-i0.2", REMOTE4)
        with lab.host.popen(*command) as instance, lab.host.popen(PROMETHEUS, *words) as prometheus:
            try:
                wait_until(lambda: value(lab, "up") == ["1"], PATIENCE_S, "a scrape that succeeds")
                yield lab
            finally:
                prometheus.kill()
                instance.terminate()


def answer(lab: Lab, query: str) -> dict[str, object]:
    url = f"http://{API}/api/v1/query?query={urllib.parse.quote(query)}"
    text = lab.host.run("curl", "-sS", "-m", "20", url, check=False).stdout
    return dict(json.loads(text)) if text.startswith("{") else {}  # text: it starts


def value(lab: Lab, query: str) -> list[str]:
    found: dict[str, list[dict[str, list[str]]]] = answer(lab, query).get("data", {})  # type: ignore[assignment]
    return [each["value"][1] for each in found.get("result", [])]


def test_a_scrape_has_what_the_guest_does(scraped: Lab) -> None:
    assert value(scraped, 'pasta_flows{protocol="ping"}') == ["1"]
    growing = 'rate(pasta_guest_bytes_total{direction="sent"}[10s])'
    wait_until(lambda: any(float(each) > 0 for each in value(scraped, growing)), PATIENCE_S, "bytes of pings")
    assert value(scraped, "scrape_samples_scraped > 20")


def panels() -> list[tuple[str, str]]:
    board = json.loads((ROOT / "contrib/grafana/pasta-py.json").read_text())
    return [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", [])]


@pytest.mark.parametrize(("title", "query"), panels(), ids=[title for title, _ in panels()])
def test_each_query_of_the_dashboard_has_an_answer(scraped: Lab, title: str, query: str) -> None:
    """With Grafana's variables as Grafana fills them in."""
    filled = query.replace("$instance", ".*").replace("$__rate_interval", "10s")
    wait_until(lambda: bool(value(scraped, filled)), PATIENCE_S, f"{title}: {filled}")
    assert answer(scraped, filled)["status"] == "success"


def test_grafanas_own_types_know_all_of_the_dashboard() -> None:
    """They are generated from the schema that Grafana publishes: what it does not know would be missing afterwards."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    board = json.loads((ROOT / "contrib/grafana/pasta-py.json").read_text())
    again = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(board)))
    del board["id"]  # null: Grafana chooses one
    assert missing(board, again) == []


def missing(mine: object, theirs: object, place: str = "") -> list[str]:
    """Where theirs lacks a member of mine, or has another value; they add defaults."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        return [where for name in mine for where in missing(mine[name], theirs.get(name), f"{place}/{name}")]
    if isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        return [where for n, pair in enumerate(zip(mine, theirs)) for where in missing(*pair, f"{place}/{n}")]
    return [] if mine == theirs else [place]


def test_the_metrics_pass_the_linter(scraped: Lab) -> None:
    text = scraped.host.run("curl", "-sS", f"http://{METRICS}/metrics").stdout
    lint = [PROMETHEUS.with_name("promtool"), "check", "metrics"]
    done = subprocess.run(lint, input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
