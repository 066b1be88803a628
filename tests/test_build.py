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
SHIPPED = ("csrc", "pasta_py", "docs", "contrib", "setup.py", "pyproject.toml", "README.md", "LICENSE")


def build(tree: Path, what: str, **environment: str) -> None:
    """Run setuptools' backend in `tree`. Fails with what it printed when the build does."""
    code = f"from setuptools import build_meta; build_meta.{what}('dist')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env={**os.environ, **environment}, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a source archive of the sources alone holds, where a wheel was built from it."""
    folder = tmp_path_factory.mktemp("build")
    tree = folder / "tree"
    tree.mkdir()
    unwanted = shutil.ignore_patterns("*.so", "__pycache__", "*.o", "_plane.c", "_calls.c")
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=unwanted)
        else:
            shutil.copy(ROOT / name, tree)
    build(tree, "build_sdist")
    (archive,) = (tree / "dist").glob("*.tar.gz")
    shutil.unpack_archive(archive, folder / "unpacked")
    (found,) = (folder / "unpacked").iterdir()
    build(found, "build_wheel", PASTA_WERROR="1")
    return found


def test_the_wheel_holds_the_extension_and_installs(unpacked: Path, tmp_path: Path) -> None:
    (wheel,) = (unpacked / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        packed.extractall(tmp_path / "site")
    for extension in ("_plane", "_calls"):
        assert [name for name in names if re.fullmatch(rf"pasta_py/{extension}\..*so", name)]
    assert {"pasta_py/py.typed", "pasta_py/control/guest/shell/.zshenv", "pasta_py/control/guest/shell/env.sh"} <= set(names)
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "pasta_py").rglob("*.py")}
    assert modules - {name for name in names if name.endswith(".py")} == set()
    stem = "-".join(wheel.name.split("-")[:2])
    assert {name.split("/")[0] for name in names} == {"pasta_py", f"{stem}.dist-info", f"{stem}.data"}
    scripts = [tmp_path / "site" / name for name in names if name.startswith(f"{stem}.data/scripts/")]
    shared = {name.removeprefix(f"{stem}.data/data/share/") for name in names if name.startswith(f"{stem}.data/data/share/")}
    programs = ("pasta-py", "pasta", "passt", "pesto", "slirp4netns")
    assert shared == {"man/man1/pasta-py.1", "zsh/site-functions/_pasta-py"} | {
        path for name in programs for path in (f"bash-completion/completions/{name}", f"fish/vendor_completions.d/{name}.fish")
    }
    assert sorted(script.name for script in scripts) == ["passt", "pasta", "pesto", "slirp4netns"]
    assert len({script.read_bytes() for script in scripts}) == 1  # by its name it knows what it is
    code = "import pasta_py.worker.plane as p; print(p.PUNT, p.__file__)"
    paths = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=paths, capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.split() == ["1", str(tmp_path / "site" / "pasta_py" / "worker" / "plane.py")]


def test_a_changed_header_alone_rebuilds_the_extension(unpacked: Path) -> None:
    def compiled(**environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "setup.py", "build_ext"], cwd=unpacked, env={**os.environ, **environment}, capture_output=True,
            text=True, check=True, timeout=200,
        )  # fmt: skip
        return done.stdout + done.stderr

    assert "checksum.c" not in compiled()
    os.utime(unpacked / "csrc" / "base" / "bytes.h", (time.time() + 60,) * 2)
    assert "checksum.c" in compiled(CC="true")  # what would be compiled; nothing is


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
