"""The command line: options, values, port specifications, help, manual page."""
