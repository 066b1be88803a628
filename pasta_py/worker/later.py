"""Modules that few starts need, and those only when a client asks: their code is kept as bytes.

Behind the lock-in no file can be read, so a module must be there before. Its bytecode takes a tenth of the memory of the loaded
module, and no time. `keep` reads it; from then on an ordinary import statement finds these modules.

Rejected: descriptors of the files (one for each module, for as long as the worker lives).
"""

import marshal
import posix as os  # os takes 0.8 ms to import
import sys
from _frozen_importlib_external import MAGIC_NUMBER  # importlib.util has it from here, and takes 2 ms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

#: Modules of pasta_py.worker, with what they import of these before them.
KEPT = (
    "json_lines", "dns_wire", "dns_names", "event_readers", "rotating", "flow_log", "control_commands", "control_capture",
    "control_server",
)  # fmt: skip

#: The same, for a worker with an egress policy.
KEPT_FOR_EGRESS = ("decision_lines", "decisions", "control_egress")

_HEAD_BYTES = 16  # of a file of bytecode (PEP 552): magic, flags, and for flags 0 the source's time and size
_PACKAGE = "pasta_py.worker."
_codes: "dict[str, bytes]" = {}


def keep(more: "tuple[str, ...]" = ()) -> None:
    """Read the code of these modules, and of `more`. What cannot be read is missing later, where an import says so."""
    folder, _, own = __file__.rpartition("/")
    cached = (getattr(__spec__, "cached", None) or "").rpartition("/")
    for name in KEPT + more:
        if _PACKAGE + name in sys.modules:
            continue
        source = f"{folder}/{name}.py"
        try:
            code = _bytecode(f"{cached[0]}/{cached[2].replace('later.', name + '.', 1)}", source) or _read(source)
        except OSError:
            continue
        _codes[_PACKAGE + name] = code
    sys.meta_path.insert(0, _Finder())


def forget() -> None:
    """Give the memory back: no client can ask."""
    _codes.clear()


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def _bytecode(path: str, source: str) -> bytes:
    """The file of bytecode, or b"" if there is none that fits the source."""
    try:
        data = _read(path)
    except OSError:
        return b""
    flags, when, size = (int.from_bytes(data[i : i + 4], "little") for i in (4, 8, 12))
    if flags == 0:
        now = os.stat(source)
        if (int(now.st_mtime) & 0xFFFFFFFF, now.st_size & 0xFFFFFFFF) != (when, size):
            return b""
    return data


class _Finder:
    """On sys.meta_path: finds and executes what is kept."""

    def find_spec(self, name: str, _path: object = None, _target: object = None, /) -> "ModuleSpec | None":
        if name not in _codes or not __spec__:
            return None
        return type(__spec__)(name, self)  # type: ignore[arg-type]  # it has what importlib calls

    def create_module(self, _spec: "ModuleSpec") -> None:
        return None

    def exec_module(self, module: "ModuleType") -> None:
        name = module.__name__
        data = _codes.pop(name)
        if data[:4] == MAGIC_NUMBER:
            code = marshal.loads(data[_HEAD_BYTES:])
        else:
            code = compile(data, f"{__file__.rpartition('/')[0]}/{name.rpartition('.')[2]}.py", "exec")
        exec(code, module.__dict__)
