"""Blocks of code in the pages: each is run, or says which test runs it. docs/dev/pages.md has the rules."""

import ast
import re

import pages
import pytest
from pages import ROOT

ALL = [block for page in pages.PAGES for block in pages.blocks(page)]


def test_the_pages_have_examples() -> None:
    assert len(pages.PAGES) > 20 and {"README.md", "docs/ports.md", "docs/dev/pages.md"} <= {block.page for block in ALL}
    assert sum(block.language == "console" for block in ALL) > 10


def test_every_block_is_fenced() -> None:
    """Four columns are code in Markdown too, but have no language."""
    indented = []
    for page in pages.PAGES:
        outside = re.sub(r"^( *)```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        found = re.findall(r"(?:\A|\n)\n {4}.*", outside)
        indented += [f"{page.relative_to(ROOT)}: {line.strip()}" for line in found]
    assert indented == [], "see docs/dev/pages.md"


def test_every_block_is_run_or_names_the_test_that_runs_it() -> None:
    lost = [f"{block} ({block.language})" for block in ALL if block.language not in (*pages.RUN, "text") and not block.test]
    assert lost == [], "see docs/dev/pages.md"


def test_the_named_tests_exist() -> None:
    named = {block.test: block for block in ALL if block.test}
    assert named
    for test, block in named.items():
        path, _, name = test.partition("::")
        assert (ROOT / path).exists(), f"{block}: {test}"
        functions = {node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{block}: {test}"


def test_what_is_text_has_no_commands() -> None:
    command = re.compile(r"\$ |(?:pasta-py|pasta|passt|pesto|slirp4netns|podman|make|curl|sudo) +[^\s:|(\[]")
    lines = [(block, line) for block in ALL if block.language == "text" for line in block.text.splitlines()]
    assert [f"{block}: {line}" for block, line in lines if command.match(line)] == []


def test_every_console_block_has_commands_only_and_their_output() -> None:
    for block in ALL:
        if block.language == "console":
            assert block.text.startswith("$ "), str(block)
            assert not re.search(r"\bsleep [1-9]\d?\b(?! ?&)", block.text), f"{block}: ask until it is there, do not sleep"


def test_a_session_ends_what_it_starts_in_the_background() -> None:
    for block in ALL:
        if block.language == "console":
            words = [command for command, _ in pages.commands(block.text)]
            started = sum(bool(re.search(r"(?<!&)& *$", command)) for command in words)
            assert not started or words[-1] == "kill " + " ".join(f"%{job + 1}" for job in range(started)), str(block)


SESSION = """\
$ one |
> two
> three
first
$ # says nothing
$ last
> is output here
"""


def test_commands_and_their_output_are_told_apart() -> None:
    with pytest.raises(AssertionError):
        pages.commands("output without a command\n")
    assert pages.commands(SESSION) == [
        ("one |\ntwo\nthree", ["first"]),
        ("# says nothing", []),
        ("last\nis output here", []),
    ]


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ([], []),
        (["hello"], ["hello"]),
        (["port ... is open"], ["port 4711 is open"]),
        (["a", "...", "z"], ["a", "z"]),
        (["a", "...", "z"], ["a", "b", "c", "z"]),
        (["..."], []),
        (["(a+b) [...]"], ["(a+b) [3]"]),
    ],
)
def test_lines_that_match(expected: list[str], printed: list[str]) -> None:
    assert pages.matches(expected, printed)


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ([], ["more"]),
        (["hello"], []),
        (["hello"], ["hello", "more"]),
        (["a ... z"], ["a", "z"]),
        (["a", "...", "z"], ["a", "y"]),
        (["a+b"], ["aab"]),
    ],
)
def test_lines_that_do_not_match(expected: list[str], printed: list[str]) -> None:
    assert not pages.matches(expected, printed)
