"""The rules of a running instance: shown, explained, replaced, added for a while. No start where the guest could do that itself."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_egress_scenarios as scenarios
from lab import FAR4, NO_PORTS, PATIENCE_S, Guest, Lab, program, wait_until
from test_egress_scenarios import dig, fetched, refused, seen, status
from test_flow_names import held

lab = scenarios.lab

#: A client that holds a connection: it says when that is open, and how it ends.
HOLD = """
import socket, sys
sock = socket.create_connection((sys.argv[1], 80))
print("open", flush=True)
try:
    sock.recv(1)
    print("closed", flush=True)
except ConnectionResetError:
    print("reset", flush=True)
"""


class Live:
    """An instance with rules, a guest that cannot see its socket, and the socket."""

    def __init__(self, lab: Lab, guest: Guest, path: Path) -> None:
        self.lab, self.guest, self.path = lab, guest, path

    def say(self, *words: object, check: bool = True) -> str:
        done = self.lab.host.run(program("pasta-py"), "egress", *words, self.path, check=check)
        return done.stdout if check else done.stderr

    def replace(self, *lines: str) -> str:
        rules = self.lab.directory / "live.rules"
        rules.write_text("".join(f"{line}\n" for line in lines))
        return self.say("replace", rules)

    def hold(self, name: str) -> "subprocess.Popen[str]":
        process = self.guest.popen(sys.executable, "-c", HOLD, name)
        assert process.stdout and process.stdout.readline() == "open\n"
        return process


def ended(process: "subprocess.Popen[str]") -> str:
    return process.communicate(timeout=PATIENCE_S)[0].strip()


@contextlib.contextmanager
def live(lab: Lab, *options: object) -> Iterator[Live]:
    """The guest is a namespace by its path: nothing can be said of what is in it."""
    path = lab.directory / "live.sock"
    with lab.stray() as guest:
        inner = lab.inner_pid(guest.pid)
        namespaces = ("--netns", f"/proc/{inner}/ns/net", "--userns", f"/proc/{inner}/ns/user")
        argv = ("--foreground", "--config-net", *NO_PORTS, "--control", path, *options, *namespaces)
        process = lab.host.popen(program("pasta-py"), *argv)
        try:
            wait_until(lambda: path.exists() and "default" in guest.run("ip", "route").stdout, PATIENCE_S, "the instance")
            resolv = ("sh", "-c", "echo nameserver 169.254.1.1 >/run/resolv; mount --bind /run/resolv /etc/resolv.conf")
            guest.run(*resolv, check=False, caps=True)
            yield Live(lab, guest, path)
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
            path.unlink(missing_ok=True)


def test_a_derived_name_ends_with_the_rule_of_the_name_that_led_to_it(lab: Lab) -> None:
    with live(lab, "--allow", "shop.test:80") as run:
        assert dig(run.guest, "shop.test")[1:] == dig(run.guest, "e1.cdn.test") == [FAR4]
        assert "under the rules of shop.test" in run.say("explain", "--query", "e1.cdn.test")
        run.replace("allow api.test:80")
        seen(lab)
        assert status(run.guest, "e1.cdn.test") == "NXDOMAIN" and seen(lab) == []
        assert "denied" in run.say("explain", "--query", "e1.cdn.test")


@pytest.mark.option("--control")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_replaced_set_counts_at_once_and_ends_what_it_denies(lab: Lab, threads: int) -> None:
    with live(lab, "--threads", threads, "--allow", "api.test:80", "--allow", "db.test:80") as run:
        assert fetched(run.guest, "http://api.test/", "-4") == "it works"
        held = run.hold("api.test")
        assert "the same as before" in run.replace("allow api.test:80", "allow db.test:80")
        said = run.replace("allow db.test:80", "allow api.test:80/tcp  # still", "default none")
        assert "rule set 2 is in force" in said and " 0 ended" in said and " 0 kept" not in said, said
        assert held.poll() is None
        assert fetched(run.guest, "http://api.test/", "-4") == "it works"
        shown = run.say("show")
        assert "rule set 2: 2 rules; what none matches is denied" in shown and "# still" in shown and "live.rules:2" in shown
        said = run.replace("allow index.test:80")
        assert " 1 ended" in said, said
        assert ended(held) == "reset"
        assert refused(run.guest, "http://api.test/") and "Could not resolve" in refused(run.guest, "http://db.test/")
        assert fetched(run.guest, "http://index.test/", "-4") == "it works"
        shown = run.lab.host.run(program("pasta-py"), "show", run.path).stdout
        assert "egress: allow index.test:80; deny others" in shown
        assert "DNS: names of rules (--egress-dns rules, the default), answered here" in shown


def test_a_rule_for_a_while_ends_and_its_connections_with_it(lab: Lab) -> None:
    with live(lab, "--allow", "db.test:80") as run:
        assert "Could not resolve" in refused(run.guest, "http://api.test/")
        assert "in force" in run.say("add", "index.test:80", "--for", "1h")
        assert "allow index.test:80  (added, for" in run.say("show")
        held = run.guest.popen(sys.executable, "-c", f"print('ready', flush=True); input(){HOLD}", "api.test")
        assert held.stdin and held.stdout and held.stdout.readline() == "ready\n"
        run.say("add", "api.test:80", "--for", "5s")
        held.stdin.write("now\n")
        held.stdin.flush()
        assert held.stdout.readline() == "open\n"
        assert ended(held) == "reset"
        assert "api.test" not in run.say("show") and "index.test" in run.say("show")
        assert "Could not resolve" in refused(run.guest, "http://api.test/")
        run.say("add", "--deny", "db.test")
        assert "Could not resolve" in refused(run.guest, "http://db.test/")


def test_what_is_asked_is_explained(lab: Lab) -> None:
    options = ("--allow", "api.test:80", "--allow", "shop.test:443", "--deny", "*.bad.test", "--allow", "203.0.114.0/24:22")
    with live(lab, *options) as run:
        said = run.say("explain", "api.test:80/tcp")
        assert "query for api.test: allowed, by allow api.test:80  (--allow)" in said
        assert "connection to api.test:80/tcp: allowed" in said
        hint = "denied, no rule matches; --allow api.test:443/tcp would allow it"
        assert f"connection to api.test (at port 443): {hint}" in run.say("explain", "api.test")
        assert "denied, by deny *.bad.test" in run.say("explain", "--query", "x.bad.test")
        said = run.say("explain", "other.test:443/tcp")
        assert said.count("--allow other.test:443/tcp would allow it") == 2
        assert "egress add: rule 'a..test', column 1" in run.say("add", "a..test", check=False)
        assert "query for other.test: denied, no rule matches; --allow other.test" in run.say("explain", "--query", "other.test")
        assert "allowed, by allow 203.0.114.0/24:22" in run.say("explain", "203.0.114.9:22")
        dig(run.guest, "api.test")
        answer = json.loads(run.say("explain", "--json", f"{FAR4}:80/tcp"))
        assert answer["pins"] == ["api.test"] and answer["connect"]["verdict"] == "allowed"
        assert f"it was resolved to {FAR4}" in run.say("explain", "api.test:80")
        assert "ask for one" in run.say("explain", "*.test", check=False)


def test_denials_are_told_as_they_happen(lab: Lab) -> None:
    with live(lab, "--allow", "api.test:80") as run:
        watcher = lab.host.popen(program("pasta-py"), "egress", "denials", run.path)
        assert watcher.stdout
        wait_until(lambda: refused(run.guest, "http://other.test/") and has_output(watcher), PATIENCE_S, "a denial")
        line = json.loads(watcher.stdout.readline())
        assert (line["event"], line["name"], line["verdict"], line["hint"]) == (
            "query", "other.test", "denied", "--allow other.test:80",
        )  # fmt: skip
        watcher.terminate()
        watcher.wait(PATIENCE_S)


def has_output(process: "subprocess.Popen[str]") -> bool:
    import select

    return bool(select.select([process.stdout], [], [], 0.2)[0])


def test_a_set_that_cannot_be_read_changes_nothing_and_others_may_only_look(lab: Lab) -> None:
    with live(lab, "--allow", "api.test:80") as run:
        rules = lab.directory / "broken.rules"
        rules.write_text("allow api.test:80\npermit db.test\n")
        assert "broken.rules:2: 'permit db.test' is not understood" in run.say("replace", rules, check=False)
        assert "rule set 1: 1 rules" in run.say("show")
        done = lab.host.run(program("pasta-py"), "egress", "add", "db.test", "--for", "1x", run.path, check=False)
        assert done.returncode == 1 and "'1x' is no time" in done.stderr


def test_no_start_where_the_guest_sees_the_socket(lab: Lab) -> None:
    seen = str(lab.directory / "seen.sock")
    rules = ("--config-net", "--control", seen, "--egress", "none")
    done = lab.host.run(program("pasta-py"), *rules, "--", "true", check=False)
    assert done.returncode == 1 and f"--control '{seen}': the command sees it as {seen}, and could change" in done.stderr
    assert not Path(seen).exists()
    with lab.stray() as guest:
        elsewhere = lab.directory / "elsewhere"
        elsewhere.mkdir()
        guest.setup("link set lo up")
        guest.run("mount", "--bind", lab.directory, elsewhere, caps=True, check=False)
        done = lab.host.run(program("pasta"), *rules, lab.inner_pid(guest.pid), check=False)
        assert done.returncode == 1 and "sees it as" in done.stderr, done.stderr
    assert lab.host.run(program("pasta-py"), "--config-net", "--control", seen, "--", "true").returncode == 0  # no rules: no harm


def test_all_that_shows_a_flow_says_the_rule_in_the_same_words(lab: Lab) -> None:
    """The first rule too: the list of flows, its table, the flow log, the report, and the decision log."""
    log, decisions = lab.directory / "ruled.flows", lab.directory / "ruled.decisions"
    rules = [f"deny {FAR4}:81", f"allow {FAR4}:80"]
    words = ("--deny", f"{FAR4}:81", "--allow", f"{FAR4}:80", "--flow-log", log, "--decision-log", decisions)
    with live(lab, *words) as running, held(running.guest, FAR4):
        listed = lab.host.run(program("pasta-py"), "flows", "--json", running.path).stdout
        table = lab.host.run(program("pasta-py"), "flows", running.path).stdout.splitlines()
        assert running.guest.script("probe.py", "tcp", FAR4, 81, 1)["error"]
    assert [json.loads(each)["rule"] for each in listed.splitlines()] == [rules[1]]
    assert table[0].endswith("RULE") and table[1].endswith(rules[1])
    events = [json.loads(each) for each in log.read_text().splitlines()]
    ruled = {(each["event"], each["rule"]) for each in events}
    assert ruled == {("opened", rules[1]), ("closed", rules[1]), ("refused", rules[0])}
    assert {each["rule"] for each in map(json.loads, decisions.read_text().splitlines())} == set(rules)
    page = lab.directory / "ruled.html"
    lab.host.run(program("pasta-py"), "report", log, "-o", page)
    assert f"a rule forbids it (deny {FAR4}:81)" in page.read_text()
