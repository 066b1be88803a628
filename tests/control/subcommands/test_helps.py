"""The helps of the subcommands, as a new user reads them."""

import importlib

import pytest

from pasta_py.control.commandline import option_table


@pytest.mark.parametrize("word", option_table.SUBCOMMANDS)
def test_a_value_is_called_what_it_is_and_not_by_its_type(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, _ = option_table.SUBCOMMANDS[word]
    status = importlib.import_module(f"pasta_py.control.subcommands.{module}").main(["--help"])
    shown = capsys.readouterr().out
    assert status == 0 and f"pasta-py {word}" in shown
    assert not [line for line in shown.splitlines() if "range>" in line or "<int" in line or "INTEGER" in line or "FLOAT" in line]
