"""The worker stays small: what it imports, and how much memory it takes while it serves."""

import subprocess
import sys
from pathlib import Path

import _cffi_backend
import pytest
from process_helpers import command_line, environment, eventually, user_prefix, worker_of

import pasta_py

pytestmark = [pytest.mark.as_built, pytest.mark.unsanitized]

LIMIT_KIB = 12 * 1024
HEAVY = {
    "argparse", "array", "asyncio", "collections", "contextlib", "ctypes", "dataclasses", "enum", "importlib.metadata", "inspect",
    "ipaddress", "json", "logging", "os", "pyroute2", "re", "select", "signal", "site", "socket", "subprocess", "typer", "typing",
}  # fmt: skip
IMPORTS = "import sys; sys.path += sys.argv[1:]; import pasta_py.worker.__main__; print(*sys.modules)"


def test_the_workers_imports_are_lean() -> None:
    paths = [str(Path(module.__file__ or "").parent) for module in (_cffi_backend, pasta_py)]
    paths[1] = str(Path(paths[1]).parent)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", IMPORTS, *paths], capture_output=True, text=True, check=True, timeout=30
    )
    loaded = set(done.stdout.split())
    assert {"pasta_py.worker.slowpath", "pasta_py._plane"} <= loaded
    assert loaded & HEAVY == set()
    assert not [name for name in loaded if name.startswith("pasta_py.control")]
    needed = ("dns", "autoports", "pesto_server", "port_rules")  # by some plans only: loaded with these
    assert not [name for name in loaded if name.startswith(tuple(f"pasta_py.worker.{each}" for each in needed))]


def test_what_a_worker_loads_for_dns_is_lean_too() -> None:
    paths = [str(Path(module.__file__ or "").parent) for module in (_cffi_backend, pasta_py)]
    paths[1] = str(Path(paths[1]).parent)
    code = IMPORTS.replace("print(", "import pasta_py.worker.dns_start; print(")
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, *paths], capture_output=True, text=True, check=True, timeout=30)
    loaded = set(done.stdout.split())
    assert "pasta_py.worker.dns_wire" in loaded and loaded & HEAVY == set()


def test_controls_imports_are_lean() -> None:
    """Of a start of `pasta`: each of these modules would add a millisecond to it, or many."""
    names = ["start.dispatch", "start.main", "start.launch", "start.hand_over", "forwarding.bind_ports", "planning.host"]
    names += ["planning.plan", "planning.resolv_conf", "guest.namespaces", "guest.tap", "guest.interface", "guest.spawn"]
    names += ["start.foreground", "slirp4netns.main", "slirp4netns.plan"]
    paths = [str(Path(module.__file__ or "").parent) for module in (_cffi_backend, pasta_py)]
    paths[1] = str(Path(paths[1]).parent)
    code = IMPORTS.replace("pasta_py.worker.__main__", ", ".join(f"pasta_py.control.{name}" for name in names))
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, *paths], capture_output=True, text=True, check=True, timeout=30)
    loaded = set(done.stdout.split())
    assert {"pasta_py.control.guest.interface", "pasta_py._calls"} <= loaded
    assert loaded & HEAVY == {"ipaddress", "select"}


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.parametrize("name", ["pasta", "pasta-py"])
def test_a_serving_worker_takes_at_most_12_mib(name: str) -> None:
    argv = [*user_prefix(), *command_line(name, "--config-net", "--", "sh", "-c", "echo up; read line")]
    with subprocess.Popen(
        argv, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as control:
        try:
            assert control.stdout is not None
            assert control.stdout.readline() == "up\n"
            worker = worker_of(control.pid)
            eventually(lambda: resident_kib(worker) > 0, "the worker has memory")
            assert resident_kib(worker) <= LIMIT_KIB
        finally:
            control.kill()
