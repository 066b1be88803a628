"""User-mode networking for rootless containers.

`connect` is the Python API (docs/api.md). It is imported at its first use: the worker and the commands import this package too
(lean imports: docs/architecture.md).
"""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.control.start.python_api import Connection as Connection
    from pasta_py.control.start.python_api import connect as connect
    from pasta_py.errors import HostError as HostError
    from pasta_py.errors import PastaError as PastaError
    from pasta_py.errors import UsageError as UsageError
    from pasta_py.errors import WorkerError as WorkerError


def __getattr__(name: str) -> object:
    if name in ("Connection", "connect"):
        from pasta_py.control.start import python_api

        return getattr(python_api, name)
    if name in ("HostError", "PastaError", "UsageError", "WorkerError"):
        from pasta_py import errors

        return getattr(errors, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
