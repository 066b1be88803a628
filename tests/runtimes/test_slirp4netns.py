"""rootlesskit and rootless podman with our `slirp4netns`, and with the real one: ports that it forwards, reached from outside."""

import json
import re
from collections.abc import Iterator

import pytest
from machine import HOST, REMOTE, Machine, end, wait_until
from test_podman import HTTPD, echoed, get

SLIRP = {"ours": "/opt/pasta-py/bin/slirp4netns", "real": "/usr/bin/slirp4netns"}
PORT = 8088


@pytest.fixture(params=list(SLIRP))
def slirp(machine: Machine, request: pytest.FixtureRequest) -> "Iterator[str]":
    """Which of the two runs; afterwards none of it does."""
    if "rootlesskit" not in request.node.name and machine.podman("version", "-f", "{{.Client.Version}}") >= "6":
        pytest.skip("podman 6 has no --network=slirp4netns")
    machine.helper(SLIRP[request.param], "slirp4netns")
    yield request.param
    machine.run("podman", "rm", "-fa", "-t", "0")
    wait_until(lambda: not running(machine), 5, "slirp4netns is gone with what it was for")


@pytest.fixture
def web(machine: Machine) -> "Iterator[None]":
    with machine.serving("busybox", "httpd", "-f", "-p", "8000", "-h", "/opt", remote=True):
        yield


def running(machine: Machine) -> list[str]:
    """Command lines, of our workers too."""
    lines = machine.root_run("ps", "-ww", "-e", "-o", "args").stdout.splitlines()
    return [line for line in lines if re.match(r"(\S*/)?slirp4netns |/opt/pasta-py/bin/python3 -I", line)]


def check_running(machine: Machine, slirp: str) -> str:
    """The command line of the one that runs, by rootlesskit or podman."""
    lines = running(machine)
    assert lines and all(line.startswith("/opt/pasta-py") == (slirp == "ours") for line in lines), lines
    return next(line for line in lines if " slirp4netns " in f" {line}" or "/slirp4netns " in line)


@pytest.mark.parametrize(
    "options",
    [
        ("--port-driver=slirp4netns",),
        ("--port-driver=slirp4netns", "--disable-host-loopback", "--mtu=65520", "--cidr=10.0.3.0/24"),
        ("--port-driver=slirp4netns", "--slirp4netns-sandbox=true", "--slirp4netns-seccomp=true", "--ipv6"),
        ("--port-driver=builtin", "--slirp4netns-binary=/run/helpers/slirp4netns"),
    ],
    ids=str,
)
def test_rootlesskit(machine: Machine, slirp: str, web: None, options: tuple[str, ...]) -> None:
    command = ["rootlesskit", "--net=slirp4netns", "--copy-up=/etc", *options, "-p", f"0.0.0.0:{PORT}:80/tcp"]
    inside = f"curl -sSo /dev/null http://{REMOTE[4]}:8000/ && exec busybox httpd -f -p 80 -h /etc/skel"
    process = machine.popen(*command, "sh", "-c", inside)
    try:
        wait_until(lambda: process.poll() is not None or "404" in get(machine, f"http://127.0.0.1:{PORT}/"), 15, "it answers")
        assert process.poll() is None, process.communicate()
        assert "404" in get(machine, f"http://{HOST[4]}:{PORT}/", remote=True)
        words = check_running(machine, slirp)
        assert ("--api-socket" in words) == ("--port-driver=slirp4netns" in options)
    finally:
        end(process)
        process.communicate(timeout=30)


def test_podman_publishes(machine: Machine, slirp: str) -> None:
    """TCP and UDP, through the API: with the addresses of the clients, as podman documents of this port handler."""
    network = "--network=slirp4netns:port_handler=slirp4netns"
    name = machine.podman("run", "-d", network, "-p", "8080:80", "-p", "127.0.0.1:8081:80", "base", "nginx")
    for where in ("127.0.0.1:8080", "127.0.0.1:8081", f"{HOST[4]}:8080"):
        wait_until(lambda url=f"http://{where}/": get(machine, url) == "hello", 10, f"{where} answers")
    assert get(machine, f"http://{HOST[4]}:8080/", remote=True) == "hello"
    assert f"\n{REMOTE[4]} " in machine.podman("logs", name)
    assert get(machine, f"http://{HOST[4]}:8081/") == ""
    check_running(machine, slirp)
    server = ("socat", "UDP4-RECVFROM:53,fork", "EXEC:cat")
    machine.podman("run", "-d", network, "-p", "5300:53/udp", "base", *server)
    wait_until(lambda: echoed(machine, f"{HOST[4]}:5300", remote=True) == "datagram", 10, "UDP is answered")
    machine.podman("rm", "-f", "-t", "0", name)
    assert get(machine, f"http://{HOST[4]}:8080/") == ""


def test_podman_publishes_a_taken_port(machine: Machine, slirp: str) -> None:
    with machine.serving("busybox", "httpd", "-f", "-p", "8080"):
        network = "--network=slirp4netns:port_handler=slirp4netns"
        done = machine.run("podman", "run", "--rm", network, "-p", "8080:80", "base", "true", check=False)
    assert done.returncode == 126 and "slirp_add_hostfwd failed" in done.stderr, done


@pytest.mark.parametrize(
    ("network", "command", "wanted"),
    [
        ("slirp4netns", "/bin/ip -4 -j addr show tap0", '"10.0.2.100"'),
        ("slirp4netns", "/bin/ip -6 -j addr show tap0", '"fd00::'),
        ("slirp4netns:enable_ipv6=false,mtu=1400", "/bin/ip link show tap0", "mtu 1400"),
        ("slirp4netns:cidr=10.9.0.0/16", "/bin/ip -j addr show tap0", '"10.9.0.100"'),
        ("slirp4netns:outbound_addr=192.0.2.1", f"curl -sSI http://{REMOTE[4]}:8000/", "404"),
        ("slirp4netns:outbound_addr=eth0", f"curl -sSI http://{REMOTE[4]}:8000/", "404"),
        ("slirp4netns", f"curl -sSI http://[{REMOTE[6]}]:8000/", "404"),
        (f"slirp4netns:outbound_addr6={HOST[6]}", f"curl -sSI http://[{REMOTE[6]}]:8000/", "404"),
        ("slirp4netns", "cat /etc/resolv.conf", "nameserver 10.0.2.3"),
        ("slirp4netns:allow_host_loopback=true", "curl -sSI http://10.0.2.2:8001/", "404"),
    ],
)
def test_podman_options(machine: Machine, slirp: str, web: None, network: str, command: str, wanted: str) -> None:
    """Those of podman-run(1) for --network=slirp4netns."""
    with machine.serving("busybox", "httpd", "-f", "-p", "127.0.0.1:8001", "-h", "/opt"):
        # The real one's IPv6 address comes with an advertisement.
        again = f"for n in $(seq 30); do {command} | grep -F '{wanted}' && exit; sleep 1; done; {command}"
        shown = machine.podman("run", "--rm", f"--network={network}", "base", "sh", "-c", again)
    assert wanted in shown


def test_the_hosts_loopback_is_closed(machine: Machine, slirp: str) -> None:
    with machine.serving("busybox", "httpd", "-f", "-p", "127.0.0.1:8001", "-h", "/opt"):
        command = "curl -sS -m 3 http://10.0.2.2:8001/; echo $?"
        assert machine.podman("run", "--rm", "--network=slirp4netns", "base", "sh", "-c", command) in ("7", "28")


def test_names_are_resolved(machine: Machine) -> None:
    with machine.serving("dnsmasq", "-k", "-u", "root", "-R", "-A", "/some.example/192.0.2.77", remote=True):
        for program in SLIRP.values():
            machine.helper(program, "slirp4netns")
            command = ("podman", "run", "--rm", "--network=slirp4netns", "base", "nslookup", "some.example")
            assert "192.0.2.77" in machine.run(*command, check=False).stdout  # there is no IPv6 address: that fails


def test_podman_tells_its_version(machine: Machine, slirp: str) -> None:
    told = json.loads(machine.podman("info", "-f", "json"))["host"]["slirp4netns"]
    assert told["executable"] == "/run/helpers/slirp4netns"
    assert told["version"].splitlines()[0].startswith("slirp4netns version 1.")


def test_podman_is_told_which(machine: Machine) -> None:
    machine.helper(SLIRP["real"], "slirp4netns")
    machine.podman(f"--network-cmd-path={SLIRP['ours']}", "run", "-d", "--network=slirp4netns", "base", "sleep", "600")
    check_running(machine, "ours")


def test_containers_default_port_handler(machine: Machine, slirp: str) -> None:
    machine.podman("run", "-d", "--network=slirp4netns", "-p", "8080:80", "base", *HTTPD)
    wait_until(lambda: get(machine, f"http://{HOST[4]}:8080/", remote=True) == "hello", 10, "it answers")
