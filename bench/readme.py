"""The figures in README.md, from the table of docs/performance.md. `make bench` and `make bench-redraw` run this.

    python -m bench.readme
"""

import re
import sys
import textwrap
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
COLUMNS = 100  # of a page
FAST = """\
- **It carries much.** A stream to the guest ran at {small[pasta-py]} Gb/s at MTU 1500, where passt carries {small[passt]} and a
link without a translator {small[no translator]}; at MTU 65520 it ran at {large[pasta-py]}, with passt at {large[passt]}. Idle it
takes {memory[pasta-py]} MB, passt {memory[passt]}. Starts take longer than passt's. ({date}, {cores} cores:
[docs/performance.md](docs/performance.md).)"""
ROWS = {
    "TCP to the guest, MTU 1500; 65520": "{small}; {large} Gb/s",
    "TCP request and response": "{request} µs",
    "start; memory when idle": "{start} ms; {memory} MB",
}
SUBJECTS = ("no translator", "pasta-py", "passt", "slirp4netns")
NAMES = {
    "small": "TCP guest-bound, MTU 1500", "large": "TCP guest-bound, MTU 65520", "request": "TCP request/response, p50",
    "start": "start to ready", "memory": "memory when idle (RSS)",
}  # fmt: skip


def measured(page: str) -> dict[str, dict[str, str]]:
    """The rows of the table by the names above; in each the cells by column. ValueError where the table lacks one."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")]
    by_name = {row[0]: dict(zip(rows[0], row)) for row in rows}
    lacking = {*NAMES.values()} - {*by_name} | {*SUBJECTS} - {*rows[0]}
    if lacking:
        raise ValueError(f"the table of docs/performance.md lacks {', '.join(sorted(lacking))}: README.md keeps its figures")
    return {short: by_name[name] for short, name in NAMES.items()}


def written(readme: str, page: str) -> str:
    """The text of README.md with the figures of the page. ValueError where README.md lacks a place for one."""
    figures = measured(page)
    about = re.search(r"^(\d+)-core .*?(\d{4}-\d\d-\d\d)", page, re.MULTILINE)
    if not about:
        raise ValueError("docs/performance.md does not say when and on how many cores it was measured")
    sentence = FAST.format(**figures, cores=about[1], date=about[2]).replace("\n", " ")
    places = {r"- \*\*It carries much\.\*\*(?:.|\n)*?(?=\n- \*\*)": textwrap.fill(
        sentence, COLUMNS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )}  # fmt: skip
    for row, form in ROWS.items():
        cells = [form.format(**{k: v[name] for k, v in figures.items()}) for name in SUBJECTS[1:]]
        places[rf"\| {re.escape(row)} \|.*"] = f"| {' | '.join([row, *cells])} |"
    for place, text in places.items():
        readme, count = re.subn(place, lambda _found, text=text: text, readme)
        if count != 1:
            raise ValueError(f"README.md has {count} places like '{place}', not one")
    return readme


def main() -> int:
    path = CHECKOUT / "README.md"
    try:
        path.write_text(written(path.read_text(), (CHECKOUT / "docs" / "performance.md").read_text()))
    except ValueError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
