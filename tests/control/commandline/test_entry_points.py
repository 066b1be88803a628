"""The console entry points as a caller meets them: output, exit status, and what they import; and the manual page."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pasta_py import __version__
from pasta_py.control.commandline import man, option_table
from pasta_py.control.commandline.notices import version
from pasta_py.control.start import typer_command
from pasta_py.control.start.main import plain_help

ROOT = Path(__file__).resolve().parents[3]
CALLS = {
    "pasta": "from pasta_py.control.start.main import pasta as call",
    "pasta-py": "from pasta_py.control.start.typer_command import main as call",
    "pesto": "from pasta_py.control.pesto.main import main as call",
    "slirp4netns": "from pasta_py.control.slirp4netns.main import slirp4netns as call",
}
BOTH = pytest.mark.parametrize("name", ["pasta", "pasta-py"])


def call(
    name: str, *argv: str, before: str = "", environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the entry point in a process of its own; `before` is code that runs first."""
    code = f"import sys\n{before}\n{CALLS[name]}\ncall()"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "TERM": "dumb", **(environ or {})}
    return subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, env=env, timeout=60, check=False
    )


@pytest.mark.option("--version")
@BOTH
def test_version_goes_to_stdout(name: str) -> None:
    done = call(name, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == version(name)
    shown = f"pasta-py {__version__}" if name == "pasta-py" else f"pasta (pasta-py) {__version__}"
    assert done.stdout.startswith(shown) and done.stdout.count("\n") == 1


def test_the_commit_that_was_installed_stands_behind_the_version() -> None:
    noted = "import types\nsys.modules['pasta_py._commit'] = types.SimpleNamespace(COMMIT='0123456789ab')"
    assert call("pasta", "--version", before=noted).stdout == f"pasta (pasta-py) {__version__} (0123456789ab)\n"
    assert "\ncommit: 0123456789ab\n" in call("slirp4netns", "--version", before=noted).stdout


def test_the_package_is_a_program_too() -> None:
    done = subprocess.run([sys.executable, "-m", "pasta_py", "--mut"], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[0] == "pasta-py: unrecognized option '--mut': did you mean '--mtu'?"


@BOTH
def test_a_bad_option_is_named_as_getopt_does_with_usage_and_status_1(name: str) -> None:
    done = call(name, "--config-net", "--map-guest-addrs", "1")
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert lines[0] == f"{name}: unrecognized option '--map-guest-addrs': did you mean '--map-guest-addr'?"
    assert lines[1].startswith(f"Usage: {name} ")


@BOTH
def test_a_bad_value_is_one_line(name: str) -> None:
    done = call(name, "-t", "80,http", "1")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{name}: --tcp-ports: port specification '80,http': 'http': ")


def test_a_line_break_in_an_argument_does_not_break_the_line() -> None:
    assert call("pasta", "--no\npe").stderr.splitlines()[0] == "pasta: unrecognized option '--no pe'"


@pytest.mark.option("--help")
@BOTH
@pytest.mark.parametrize("flag", ["-h", "--help", "--hel"])
def test_help_shows_every_option_and_section(name: str, flag: str) -> None:
    done = call(name, flag, environ={"COLUMNS": "160"})
    assert (done.returncode, done.stderr) == (0, "")
    own = [option for option in option_table.TABLE if option.mode != "passt"]
    assert all(option.section in done.stdout for option in own)
    for option in own:
        assert f"--{option.long}" in done.stdout
        if name == "pasta-py" and len(option.metavar) < 12:
            assert option.metavar in done.stdout


def test_the_help_of_pasta_py_is_readable_at_80_columns() -> None:
    lines = call("pasta-py", "--help", environ={"COLUMNS": "80"}).stdout.splitlines()
    assert max(map(len, lines)) <= 80 and not [line for line in lines if "<" in line]
    examples = [line for line in lines if line.startswith(" pasta-py -")]
    assert len(examples) == 3 and all("  " in line.strip() for line in examples), "each with its text in the same line"
    panels = [line.split()[1] for line in lines if line.startswith("╭─")]
    assert panels[2:4] == ["Ports", "Capture"] and panels[-1] == "Completion"
    assert lines.index(examples[0]) < next(at for at, line in enumerate(lines) if "SPEC is none" in line)


def test_the_help_of_subcommands_has_no_types_of_python() -> None:
    for word in ("man", "flows"):
        done = call("pasta-py", word, "--help")
        assert done.returncode == 0 and not re.search(r"<(bool|str|list)|\[\[PROGRAM", done.stdout), done.stdout


def test_plain_help_fits_its_width_and_holds_each_help_text() -> None:
    for name in ("pasta", "passt"):
        text = plain_help(name, 90)
        assert max(map(len, text.splitlines())) <= 90
        flat = " ".join(text.split())
        shown = [option for option in option_table.TABLE if option.mode in ("", name)]
        assert all(" ".join(option.help.split()) in flat for option in shown)


@BOTH
def test_neither_version_nor_a_refusal_imports_anything_slow(name: str) -> None:
    before = (
        "import posix\nknown = set(sys.modules)\n"
        "def report(status):\n"
        "    new = set(sys.modules) - known\n"
        "    print(*[m for m in ('typer', 'pyroute2', 'argparse', 're', 'typing', 'dataclasses') if m in new], flush=True)\n"
        "    sys.exit(status)\n"
        "posix._exit = report"
    )
    for argv in (["--version"], ["--nope"]):
        done = call(name, *argv, before=before)
        assert done.stdout.splitlines()[-1] == ""


def test_the_typer_application_parses_with_the_table_too() -> None:
    from typer.testing import CliRunner

    result = CliRunner().invoke(typer_command.app(), ["--mtu", "1500", "--no-such", "x"])
    assert result.exit_code == 1
    assert "unrecognized option '--no-such'" in result.output


def test_every_option_of_the_table_is_a_typer_option() -> None:
    import typer.main

    command = typer.main.get_command(typer_command.app())
    offered = {name for parameter in command.params for name in parameter.opts}
    own = [option for option in option_table.TABLE if option.mode != "passt" and option.dest != "help"]
    assert {f"--{option.long}" for option in own} <= offered
    assert {f"-{option.short}" for option in own if option.short} <= offered


@pytest.mark.parametrize("name", sorted(CALLS))
def test_help_that_cannot_be_written_ends_in_a_line_or_quietly(name: str) -> None:
    """A full disk is told; a reader that has gone has read enough, as with passt's pasta."""
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, "-c", f"{CALLS[name]}; call()", "--help"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    full = f"{name}: cannot go on: No space left on device\n"
    for target, status, said in ((write, 0, ""), (os.open("/dev/full", os.O_WRONLY), 1, full)):
        with os.fdopen(target, "w") as stdout:
            done = subprocess.run(argv, stdout=stdout, stderr=subprocess.PIPE, text=True, env=env, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (status, said)


@pytest.mark.parametrize("name", sorted(CALLS))
@pytest.mark.parametrize(
    ("script", "status"),
    [
        ('"$@" --help >&-', 0),
        ('"$@" --version >&-', 0),
        ('"$@" --no-such-option 2>&-', 1),
        ("mkfifo f; exec 3<>f 4>f 3<&-; \"$@\" --no-such-option 2>&4", 1),
    ],
)
def test_closed_streams_end_in_the_right_status_without_a_traceback(
    name: str, script: str, status: int, tmp_path: Path
) -> None:
    argv = ["sh", "-c", script, "sh", sys.executable, "-c", f"{CALLS[name]}; call()"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_an_interrupt_ends_the_process_by_the_signal_and_without_a_traceback() -> None:
    before = (
        "from pasta_py.control.start import main\n"
        "def interrupted(parsed):\n"
        "    import os, signal, time\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(30)\n"
        "main.start = interrupted"
    )
    done = call("pasta", "1", before=before)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_the_manual_page_holds_every_option() -> None:
    page = man.page()
    plain = page.replace("\\-", "-")
    for option in option_table.TABLE:
        assert f"\\fB--{option.long}\\fR" in plain
        assert option.help in plain
    requests = {line.split()[0] for line in page.splitlines() if line.startswith(".")}
    assert requests <= {'.\\"', ".TH", ".SH", ".SS", ".TP", ".PP", ".B", ".I", ".BR", ".RI", ".IR", ".br", ".nf", ".fi"}


#: A subcommand for tests, `env`, which is also a program.
ENV = (
    "import types\n"
    "from pasta_py.control.commandline import option_table\n"
    "from pasta_py.control.subcommands import command\n"
    "option_table.SUBCOMMANDS['env'] = ('fake', 'Shows its number.')\n"
    "def env(number: int) -> int:\n    print('number', number)\n    return number\n"
    "sys.modules['pasta_py.control.subcommands.fake'] = types.SimpleNamespace(\n"
    "    main=lambda argv: command.run('env', argv, env, summary='Shows its number.'))\n"
    "from pasta_py.control.start import launch\n"
    "def start(options):\n    print('command', *options.command)\n    return 0\n"
    "launch.run = start\n"
)


@pytest.mark.parametrize(
    ("name", "argv", "status", "said"),
    [
        ("pasta-py", ["env", "7"], 7, "number 7"),
        ("pasta-py", ["--", "env", "7"], 0, "command env 7"),
        ("pasta-py", ["-q", "env", "7"], 0, "command env 7"),
        ("pasta", ["env", "7"], 0, "command env 7"),
    ],
)
def test_a_subcommand_is_the_first_word_of_pasta_py_alone(name: str, argv: list[str], status: int, said: str) -> None:
    done = call(name, *argv, before=ENV)
    assert (done.returncode, done.stdout, done.stderr) == (status, said + "\n", "")


def test_arguments_that_only_the_program_has_get_a_hint() -> None:
    done = call("pasta-py", "env", "-i", "a b", before=ENV)
    assert (done.returncode, done.stdout) == (2, "")
    refused, hint = done.stderr.splitlines()
    assert refused.startswith("pasta-py env: ") and "'pasta-py env --help' says more" in refused
    assert hint == "To run the program env in a namespace: pasta-py -- env -i 'a b'"


def test_the_help_lists_the_subcommands() -> None:
    assert "Shows its number." in call("pasta-py", "--help", before=ENV).stdout
    assert "Shows its number." in call("pasta-py", "env", "--help", before=ENV).stdout
    assert "Shows its number." not in call("pasta", "--help", before=ENV).stdout
