"""The exceptions of the project: each message is one line that says what was refused, why, and what to do."""


class PastaError(Exception):
    """Base of all errors that a user is meant to read; the command line prints it and exits with `status`."""

    status = 1


class UsageError(PastaError):
    """An option or argument that cannot be taken."""


class HostError(PastaError):
    """The host does not allow or does not have what was asked for (tap, namespace, route, port)."""


class WorkerError(PastaError):
    """The worker process died, or refused what it was handed."""


class WireError(PastaError):
    """Bytes between control and worker that do not decode."""


class ConfError(PastaError):
    """Bytes on the control socket that are not its protocol, or rules that cannot be taken."""


# errno.h: what a machine has run out of, or has never had, and what to do about it. Named here since `errno` is not imported.
_SHORTAGES = {
    11: "raise the limit of processes (ulimit -u)",  # EAGAIN, of fork(2); elsewhere nobody tells it
    12: "free some memory",  # ENOMEM
    23: "raise the limit of open files of the whole machine (sysctl fs.file-max)",  # ENFILE
    24: "raise the limit of open files (ulimit -n)",  # EMFILE
    38: "Linux 5.11 or newer is needed, and no filter on this call",  # ENOSYS
    105: "free some memory",  # ENOBUFS
}


def reason(error: OSError, hint: str = "") -> str:
    """What the kernel said, and what to do about it: about a shortage, else `hint`."""
    said = error.strerror or str(error)
    hint = _SHORTAGES.get(error.errno or 0, hint)
    return f"{said}: {hint}" if hint else said


def last_resort(error: "OSError | MemoryError") -> str:
    """The line for what nobody foresaw."""
    if isinstance(error, MemoryError):
        return "out of memory: free some, or raise the limit (ulimit -v)"
    return reason(error) + (f" ({error.filename})" if error.filename else "")
