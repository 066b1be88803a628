"""Lines for the user on standard error, while there is one."""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.control.options import Options

WARNING, INFO = 1, 2


def tell(options: "Options", level: int, line: str) -> None:
    """Print one line, unless the options ask for less than its level."""
    if options.log_level >= level:
        prefix = "warning: " if level == WARNING else ""
        print(f"{options.program}: {prefix}{line}", file=sys.stderr, flush=True)
