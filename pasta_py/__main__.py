"""`python -m pasta_py` is `pasta-py`."""

import sys

from pasta_py.control.start.typer_command import main

if __name__ == "__main__":
    sys.exit(main())
