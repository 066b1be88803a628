"""Forwarded ports: every kind of rule, of both protocols and families, from every kind of client (ports.py)."""

import sys
from collections.abc import Iterator

import pytest
from lab import HOSTS, NO_PORTS, Guest, Lab, program, wait_until
from ports import CLIENTS, IN_GUEST, PROTOS, RULES, SEEN, cells, faults, options

pytestmark = pytest.mark.sanitize_quick


@pytest.fixture(scope="module", autouse=True)
def refusals_at_once(lab: Lab) -> None:
    """Refusals of UDP are ICMP errors, which the kernel rations."""
    for space in (lab.host, lab.remote):
        space.sysctl(ipv4__icmp_ratelimit=0, ipv6__icmp__ratelimit=0)


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Iterator[Guest]:
    """All rules in one start, and servers in the guest on every port that they name."""
    with lab.guest(*options(RULES)) as made:
        server = made.start("portserve.py", "any", *IN_GUEST)
        yield made
        server.result()


@pytest.mark.parametrize("proto", PROTOS)
@pytest.mark.parametrize("client", CLIENTS)
def test_every_rule(lab: Lab, guest: Guest, client: str, proto: str) -> None:
    """Bytes as they were sent, the source as specified, neighbours refused."""
    assert not faults(lab, cells(client, proto), SEEN)


def test_any_address_of_each_family_leads_elsewhere() -> None:
    """One port, two rules: what comes by IPv6 goes to one place, what comes by IPv4 to another."""
    targets = {4: 8085, 6: 8086}
    rules = ("-t", f"::/7080:{targets[6]}", "-t", f"0.0.0.0/7080:{targets[4]}")
    with Lab() as lab, lab.guest(*rules, *NO_PORTS[2:]) as guest:
        for family, port in targets.items():
            guest.serve("socat", f"TCP6-LISTEN:{port},fork", f"SYSTEM:echo {family}", port=port)
        for family, address in HOSTS.items():
            host = f"[{address}]" if family == 6 else address
            assert lab.remote.run("socat", "-u", f"TCP{family}:{host}:7080", "-").stdout == f"{family}\n"


_LISTEN = "import socket, sys; s = socket.create_server(('', 7403)); print('up', flush=True); sys.stdin.read()"


def test_a_port_that_another_instance_holds_names_it(lab: Lab) -> None:
    """A port of its start, one that it found by itself, one that pesto has added. A worker shows its descriptors to root alone."""
    runtime = lab.directory / "runtime"
    lab.host.run("mkdir", "-m", "700", runtime)
    env = {**lab.environment(), "XDG_RUNTIME_DIR": str(runtime)}
    options = ("-t", "auto", "-u", "7402", "-T", "none", "-U", "none", "-c", runtime / "pesto")
    command = (sys.executable, "-c", _LISTEN)
    holder = lab.host.popen(program("pasta-py"), *options, "--", *command, env=env)
    assert holder.stdout and holder.stdout.readline() == "up\n"
    lab.host.run(program("pesto"), "-A", "-u", "7404", runtime / "pesto")

    def refused(*words: str) -> str:
        second = lab.host.popen(program(), *words, "--", "true", env=env)
        return str(second.communicate(timeout=60)[1])

    pid = lab.host.run("ls", runtime / "pasta-py").stdout.removesuffix(".sock\n")
    shown = f"Address already in use: pasta-py (PID {pid}, serves {sys.executable} -c import socket"
    for words in (("-u", "7402"), ("-u", "7404")):
        assert shown in refused(*words), words
    wait_until(lambda: shown in refused("-t", "7403"), 30, "the port that the instance has found is held by it")
    assert ") listens there: stop it, or choose another port" in refused("-t", "7403")
    holder.terminate()
    assert holder.wait(30) == 0
