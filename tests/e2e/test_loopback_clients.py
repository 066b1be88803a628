"""Who a server in the guest sees when the client is on the host's loopback, over splicing and over the tap."""

import pytest
from lab import GATEWAYS, HOSTS, Lab

pytestmark = pytest.mark.sanitize_quick

LOOPBACK = {4: "127.0.0.1", 6: "::1"}
PORT = 7150


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("how", ["ask", "ask-udp"])
@pytest.mark.parametrize(
    ("options", "shown"),
    [((), HOSTS), (("--host-lo-to-ns-lo",), LOOPBACK), (("--no-splice",), GATEWAYS)],
    ids=["splice", "loopback to loopback", "no splice"],
)
def test_what_a_client_on_the_hosts_loopback_is_shown_as(
    lab: Lab, options: tuple[str, ...], shown: dict[int, str], how: str, family: int
) -> None:
    """The guest has the host's addresses: over splicing its own address is both ends of the connection."""
    at = LOOPBACK[family] if "--host-lo-to-ns-lo" in options else HOSTS[family]
    with lab.guest("-t", PORT, "-u", PORT, *options) as guest:
        server = guest.start("answer.py", "name", at, PORT, "guest")
        reply = lab.host.script("probe.py", how, LOOPBACK[family], PORT)
        server.result()
    assert str(reply["answer"]).startswith(f"guest {shown[family]} ")


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("how", ["ask", "ask-udp"])
def test_a_client_at_the_hosts_own_address_without_a_mapping(lab: Lab, how: str, family: int) -> None:
    """The guest has that address itself, so it is shown the gateway's: as podman's --no-map-gw needs for published ports."""
    with lab.guest("-t", PORT, "-u", PORT, "--no-map-gw") as guest:
        server = guest.start("answer.py", "name", HOSTS[family], PORT, "guest")
        reply = lab.host.script("probe.py", how, HOSTS[family], PORT)
        server.result()
    assert str(reply["answer"]).startswith(f"guest {GATEWAYS[family]} ")
