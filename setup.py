"""What pyproject.toml cannot say: csrc/build.py builds the extensions, for every Python from 3.11 on; the commit is noted.

Without a compiler, or without headers, the build ends with one line that says what to install.
"""

import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
#: What a source archive has: directories, and files beside them.
TREES = (".ci", "bench", "contrib", "csrc", "docs", "examples", "findings", "fuzz", "packaging", "pasta_py", "tests")
FILES = (".clang-format", ".clang-tidy", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md",
         "SECURITY.md", "pyproject.toml", "setup.py")  # fmt: skip
#: What builds and tests leave in these directories.
MADE = (".so", ".o", ".pyc", ".gcda", ".gcno")
GENERATED = ("_plane.c", "_calls.c")
INSTALL = "sudo apt-get install gcc libc6-dev python3-dev (Debian, Ubuntu), sudo dnf install gcc python3-devel (Fedora)"


def missing() -> str:
    """What the C compiler lacks to build an extension; "" when it has all."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if not shutil.which(compiler[0]):
        return f"no C compiler: {compiler[0]} is not in the PATH"
    include = sysconfig.get_path("include")
    if not Path(include, "Python.h").exists():
        return f"no headers of Python: {include} has no Python.h"
    code = "#include <stdio.h>\n"
    if subprocess.run([*compiler, "-E", "-xc", "-"], input=code, capture_output=True, text=True).returncode:
        return f"no headers of the C library: {compiler[0]} does not find stdio.h"
    return ""


def note_commit(package: Path) -> None:
    """Write _commit.py into a copy of the package, for --version, where git knows the commit of this checkout."""
    if not (HERE / ".git").exists():  # a source archive, which has the file; or a directory inside another project's repository
        return
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return
    (package / "_commit.py").write_text(f'COMMIT = "{commit}"\n')


class Extensions(build_ext):
    def run(self) -> None:
        if lacking := missing():
            raise SystemExit(f"pasta-py is built from C: {lacking}. Install it first: {INSTALL}")
        super().run()


class Modules(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            note_commit(Path(self.build_lib, "pasta_py"))


def sources() -> list[str]:
    """All that git has, so that the tests run from a source archive too. A MANIFEST.in would make every build look into build/."""
    found = [path for name in TREES for path in (HERE / name).rglob("*") if path.is_file()]
    kept = [path for path in found if path.suffix not in MADE and path.name not in GENERATED and "__pycache__" not in path.parts]
    return [str(path.relative_to(HERE)) for path in kept] + [name for name in FILES if (HERE / name).exists()]


class SourceArchive(sdist):
    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, sorted({*files, *sources()}))
        note_commit(Path(base_dir, "pasta_py"))


# The extensions use Python's stable ABI, where this Python has one: one wheel fits it and all that come after it.
abi3 = {} if sysconfig.get_config_var("Py_GIL_DISABLED") else {"bdist_wheel": {"py_limited_api": "cp311"}}
setup(
    cffi_modules=["csrc/build.py:ffibuilder", "csrc/build.py:calls"],
    cmdclass={"build_ext": Extensions, "build_py": Modules, "sdist": SourceArchive},
    options=abi3,
)
