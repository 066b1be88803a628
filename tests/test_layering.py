"""The dependency order is the folder order: reads every #include and import, and fails on one that points the wrong way.

csrc/: a folder includes only itself and those before it; proto modules never each other. pasta_py/: control and worker
never import each other, typer and pyroute2 each have their place, and the worker imports nothing but what is lean.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.as_built, pytest.mark.unsanitized]

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("base", "wire", "core", "io", "proto", "plane")
ABI = "plane_api.h"
#: The folders that may know the ABI: the plane implements it, io declares the sandbox's calls.
ABI_USERS = ("io", "plane")
TYPER_USERS = ("control/cli.py",)
PYROUTE2_USERS = ("control/rare.py",)
EXTENSION_USERS = {"_plane": "worker/plane.py", "_calls": "control/syscalls.py"}
SHARED = {"pasta_py", "confwire", "errors", "hostports", "record", "model", "wire"}
#: The one way from the package to control, taken when the Python API is asked for, and that of a fork which is to be the worker.
CROSSINGS = (("__init__.py", "pasta_py.control.api"), ("control/start.py", "pasta_py.worker.__main__"))
IMPORTERS = ("import_module", "__import__")
LEAN = {"_signal", "_socket", "errno", "fcntl", "gc", "posix", "struct", "sys", "time"}


def proto_module(stem: str) -> str:
    """tcp_guest and tcp belong to the module tcp."""
    return stem.split("_")[0]


def bad_includes(path: str, text: str) -> Iterator[str]:
    """Violations in one C file; `path` is relative to csrc."""
    folder, _, name = path.rpartition("/")
    for target in re.findall(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', text, re.MULTILINE):
        into, _, other = target.rpartition("/")
        if target == ABI:
            if folder not in ABI_USERS:
                yield f"{path} includes {target}"
        elif folder not in FOLDERS or into not in FOLDERS or FOLDERS.index(into) > FOLDERS.index(folder):
            yield f"{path} includes {target}"
        elif folder == into == "proto" and proto_module(Path(name).stem) != proto_module(Path(other).stem):
            yield f"{path} includes {target}: proto modules do not know each other"


def imports(tree: ast.AST) -> Iterator[str]:
    """Names of the modules imported at run time, `from a import b` as a.b; not what stands under `if TYPE_CHECKING:`."""
    if isinstance(tree, ast.If) and isinstance(tree.test, ast.Name) and tree.test.id == "TYPE_CHECKING":
        for statement in tree.orelse:
            yield from imports(statement)
        return
    if isinstance(tree, ast.Import):
        yield from (alias.name for alias in tree.names)
    elif isinstance(tree, ast.ImportFrom):
        yield from (f"{'.' * tree.level}{tree.module or ''}.{alias.name}" for alias in tree.names)
    elif isinstance(tree, ast.Call) and getattr(tree.func, "attr", getattr(tree.func, "id", "")) in IMPORTERS:
        yield from (argument.value for argument in tree.args[:1] if isinstance(argument, ast.Constant))
    for child in ast.iter_child_nodes(tree):
        yield from imports(child)


def bad_imports(path: str, text: str) -> Iterator[str]:
    """Violations in one Python file; `path` is relative to pasta_py."""
    side = path.partition("/")[0] if "/" in path else ""
    for name in imports(ast.parse(text)):
        top, *rest = name.split(".")
        inner = rest[0] if top == "pasta_py" and rest else ""
        wrong = (
            not top
            or (top == "typer" and path not in TYPER_USERS)
            or (top == "pyroute2" and path not in PYROUTE2_USERS)
            or (inner in EXTENSION_USERS and path != EXTENSION_USERS[inner])
            or (inner in ("control", "worker") and inner != side and (path, name) not in CROSSINGS)
            or (side == "worker" and top not in LEAN and top != "pasta_py")
            or (side == "worker" and inner not in {"", "worker", "_plane", "__version__"} | SHARED)
            or (not side and top not in LEAN and top != "pasta_py")
        )
        if wrong:
            yield f"{path} imports {name}"


def test_every_include_points_down_the_folder_order() -> None:
    files = [path for path in (ROOT / "csrc").rglob("*.[ch]") if path.name != ABI]
    assert len(files) > 20
    assert [v for path in files for v in bad_includes(str(path.relative_to(ROOT / "csrc")), path.read_text())] == []


def test_the_abi_includes_nothing_of_ours() -> None:
    assert re.findall(r'#\s*include\s*"', (ROOT / "csrc" / ABI).read_text()) == []


def test_every_import_stays_on_its_side() -> None:
    files = list((ROOT / "pasta_py").rglob("*.py"))
    assert len(files) > 20
    assert [v for path in files for v in bad_imports(str(path.relative_to(ROOT / "pasta_py")), path.read_text())] == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("base/bytes.h", '#include "wire/eth.h"'),
        ("core/flow.c", '#include "io/loop.h"'),
        ("io/tap.c", '  #  include "plane/plane.h"'),
        ("proto/tcp.c", '#include "proto/udp.h"'),
        ("proto/udp_sock.c", '#include "proto/tcp_private.h"'),
        ("proto/udp.c", '#include "plane_api.h"'),
        ("wire/ip.c", '#include "eth.h"'),
        ("wire/ip.c", '#include "../io/tap.h"'),
        ("stray.c", '#include "base/addr.h"'),
    ],
)
def test_an_include_that_points_up_is_caught(path: str, text: str) -> None:
    assert len(list(bad_includes(path, text))) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("control/launch.py", "from pasta_py.worker import slowpath"),
        ("control/launch.py", "from pasta_py import worker"),
        ("control/launch.py", "def f():\n    import pasta_py.worker.plane"),
        ("control/launch.py", "import importlib\nimportlib.import_module('pasta_py.worker')"),
        ("control/entry.py", "import typer"),
        ("control/plan.py", "from pyroute2 import IPRoute"),
        ("control/plan.py", "from pasta_py import _plane"),
        ("control/plan.py", "from pasta_py._calls import lib"),
        ("control/plan.py", "from . import host"),
        ("worker/arp.py", "from pasta_py.control import plan"),
        ("worker/arp.py", "import re"),
        ("worker/arp.py", "try:\n    import socket\nexcept ImportError:\n    pass"),
        ("worker/arp.py", "from pasta_py import _plane"),
        ("worker/arp.py", "import dataclasses"),
        ("worker/arp.py", "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    pass\nelse:\n    import typing"),
        ("model.py", "import typing"),
        ("model.py", "from pasta_py.control import plan"),
    ],
)
def test_an_import_of_the_wrong_side_is_caught(path: str, text: str) -> None:
    assert len(list(bad_imports(path, text))) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("worker/arp.py", "if TYPE_CHECKING:\n    from collections.abc import Callable"),
        ("worker/plane.py", "from pasta_py import _plane"),
        ("control/cli.py", "def f():\n    import typer"),
        ("control/rare.py", "import pyroute2.netlink"),
        ("wire.py", "import struct"),
    ],
)
def test_an_import_in_its_place_passes(path: str, text: str) -> None:
    assert list(bad_imports(path, text)) == []
