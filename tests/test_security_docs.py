"""docs/security.md says what the source says."""

from calls import ROOT, documentation


def test_the_documented_table_of_system_calls_is_the_sources() -> None:
    lines = (ROOT / "docs/security.md").read_text().splitlines()
    start = lines.index(documentation()[0])
    table = [line for line in lines[start:] if line.startswith("|")]
    assert table == documentation(), "print the table with: python tests/calls.py"
