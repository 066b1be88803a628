"""The exceptions of the project: each message is one line that says what was refused, why, and what to do."""

import errno
import posix as os  # lean imports: docs/architecture.md

RED, YELLOW = 31, 33  # ECMA-48, 8.3.117 (SGR)


class PastaError(Exception):
    """Base of the errors that a user reads: the command line prints the message and exits with `status`."""

    status = 1


class UsageError(PastaError):
    """An option or argument is refused."""


class UnknownOption(UsageError):
    """A word that looks like an option is none."""


class HostError(PastaError):
    """The host does not allow or does not have what the user asked for (tap, namespace, route, port)."""


class WorkerError(PastaError):
    """The worker process died, or refused what control sent."""


class WireError(PastaError):
    """Bytes between control and worker do not decode (worker_protocol)."""


class ConfError(PastaError):
    """Bytes on the control socket (--conf-path) are not of its protocol, or rules are refused."""


class ControlError(PastaError):
    """A request on the control socket is refused, or an instance cannot be asked."""


# What the machine lacks, and what the user can do.
_SHORTAGES = {
    errno.EAGAIN: "raise the limit of processes (ulimit -u)",  # of fork(2); no other call's gets here
    errno.ENOMEM: "free some, or raise the limit (ulimit -v)",
    errno.ENFILE: "raise the limit of open files of the whole machine (sysctl fs.file-max)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOSYS: "Linux 5.11 or newer is needed, and no filter on this call",
    errno.ENOBUFS: "free some memory",
}


def reason(error: OSError, hint: str = "") -> str:
    """What the kernel said, and what to do: for a shortage the hint from the table above, else `hint`."""
    said = error.strerror or str(error)
    hint = _SHORTAGES.get(error.errno or 0, hint)
    return f"{said}: {hint}" if hint else said


def last_resort(error: "OSError | MemoryError") -> str:
    """The message for an error that no other code handles."""
    if isinstance(error, MemoryError):
        return "out of memory: free some, or raise the limit (ulimit -v)"
    return reason(error) + (f" ({error.filename})" if error.filename else "")


def bold(name: str, text: str, code: int) -> str:
    """`text` in bold and in a colour, where the standard error of the program `name` can have it; else as it is.

    `name`: also with a subcommand behind it. Only `pasta-py` has colour: programs read the lines of the others. NO_COLOR
    (no-color.org) comes before FORCE_COLOR (force-color.org).
    """
    if name.partition(" ")[0] != "pasta-py" or os.environ.get(b"NO_COLOR"):
        return text
    if not os.environ.get(b"FORCE_COLOR") and (os.environ.get(b"TERM", b"dumb") == b"dumb" or not os.isatty(2)):
        return text
    return f"\x1b[1;{code}m{text}\x1b[m"
