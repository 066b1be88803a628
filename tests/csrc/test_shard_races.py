"""ThreadSanitizer: nothing that shards share is written without a lock. The tests of shards, with a tap and with vhost-user, run
again on a core built for it.

Only the extension is instrumented: its library comes into a plain Python with LD_PRELOAD. What it finds fails the run, as a race
that is made on purpose shows.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import cffi
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RACE = """
#include <pthread.h>
static long shared;
static void *add(void *unused) { for (int i = 0; i < 1000; i++) shared++; return unused; }
void race(void) { pthread_t t; pthread_create(&t, 0, add, 0); add(0); pthread_join(t, 0); }
"""
TESTS = """
import importlib.util, sys, pytest
spec = importlib.util.spec_from_file_location("pasta_py._plane", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules["pasta_py._plane"] = module
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


def run(directory: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """A Python without other sanitizers (`make sanitize` has them), with this one's library."""
    library = subprocess.run(["cc", "-print-file-name=libtsan.so"], capture_output=True, text=True, check=True).stdout.strip()
    python = Path(str(sysconfig.get_config_var("BINDIR"))) / f"python{sysconfig.get_python_version()}"
    packages = {str(Path(str(module.__file__)).parents[1]) for module in (cffi, pytest)}
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("PASTA_COVERAGE", "LD_PRELOAD")},
        "LD_PRELOAD": os.path.realpath(library),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *packages]),
        "PASTA_TESTS_ALONE": "",
        "TSAN_OPTIONS": f"exitcode=66 log_path={directory}/report suppressions={ROOT}/tests/measure/tsan.supp",
    }
    return subprocess.run([python, *map(str, arguments)], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400)


def reports(directory: Path) -> str:
    return "".join(path.read_text() for path in directory.glob("report.*"))


def test_a_race_is_seen(tmp_path: Path) -> None:
    (tmp_path / "race.c").write_text(RACE)
    library = tmp_path / "race.so"
    subprocess.run(["cc", "-O1", "-g", "-fsanitize=thread", "-fPIC", "-shared", tmp_path / "race.c", "-o", library], check=True)
    done = run(tmp_path, "-c", f"import ctypes; ctypes.CDLL({str(library)!r}).race()")
    assert done.returncode == 66 and "data race" in reports(tmp_path), done.stderr


@pytest.mark.timeout(600)
def test_shards_have_no_race(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PASTA_COVERAGE", "LD_PRELOAD")}
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", tmp_path, "--build-temp", tmp_path / "objects"],
        cwd=ROOT, env={**environment, "PASTA_SANITIZE": "thread"}, check=True, capture_output=True,
    )  # fmt: skip
    (extension,) = (tmp_path / "pasta_py").glob("_plane*.so")
    done = run(tmp_path, "-c", TESTS, extension, HERE / "test_shards.py", HERE / "test_vhost_pairs.py")
    assert not reports(tmp_path), reports(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
