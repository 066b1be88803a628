"""README.md, CONTRIBUTING.md, SECURITY.md and docs/ name files and `make` targets of the source tree, tests name programs: each
exists. Lines fit the screen.
"""

import re
import subprocess
from pathlib import Path

from pasta_py import __version__

ROOT = Path(__file__).parents[1]
DOCS = (*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/dev").glob("*.md")))
PAGES = (*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")), *DOCS)
FOLDERS = ("bench", "csrc", "docs", "fuzz", "packaging", "pasta_py", "tests")
#: Words that begin with a folder of the project, and all words with a slash that end like a source file.
PATH = re.compile(rf"(?<![\w./-])(?:\.\./)?((?:{'|'.join(FOLDERS)})/[\w./*-]*|\w[\w/]*/\w+\.(?:py|[ch]|sh)\b)")
COLUMNS, CODE_COLUMNS = 100, 120


def paths_of(text: str) -> set[str]:
    """The paths in a page, without the full stop of a sentence."""
    return {found.rstrip(".") for found in PATH.findall(text)}


def test_paths_are_found_in_running_text_code_and_links() -> None:
    text = "See csrc/core/scheduling.h, (`tests/csrc/test_tcp*.py`) core/flow.c, [bench](../bench/quic.c). Not /usr/docs/x."
    assert paths_of(text) == {"csrc/core/scheduling.h", "tests/csrc/test_tcp*.py", "core/flow.c", "bench/quic.c"}


def test_every_path_that_a_page_names_exists() -> None:
    named = {(page.name, path) for page in PAGES for path in paths_of(page.read_text())}
    assert len(named) > 50  # the pattern still finds them
    assert sorted(f"{page}: {path}" for page, path in named if not any(ROOT.glob(path.rstrip("/")))) == []


def test_every_program_that_a_test_starts_exists() -> None:
    """They are in tests/programs: what runs in a process of its own, often in a namespace."""
    started = re.compile(r"""(?:\b(?:script|start)\(|PROGRAMS / )["']([\w.-]+\.py)["']|\bHERE / ["'](\w+\.py)["']""")
    named = {(path.name, *found) for path in (ROOT / "tests/e2e").glob("*.py") for found in started.findall(path.read_text())}
    assert len(named) > 50
    places = {"tests/programs": 1, "tests/e2e": 2}
    missing = [each for each in named for place, at in places.items() if each[at] and not (ROOT / place / each[at]).exists()]
    assert missing == []


def test_every_make_target_that_a_page_names_is_in_make_help() -> None:
    explained = set(re.findall(r"^([a-z0-9-]+):.*## .", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {target for page in PAGES for target in re.findall(r"(?:`|^)make ([a-z0-9-]+)", page.read_text(), re.MULTILINE)}
    assert len(named) > 10
    assert named - explained == set()


def test_make_run_says_what_it_does_before_each_step() -> None:
    command = ["make", "-n", "run", "VENV=/nonexistent/venv"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert re.findall(r'^echo "\[(\d)/3\] \w', shown, re.MULTILINE) == ["1", "2", "3"]


def test_a_version_is_the_same_everywhere() -> None:
    """CONTRIBUTING.md says where it stands, and what a version's tag is called."""
    assert (ROOT / "packaging/debian/changelog").read_text().startswith(f"pasta-py ({__version__}-")
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert changelog.count("\n## Unreleased\n") == 1
    if (ROOT / ".git").exists():
        done = subprocess.run(["git", "tag", "--list", "v*"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
        assert [tag for tag in done.stdout.split() if f"\n## {tag[1:]}" not in changelog] == []


def test_every_page_begins_with_what_it_is_for() -> None:
    begun = {page.name: page.read_text().split("\n\n")[1].split(". ")[0] for page in DOCS}
    assert len(begun) > 15
    assert {name: sentence for name, sentence in begun.items() if not sentence.startswith("This page ")} == {}


def test_lines_fit_into_the_columns_unless_they_are_rows_data_or_output() -> None:
    """Prose and console commands; what other languages need a line for has a few columns more."""
    wide = []
    for page in PAGES:
        language = ""
        for line in re.sub(r"<!-- table.*<!-- end of the table", "", page.read_text(), flags=re.DOTALL).splitlines():
            fence = re.match(r" *```(\w*)", line)
            if fence:
                language = "" if language else fence[1] or "text"
            free = line.startswith(("|", "<!--")) or language in ("json", "text")
            output = language == "console" and not line.startswith(("$ ", "> "))
            if not free and not output and len(line) > (COLUMNS if language in ("", "console") else CODE_COLUMNS):
                wide.append(f"{page.name}: {line}")
    assert wide == []
