"""What --learn writes: the narrowest rules, whole files, and nothing that a guest could have put there."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasta_py import defaults
from pasta_py.control.commandline import egress_rule, options
from pasta_py.control.planning import egress as planning
from pasta_py.control.start import learn_writer
from pasta_py.control.start.learn_writer import Learned

FIRST = 1_764_400_000_000  # 2025-11-29


def record(
    name: str, address: str = "203.0.113.7", port: int = 443, protocol: str = "tcp", kind: str = "connect", count: int = 1
) -> bytes:
    return f"{kind}\t{name}\t{address}\t{port}\t{protocol}\t{count}\t{FIRST}\n".encode("ascii", "replace")


def learned(*records: bytes, before: str = "") -> str:
    made = Learned(before)
    for each in records:
        made.take(each)
    return made.text()


def rules_in(text: str) -> list[str]:
    return [f"{'allow' if rule.allow else 'deny'} {rule}" for rule in egress_rule.parse_file(text.encode(), "learned").rules]


def test_names_become_rules_and_all_else_a_comment() -> None:
    text = learned(
        record("index.test"), record("index.test", count=2), record("files.test", port=80),
        record("ntp.test", port=123, protocol="udp"),
        record("a.test", protocol="icmp", port=0), record("", "198.51.100.9", 22), record("", "2001:db8::1", 22),
        record("inside.test", "10.1.2.3", 5432), record("inside6.test", "fd00::3", 5432), record("asked.test", kind="query"),
        record("index.test", kind="query"), record("host.docker.internal", "169.254.1.2", 80),
    )  # fmt: skip
    assert rules_in(text) == [
        "allow index.test:443/tcp", "allow files.test:80/tcp", "allow ntp.test:123/udp", "allow a.test/icmp",
        "allow inside.test=10.1.2.3:5432/tcp", "allow inside6.test=[fd00::3]:5432/tcp",
    ]  # fmt: skip
    assert "allow index.test:443/tcp  # learned: 3 times, first 2025-11-29T" in text
    assert "# no name: allow 198.51.100.9:22/tcp" in text and "# no name: allow [2001:db8::1]:22/tcp" in text
    assert "# asked for alone: asked.test" in text and "alone: index.test" not in text
    assert text.endswith("\ndefault none\n")


def test_a_file_that_is_there_keeps_its_lines_and_gets_what_is_new() -> None:
    before = "# mine\nversion 1\ndeny  *.bad.test  # never\r\nallow index.test:443/tcp # the index\ndefault internet"
    text = learned(record("index.test"), record("new.test"), before=before)
    assert text.startswith(before.replace("\r\n", "\n") + "\n")
    assert rules_in(text) == ["deny *.bad.test", "allow index.test:443/tcp", "allow new.test:443/tcp"]
    assert text.count("default") == 1
    assert rules_in(learned(record("new.test"), before=text)) == rules_in(text)  # a second run adds nothing
    assert rules_in(learned(record("a.new.test"), before="allow *.new.test:443\n")) == ["allow *.new.test:443"]


@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=20), st.integers(0, 70000), st.text(max_size=6)), max_size=10))
def test_whatever_a_guest_invents_the_file_is_read_and_opens_only_names_of_one_port(what: list[tuple[str, str, int, str]]) -> None:
    text = learned(*(record(name, address, port, protocol) for name, address, port, protocol in what), record("known.test"))
    assert text.replace("\n", "").isprintable() and text.isascii()
    parsed = egress_rule.parse_file(text.encode(), "learned")
    for rule in parsed.rules:
        assert rule.kind == egress_rule.NAME and rule.allow and rule.encoded[3] != egress_rule.GROUPS
        assert rule.ports[0] == rule.ports[1] or rule.protocols == egress_rule.ECHO
    assert parsed.default == "none"
    list(planning.warnings(planning.Said(rules=parsed.rules, default="none"), strict=True))


@pytest.mark.parametrize("existing", [False, True])
def test_the_file_is_replaced_whole_when_the_worker_is_gone(tmp_path: Path, existing: bool) -> None:
    path = tmp_path / "learned.rules"
    if existing:
        path.write_text("allow known.test:443\n")
    writer = learn_writer.Writer(options.parse(["--learn", str(path), "true"], "pasta-py"))
    assert [each.name for each in tmp_path.iterdir()] == ([path.name] if existing else [])
    ((_role, fd),) = writer.descriptors()
    os.write(fd, record("new.test"))
    writer.close()
    assert os.waitpid(writer.pid, 0)[1] == 0
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert rules_in(path.read_text()) == ["allow known.test:443"] * existing + ["allow new.test:443/tcp"]


def test_while_the_worker_lives_the_file_is_written_at_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds; here less, but time enough for two messages that come at once to be in one file."""
    assert defaults.LEARN_S == 10
    monkeypatch.setattr(defaults, "LEARN_S", 0.3)
    path = tmp_path / "learned.rules"
    writer = learn_writer.Writer(options.parse(["--learn", str(path), "true"], "pasta-py"))
    ((_role, fd),) = writer.descriptors()
    try:
        for names in (("one.test", "two.test"), ("one.test", "two.test", "three.test")):
            for name in names:
                os.write(fd, record(name))
            deadline = time.monotonic() + 60
            while not path.exists() or names[-1] not in path.read_text():
                assert time.monotonic() < deadline, "the file is not written"
                time.sleep(0.02)
            assert rules_in(path.read_text())[: len(names)] == [f"allow {name}:443/tcp" for name in names]
    finally:
        writer.close()
        assert os.waitpid(writer.pid, 0)[1] == 0


def test_a_link_stays_one_and_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    writer = learn_writer.Writer(options.parse(["--learn", str(tmp_path / "link"), "true"], "pasta-py"))
    os.write(writer.descriptors()[0][1], record("new.test"))
    writer.close()
    os.waitpid(writer.pid, 0)
    assert (tmp_path / "link").is_symlink() and "new.test" in (tmp_path / "target").read_text()
    with pytest.raises(Exception, match="is no file"):
        learn_writer.Writer(options.parse(["--learn", "/dev/null", "true"], "pasta-py"))
    with pytest.raises(Exception, match="No such file or directory"):
        learn_writer.Writer(options.parse(["--learn", "/nowhere/x", "true"], "pasta-py"))


def test_the_writer_can_reach_no_other_file(tmp_path: Path) -> None:
    """Held by Landlock, where the kernel has it, in a process of its own as the writer is."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
            here, _there = os.pipe()
            learn_writer._confine(here, directory)
            status = confined(tmp_path)
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def confined(directory: Path) -> int:
    os.close(os.open("inside", os.O_WRONLY | os.O_CREAT, dir_fd=4))
    for path in ("/etc/passwd", "/proc/self/status", f"{directory.parent}/outside", "/tmp/learn-outside"):
        try:
            os.close(os.open(path, os.O_RDONLY if path[1:4] in ("etc", "pro") else os.O_WRONLY | os.O_CREAT))
        except PermissionError:
            continue
        return 2
    return 0


def test_times_are_told_in_words() -> None:
    assert learn_writer._times([1, 0]) == "once, first 1970-01-01T00:00:00Z"
    assert learn_writer._times([2, int(time.time() * 1000)]).startswith("2 times, first 20")
