"""The report: what it says of a log, that nothing in a log can do harm in it, and that it works without a script and with it.

tests/browser/report_in_browser.py looks at it in Chromium.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasta_py.control.report import flows, page, pictures, units

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tests" / "programs" / "report_script.js"
VOID = {"meta", "input", "br", "line", "rect", "path"}
TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "p", "h1", "h2", "ul", "li", "b", "div", "table", "caption",
    "thead", "tbody", "tr", "th", "td", "small", "span", "details", "summary", "svg", "g", "text", "line", "rect", "path", "script",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "class", "id", "data-rows", "data-v", "open", "viewbox", "role",
    "aria-label", "aria-hidden", "x", "y", "x1", "y1", "x2", "y2", "width", "height", "rx", "d", "text-anchor",
}  # fmt: skip


def line(event: str, at: float, **more: object) -> bytes:
    record = {"v": 1, "event": event, "time": f"2026-11-29T12:00:{at:06.3f}Z", "protocol": "tcp", "from": "guest", **more}
    return json.dumps(record).encode() + b"\n"


def closed(at: float, lasted: float, dest: str, **more: object) -> bytes:
    return line("closed", at, dest=dest, duration_s=lasted, reason="finished", **more)


LOG = [
    line("opened", 1, flow="0.0.1.1", dest="192.0.2.1", dest_port=443),
    closed(3, 2, "192.0.2.1", flow="0.0.1.1", dest_port=443, name="one.example", sent_bytes=1000, received_bytes=5_000_000),
    closed(9, 1, "192.0.2.1", flow="0.0.2.1", dest_port=443, name="one.example", sent_bytes=500, received_bytes=1),
    line("refused", 4, dest="2001:db8::2", dest_port=25, reason="refused", error="Connection refused"),
    line("refused", 5, dest="192.0.2.3", dest_port=80, reason="rule", rule="deny bad.example", name="bad.example"),
    line("refused", 6, dest="192.0.2.3", dest_port=80, reason="rule", rule="deny bad.example", name="bad.example"),
    line("opened", 7, flow="0.0.3.1", dest="192.0.2.4", dest_port=22, **{"from": "host"}),
    line("lost", 8, count=3),
]


class Page(HTMLParser):
    """What a browser without script shows: tables by their caption's heading, and all tags and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.heading = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.tables.setdefault(self.heading, []).append([])
        if tag in ("td", "th"):
            self.tables[self.heading][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open:
            return
        self.texts.setdefault(self.open[-1], []).append(data)
        if self.open[-1] == "h2":
            self.heading = data
        elif {"td", "th"} & set(self.open):
            self.tables[self.heading][-1][-1] += ("\n" if self.open[-1] == "small" else "") + data


def report(lines: list[bytes], title: str = "curl one.example") -> str:
    return page.render(flows.read(lines), title)


def test_each_destination_has_a_row_with_its_sums() -> None:
    seen = Page(report(LOG))
    headers, *rows = seen.tables["Where it connected"]
    assert headers == ["Host", "Port", "Protocol", "Connections", "Failed", "Received", "Sent", "Open for", "First after"]
    assert rows[0] == ["one.example\n192.0.2.1", "443", "tcp", "2", "0", "5.0 MB", "1.5 kB", "3.0 s", "0 ms"]
    assert sorted(row[0] for row in rows) == ["192.0.2.4", "2001:db8::2", "bad.example\n192.0.2.3", "one.example\n192.0.2.1"]


def test_what_failed_and_what_was_denied_is_told_with_the_reason() -> None:
    headers, *rows = Page(report(LOG)).tables["What failed or was denied"]
    assert headers == ["What", "Host", "Port", "Protocol", "Why", "Times", "First after"]
    assert ["failed", "2001:db8::2", "25", "tcp", "nothing listens there (Connection refused)", "1", "3.0 s"] in rows
    assert ["denied", "bad.example\n192.0.2.3", "80", "tcp", "a rule forbids it (deny bad.example)", "2", "4.0 s"] in rows


def test_the_first_sentence_is_for_a_reader_who_knows_nothing_of_it() -> None:
    seen = Page(report(LOG))
    assert seen.texts["h1"] == ["curl one.example"]
    assert "5 connections to 3 hosts and 1 connection from outside, in 8.0 s." in seen.texts["p"]
    assert "3 records did not find room in the log: some connections are missing here." in seen.texts["p"]
    assert len(seen.tables["Every connection"]) == 7 and "it was open when the log ended" in seen.tables["Every connection"][5][8]


def test_a_log_without_connections_says_so() -> None:
    assert "It talked to nothing: the log has no connection." in Page(report([])).texts["p"]


def test_every_reason_of_the_core_has_a_sentence() -> None:
    header = (ROOT / "csrc" / "core" / "event.h").read_text()
    block = header[header.index("#define FLOW_REASONS(X)") : header.index("enum flow_reason")]
    names = re.findall(r"X\((\w+)\)", block)
    assert len(names) > 10
    assert set(names) == (flows.ENDED.keys() | flows.FAILED.keys() | flows.DENIED.keys()) - {""}


HOSTILE = [
    "<script>alert(1)</script>", "</td></table><img src=x onerror=alert(1)>", '"><svg onload=alert(1)>', "' onmouseover='x",
    "</script><script>x", "]]><!--", "&lt;b&gt;", "\u202egpj.exe", "\x1b[2J\x00", "javascript:alert(1)", "a" * 2000,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_of_a_log_becomes_anything_but_text(text: str) -> None:
    more: dict[str, Any] = {"dest": text, "name": text, "protocol": text, "flow": text, "error": text, "reason": text}
    lines = [line("refused", 1, **more), line("closed", 2, **{**more, "duration_s": 1}), line("opened", 3, **more)]
    seen = Page(report(lines, title=text))
    assert set(seen.tags) <= TAGS and seen.tags.count("script") == 1
    assert {name for name, _value in seen.attributes} <= ATTRIBUTES
    shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
    assert seen.texts["h1"] == [shown]
    assert [row[0] for row in seen.tables["Where it connected"][1:]] == [f"{shown}\n{shown}"]


def test_the_page_fetches_nothing_and_runs_nothing_but_its_own_script() -> None:
    text = report(LOG)
    assert not re.search(r"https?:|//[a-z]|\bsrc=|\bhref=|@import|url\(", text)
    (policy,) = [value or "" for name, value in Page(text).attributes if name == "content" and "default-src" in (value or "")]
    assert policy.startswith("default-src 'none'; ")
    for tag, word in (("style", "style-src"), ("script", "script-src")):
        inside = text[text.index(f"<{tag}>") + len(tag) + 2 : text.index(f"</{tag}>")]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{word} 'sha256-{digest}'" in policy
    assert 'style="' not in text  # the policy would forbid it


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=60), st.text(max_size=40).map(str.encode)), max_size=5))
def test_any_lines_make_a_page(lines: list[bytes]) -> None:
    Page(report([*lines, LOG[1]]))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
MEMBERS = ("time", "flow", "protocol", "from", "dest", "dest_port", "name", "reason", "error", "rule", "duration_s")
MEMBERS += ("sent_bytes", "count")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["opened", "refused", "closed", "lost", "other"]), st.dictionaries(st.sampled_from(MEMBERS), json_values))
def test_members_of_any_type_make_a_page(event: str, members: dict[str, Any]) -> None:
    lines = [json.dumps({"event": event, "time": "2026-11-29T12:00:01Z", **members}).encode(), LOG[1]]
    Page(report(lines))


def test_lines_that_are_no_records_are_counted() -> None:
    lines = [b"\n", b"[]\n", b'{"v":1}\n', b"{" * 100_000, b"x" * (flows.MAX_LINE_BYTES + 1), b"[" * 10_000, *LOG]
    assert flows.read(lines).unreadable == 5
    assert "5 lines of the log could not be read." in report(lines)


def test_ten_thousand_flows_make_a_page_whose_pictures_stay_small() -> None:
    lines = [closed(i % 60, 0.01, f"192.0.{i % 200}.1", dest_port=443, sent_bytes=i, received_bytes=i) for i in range(10_000)]
    text = report(lines)
    assert text.count("<tr><td") == 10_000 + 200
    assert text.count("<rect") < 60 * 70 + 300
    log = flows.read(lines)
    assert sum(flow.received for flow in log.flows) == sum(range(10_000))


def test_bars_that_touch_become_one_and_a_cross_needs_no_bar() -> None:
    refused = line("refused", 20, dest="a", reason="refused")
    log = flows.read([*(closed(i, 1, "a") for i in range(1, 5)), closed(10, 1, "a"), refused])
    picture = pictures.timeline([("a", log.flows)], log.flows[0].started, log.flows[-1].ended)
    assert picture.count("<rect") == 2 and picture.count("<path") == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1.0 kB"), (99_950, "100 kB"), (10**12, "1.0 TB")],
)
def test_sizes(value: int, shown: str) -> None:
    assert units.size(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0 ms"), (0.0424, "42 ms"), (1, "1.0 s"), (75, "1 min 15 s"), (7260, "2 h 1 min")]
)
def test_durations(value: float, shown: str) -> None:
    assert units.duration(value) == shown


def test_the_script_sorts_and_searches(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(report(LOG))
    done = subprocess.run(["node", SCRIPT, path, "EXAMPLE 443"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    did = json.loads(done.stdout)
    assert did["rows"] == [2, 4, 6]
    assert did["sort"] == "descending" and did["down"] == sorted(did["up"], reverse=True) == [5_000_001, 0, 0, 0]
    assert [host.split()[0] for host in did["hosts"]] == ["192.0.2.4", "2001:db8::2", "bad.example", "one.example"]
    assert did["found"] == [0, 1, 2] and did["said"] == "3 of 12 rows" and did["all"] == [2, 4, 6]


# ---- the command ----


def run(*words: str, text: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    code = "from pasta_py.control.start import typer_command; typer_command.main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, "report", *words], input=text, capture_output=True, env=environment, timeout=60, check=False
    )


def test_the_page_is_written_beside_the_log_or_where_the_user_says(tmp_path: Path) -> None:
    log = tmp_path / "flows.jsonl"
    log.write_bytes(b"".join(LOG))
    done = run(str(log))
    assert done.returncode == 0 and done.stderr.decode() == f"pasta-py report: {log}.html\n" and done.stdout == b""
    assert Page((tmp_path / "flows.jsonl.html").read_text()).texts["h1"] == ["flows.jsonl"]
    done = run("-", "-o", "-", "--title", "build", text=b"".join(LOG))
    assert Page(done.stdout.decode()).texts["h1"] == ["build"] and not done.stderr
    done = run("-", "-o", "-", text=b"no record\n" + b"".join(LOG))
    left_out = b"pasta-py report: warning: 1 lines are left out: they are not of a flow log\n"
    assert done.returncode == 0 and done.stderr == left_out and Page(done.stdout.decode())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("/none.jsonl",), "Couldn't read the flow log '/none.jsonl': No such file or directory: name one that --flow-log wrote"),
        (("-",), "a log from standard input has no name for the page: name it with --output"),
        ((__file__, "-o", "/none/x"), f"no line of {__file__!r} is of a flow log: name one that --flow-log wrote"),
        (("/dev/null", "-o", "/none/x"), "Couldn't write the report '/none/x': No such file or directory: name another file"),
    ],
)
def test_what_cannot_be_read_or_written_is_told(words: tuple[str, ...], said: str) -> None:
    done = run(*words)
    assert done.returncode == 1 and said in done.stderr.decode()
