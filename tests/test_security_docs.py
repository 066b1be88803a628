"""docs/security.md says what the source says."""

from calls import ROOT, documentation, records, rows


def test_the_documented_table_of_system_calls_is_the_sources() -> None:
    lines = (ROOT / "docs/security.md").read_text().splitlines()
    start = lines.index(documentation()[0])
    end = lines.index("", start)
    assert lines[start:end] == documentation(), "print the table with: python tests/calls.py"


def test_records_of_other_platforms_name_rows_of_the_table() -> None:
    known = {str(row) for row in rows()}
    assert records()
    for platform, lines in records().items():
        assert set(lines) <= known, platform
