"""The pages for users and contributors, and the blocks of code in them. How to write a block: docs/dev/pages.md."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = tuple(
    sorted(path for folder in (".", "docs", "docs/dev", "examples", "contrib") for path in (ROOT / folder).glob("*.md"))
)
RUN = ("console", "python")  # languages that tests/e2e/test_examples.py runs
ELSEWHERE = re.compile(r"<!-- not run: (?P<reason>[^;]+); (?P<test>tests/[\w/]+\.py::test_\w+) -->")


@dataclass(frozen=True)
class Block:
    """One fenced block. `line` is that of its fence; `test` runs it, or "" where none is named."""

    page: str
    line: int
    language: str
    text: str
    test: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    lines = page.read_text().splitlines()
    fences = [at for at, line in enumerate(lines) if line.lstrip().startswith("```")]
    assert len(fences) % 2 == 0, f"{page}: a fence is not closed"
    found = []
    for start, end in zip(fences[::2], fences[1::2]):
        indent = len(lines[start]) - len(lines[start].lstrip())
        text = "".join(line[indent:] + "\n" for line in lines[start + 1 : end])
        above = ELSEWHERE.search(next((line for line in reversed(lines[:start]) if line), ""))
        test = above["test"] if above else ""
        found.append(Block(str(page.relative_to(ROOT)), start + 1, lines[start].strip("` "), text, test))
    return found


def block(page: str, begins: str) -> str:
    """The text of the one block of a page that begins so."""
    (found,) = [each.text for each in blocks(ROOT / page) if each.text.startswith(begins)]
    return found


def examples(page: Path) -> list[str]:
    """The commands in the section EXAMPLES of a manual page."""
    section = page.read_text().partition("\n.SH EXAMPLES\n")[2].partition("\n.SH ")[0]
    return [line.replace("\\-", "-").replace("\\e", "\\") for line in re.findall(r"^\.B (.*)$", section, re.MULTILINE)]


def session(block: Block) -> list[tuple[str, list[str]]]:
    """What is to be run of a console or python block, by bash, and what it prints: in Python, the lines behind "#> "."""
    if block.language == "console":
        return commands(block.text)
    printed = [line.lstrip()[3:] for line in block.text.splitlines() if line.lstrip().startswith("#> ")]
    return [(f"{sys.executable} - <<'END'\n{block.text}END", printed)]


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Each command of a console block, with the lines that it prints. "> " continues a command that has printed nothing yet."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
            continue
        assert found, f"{line!r} is before the first command"
        if line.startswith("> ") and not found[-1][1]:
            found[-1] = (found[-1][0] + "\n" + line[2:], [])
        else:
            found[-1][1].append(line)
    return found


def matches(expected: list[str], printed: list[str]) -> bool:
    """Whether the lines are the expected ones. "..." stands for anything in a line, alone for any number of lines."""
    pattern = ""
    for line in expected:
        pattern += r"(?:.*\n)*?" if line.strip() == "..." else ".*?".join(map(re.escape, line.split("..."))) + r" *\n"
    return re.fullmatch(pattern, "".join(line + "\n" for line in printed)) is not None
