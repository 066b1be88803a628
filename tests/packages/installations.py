"""Each way of installing, in fresh roots, as a user: the main job, the manual page, completion; removed without traces.

`make test-install` makes the source archive, and on this machine the wheel, and runs this for bookworm, trixie and sid.
"""

import functools
from pathlib import Path

import pytest
from layers import ROOT, ROOTS, SHELLS, SUITE, Root, build, complete, fetch

HOME = "/home/user"
UV = "/opt/uv/bin/uv"
#: For each way: what installs {sdist}, {source} or {wheel} in /debs, where the programs are then, and what removes them.
WAYS = {
    "pip": ("python3 -m venv v && v/bin/pip install -q {source}", f"{HOME}/v/bin", "v/bin/pip uninstall -q -y pasta-py"),
    "sdist": ("python3 -m venv v && v/bin/pip install -q {sdist}", f"{HOME}/v/bin", "v/bin/pip uninstall -q -y pasta-py"),
    "wheel": ("python3 -m venv v && v/bin/pip install -q {wheel}", f"{HOME}/v/bin", "v/bin/pip uninstall -q -y pasta-py"),
    "pipx": ("pipx install {sdist}", f"{HOME}/.local/bin", "pipx uninstall pasta-py"),
    "uv": (UV + " tool install -q {sdist}", f"{HOME}/.local/bin", UV + " tool uninstall pasta-py"),
}
#: `man` finds the page: in a prefix whose bin is in the PATH, or where pipx links it (1.4 and newer; bookworm has 1.1).
LINKED = {"pip", "sdist", "wheel"} | ({"pipx"} if SUITE != "bookworm" else set())
pytestmark = pytest.mark.timeout(1800)  # downloads; a busy machine


@pytest.fixture(scope="module", autouse=True)
def roots() -> None:
    build()


@functools.cache
def archives() -> dict[str, Path]:
    (sdist,) = (ROOT / "build/sdist").glob("*.tar.gz")
    (wheel,) = (ROOT / "build/sdist/wheel").glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


@pytest.mark.parametrize("way", WAYS)
def test_a_way_of_installing(way: str) -> None:
    install, programs, remove = WAYS[way]
    root = Root(way, ROOTS / "python", ROOTS / "base")
    root.put(*archives().values())
    if way == "uv":
        root.run("python3 -m venv /opt/uv; /opt/uv/bin/pip install -q uv")
    before = root.traces()
    root.run(f"mkdir {HOME}/source; tar -xzf /debs/*.tar.gz -C {HOME}/source --strip-components 1", user=True)
    names = {key: f"/debs/{path.name}" for key, path in archives().items()}
    if way == "wheel":  # no compiler is needed
        root.run("apt-get purge -q -y --auto-remove gcc libc6-dev")
    root.run(f"cd {HOME}; " + install.format(source=f"{HOME}/source", **names), user=True)
    path = f"{programs}:/usr/bin:/bin"
    with root.machine() as machine:
        fetch(machine, f"{programs}/pasta-py")
        fetch(machine, f"{programs}/pasta", "--config-net")
        for program, title in (("pasta-py", "PASTA-PY(1)"), ("pesto", "PESTO(1)"), ("slirp4netns", "SLIRP4NETNS(1)")):
            assert machine.run(f"{programs}/pasta-py", "man", program).stdout.startswith(title)
            found = machine.run("env", f"PATH={path}", "man", program, check=False).stdout
            assert found.startswith(title) == (way in LINKED)
        for shell in SHELLS:
            machine.run(f"{programs}/pasta-py", "--install-completion", shell)
            complete(machine, shell, "pasta-py --map-gu", "--map-guest-addr", path)
            complete(machine, shell, "slirp4netns --enable-sec", "--enable-seccomp", path)
    # What --install-completion wrote is the user's own: docs/install.md names it.
    scripts = ".local/share/bash-completion/completions/* .zfunc/_pasta-py .config/fish/completions/*"
    root.run(f"cd {HOME}; {remove}; rm {scripts}; rm -rf source", user=True)
    assert root.traces() == before


def test_without_a_compiler_the_installation_says_what_is_missing() -> None:
    root = Root("nothing", ROOTS / "python", ROOTS / "base")
    root.put(archives()["sdist"])
    root.run("apt-get purge -q -y --auto-remove gcc libc6-dev")
    said = root.run(f"cd {HOME}; python3 -m venv v; v/bin/pip install -q /debs/*.tar.gz", user=True, check=False)
    (line,) = [line.strip() for line in said.splitlines() if "pasta-py is built from C" in line]
    assert line.startswith("pasta-py is built from C: no C compiler: ") and "sudo apt-get install gcc" in line
