"""Separate builds of single folders count for gcov too: `make test` sets PASTA_COVERAGE, a directory (tests/measure)."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Build:
    """What a build adds to its own: where its objects lie, and sources and flags as in csrc/build.py."""

    directory: str
    sources: list[str] = field(default_factory=list)
    compile_args: list[str] = field(default_factory=list)
    link_args: list[str] = field(default_factory=list)


def build(name: str) -> Build:
    """A directory for the objects, gone at the end unless gcov needs them."""
    kept = os.environ.get("PASTA_COVERAGE")
    directory = tempfile.mkdtemp(prefix=f"pasta-{name}-", dir=kept)
    if not kept:
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        return Build(directory)
    counters = ["-fprofile-arcs", "-ftest-coverage", "-fprofile-update=atomic", "-fprofile-info-section=gcov_info"]
    where = [f'-DPASTA_COVERAGE="{kept}"', "-DPASTA_COVERAGE_OF_PARTS"]
    return Build(directory, [str(ROOT / "tests" / "measure" / "keep.c")], [*counters, *where, "-O1"], ["-lgcov"])


def load(name: str, path: "str | Path") -> Any:
    """The module in this file, under that name."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
