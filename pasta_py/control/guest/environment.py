"""The environment of a command: that of our caller, not what Python has made of it."""

import posix as os  # lean imports: docs/architecture.md

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_COERCED = (b"C.UTF-8", b"C.utf8", b"UTF-8")


def environment() -> "Mapping[bytes, bytes]":
    """Our caller's environment: without the LC_CTYPE that Python sets for itself where the locale is C (PEP 538)."""
    ours = dict(os.environ)
    if ours.get(b"LC_CTYPE") not in _COERCED:
        return ours
    try:
        with open("/proc/self/environ", "rb") as file:
            inherited = [variable for variable in file.read().split(b"\0") if variable.startswith(b"LC_CTYPE=")]
    except OSError:  # no /proc: the command gets Python's LC_CTYPE
        return ours
    del ours[b"LC_CTYPE"]
    return {**ours, **dict(variable.split(b"=", 1) for variable in inherited)}
