"""What `pip install .` makes: a wheel of the package alone, for all later Pythons; and a source archive with all that git has."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from pasta_py import __version__

pytestmark = [pytest.mark.as_built, pytest.mark.unsanitized, pytest.mark.timeout(900)]  # compiles twice

ROOT = Path(__file__).resolve().parents[1]
#: What a checkout has beside the sources.
UNWANTED = (".git", ".venv", "build", "dist", "*.egg-info", "*.so", "*.o", "__pycache__", ".*_cache", ".hypothesis", ".coverage*")
UNWANTED += ("_plane.c", "_calls.c", "_commit.py", "pasta_py-[0-9]*")  # the last: what another sdist makes meanwhile
PROGRAMS = ("pasta-py", "pasta", "passt", "pesto", "slirp4netns")
#: What the tests of an unpacked archive run: pure ones of each kind, and pages that are compared with the sources.
SELECTION = (
    "tests/csrc/test_base.py", "tests/control/commandline/test_port_spec.py", "tests/control/subcommands/test_man.py",
    "tests/test_layering.py", "tests/test_docs_paths.py",
)  # fmt: skip


def attempt(tree: Path, what: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run setuptools' backend in `tree`."""
    code = f"from setuptools import build_meta; build_meta.{what}('dist')"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env={**os.environ, **environment}, capture_output=True, text=True, timeout=500
    )


def build(tree: Path, what: str, **environment: str) -> None:
    """Fails with what setuptools printed when the build does, or warns."""
    done = attempt(tree, what, **environment)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    warnings = [line for line in said.splitlines() if "warning" in line.lower() and "byte-compiling is disabled" not in line]
    assert warnings == [], said


def git(tree: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=tests", "-c", "user.email=", *words]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> "tuple[Path, str]":
    """A source archive, made in a git checkout of the sources, and the name of its commit."""
    tree = tmp_path_factory.mktemp("checkout") / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*UNWANTED))
    git(tree, "init", "-q")
    git(tree, "add", ".")
    git(tree, "commit", "-q", "-m", "all")
    build(tree, "build_sdist")
    (found,) = (tree / "dist").glob("*.tar.gz")
    return found, git(tree, "rev-parse", "--short=12", "HEAD")


@pytest.fixture(scope="module")
def unpacked(archive: "tuple[Path, str]", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the archive holds, where a wheel was built from it."""
    folder = tmp_path_factory.mktemp("build")
    folder.chmod(0o755)  # tests become ordinary users
    shutil.unpack_archive(archive[0], folder)
    (found,) = folder.iterdir()
    build(found, "build_wheel", PASTA_WERROR="1")
    return found


def test_the_archive_has_all_that_git_has(archive: "tuple[Path, str]") -> None:
    tree = archive[0].parents[1]
    with tarfile.open(archive[0]) as packed:
        held = {name.partition("/")[2] for name in (entry.name for entry in packed if entry.isfile())}
    assert set(git(tree, "ls-files").splitlines()) - held == set()
    made = {"PKG-INFO", "setup.cfg", "pasta_py/_commit.py"}
    assert {name for name in held if not name.startswith("pasta_py.egg-info/")} - set(git(tree, "ls-files").splitlines()) == made


def test_the_wheel_holds_all_and_installs(unpacked: Path, archive: "tuple[Path, str]", tmp_path: Path) -> None:
    (wheel,) = (unpacked / "dist").glob("*.whl")
    assert wheel.name.endswith(f"-cp311-abi3-linux_{platform.machine()}.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        packed.extractall(tmp_path / "site")
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "pasta_py").rglob("*.py")} | {"pasta_py/_commit.py"}
    assert {name for name in names if name.startswith("pasta_py/") and name.endswith(".py")} == modules
    assert {name for name in names if name.endswith(".so")} == {"pasta_py/_plane.abi3.so", "pasta_py/_calls.abi3.so"}
    data = {path for path in (ROOT / "pasta_py/control").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert {str(path.relative_to(ROOT)) for path in data} | {"pasta_py/py.typed"} <= set(names)
    stem = "-".join(wheel.name.split("-")[:2])
    assert {name.split("/")[0] for name in names} == {"pasta_py", f"{stem}.dist-info", f"{stem}.data"}
    scripts = [tmp_path / "site" / name for name in names if name.startswith(f"{stem}.data/scripts/")]
    shared = {name.removeprefix(f"{stem}.data/data/share/") for name in names if name.startswith(f"{stem}.data/data/share/")}
    assert shared == {"zsh/site-functions/_pasta-py"} | {
        path.format(name) for name in PROGRAMS for path in
        ("man/man1/{}.1", "bash-completion/completions/{}", "fish/vendor_completions.d/{}.fish")
    }  # fmt: skip
    assert sorted(script.name for script in scripts) == ["passt", "pasta", "pesto", "slirp4netns"]
    assert len({script.read_bytes() for script in scripts}) == 1  # by its name it knows what it is
    code = "import pasta_py.worker.plane as p; print(p.PUNT, p.__file__)"
    paths = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=paths, capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.split() == ["1", str(tmp_path / "site" / "pasta_py" / "worker" / "plane.py")]
    said = subprocess.run(
        [sys.executable, "-m", "pasta_py", "--version"], cwd=tmp_path, env=paths, capture_output=True, text=True, timeout=30
    )
    assert said.stdout == f"pasta-py {__version__} ({archive[1]})\n"


def test_tests_run_from_the_archive(unpacked: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=unpacked, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SELECTION]
    done = subprocess.run(command, cwd=unpacked, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ({"CC": "/nonexistent/cc -O2"}, "no C compiler: /nonexistent/cc is not in the PATH."),
        ({"CC": "false"}, "no headers of the C library: false does not find stdio.h."),
    ],
    ids=["compiler", "headers"],
)
def test_without_a_compiler_the_build_says_what_to_install(unpacked: Path, tools: dict[str, str], said: str) -> None:
    done = attempt(unpacked, "build_wheel", **tools)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and said in last and "sudo apt-get install gcc libc6-dev python3-dev" in last
    assert "Traceback" not in done.stderr


def test_a_changed_header_alone_rebuilds_the_extension(unpacked: Path) -> None:
    def compiled(**environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "setup.py", "build_ext"], cwd=unpacked, env={**os.environ, **environment}, capture_output=True,
            text=True, check=True, timeout=500,
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
