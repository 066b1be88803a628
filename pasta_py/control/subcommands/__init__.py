"""Subcommands of pasta-py: each is a module, or more, with a row in commandline.option_table.SUBCOMMANDS."""
