"""What a mistake on the command line is answered with: what was refused, why, what to write instead."""

import shlex
from pathlib import Path

import pytest

from pasta_py.control.commandline import getopt_long, options
from pasta_py.control.commandline.option_table import COMPLETION, TABLE
from pasta_py.control.pesto import main as pesto
from pasta_py.control.slirp4netns import options as slirp4netns
from pasta_py.control.start import main
from pasta_py.errors import UnknownOption, UsageError

LINES = Path(__file__).with_name("mistakes.txt").read_text(encoding="utf-8").splitlines()[1:]


@pytest.mark.parametrize(("words", "answer"), list(zip(LINES[::2], LINES[1::2], strict=True)))
def test_one_line_answers_a_mistake(words: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run("pasta-py", shlex.split(words)) == 1
    said, *usage = capsys.readouterr().err.splitlines()
    assert said == f"pasta-py: {answer.strip()}"
    unknown = answer.strip().startswith(("unrecognized", "invalid option")) and "--network" not in words
    assert bool(usage) == unknown, "the forms of the command line follow an unknown option only"


def misspelt(name: str) -> set[str]:
    """A letter missing, another one in its place, one too many, two exchanged."""
    found = set()
    for at in range(len(name)):
        found |= {name[:at] + name[at + 1 :], name[:at] + "x" + name[at + 1 :], name[:at] + "x" + name[at:]}
        found.add(name[:at] + name[at + 1 : at + 2] + name[at : at + 1] + name[at + 2 :])
    return found - {name}


@pytest.mark.parametrize("name", [option.long for option in TABLE if len(option.long) > 2])
def test_an_option_misspelt_by_one_letter_is_recognized(name: str) -> None:
    for written in misspelt(name):
        try:
            options.parse([f"--{written}", "1", "1"], "pasta")
        except UnknownOption as error:
            assert f"'--{name}'" in str(error)
        except UsageError:
            pass  # the beginning of another one, or ambiguous


@pytest.mark.parametrize("name", [name[2:] for name in COMPLETION])
def test_an_option_for_completion_misspelt_by_one_letter_is_recognized(name: str) -> None:
    """main() takes them as the first word, before the options are read."""
    for written in misspelt(name):
        with pytest.raises(UnknownOption, match=f"'--{name}'"):
            options.parse([f"--{written}", "bash"], "pasta-py")
    with pytest.raises(UnknownOption, match="it has to be the first word"):
        options.parse(["-4", f"--{name}", "bash"], "pasta-py")


@pytest.mark.parametrize("table", [pesto.TABLE, slirp4netns.TABLE], ids=["pesto", "slirp4netns"])
def test_an_option_of_another_program_misspelt_by_one_letter_is_recognized(table: list[tuple[str, str, str, str]]) -> None:
    takes_value = {long: bool(value) for _short, long, value, _text in table}
    for name in takes_value:
        for written in misspelt(name) if len(name) > 2 else ():
            try:
                list(getopt_long.read([f"--{written}", "1"], takes_value, {}, []))
            except UnknownOption as error:
                assert f"'--{name}'" in str(error)
            except UsageError:
                pass  # the beginning of another one, or ambiguous
