"""The decision log end to end: what it says of connections, names and answers, how much it says, and the recipes of its page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import test_egress_scenarios as scenarios
from lab import FAR4, NO_PORTS, Guest, Lab, program
from test_egress_scenarios import allow, dig, fetched, refused

lab = scenarios.lab
PAGE = (Path(__file__).parents[2] / "docs" / "egress.md").read_text()
Line = dict[str, object]


def lines(path: Path) -> list[Line]:
    schema = json.loads(PAGE.partition("```json\n")[2].partition("```")[0])
    found = [json.loads(line) for line in path.read_bytes().splitlines()]
    for each in found:
        jsonschema.validate(each, schema)
    assert [each["sequence"] for each in found] == list(range(1, len(found) + 1))
    return found


def one(found: list[Line], **members: object) -> Line:
    """The one decision with these members, however many lines repeat it; its `count` is that of all."""
    fitting = [each for each in found if all(each.get(name) == value for name, value in members.items())]
    names = ("event", "verdict", "reason", "name", "address", "port", "protocol")
    assert len({shown(each, *names) for each in fitting}) == 1, (members, found)
    return {**fitting[0], "count": sum(int(str(each["count"])) for each in fitting)}


def shown(line: Line, *names: str) -> tuple[object, ...]:
    return tuple(line.get(name) for name in names)


def closed(guest: Guest, address: str, port: int, protocol: str = "tcp") -> None:
    assert guest.script("probe.py", protocol, address, port, 1)["error"]


@pytest.mark.option("--decision-log")
def test_each_decision_has_its_reason_its_rule_and_what_would_allow_it(lab: Lab) -> None:
    path = lab.directory / "decisions.json"
    rules = lab.directory / "log.rules"
    rules.write_text("allow api.test:80  # the interface\ndeny *.bad.test  # trackers\nallow shop.test:80\nallow r4.evil.test:80\n")
    with lab.guest(*NO_PORTS, "--egress-file", str(rules), "--decision-log", str(path)) as guest:
        assert fetched(guest, "http://api.test/", "-4") == "it works"
        assert fetched(guest, "http://shop.test/", "-4") == "it works"
        assert "Could not resolve" in refused(guest, "http://other.test/")
        assert dig(guest, "+tcp", "a.bad.test") == []
        assert dig(guest, "r4.evil.test") == [FAR4]
        assert dig(guest, "e1.cdn.test") == [FAR4]
        closed(guest, FAR4, 81)
        closed(guest, "203.0.114.7", 80)
    found = lines(path)
    api = one(found, event="connect", name="api.test")
    assert shown(api, "verdict", "reason", "address", "port", "protocol") == ("allowed", "rule", FAR4, 80, "tcp")
    assert shown(api, "rule", "where", "note", "rules") == ("allow api.test:80", f"{rules}:1", "the interface", 1)
    assert shown(one(found, event="connect", name="shop.test", port=80), "via", "verdict") == ("e1.cdn.test", "allowed")
    other = one(found, event="query", name="other.test")
    assert shown(other, "verdict", "reason", "hint") == ("denied", "default", "--allow other.test:80")
    bad = one(found, event="query", name="a.bad.test")
    assert shown(bad, "verdict", "reason", "note", "type", "guest") == ("denied", "rule", "trackers", "A", other["guest"])
    withheld = [each for each in found if each["event"] == "answer"]
    assert {each["address"] for each in withheld} == set(scenarios.PRIVATE4)
    metadata = one(withheld, address="169.254.169.254")
    assert shown(metadata, "reason", "name", "hint") == ("withheld", "r4.evil.test", "--allow r4.evil.test=169.254.169.254:80")
    assert shown(one(found, event="query", name="e1.cdn.test"), "verdict", "reason", "via") == ("allowed", "derived", "shop.test")
    other_port = one(found, event="connect", port=81)
    assert shown(other_port, "verdict", "reason") == ("denied", "default")
    assert str(other_port["hint"]).startswith("--allow ") and str(other_port["hint"]).endswith(".test:81/tcp")
    assert shown(one(found, address="203.0.114.7"), "verdict", "hint") == ("denied", "--allow 203.0.114.7:80/tcp")
    assert not [each for each in found if each.get("port") == 53]


def test_without_a_rule_all_is_allowed_and_logged_and_a_stream_has_nothing_else(lab: Lab) -> None:
    command = ("sh", "-c", "echo out; curl -sS -4 -m 20 http://api.test/")
    done = lab.host.run(program(), "--config-net", *NO_PORTS, "--decision-log", "-", "--", *command)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert shown(one(found, event="connect"), "verdict", "reason", "name", "port") == ("allowed", "default", "api.test", 80)
    assert "out" in done.stderr and "it works" in done.stderr


def test_what_is_allowed_and_has_no_route_says_so(lab: Lab) -> None:
    path, nowhere = lab.directory / "no-route.json", "198.51.100.99"
    lab.host.setup(f"route add unreachable {nowhere}")
    with lab.guest(*allow(f"{nowhere}:80"), "--decision-log", str(path)) as guest:
        closed(guest, nowhere, 80)
        closed(guest, nowhere, 81)
    found = lines(path)
    allowed = one(found, address=nowhere, port=80)
    assert shown(allowed, "verdict", "reason", "rule") == ("allowed", "no_route", f"allow {nowhere}:80")
    assert shown(one(found, address=nowhere, port=81), "verdict", "reason") == ("denied", "default")


FLOOD = """
import socket, sys, time
port, seconds, addresses = 7, float(sys.argv[1]), int(sys.argv[2])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end, sent = time.monotonic() + seconds, 0
while time.monotonic() < end or sent < addresses:
    try:
        sock.sendto(b"", (f"198.51.{sent % addresses // 250}.{sent % addresses % 250 + 1}", port))
    except OSError:
        pass  # the answer to an earlier one
    sent += 1
    time.sleep(0.0005)
"""


def test_a_flood_stays_within_its_lines_and_is_counted(lab: Lab) -> None:
    """The limit counts seconds as the log is written, so on a slow machine more of them than the flood took: those of the test."""
    path, begin, addresses = lab.directory / "flood.json", time.monotonic(), 3000
    with lab.guest("--egress", "none", "--decision-log", str(path)) as guest:
        guest.run(sys.executable, "-c", FLOOD, "2.5", str(addresses))
    seconds = int(time.monotonic() - begin) + 2  # the one that has begun, and what is left at the end
    found = lines(path)
    summaries = [each for each in found if each["event"] == "summary"]
    assert summaries and sum(int(str(each["count"])) for each in found) >= addresses
    assert len(found) - len(summaries) <= 100 * seconds


def test_attempts_with_a_search_domain_count_as_the_name(lab: Lab) -> None:
    path = lab.directory / "search.json"
    options = (*allow("api.test:80"), "--search", "corp.example", "--decision-log", str(path))
    with lab.guest(*options) as guest:
        for name in ("files.elsewhere", "db.corp.example", "api.test"):
            guest.run("getent", "ahostsv4", name, check=False)
        dig(guest, "files.elsewhere.corp.example")
    found = lines(path)
    names = {each["name"] for each in found if each["event"] == "query"}
    assert names == {"api.test", "db.corp.example", "files.elsewhere"}, found
    assert shown(one(found, name="files.elsewhere"), "count") == (3,)


def test_the_recipes_of_the_page_work(lab: Lab) -> None:
    with lab.guest(*allow("api.test:80"), "--decision-log", str(lab.directory / "decisions.json")) as guest:
        assert fetched(guest, "http://api.test/", "-4") == "it works"
        assert refused(guest, "http://other.test/")
        closed(guest, FAR4, 81)
    recipes = PAGE.partition("## What was decided")[2].partition("```sh\n")[2].partition("```")[0]
    found = re.split(r"^# .*\n", recipes, flags=re.MULTILINE)[1:]
    assert len(found) == 3
    answers = []
    for recipe in found:
        argv = ["sh", "-e", "-c", recipe]
        done = subprocess.run(argv, cwd=lab.directory, capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, done.stderr) == (0, ""), recipe
        answers.append(done.stdout)
    assert re.search(r"^\d+\tother.test\tdefault\t--allow other.test:80$", answers[0], re.MULTILINE), answers[0]
    assert re.search(r"^\d+\tallow api.test:80$", answers[1], re.MULTILINE), answers[1]
    assert answers[2] == "api.test:80\n"
