"""Containers, pods and builds under an egress policy reach what a rule names, and hear at once of the rest."""

import contextlib
import shutil
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
    answers += ["-A", f"/{BEHIND}/{BEHIND4}"]
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


#: The host has no way to the proxy's network.
BEHIND, BEHIND4 = "behind.example", "198.51.100.9"
INSPECTOR = """
daemon off; error_log /tmp/inspector.log; pid /tmp/inspector.pid; events {}
http { access_log off; client_body_temp_path /tmp/c; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; scgi_temp_path /tmp/s;
uwsgi_temp_path /tmp/u; server { listen 127.0.0.1:8090 proxy_protocol; location / {
return 200 "to $proxy_protocol_server_addr $proxy_protocol_server_port\\n"; } } }
"""
VERIFIED = ("--sandbox", "--threads", "2", "--allow", f"{BEHIND}={BEHIND4}:8000/http")
ASK = f"""
for number in 1 2 3 4; do curl -sS -m 20 http://{BEHIND}:8000/; done
curl -sS -m 20 -H 'Host: {OTHER}' http://{BEHIND}:8000/ 2>&1
curl -sS -m 20 {DENIED} 2>&1 && echo reached {DENIED}
true
"""


@pytest.fixture
def behind(machine: Machine) -> "Iterator[None]":
    shutil.copy2(str(shutil.which("microsocks")), machine.root / "run/helpers")
    machine.root_run("ip", "route", "add", "blackhole", f"{BEHIND4}/32")
    machine.remote("ip", "address", "add", f"{BEHIND4}/32", "dev", "lo")
    machine.run("sh", "-c", "cat >/tmp/inspector.conf", input=INSPECTOR)
    yield
    machine.root_run("ip", "route", "del", "blackhole", f"{BEHIND4}/32")
    machine.remote("ip", "address", "del", f"{BEHIND4}/32", "dev", "lo")


@pytest.mark.parametrize("way", ["proxy", "redirect"])
def test_a_container_whose_verified_connections_take_another_way(machine: Machine, behind: None, way: str) -> None:
    """microsocks on the remote machine resolves the name anew; nginx on the host reads the header of the PROXY protocol."""
    if way == "proxy":
        server = machine.serving("/run/helpers/microsocks", "-i", REMOTE[4], "-p", "1080", remote=True)
        option, answer = f"--proxy,socks5://{REMOTE[4]}:1080", "404"
    else:
        server = machine.serving("nginx", "-c", "/tmp/inspector.conf", "-e", "/tmp/inspector.log")
        option, answer = "--redirect,*:8000@127.0.0.1:8090+proxy-v2", f"to {BEHIND4} 8000"
    with server:
        network = f"--network=pasta:{','.join(VERIFIED)},{option}"
        shown = machine.podman("run", "--rm", network, "base", "sh", "-c", ASK)
    assert shown.count(answer) >= 4 and "reset" in shown and "reached" not in shown, shown


@pytest.mark.parametrize("program", ["podman", "buildah"])
def test_a_build_under_rules(machine: Machine, program: str) -> None:
    machine.run("sh", "-c", "cat >rules.conf", input=_conf())
    steps = "FROM base\nCOPY script /script\nRUN sh /script >/shown 2>&1; true\n"
    machine.run("sh", "-ec", "mkdir -p ruled; cat >ruled/script", input=SCRIPT)
    machine.run("sh", "-ec", "cat >ruled/Containerfile", input=steps)
    words = ("build", "-q", "-t", "ruled", "ruled") if program == "podman" else ("bud", "-q", "-t", "ruled", "ruled")
    machine.run("env", "CONTAINERS_CONF_OVERRIDE=/home/user/rules.conf", program, *words, timeout=120)
    holds(machine.podman("run", "--rm", "--network=none", "ruled", "cat", "/shown"))


def _conf() -> str:
    return f"[network]\npasta_options = [{', '.join(map(repr, RULES))}]\n".replace("'", '"')
