"""The words behind a subcommand: what a mistake is answered with, and how the values reach its function."""

import importlib
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest

from pasta_py.control.commandline import option_table
from pasta_py.control.subcommands import parameters
from pasta_py.control.subcommands.parameters import Argument, Option

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ps --jsn", "unrecognized option '--jsn': did you mean '--json'?"),
        ("ps now", "'now' is a word too many: leave it out"),
        ("flows --folow", "unrecognized option '--folow': did you mean '--follow'?"),
        ("flows 1 2", "'2' is a word too many: leave it out"),
        ("flows --json=yes", "option '--json' doesn't allow an argument"),
        ("stats -x", "invalid option -- 'x'"),
        ("show --js --jsonn", "unrecognized option '--jsonn': did you mean '--json'?"),
        ("top --interval", "option '--interval' requires an argument"),
        ("top -i 0", "invalid value '0' for --interval: expected a number from 0.1 to 3600"),
        ("top -i nan", "invalid value 'nan' for --interval: expected a number from 0.1 to 3600"),
        ("top -i inf", "invalid value 'inf' for --interval: expected a number from 0.1 to 3600"),
        ("top --interval=x", "invalid value 'x' for --interval: expected a number from 0.1 to 3600"),
        ("capture -w x --size 10", "invalid value '10' for --size: expected a number, 4096 or more"),
        ("capture -w x --files 1", "invalid value '1' for --files: expected a number from 2 to 1000"),
        ("capture -w x -c many", "invalid value 'many' for --count: expected a number, 0 or more"),
        ("capture -w x --snaplen 1.5", "invalid value '1.5' for --snaplen: expected a number from 0 to 262144"),
        ("report", "FLOWLOG... is missing: Files of a flow log; `-` is standard input."),
        ("doctor all", "'all' is a word too many: leave it out"),
        ("man pasta x", "'x' is a word too many: leave it out"),
        ("egress add", "RULE is missing: As --allow takes it."),
        ("egress replace", "FILE is missing: Rules, as --egress-file takes them."),
        ("egress show --jsonn", "unrecognized option '--jsonn': did you mean '--json'?"),
    ],
)
def test_one_line_answers_a_mistake(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    word, *words = shlex.split(line)
    module = importlib.import_module(f"pasta_py.control.subcommands.{option_table.SUBCOMMANDS[word][0]}")
    assert module.main(words) == 2
    name = f"pasta-py {word} {words[0]}" if word == "egress" else f"pasta-py {word}"
    told = capsys.readouterr()
    assert told.err.splitlines()[0] == f"{name}: {said} ('{name} --help' says more)" and not told.out


def example(
    first: Annotated[str, Argument(help="A word.")],
    rest: Annotated[list[str] | None, Argument(help="Others.")] = None,
    number: Annotated[int | None, Option("--number", "-n", metavar="N", min=1)] = None,
    scale: Annotated[float, Option(max=2)] = 1.0,
    flag: Annotated[bool, Option("--flag", "-f")] = False,
) -> int:
    return 0


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("a", ("a", None, None, 1.0, False)),
        ("a b c", ("a", ["b", "c"], None, 1.0, False)),
        ("-f a -n3 b --scale=0.5", ("a", ["b"], 3, 0.5, True)),
        ("a --num 7 -- -f", ("a", ["-f"], 7, 1.0, False)),
        ("-fn 2 -", ("-", None, 2, 1.0, True)),
    ],
)
def test_values_reach_the_function_by_their_names(line: str, values: tuple[object, ...]) -> None:
    found = parameters.read(example, line.split())
    assert found == dict(zip(("first", "rest", "number", "scale", "flag"), values, strict=True))


@pytest.mark.parametrize("line", ["-h", "--help", "a -h b", "-n 3 --help"])
def test_help_is_asked_for_anywhere(line: str) -> None:
    assert parameters.read(example, line.split()) is None


@pytest.mark.parametrize("word", ["ps", "stats", "flows", "show", "doctor"])
def test_without_help_typer_is_not_loaded(word: str, tmp_path: Path) -> None:
    """Its import takes longer than all the rest."""
    module, _ = option_table.SUBCOMMANDS[word]
    code = f"import sys; from pasta_py.control.subcommands import {module}; {module}.main([]); print('typer' in sys.modules)"
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "False"
