"""Alternative names of the host's interfaces (ip link property add … altname), which udev gives to most network cards."""

from collections.abc import Iterator

import pytest
from lab import NO_PORTS, Lab, program
from slirp import connected
from test_conf import pesto, running
from test_options import ANYWHERE, PORT, SECOND4, SECOND6, shown, source, two_links

SHORT = "enp0s31f6.alt"
LONG = "enx" + "0123456789" * 12 + "abcd"  # 127 bytes, ALTIFNAMSIZ without its zero
BY_EITHER_NAME = pytest.mark.parametrize("name", [SHORT, LONG], ids=["short", "long"])
ELSEWHERE = "x" * 15  # an interface with the longest name of its own: what the kernel makes of a longer one that it cuts


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    def named(made: Lab) -> None:
        two_links(made)
        for name in (SHORT, LONG):
            made.host.setup(f"link property add dev eth1 altname {name}")
        made.host.setup(f"link add {ELSEWHERE} type bridge")

    with Lab(named) as made:
        servers = [made.remote.start("answer.py", "name", address, PORT, "remote") for address in ANYWHERE.values()]
        yield made
        for server in servers:
            server.result()


@BY_EITHER_NAME
@pytest.mark.option("--interface")
def test_the_interface_to_copy(lab: Lab, name: str) -> None:
    with lab.guest("-i", name, *NO_PORTS) as guest:
        link, addresses = shown(guest)
    assert link["ifname"] == "eth1"
    assert addresses == {f"{SECOND4}/24", f"{SECOND6}/64"}


@BY_EITHER_NAME
def test_the_interface_that_sockets_are_bound_to(lab: Lab, name: str) -> None:
    """The kernel by itself would take the better route, by way of eth0."""
    options = ("-i", "eth0", "--outbound-if4", name, "--outbound-if6", name, *NO_PORTS)
    with lab.guest(*options) as guest:
        assert {source(guest, "ask", address) for address in ANYWHERE.values()} == {SECOND4, SECOND6}


@BY_EITHER_NAME
def test_the_interface_of_slirp4netns(lab: Lab, name: str) -> None:
    with connected(lab, "ours", "-c", f"--outbound-addr={name}") as (guest, _running):
        assert source(guest, "ask", ANYWHERE[4]) == SECOND4


@BY_EITHER_NAME
def test_the_interface_of_a_forwarded_port(lab: Lab, name: str) -> None:
    """It listens on the interface of that name, and there alone; and whatever it is called, it is the same rule."""
    with running(lab, "-t", f"%{name}/7001", "-u", f"0.0.0.0%{name}/7001", "-T", "none", "-U", "none"):
        assert devices(lab, "-tlnH", 7001) == {"*%eth1"}
        assert devices(lab, "-ulnH", 7001) == {"0.0.0.0%eth1"}
        assert "TCP [*]%eth1:7001  =>  7001" in pesto(lab).stdout
        pesto(lab, "-A", "-t", f"%{name}/7002")
        assert devices(lab, "-tlnH", 7002) == {"*%eth1"}
        pesto(lab, "-D", "-t", "%eth1/7002", "-D", "-t", f"%{name}/7001")
        assert devices(lab, "-tlnH", 7001) | devices(lab, "-tlnH", 7002) == set()


def devices(lab: Lab, what: str, port: int) -> set[str]:
    """Addresses that something listens at, with their interfaces."""
    lines = lab.host.run("ss", what, f"sport = :{port}").stdout.splitlines()
    return {line.split()[3].removesuffix(f":{port}") for line in lines}


@pytest.mark.parametrize("unknown", [ELSEWHERE + "y", "nosuch0"])
def test_a_name_that_no_interface_has_is_refused_and_never_cut(lab: Lab, unknown: str) -> None:
    for options in (("-i", unknown), ("--outbound-if4", unknown), ("-t", f"%{unknown}/7001")):
        done = lab.host.run(program(), "--config-net", *NO_PORTS[2:], *options, "--", "true", check=False)
        assert done.returncode == 1
        assert f"the host has no interface {unknown!r}" in done.stderr.splitlines()[0]
    done = lab.host.run(program("slirp4netns"), "-c", f"--outbound-addr={unknown}", "1", "tap0", check=False)
    assert done.returncode == 1 and f"the host has no interface {unknown!r}" in done.stderr


def test_pesto_refuses_a_name_that_no_interface_has(lab: Lab) -> None:
    with running(lab):
        done = pesto(lab, "-A", "-t", f"%{ELSEWHERE}y/7001", check=False)
    assert done.returncode == 1 and "the host has no interface" in done.stderr


@pytest.mark.parametrize("option", ["--interface", "--outbound-if4", "--outbound-if6"])
def test_a_name_longer_than_any_is_refused(lab: Lab, option: str) -> None:
    done = lab.host.run(program(), option, LONG + "e", "--", "true", check=False)
    assert done.returncode == 1 and "1 to 127 characters" in done.stderr
