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
