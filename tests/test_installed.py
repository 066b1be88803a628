"""The installed program, as a runtime finds it: whatever its environment, the directory, and the name it is called by."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pasta_py.control.commandline import notices

pytestmark = [pytest.mark.as_built, pytest.mark.unsanitized]

ROOT = Path(__file__).resolve().parents[1]
EXPECTED = notices.version("pasta")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of a prefix into which a wheel's files were put, with the interpreter of this run."""
    prefix = tmp_path_factory.mktemp("prefix")
    packages = prefix / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    packages.mkdir(parents=True)
    (prefix / "bin").mkdir()
    (packages / "pasta_py").symlink_to(ROOT / "pasta_py")
    for script in (ROOT / "pasta_py/bin").iterdir():
        (prefix / "bin" / script.name).write_bytes(script.read_bytes())
        (prefix / "bin" / script.name).chmod(0o755)
    return prefix / "bin"


def version(*command: object, **options: object) -> str:
    done = subprocess.run([*map(str, command), "--version"], capture_output=True, text=True, timeout=30, **options)  # type: ignore[call-overload]
    assert (done.returncode, done.stderr) == (0, "")
    return str(done.stdout)


def beside(installed: Path, interpreter: str) -> None:
    """Make it look like pip's scripts: the interpreter in the same directory, or in the first line of a script there."""
    (installed / "python3").unlink(missing_ok=True)
    (installed / "pasta-py").unlink(missing_ok=True)
    if interpreter == "beside":
        (installed / "python3").symlink_to(sys.executable)
    elif interpreter == "named":
        (installed / "pasta-py").write_text(f"#!{sys.executable}\n")


@pytest.mark.parametrize("interpreter", ["beside", "named"])
def test_the_interpreter_is_found(installed: Path, interpreter: str) -> None:
    beside(installed, interpreter)
    assert version(installed / "pasta", env={}) == EXPECTED


def test_another_interpreter_of_that_version_takes_the_place_of_a_deleted_one(installed: Path, tmp_path: Path) -> None:
    beside(installed, "named")
    (installed / "pasta-py").write_text("#!/nonexistent/python3\n")
    (tmp_path / "python3").symlink_to(sys.executable)
    assert version(installed / "pasta", env={"PATH": f"{tmp_path}:/usr/bin:/bin"}) == EXPECTED


def test_each_script_is_the_program_of_its_name(installed: Path) -> None:
    beside(installed, "beside")
    said = {script.name: version(script, env={}).split("\n")[0] for script in installed.iterdir() if script.name != "python3"}
    assert said == {
        "pasta": EXPECTED.strip(), "passt": notices.version("passt").strip(), "pesto": notices.version("pesto").strip(),
        "slirp4netns": "slirp4netns version 1.3.3",
    }  # fmt: skip


def test_it_is_found_through_links_and_from_its_own_directory(installed: Path, tmp_path: Path) -> None:
    beside(installed, "beside")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "pasta").symlink_to(installed / "pasta")
    (tmp_path / "pasta").symlink_to("a/pasta")
    for command, directory in (("./pasta", tmp_path), ("./pasta", installed), (tmp_path / "pasta", "/")):
        assert version(command, cwd=directory) == EXPECTED
    assert version("pasta", env={"PATH": f"{installed}:/bin"}) == EXPECTED


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONHOME": "/nonexistent"},
        {"PYTHONPATH": "bad"},
        {"PYTHONSTARTUP": "/nonexistent", "PYTHONSAFEPATH": "", "PYTHONWARNINGS": "error", "PYTHONINSPECT": "1"},
        {"VIRTUAL_ENV": "/nonexistent", "CONDA_PREFIX": "/nonexistent", "PYTHONNOUSERSITE": "1", "PYTHONOPTIMIZE": "2"},
    ],
    ids=lambda variables: ",".join(variables),
)
def test_the_callers_python_environment_makes_no_difference(
    installed: Path, tmp_path: Path, variables: dict[str, str]
) -> None:
    """Modules of the standard library's names stand where a careless start would find them."""
    beside(installed, "beside")
    for place in (tmp_path, tmp_path / "bad"):
        place.mkdir(exist_ok=True)
        for name in ("socket", "os", "pasta_py", "re", "sitecustomize"):
            (place / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    environment = {"PATH": os.environ["PATH"], **variables}
    environment.update({k: str(tmp_path / v) for k, v in variables.items() if v == "bad"})
    assert version(installed / "pasta", env=environment, cwd=tmp_path) == EXPECTED


def test_an_editable_installation_is_found_by_site() -> None:
    """As the tests themselves run it: nothing of the package is beside the script."""
    assert version(sys.executable, "-I", "-m", "pasta_py.control.start.dispatch", "pasta") == EXPECTED
