"""Manual pages: one for each program, as docs/ has them, shown by the real man."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from process_helpers import environment

from pasta_py.control.pesto import main as pesto
from pasta_py.control.slirp4netns import options as slirp4netns
from pasta_py.control.subcommands import completion, man

ROOT = Path(__file__).resolve().parents[3]


def shown(*words: str, path: str = "") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pasta_py", "man", *words]
    settings = {**environment(), "PYTHONPATH": str(ROOT), "MANWIDTH": "100", "MAN_KEEP_FORMATTING": "", "LC_ALL": "C.UTF-8"}
    return subprocess.run(command, env=settings | ({"PATH": path} if path else {}), capture_output=True, text=True, timeout=60)


def test_docs_has_a_current_page_of_each_program() -> None:
    """`make man` makes them anew."""
    pages = man.pages()
    assert set(pages) == set(completion.PROGRAMS)
    assert {path.stem: path.read_text() for path in (ROOT / "docs").glob("*.1")} == pages


@pytest.mark.parametrize(("program", "table"), [("pesto", pesto.TABLE), ("slirp4netns", slirp4netns.TABLE)], ids=["pesto", "slirp"])
def test_a_page_has_every_option_of_its_program(program: str, table: "list[tuple[str, str, str, str]]") -> None:
    text = " ".join(shown(program).stdout.split())
    for short, long, value, help_text in table:
        names = (f"-{short}, " if short else "") + f"--{long}" + (f" {value}" if value else "")
        assert f"{names} {help_text[0].upper()}{help_text[1:]}." in text


@pytest.mark.parametrize("words", [(), ("pasta",), ("passt",), ("pasta-py",)], ids=str)
def test_three_programs_share_a_page(words: tuple[str, ...]) -> None:
    done = shown(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("PASTA-PY(1)") and "--map-guest-addr" in done.stdout


@pytest.mark.skipif(not shutil.which("groff"), reason="man alone, without groff, warns of nothing")
@pytest.mark.parametrize("program", ["pasta-py", "pesto", "slirp4netns"])
def test_the_source_has_no_mistakes(program: str) -> None:
    source = shown(program, "--roff").stdout
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z"], input=source, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_program_of_another_package_is_refused() -> None:
    done = shown("ls")
    assert done.returncode == 1
    assert "'ls': no program of this package: expected one of passt, pasta, " in done.stderr.splitlines()[0]


def test_without_man_a_line_says_what_helps(tmp_path: Path) -> None:
    done = shown(path=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "pasta-py man: there is no program 'man': install it (Debian: man-db), or use --help, or --roff for the source\n"
    )
