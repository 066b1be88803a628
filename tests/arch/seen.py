"""`seen.py DIRECTORY`: which rows of the table of system calls the traces in DIRECTORY used.

Fails for a call that no row allows, and where the record of this platform (tests/arch/seen) has a row that was not used.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from calls import platform_here, records, used


def main() -> int:
    found, strange = used(list(Path(sys.argv[1]).iterdir()))
    seen = sorted({str(row) for _, row in found})
    print("\n".join(f"seen: {row}" for row in seen))
    missing = sorted(set(records().get(platform_here(), [])) - set(seen))
    for what, rows in (("no row allows", list(strange)), ("not used, but on record", missing)):
        for row in rows:
            print(f"{what}: {row}")
    return bool(strange or missing)


if __name__ == "__main__":
    sys.exit(main())
