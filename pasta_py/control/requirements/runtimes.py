"""Which `pasta` the programs take that run containers, by their configuration and $PATH; and versions."""

import os
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

from pasta_py.control.requirements.finding import Finding, fine, wrong
from pasta_py.control.requirements.settings import Cause

PROGRAMS = ("podman", "buildah", "rootlesskit")
_OTHERS = ("pasta", "slirp4netns", "crun")
# podman, containers.conf(5): the default of helper_binaries_dir.
_DIRECTORIES = ["/usr/local/libexec/podman", "/usr/local/lib/podman", "/usr/libexec/podman", "/usr/lib/podman"]
_DOCKER = "DOCKERD_ROOTLESS_ROOTLESSKIT_NET"
_PATIENCE_S = 10


def installed() -> list[str]:
    """Those of PROGRAMS that are in $PATH."""
    return [name for name in PROGRAMS if shutil.which(name)]


def check() -> list[Finding]:
    found = []
    if shutil.which("podman") or shutil.which("buildah"):
        found.append(_podman())
    if shutil.which("rootlesskit"):
        found.append(_rootlesskit())
    return found


def versions() -> dict[str, str]:
    """The first line that each program of the field says about itself, of those in $PATH."""
    return {name: said for name in (*PROGRAMS, *_OTHERS) if (path := shutil.which(name)) and (said := _version(path))}


def _version(path: str) -> str:
    try:
        done = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = (done.stdout or done.stderr).decode("utf-8", "replace").splitlines()
    return lines[0].strip() if lines else ""


def _is_ours(path: str) -> bool:
    return "pasta-py" in _version(path)


def _podman() -> Finding:
    config: dict[str, dict[str, Any]] = {}
    for file in _files():
        try:
            _merge(config, tomllib.loads(file.read_text("utf-8")))
        except (OSError, ValueError) as error:
            return wrong("podman", Cause(text=f"{file}: {' '.join(str(error).split())}", remedy=f"edit {file}"))
    engine, network = config.get("engine", {}), config.get("network", {})
    directories = [str(path) for path in engine.get("helper_binaries_dir", _DIRECTORIES)]
    command = str(network.get("default_rootless_network_cmd", "pasta"))
    first = [os.environ["CONTAINERS_HELPER_BINARY_DIR"]] if os.environ.get("CONTAINERS_HELPER_BINARY_DIR") else []
    path = _find("pasta", [*first, *directories])
    if path is None:
        ours = shutil.which("pasta-py")
        where = [os.path.dirname(ours)] if ours else []
        listed = ", ".join(f'"{word}"' for word in (*where, *directories))
        target = "~/.config/containers/containers.conf.d"
        remedy = f"mkdir -p {target} && printf '[engine]\\nhelper_binaries_dir = [{listed}]\\n' >{target}/pasta-py.conf"
        return wrong("podman", Cause(text="it finds no program `pasta`", remedy=remedy))
    whose = "pasta-py" if _is_ours(path) else "not pasta-py"
    options = " ".join(map(str, network.get("pasta_options", ())))
    text = f"it takes {path} ({whose})" + (f", with {options}" if options else "")
    return fine("podman", text + ("" if command == "pasta" else f"; but containers use {command} by default"))


def _files() -> list[Path]:
    """The files of containers.conf(5), those that override others last."""
    if os.environ.get("CONTAINERS_CONF"):
        files = [Path(os.environ["CONTAINERS_CONF"])]
    else:
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "containers")
        files = [Path("/usr/share/containers/containers.conf")]
        for directory in (Path("/etc/containers"), *([home] if os.geteuid() else [])):
            files += [directory / "containers.conf", *sorted((directory / "containers.conf.d").glob("*.conf"))]
    if os.environ.get("CONTAINERS_CONF_OVERRIDE"):
        files.append(Path(os.environ["CONTAINERS_CONF_OVERRIDE"]))
    return [file for file in files if file.is_file()]


def _merge(config: dict[str, dict[str, Any]], more: dict[str, Any]) -> None:
    """A later file replaces single settings; an array with {append = true} is added to the earlier one."""
    for section, values in more.items():
        if not isinstance(values, dict):
            continue
        into = config.setdefault(section, {})
        for key, value in values.items():
            if isinstance(value, list):
                appended = {"append": True} in value
                value = [item for item in value if not isinstance(item, dict)]
                value = [*into.get(key, ()), *value] if appended else value
            into[key] = value


def _find(program: str, directories: list[str]) -> str | None:
    for directory in directories:
        path = os.path.join(directory, program)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return shutil.which(program)


def _rootlesskit() -> Finding:
    path = shutil.which("pasta")
    if path is None:
        remedy = f"export PATH={_our_directory()}:$PATH"
        return wrong("rootlesskit", Cause(text="it finds no program `pasta` in $PATH", remedy=remedy))
    text = f"--net=pasta takes {path} ({'pasta-py' if _is_ours(path) else 'not pasta-py'})"
    docker = _docker()
    return fine("rootlesskit", text + (f"; rootless Docker uses --net={docker}" if docker else ""))


def _our_directory() -> str:
    return os.path.dirname(shutil.which("pasta-py") or "/usr/local/bin/pasta-py")


def _docker() -> str:
    """What rootless Docker's service sets, or this environment."""
    directory = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "systemd/user/docker.service.d")
    value = os.environ.get(_DOCKER, "")
    for file in sorted(directory.glob("*.conf")):
        for line in file.read_text("utf-8", "replace").splitlines():
            _, found, rest = line.partition(f"{_DOCKER}=")
            value = rest.strip().strip("\"'") if found and line.lstrip().startswith("Environment") else value
    return value
