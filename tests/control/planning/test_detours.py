"""--redirect and --proxy in a plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from pasta_py.control.planning import detours
from pasta_py.errors import HostError, PastaError


@pytest.mark.parametrize(("text", "expected"), [
    (b"me:pass\n", (b"me", b"pass")), (b"me:a:b\r\nmore", (b"me", b"a:b")), (b"me:", (b"me", b"")),
    (b"a" * 255 + b":" + b"b" * 255, (b"a" * 255, b"b" * 255)),
])  # fmt: skip
def test_credentials_are_the_first_line(tmp_path: Path, text: bytes, expected: tuple[bytes, bytes]) -> None:
    (tmp_path / "auth").write_bytes(text)
    assert detours.credentials(str(tmp_path / "auth")) == expected


@pytest.mark.parametrize("text", [b"", b"me", b":pass", b"a" * 256 + b":b", b"a:" + b"b" * 256])
def test_other_files_are_refused_without_their_text(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "auth").write_bytes(text)
    with pytest.raises(PastaError, match="expected one line USER:PASSWORD") as caught:
        detours.credentials(str(tmp_path / "auth"))
    assert "pass" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="--proxy-auth-file .*missing"):
        detours.credentials(str(tmp_path / "missing"))
