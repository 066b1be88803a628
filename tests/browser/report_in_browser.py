"""The report in a real browser: Chromium without a window, told what to do by WebDriver (W3C). `make test-browser` runs this.

Needs the Debian packages chromium and chromium-driver.
"""

import base64
import json
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pasta_py.control.report import flows, page

PATIENCE_S = 60


class Browser:
    """One session of Chromium."""

    def __init__(self, port: int, *, dark: bool = False, script: bool = True) -> None:
        self._url = f"http://127.0.0.1:{port}/session"
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1100,1500", "--disable-dev-shm-usage"]
        words += ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
        preferences = {} if script else {"profile.managed_default_content_settings.javascript": 2}
        chrome = {"args": words, "prefs": preferences}
        wanted = {"browserName": "chrome", "goog:chromeOptions": chrome, "goog:loggingPrefs": {"browser": "ALL"}}
        answer = self._ask("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self._url += f"/{answer['sessionId']}"

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
            return json.load(reply)["value"]

    def open(self, path: Path) -> None:
        self._ask("POST", "/url", {"url": path.as_uri()})

    def run(self, script: str, *arguments: object) -> Any:
        return self._ask("POST", "/execute/sync", {"script": script, "args": arguments})

    def _element(self, selector: str) -> str:
        found: dict[str, str] = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        return next(iter(found.values()))

    def click(self, selector: str) -> None:
        self._ask("POST", f"/element/{self._element(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        self._ask("POST", f"/element/{self._element(selector)}/value", {"text": text})

    def picture(self) -> bytes:
        return base64.b64decode(self._ask("GET", "/screenshot"))

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def close(self) -> None:
        self._ask("DELETE", "")


@pytest.fixture(scope="module")
def driver() -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert time.monotonic() < deadline and process.poll() is None, "chromedriver does not start"
            time.sleep(0.05)
    yield port
    process.terminate()
    process.wait(PATIENCE_S)


HOSTS = (
    ("deb.debian.org", "192.0.2.132", 443, "tcp", 5), ("pypi.org", "192.0.2.223", 443, "tcp", 4),
    ("files.pythonhosted.org", "198.51.100.223", 443, "tcp", 8), ("", "192.0.2.53", 53, "udp", 6),
    ("registry.npmjs.org", "198.51.100.34", 443, "tcp", 3), ("github.com", "203.0.113.4", 22, "tcp", 1),
    ("telemetry.example.net", "203.0.113.9", 443, "tcp", 1), ("", "2001:db8::7", 8080, "tcp", 1),
)  # fmt: skip


def log(count: int) -> list[bytes]:
    """A log of a build that never was, the same each time."""
    chance, at, lines = random.Random(3), 1_796_000_000.0, []
    for number in range(count):
        at += chance.expovariate(count / 40)
        (host,) = chance.choices(HOSTS, [host[4] for host in HOSTS])
        name, address, port, protocol, _weight = host
        record = {"v": 1, "protocol": protocol, "from": "guest", "dest": address, "dest_port": port}
        record |= {"name": name} if name else {}
        lasted = chance.expovariate(0.5)
        if name.startswith("telemetry"):
            record |= {"event": "refused", "reason": "rule", "rule": 3}
        elif ":" in address:
            record |= {"event": "refused", "reason": "refused", "error": "Connection refused"}
        else:
            record |= {"event": "closed", "flow": f"0.0.{number}.1", "duration_s": round(lasted, 3), "reason": "finished"}
            record |= {"sent_bytes": int(chance.expovariate(1 / 9000)), "received_bytes": int(chance.expovariate(1 / 90000))}
        when = at + (lasted if record["event"] == "closed" else 0)
        record["time"] = datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        lines.append(json.dumps(record).encode())
    return lines


def write(path: Path, count: int, title: str = "pip install -r requirements.txt") -> Path:
    path.write_text(page.render(flows.read(log(count)), title))
    return path


COLUMN = """
const table = document.getElementById("destinations");
const at = [...table.tHead.rows[0].cells].findIndex((c) => c.textContent.trim() === arguments[0]);
return [...table.tBodies[0].rows].filter((r) => r.offsetParent).map((r) => r.cells[at].textContent);
"""
SHOWN = "return [...document.querySelectorAll('tbody tr')].filter((row) => row.offsetParent !== null).length"


def test_clicks_sort_and_words_search_without_a_complaint_of_the_browser(driver: int, tmp_path: Path) -> None:
    browser = Browser(driver)
    try:
        browser.open(write(tmp_path / "report.html", 60))
        before = browser.run(COLUMN, "Host")
        browser.click("#destinations th:nth-child(1) button")
        up = browser.run(COLUMN, "Host")
        assert up == sorted(before) and up != before
        browser.click("#destinations th:nth-child(1) button")
        assert browser.run(COLUMN, "Host") == up[::-1]
        everything = browser.run(SHOWN)
        browser.type("#words", "telemetry 443")
        assert 0 < browser.run(SHOWN) < everything
        assert browser.run(COLUMN, "Host") == ["telemetry.example.net203.0.113.9"]
        assert browser.complaints() == []
    finally:
        browser.close()


def test_without_script_the_page_says_everything(driver: int, tmp_path: Path) -> None:
    browser = Browser(driver, script=False)
    try:
        browser.open(write(tmp_path / "report.html", 60))
        # WebDriver's own script runs all the same; the page's has not.
        assert browser.run("return document.querySelectorAll('th button, input').length") == 0
        assert len(browser.run(COLUMN, "Host")) == 8
    finally:
        browser.close()


def test_hostile_names_stay_text(driver: int, tmp_path: Path) -> None:
    browser = Browser(driver)
    try:
        evil = "</script><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
        lines = [json.dumps({**json.loads(each), "name": evil, "protocol": evil}).encode() for each in log(20)]
        path = tmp_path / "evil.html"
        path.write_text(page.render(flows.read(lines), evil))
        browser.open(path)
        assert browser.run("return document.title").startswith("Network report: </script>")
        assert browser.run("return document.querySelectorAll('img, script').length") == 1
        assert browser.complaints() == []
    finally:
        browser.close()


def test_ten_thousand_connections_are_searched_while_one_types(driver: int, tmp_path: Path) -> None:
    """A key is answered in less time than it takes to load the page."""
    browser = Browser(driver)
    try:
        started = time.monotonic()
        browser.open(write(tmp_path / "report.html", 10_000))
        loaded = time.monotonic() - started
        started = time.monotonic()
        browser.type("#words", "g")
        assert 0 < browser.run(SHOWN) < 10_000
        assert time.monotonic() - started < max(loaded, 1)
    finally:
        browser.close()


def test_dark_and_light_follow_the_reader_and_show_the_same(driver: int, tmp_path: Path) -> None:
    shown: dict[bool, Any] = {}
    for dark in (False, True):
        browser = Browser(driver, dark=dark)
        try:
            browser.open(write(tmp_path / "report.html", 60))
            shown[dark] = browser.run("return [getComputedStyle(document.body).backgroundColor, document.body.innerText]")
            assert browser.picture().startswith(b"\x89PNG")
        finally:
            browser.close()
    assert shown[False][0] == "rgb(255, 255, 255)" and shown[True][0] == "rgb(20, 23, 26)"
    assert shown[False][1] == shown[True][1]


if __name__ == "__main__":
    sys.exit(pytest.main(["-q", __file__]))
