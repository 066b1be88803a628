"""User-mode networking for rootless containers.

`run`, `Popen`, `Network` and `connect` are the Python API (docs/api.md). It is imported at its first use: the worker and the
commands import this package too (lean imports: docs/architecture.md).
"""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.control.api.arguments import Port as Port
    from pasta_py.control.api.command import Popen as Popen
    from pasta_py.control.api.command import run as run
    from pasta_py.control.api.connection import Connection as Connection
    from pasta_py.control.api.connection import connect as connect
    from pasta_py.control.api.network import Network as Network
    from pasta_py.errors import HostError as HostError
    from pasta_py.errors import PastaError as PastaError
    from pasta_py.errors import UsageError as UsageError
    from pasta_py.errors import WorkerError as WorkerError

_HOMES = {
    "Connection": "control.api.connection",
    "HostError": "errors",
    "Network": "control.api.network",
    "PastaError": "errors",
    "Popen": "control.api.command",
    "Port": "control.api.arguments",
    "UsageError": "errors",
    "WorkerError": "errors",
    "connect": "control.api.connection",
    "run": "control.api.command",
}
__all__ = ["Connection", "HostError", "Network", "PastaError", "Popen", "Port", "UsageError", "WorkerError", "connect", "run"]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(__import__(f"{__name__}.{home}", fromlist=[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
