"""The Debian packages in fresh roots: installed, tried, removed without traces. `make test-deb` builds them and runs this.

AppArmor: the profiles are compiled. This kernel may enforce none, so what they refuse is not tried.
"""

import os
import re
from pathlib import Path

import pytest
from layers import ROOT, ROOTS, SHELLS, SUITE, Root, build, complete, fetch

DEBS = ROOT / "build" / "deb" / SUITE
INSTALL = "apt-get update -q -o Acquire::Check-Valid-Until=false; "  # sid's release file can be past its date
INSTALL += "DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends"
RUNTIMES = Path(os.environ.get("PASTA_DEBIAN_ROOT", ROOT / "build" / "debian" / SUITE))
pytestmark = pytest.mark.timeout(1800)  # downloads; a busy machine


@pytest.fixture(scope="module", autouse=True)
def roots() -> None:
    build()


def packages(*names: str) -> list[Path]:
    return [next(DEBS.glob(f"{name}_*.deb")) for name in names]


def test_pasta_py_alone() -> None:
    root = Root("alone", ROOTS / "base")
    root.put(*packages("pasta-py"))
    root.run(f"{INSTALL} /debs/*.deb")
    with root.machine() as machine:
        fetch(machine, "pasta-py")
        fetch(machine, "/usr/lib/pasta-py/bin/pasta", "--config-net")
        # A route that only pyroute2 reads, of the version that this suite has.
        machine.root_run("ip", "route", "add", "198.51.100.0/24", "nexthop", "via", "192.0.2.3", "nexthop", "via", "192.0.2.4")
        assert "via 192.0.2.4" in machine.run("pasta-py", "--", "ip", "route", "show", "198.51.100.0/24").stdout
        assert machine.run("man", "pasta-py").stdout.startswith("PASTA-PY(1)")
        assert machine.run("pasta-py", "man", "pesto").stdout.startswith("PESTO(1)")
        paths = "PATH=/usr/lib/pasta-py/bin:/usr/bin:/bin"
        assert machine.run("env", paths, "man", "slirp4netns").stdout.startswith("SLIRP4NETNS(1)")
        for shell in SHELLS:
            complete(machine, shell, "pasta-py --map-gu", "--map-guest-addr")
        assert machine.run("python3", "-c", "import pasta_py; print(pasta_py.run(['true']).returncode)").stdout == "0\n"
    root.run("apt-get purge -q -y pasta-py; apt-get autoremove --purge -q -y")
    assert root.traces() == []


def test_in_the_place_of_passt_and_slirp4netns() -> None:
    """On a machine with podman, passt and slirp4netns: podman starts ours then, without any configuration; and back again."""
    root = Root("place", RUNTIMES)
    root.put(*packages("pasta-py", "pasta-py-as-pasta"))
    root.run(f"rm -rf /opt/pasta-py; {INSTALL} man-db bash-completion fish zsh tmux /debs/*.deb")
    shown = root.run("dpkg-query -W -f '${Package} ${db:Status-Abbrev}\\n' passt slirp4netns podman buildah rootlesskit || true")
    assert "passt ii" not in shown and "slirp4netns ii" not in shown and "podman ii" in shown and "rootlesskit ii" in shown
    with root.machine() as machine:
        # The storage of containers is an overlay too, which cannot lie on another.
        machine.root_run("mkdir", "-p", "/home/user/.local/share")
        machine.root_run("mount", "-t", "tmpfs", "-o", "mode=700,uid=1000,gid=1000", "tmpfs", "/home/user/.local/share")
        fetch(machine, "pasta", "--config-net")
        machine.podman("import", "-q", "/image.tar", "base", timeout=120)
        with machine.serving("busybox", "httpd", "-f", "-p", "8000", "-h", "/usr/share/common-licenses", remote=True):
            url = "http://192.0.2.2:8000/Apache-2.0"
            assert "Apache License" in machine.podman("run", "--rm", "--network=pasta", "base", "curl", "-sS", "-m", "20", url)
            inside = ("rootlesskit", "--net=slirp4netns", "--copy-up=/etc", "--disable-host-loopback")
            assert "Apache License" in machine.run(*inside, "curl", "-sS", "-m", "20", url).stdout
        assert "pasta-py" in machine.podman("info", "-f", "{{.Host.Pasta.Version}} {{.Host.Slirp4NetNS.Version}}")
        for program in ("pasta", "passt", "pesto", "slirp4netns"):
            title = "PASTA-PY(1)" if program in ("pasta", "passt") else f"{program.upper()}(1)"
            assert machine.run("man", program).stdout.startswith(title)
        for shell in SHELLS:
            complete(machine, shell, "pasta --map-gu", "--map-guest-addr")
            complete(machine, shell, "slirp4netns --enable-sec", "--enable-seccomp")
    root.run(f"{INSTALL} passt slirp4netns; apt-get purge -q -y pasta-py; apt-get autoremove --purge -q -y")
    assert "pasta-py" not in root.run("pasta --version; slirp4netns --version; ls /etc/apparmor.d /etc/apparmor.d/disable || true")


def test_autopkgtest() -> None:
    """The packages' own tests, by Debian's tool for them, on this machine's kernel."""
    for names, tests in ((("pasta-py",), ("command", "module")), (("pasta-py", "pasta-py-as-pasta"), ("programs",))):
        root = Root("autopkgtest", ROOTS / "build", ROOTS / "base")
        (source,) = DEBS.glob("*.dsc")
        root.put(*packages(*names), *DEBS.glob("*.tar.*"), source)
        root.run(f"{INSTALL} /debs/*.deb; cd /debs; dpkg-source -x {source.name} /debs/source")
        with root.machine() as machine:
            words = ["-B", "--ignore-restrictions=isolation-container"]  # the machine is one
            words += [word for test in tests for word in ("--test-name", test)]
            done = machine.root_run("autopkgtest", *words, "/debs/source/", "--", "null", check=False, timeout=300)
            said = done.stdout + done.stderr
            assert done.returncode == 0, said[-4000:]
            assert {test for test in tests if re.search(rf"^{test} +PASS$", said, re.MULTILINE)} == set(tests)


def test_the_apparmor_profiles_compile() -> None:
    root = Root("apparmor", ROOTS / "build", ROOTS / "base")
    root.put(*packages("pasta-py", "pasta-py-as-pasta"))
    root.run(f"{INSTALL} /debs/*.deb")
    said = root.run("apparmor_parser -Q -K -p /etc/apparmor.d/pasta-py; apparmor_parser -Q -K -d /etc/apparmor.d/pasta-py")
    assert "  userns," in said and "flags=(attach_disconnected, complain)" in said
    assert "@{pasta_py} += /usr/bin/{passt,pasta,pesto}" in said and "Name:\t\tpasta-py" in said
