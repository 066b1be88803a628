"""--learn with real programs: what they need becomes a file of rules, under which they run again, and nothing else does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import test_egress_scenarios as scenarios
from lab import FAR4, NO_PORTS, REMOTE4, Guest, Lab, program
from test_egress_scenarios import fetched, refused

from pasta_py.control.commandline import egress_rule

lab = scenarios.lab
WHEEL = "demo-1.0-py3-none-any.whl"
NAMES = ("index.test", "files.test", "api.test")


def served(lab: Lab) -> None:
    """A package index whose files are at another name, and a repository."""
    made = lab.directory / "made"
    made.mkdir()
    (made / "demo").mkdir()
    (made / "demo" / "index.html").write_text(f"<html><body><a href=http://files.test/{WHEEL}>{WHEEL}</a></body></html>")
    code = (
        "import zipfile\n"
        f"with zipfile.ZipFile('{made / WHEEL}', 'w') as wheel:\n"
        "    wheel.writestr('demo.py', '')\n"
        "    wheel.writestr('demo-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: demo\\nVersion: 1.0\\n')\n"
        "    wheel.writestr('demo-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n"
        "    wheel.writestr('demo-1.0.dist-info/RECORD', '')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    git = ("git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main")
    work = made / "work"
    for words in (("init", "-q", work), ("-C", work, "commit", "-q", "--allow-empty", "-m", "first"),
                  ("clone", "-q", "--bare", work, made / "repo.git"), ("-C", made / "repo.git", "update-server-info")):  # fmt: skip
        subprocess.run([*git, *map(str, words)], check=True, env={**os.environ, "HOME": str(made), "GIT_CONFIG_NOSYSTEM": "1"})
    subprocess.run(["chmod", "-R", "a+rX", made], check=True)
    lab.remote.run("sh", "-c", f"cp -r {made}/. /run/big/www/")


def build(guest: Guest, where: Path) -> None:
    """A pip download and a git clone, as a build would do them."""
    pip = (sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--retries", "0", "--timeout", "20")
    trusted = ("--trusted-host", "index.test", "--trusted-host", "files.test")
    guest.run(*pip, "--index-url", "http://index.test/", *trusted, "-d", where / "got", "demo")
    assert (where / "got" / WHEEL).exists()
    guest.run("env", f"HOME={where}", "git", "clone", "-q", "http://api.test/repo.git", where / "clone")
    assert (where / "clone" / ".git").is_dir()


def rules_in(path: Path) -> set[str]:
    return {str(rule) for rule in egress_rule.parse_file(path.read_bytes(), str(path)).rules if rule.allow}


def place(lab: Lab, name: str) -> Path:
    path = lab.directory / name
    path.mkdir()
    path.chmod(0o777)
    return path


@pytest.mark.option("--learn")
def test_what_pip_and_git_need_is_learned_and_is_enough(lab: Lab) -> None:
    served(lab)
    folder = place(lab, "rules")
    learned = folder / "build.rules"
    with lab.guest(*NO_PORTS, "--learn", str(learned), entry="pasta-py") as guest:
        build(guest, place(lab, "first"))
    assert rules_in(learned) == {f"{name}:80/tcp" for name in NAMES}, learned.read_text()
    assert [each.name for each in folder.iterdir()] == [learned.name]
    with lab.guest(*NO_PORTS, "--egress-file", str(learned)) as guest:
        build(guest, place(lab, "second"))
        assert "Could not resolve" in refused(guest, "http://shop.test/")
    with lab.guest(*NO_PORTS, "--learn", str(learned), "--deny", "*.cdn.test", entry="pasta-py") as guest:
        build(guest, place(lab, "third"))
        assert fetched(guest, "http://db.test/") == "it works"
        assert fetched(guest, f"http://{FAR4}/") == "it works"
    assert rules_in(learned) == {f"{name}:80/tcp" for name in (*NAMES, "db.test")}, learned.read_text()


def test_closed_groups_stay_closed_and_none_cannot_be_learned(lab: Lab) -> None:
    learned = place(lab, "closed") / "x.rules"
    with lab.guest(*NO_PORTS, "--learn", str(learned), entry="pasta-py") as guest:
        assert refused(guest, f"http://{REMOTE4}/") and refused(guest, "http://169.254.169.254/")
        assert fetched(guest, f"http://{FAR4}/") == "it works"
    assert rules_in(learned) == set() and f"# no name: allow {FAR4}:80/tcp" in learned.read_text()
    done = lab.host.run(program(), "--config-net", "--egress", "none", "--learn", learned, "--", "true", check=False)
    assert done.returncode == 1 and "--egress says 'none'" in done.stderr
