"""The entry point that the Python API starts: as `pasta` and `pasta-py`, but errors of the start go to the API.

    pasta-api FD SOCKETS NAME [OPTION]... [--] [COMMAND [ARG]...]

FD is a pipe. An error is written to it as "CLASS: TEXT", with the name of its class; it is closed without a word once the command
runs or the translator is in the background. SOCKETS are listening sockets that the API has bound: "FD:PORT", PORT that of the
guest, with commas between them.
"""

import posix as os  # lean imports: docs/architecture.md
import sys

from pasta_py.control.commandline import options
from pasta_py.control.commandline.notices import refuse
from pasta_py.control.start import launch
from pasta_py.control.start.main import leave
from pasta_py.errors import HostError, PastaError, last_resort


def main() -> None:
    fd, sockets, name, *words = sys.argv[1:]
    launch.start_fd = int(fd)
    os.set_inheritable(launch.start_fd, False)
    for each in filter(None, sockets.split(",")):
        number, _, port = each.partition(":")
        launch.from_api[int(number)] = port
    leave(_run(name, words))


def _run(name: str, words: "list[str]") -> int:
    try:
        return launch.run(options.parse(words, name))
    except PastaError as error:
        return _tell(name, error)
    except (OSError, MemoryError) as error:
        return _tell(name, HostError(f"cannot go on: {last_resort(error)}"))


def _tell(name: str, error: PastaError) -> int:
    try:
        os.write(launch.start_fd, f"{type(error).__name__}: {' '.join(str(error).splitlines())}".encode("utf-8", "replace"))
    except OSError:  # the start is over: it is for the user of the command
        refuse(name, str(error))
    return error.status
