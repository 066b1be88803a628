"""README.md and docs/ name files and `make` targets of the source tree: each one exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
FOLDERS = ("bench", "csrc", "docs", "fuzz", "pasta_py", "tests")
PATH = re.compile(rf"(?<![\w./-])(?:\.\./)?((?:{'|'.join(FOLDERS)})/[\w./*-]*)")


def paths_of(text: str) -> set[str]:
    """Words that begin with a folder of the project, without the full stop of a sentence."""
    return {found.rstrip(".") for found in PATH.findall(text)}


def test_paths_are_found_in_running_text_code_and_links() -> None:
    text = "See csrc/core/sched.h, (`tests/csrc/test_tcp*.py`) and [bench](../bench/quic.c). Not build/tests/x or /usr/docs/x."
    assert paths_of(text) == {"csrc/core/sched.h", "tests/csrc/test_tcp*.py", "bench/quic.c"}


def test_every_path_that_a_page_names_exists() -> None:
    named = {(page.name, path) for page in PAGES for path in paths_of(page.read_text())}
    assert len(named) > 50  # the pattern still finds them
    assert sorted(f"{page}: {path}" for page, path in named if not any(ROOT.glob(path.rstrip("/")))) == []


def test_every_make_target_that_a_page_names_is_in_make_help() -> None:
    explained = set(re.findall(r"^([a-z-]+):.*## .", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {target for page in PAGES for target in re.findall(r"(?:`|^    )make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert len(named) > 10
    assert named - explained == set()
