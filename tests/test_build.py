"""What `pip install .` makes: a wheel of the package alone, from a source archive that is complete."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.as_built, pytest.mark.unsanitized]

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("csrc", "pasta_py", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The sources alone, without anything built."""
    target = tmp_path / "tree"
    target.mkdir()
    unwanted = shutil.ignore_patterns("*.so", "__pycache__", "*.o", "_plane.c", "_calls.c")
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=unwanted)
        else:
            shutil.copy(ROOT / name, target)
    return target


def build(tree: Path, *words: str, **environment: str) -> str:
    """Run setuptools' backend in `tree`; what it printed. Fails with that when the build does."""
    code = f"from setuptools import build_meta; build_meta.{words[0]}('dist')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env={**os.environ, **environment}, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_wheel_from_the_source_archive_holds_the_extension_and_installs(tree: Path, tmp_path: Path) -> None:
    build(tree, "build_sdist")
    (archive,) = (tree / "dist").glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    build(unpacked, "build_wheel", PASTA_WERROR="1")
    (wheel,) = (unpacked / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        packed.extractall(tmp_path / "site")
    for extension in ("_plane", "_calls"):
        assert [name for name in names if re.fullmatch(rf"pasta_py/{extension}\..*so", name)]
    assert "pasta_py/py.typed" in names
    stem = "-".join(wheel.name.split("-")[:2])
    assert {name.split("/")[0] for name in names} == {"pasta_py", f"{stem}.dist-info", f"{stem}.data"}
    scripts = [tmp_path / "site" / name for name in names if name.startswith(f"{stem}.data")]
    assert sorted(script.name for script in scripts) == ["pasta", "pesto", "slirp4netns"]
    assert len({script.read_bytes() for script in scripts}) == 1  # by its name it knows what it is
    code = "import pasta_py.worker.plane as p; print(p.PUNT, p.__file__)"
    paths = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=paths, capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.split() == ["1", str(tmp_path / "site" / "pasta_py" / "worker" / "plane.py")]


def test_a_changed_header_alone_rebuilds_the_extension(tree: Path) -> None:
    def compiled() -> str:
        done = subprocess.run(
            [sys.executable, "setup.py", "build_ext"], cwd=tree, capture_output=True, text=True, check=True, timeout=200
        )
        return done.stdout + done.stderr

    assert "checksum.c" in compiled()
    assert "checksum.c" not in compiled()
    header = tree / "csrc" / "base" / "bytes.h"
    os.utime(header, (time.time() + 60,) * 2)
    assert "checksum.c" in compiled()


def test_python_sees_what_stands_between_the_markers() -> None:
    spec = importlib.util.spec_from_file_location("csrc_build", ROOT / "csrc" / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.cdef()
    assert "plane_run" in text
    assert "#include" not in text
    assert "/*" not in text
    listed = {Path(path).name for path in module.sources()}
    assert listed == {path.name for folder in module.FOLDERS for path in (ROOT / "csrc" / folder).glob("*.c")}
