"""Each ICMP error that a host can get: the guest's program sees what one on the host sees."""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from lab import GATEWAY4, GATEWAY6, NO_PORTS, PROGRAMS, REMOTE4, REMOTE6, Lab, Script, dual

Results = dict[str, object]  # of icmp_ask.py
BLACKHOLES = {4: "203.0.113.9", 6: "2001:db8:9::9"}


class Seen(NamedTuple):
    by_host: Results
    by_guest: Results


@pytest.fixture(scope="module")
def errors_lab() -> Iterator[Lab]:
    with Lab(dual) as made:
        made.host.setup(
            f"""\
route add 198.18.0.0/16 via {GATEWAY4}
-6 route add 2001:db8:3::/64 via {GATEWAY6}
route add blackhole {BLACKHOLES[4]}
-6 route add blackhole {BLACKHOLES[6]}
"""
        )
        made.remote.setup("route add blackhole 198.18.0.0/16\n-6 route add blackhole 2001:db8:3::/64")  # one machine answers
        yield made


@pytest.fixture(scope="module")
def seen(errors_lab: Lab) -> Seen:
    command = (sys.executable, PROGRAMS / "icmp_answer.py", "eth0", REMOTE4, REMOTE6)
    answering = Script(errors_lab.remote.popen(*command, caps=True))
    by_host = errors_lab.host.script("icmp_ask.py")
    with errors_lab.guest(*NO_PORTS) as guest:
        by_guest = guest.script("icmp_ask.py", *by_host)
    answering.result()
    return Seen(by_host, by_guest)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp", "ping"])
def test_every_icmp_error_is_the_guests_as_it_is_the_hosts(seen: Seen, protocol: str, family: int) -> None:
    """Its errno; with UDP and ping also type, code, MTU or pointer, and who has sent it."""
    of_host, of_guest = (
        {name: result for name, result in results.items() if name.startswith(f"{protocol}/{family}/")} for results in seen
    )
    assert of_guest == of_host
    assert len(of_host) >= (19 if family == 4 else 18)


@pytest.mark.parametrize("family", [4, 6])
def test_the_hosts_blackhole_route_is_told(errors_lab: Lab, family: int) -> None:
    """No router reports it, and the host's own program gets EINVAL at once: the guest's program is not left waiting."""
    assert errors_lab.host.script("probe.py", "tcp", BLACKHOLES[family], 7)["error"] == "EINVAL"
    with errors_lab.guest(*NO_PORTS) as guest:
        assert guest.script("probe.py", "tcp", BLACKHOLES[family], 7)["error"] == "EHOSTUNREACH"
