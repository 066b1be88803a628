"""Containers, pods and builds under an egress policy reach what a rule names, and hear at once of the rest."""

import contextlib
from collections.abc import Iterator

import pytest
from machine import HOST, REMOTE, Machine

NAME, OTHER = "some.example", "other.example"
WEB, DENIED = f"http://{NAME}:8000/", f"http://{REMOTE[4]}:8001/"
RULES = ("--sandbox", "--allow", f"{NAME}={REMOTE[4]}:8000")
NETWORK = f"--network=pasta:{','.join(RULES)}"
#: In a container: what the rule opens, then what it does not: another name, another port, the host.
SCRIPT = f"""
curl -sS -m 20 {WEB}
for url in http://{OTHER}:8000/ {DENIED} http://{HOST[4]}:8000/ http://host.containers.internal:8000/; do
    curl -sS -m 20 $url 2>&1 && echo reached $url
done
true
"""


@pytest.fixture(autouse=True, scope="module")
def services(machine: Machine) -> "Iterator[None]":
    """At the remote end two web servers, and a nameserver that knows both names; one on the host."""
    answers = [word for name in (NAME, OTHER) for word in ("-A", f"/{name}/{REMOTE[4]}")]
    with contextlib.ExitStack() as stack:
        for port in ("8000", "8001"):
            stack.enter_context(machine.serving("busybox", "httpd", "-f", "-p", port, "-h", "/opt", remote=True))
        stack.enter_context(machine.serving("busybox", "httpd", "-f", "-p", "8000", "-h", "/opt"))
        stack.enter_context(machine.serving("dnsmasq", "-k", "-u", "root", "-R", *answers, remote=True))
        yield


def holds(shown: str) -> None:
    assert "404" in shown and "reached" not in shown, shown
    assert f"Could not resolve host: {OTHER}" in shown, shown
    assert shown.count("Failed to connect") + shown.count("Couldn't connect") + shown.count("Could not connect") >= 3, shown
    assert "timed out" not in shown.lower(), shown


def test_a_container_under_rules(machine: Machine) -> None:
    holds(machine.podman("run", "--rm", NETWORK, "base", "sh", "-c", SCRIPT))


def test_a_pod_under_rules(machine: Machine) -> None:
    """They are given with the pod, and hold for each of its containers."""
    machine.podman("pod", "create", "--name", "pod", NETWORK)
    for _ in range(2):
        holds(machine.podman("run", "--rm", "--pod", "pod", "base", "sh", "-c", SCRIPT))


def test_a_bridge_network_under_rules_of_containers_conf(machine: Machine) -> None:
    """aardvark-dns asks our nameserver in its turn."""
    machine.run("sh", "-c", "cat .config/containers/containers.conf - >rules.conf", input=_conf())
    conf = ("env", "CONTAINERS_CONF=/home/user/rules.conf")
    machine.run(*conf, "podman", "network", "create", "ruled")
    try:
        run = ("podman", "run", "--rm", "--network", "ruled", "base", "sh", "-c", SCRIPT)
        holds(machine.run(*conf, *run).stdout)
    finally:
        machine.run("podman", "network", "rm", "-f", "ruled", check=False)


@pytest.mark.parametrize("program", ["podman", "buildah"])
def test_a_build_under_rules(machine: Machine, program: str) -> None:
    machine.run("sh", "-c", "cat .config/containers/containers.conf - >rules.conf", input=_conf())
    steps = "FROM base\nCOPY script /script\nRUN sh /script >/shown 2>&1; true\n"
    machine.run("sh", "-ec", "mkdir -p ruled; cat >ruled/script", input=SCRIPT)
    machine.run("sh", "-ec", "cat >ruled/Containerfile", input=steps)
    words = ("build", "-q", "-t", "ruled", "ruled") if program == "podman" else ("bud", "-q", "-t", "ruled", "ruled")
    machine.run("env", "CONTAINERS_CONF=/home/user/rules.conf", program, *words, timeout=120)
    holds(machine.podman("run", "--rm", "--network=none", "ruled", "cat", "/shown"))


def _conf() -> str:
    return f"[network]\npasta_options = [{', '.join(map(repr, RULES))}]\n".replace("'", '"')
