"""passt's own pesto with our pasta, and our pesto with passt's pasta: only SUITE=sid has them (see conftest.py).

The short form is tests/worker/test_confwire.py, with bytes recorded from them.
"""

import contextlib
import subprocess
from collections.abc import Iterator

import pytest
from machine import HOST, OURS, PASST, Machine, end, wait_until
from test_podman import get

OUR_PESTO, PASSTS_PESTO = "/opt/pasta-py/bin/pesto", "/usr/bin/pesto"
SOCK = "/run/user/1000/conf.sock"
NONE = ("-t", "none", "-u", "none", "-T", "none", "-U", "none")
PAIRS = [(OURS, PASSTS_PESTO), (PASST, OUR_PESTO), (OURS, OUR_PESTO), (PASST, PASSTS_PESTO)]


@contextlib.contextmanager
def running(machine: Machine, pasta: str) -> Iterator[None]:
    """A web server in a namespace, at port 8080."""
    server = ["busybox", "httpd", "-f", "-p", "8080", "-h", "/etc/skel"]
    machine.run("rm", "-f", SOCK)
    command = [pasta, "-q", "-f", "--config-net", "-c", SOCK, *NONE, "--", *server]
    process = machine.popen(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # passt's leaves the server behind
    try:
        wait_until(lambda: not machine.run("test", "-S", SOCK, check=False).returncode, 10, f"{pasta} has its socket")
        yield
    finally:
        end(process)


@pytest.mark.parametrize(("pasta", "pesto"), PAIRS, ids=lambda p: "/".join(p.split("/")[1:3]))
def test_rules_come_and_go(machine: Machine, pasta: str, pesto: str) -> None:
    url = f"http://{HOST[4]}:8088/"

    def change(*words: str) -> None:
        machine.run(pesto, *words, SOCK)

    def reached() -> bool:
        return "404" in get(machine, url, remote=True)

    with running(machine, pasta):
        assert not reached()
        change("-A", "-t", "8088:8080", "-T", "8089")
        wait_until(reached, 5, "the added rule is served")
        shown = machine.run(pesto, SOCK).stdout
        assert "8088" in shown and "8089" in shown
        change("--add", "-t", f"{HOST[4]}/8090:8080")
        change("-D", "-t", "8088:8080")
        wait_until(lambda: not reached(), 5, "the deleted rule is not served")
        assert "404" in get(machine, f"http://{HOST[4]}:8090/", remote=True)
        change("-t", "auto")
        url = f"http://{HOST[4]}:8080/"
        wait_until(reached, 5, "the automatic rule is served")
        change("-C", "HOST", "-C", "SPLICE")
        wait_until(lambda: not reached(), 5, "no rule is served")
        assert not any(port in machine.run(pesto, SOCK).stdout for port in ("8080", "8089", "8090"))


def test_what_cannot_be_bound_is_as_it_was_for_passts_pesto_and_told_by_ours(machine: Machine) -> None:
    with running(machine, OURS), machine.serving("busybox", "httpd", "-f", "-p", "8091", "-h", "/etc/skel"):
        machine.run(OUR_PESTO, "-A", "-t", "8088:8080", SOCK)
        machine.run(PASSTS_PESTO, "-t", "8091", SOCK)  # which cannot tell
        assert "8091" not in machine.run(PASSTS_PESTO, SOCK).stdout
        assert "404" in get(machine, f"http://{HOST[4]}:8088/", remote=True)
        refused = machine.run(OUR_PESTO, "-t", "8091", SOCK, check=False)
        assert refused.returncode == 1 and "Address already in use" in refused.stderr
