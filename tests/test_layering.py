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
TYPER_USERS = ("control/start/typer_command.py", "control/subcommands/")
PYROUTE2_USERS = ("control/netlink/pyroute2_messages.py",)
EXTENSION_USERS = {
    "_plane": ("worker/plane.py", "worker/confine.py", "control/commandline/egress_rule.py"),
    "_calls": ("control/guest/syscalls.py",),
}
SHARED = {"pasta_py", "defaults", "descriptors", "errors", "hostports", "model", "pesto_protocol", "record", "worker_protocol"}
#: The ways from the package to control, when the Python API is asked for and as a program; that of a fork which is to be the
#: worker; and that of programs which follow the host, and are neither.
CROSSINGS = (
    *(("__init__.py", f"pasta_py.control.api.{name}") for name in ("arguments", "command", "connection", "network")),
    ("__main__.py", "pasta_py.control.start.typer_command.main"),
    ("control/start/dispatch.py", "pasta_py.worker.__main__"),
    ("worker/follow_change.py", "pasta_py.control.follow"),
    *(("worker/follow_change.py", f"pasta_py.control.follow.{name}") for name in ("apply", "packing", "replan")),
)
IMPORTERS = ("import_module", "__import__")
LEAN = {
    "_frozen_importlib_external", "_md5", "_signal", "_socket", "errno", "fcntl", "gc", "marshal", "posix", "struct", "sys", "time",
}  # fmt: skip


#: The wings of control, in their order: each imports only itself and those before it.
WINGS = (
    "netlink", "commandline", "planning", "requirements", "guest", "follow", "forwarding", "report", "start", "pesto",
    "slirp4netns", "subcommands", "api",
)  # fmt: skip


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Every set of files of which each reaches the others."""
    reach = {name: set(to) for name, to in arrows.items()}
    for middle in reach:
        for name in reach:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    rings = {tuple(sorted(other for other in reach[name] if name in reach.get(other, ()))) for name in reach}
    return sorted(list(ring) for ring in rings if ring)


def include_arrows(files: dict[str, str]) -> dict[str, set[str]]:
    """Which file of a folder includes which; a .c and its .h are one. `files`: name to text."""
    arrows: dict[str, set[str]] = {}
    for name, text in files.items():
        stem = Path(name).stem
        targets = {
            Path(target).stem for target in re.findall(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', text, re.MULTILINE)
        }
        arrows.setdefault(stem, set()).update(targets - {stem})
    return {name: to & set(arrows) for name, to in arrows.items()}


def bad_wings(path: str, text: str) -> Iterator[str]:
    """Imports of a later wing; `path` is relative to pasta_py/control."""
    wing = path.partition("/")[0] if "/" in path else ""
    for name in imports(ast.parse(text)):
        into = name.removeprefix("pasta_py.control.").partition(".")[0]
        later = into in WINGS and (not wing or WINGS.index(into) > WINGS.index(wing))
        if name.startswith("pasta_py.control.") and later:
            yield f"{path} imports {name}"


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
            or (top == "typer" and not path.startswith(TYPER_USERS))
            or (top == "pyroute2" and path not in PYROUTE2_USERS)
            or (inner in EXTENSION_USERS and path not in EXTENSION_USERS[inner])
            or (inner in ("control", "worker") and inner != side and (path, name) not in CROSSINGS)
            or (side == "worker" and top not in LEAN and top != "pasta_py" and (path, name) not in CROSSINGS)
            or (
                side == "worker"
                and (path, name) not in CROSSINGS
                and inner not in {"", "worker", "_plane", "__version__"} | SHARED
            )
            or (not side and top not in LEAN and top != "pasta_py")
        )
        if wrong:
            yield f"{path} imports {name}"


def test_every_include_points_down_the_folder_order() -> None:
    files = [path for path in (ROOT / "csrc").rglob("*.[ch]") if path.name != ABI]
    assert len(files) > 20
    assert [v for path in files for v in bad_includes(str(path.relative_to(ROOT / "csrc")), path.read_text())] == []


def test_no_circle_in_the_plane() -> None:
    files = {path.name: path.read_text() for path in (ROOT / "csrc" / "plane").glob("*.[ch]")}
    assert len(files) > 8
    assert circles(include_arrows(files)) == []


def test_a_circle_is_found() -> None:
    files = {"a.h": "", "a.c": '#include "plane/a.h"\n#include "plane/b.h"', "b.c": '#include "plane/c.h"'}
    files["c.h"] = '#include "plane/a.h"'
    assert circles(include_arrows(files)) == [["a", "b", "c"]]


def test_no_wing_imports_a_later_one() -> None:
    control = ROOT / "pasta_py" / "control"
    files = list(control.rglob("*.py"))
    assert {path.parent.name for path in files} == {"control", *WINGS}
    assert [v for path in files for v in bad_wings(str(path.relative_to(control)), path.read_text())] == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("planning/plan.py", "from pasta_py.control.guest import tap"),
        ("netlink/links_addresses_routes.py", "def f():\n    import pasta_py.control.start.launch"),
        ("ip.py", "from pasta_py.control.netlink import messages"),
    ],
)
def test_an_import_of_a_later_wing_is_caught(path: str, text: str) -> None:
    assert len(list(bad_wings(path, text))) == 1


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
        ("control/start/launch.py", "from pasta_py.worker import slowpath"),
        ("control/start/launch.py", "from pasta_py import worker"),
        ("control/start/launch.py", "def f():\n    import pasta_py.worker.plane"),
        ("control/start/launch.py", "import importlib\nimportlib.import_module('pasta_py.worker')"),
        ("control/start/main.py", "import typer"),
        ("control/planning/plan.py", "from pyroute2 import IPRoute"),
        ("control/planning/plan.py", "from pasta_py import _plane"),
        ("control/planning/plan.py", "from pasta_py._calls import lib"),
        ("control/planning/plan.py", "from . import host"),
        ("worker/arp.py", "from pasta_py.control.planning import plan"),
        ("worker/arp.py", "import re"),
        ("worker/arp.py", "try:\n    import socket\nexcept ImportError:\n    pass"),
        ("worker/arp.py", "from pasta_py import _plane"),
        ("worker/arp.py", "import dataclasses"),
        ("worker/arp.py", "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    pass\nelse:\n    import typing"),
        ("model.py", "import typing"),
        ("model.py", "from pasta_py.control.planning import plan"),
    ],
)
def test_an_import_of_the_wrong_side_is_caught(path: str, text: str) -> None:
    assert len(list(bad_imports(path, text))) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("worker/arp.py", "if TYPE_CHECKING:\n    from collections.abc import Callable"),
        ("worker/plane.py", "from pasta_py import _plane"),
        ("worker/confine.py", "from pasta_py import _plane"),
        ("control/start/typer_command.py", "def f():\n    import typer"),
        ("control/netlink/pyroute2_messages.py", "import pyroute2.netlink"),
        ("worker_protocol.py", "import struct"),
    ],
)
def test_an_import_in_its_place_passes(path: str, text: str) -> None:
    assert list(bad_imports(path, text)) == []
