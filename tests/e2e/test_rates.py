"""--rate-out and --rate-in with iperf3: what passes, how streams share it, and what is not starved."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from lab import NO_PORTS, REMOTE4, Guest, Lab, program

pytestmark = [pytest.mark.unsanitized, pytest.mark.quiet]
SECONDS = 2
OMITTED = 1  # seconds: what buffers took at the start
OUT_BITS, IN_BITS = 40_000_000, 24_000_000
RATES = ("--rate-out", "40mbit", "--rate-in", "3MB")
WITHIN = 0.05
OFFERED_BITS, DATAGRAM_BYTES = 120_000_000, 1200
CONTROL = "/run/big/control"


@pytest.fixture(scope="module", autouse=True)
def services(lab: Lab) -> None:
    lab.remote.serve("iperf3", "-s", "-B", REMOTE4, port=5201)
    lab.remote.serve("iperf3", "-s", "-B", REMOTE4, "-p", "5202", port=5202)
    at = (f"--listen-address={REMOTE4}", "--bind-interfaces", "--address=/a.test/192.0.2.77")
    lab.remote.serve(
        "dnsmasq", "-k", "-C", "/dev/null", "--no-resolv", "--no-hosts", *at, port=53, proto="udp", caps=True
    )


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Iterator[Guest]:
    with lab.guest(*RATES, *NO_PORTS, "--control", CONTROL, entry="pasta-py") as made:
        yield made


def client(*options: object, port: int = 5201) -> list[object]:
    return ["iperf3", "-J", "-c", REMOTE4, "-p", port, "-t", SECONDS, "-O", OMITTED, *options]


def measured(text: str) -> list[float]:
    """Bits a second that each stream's receiver got."""
    end = json.loads(text)["end"]
    return [each["receiver"]["bits_per_second"] if "receiver" in each else 0 for each in end["streams"]]


@pytest.mark.option("--rate-out")
@pytest.mark.parametrize("streams", [1, 8])
def test_streams_of_the_guest_get_the_rate_in_equal_parts(guest: Guest, streams: int) -> None:
    got = measured(guest.run(*client("-P", streams)).stdout)
    assert abs(sum(got) / OUT_BITS - 1) < WITHIN, got
    assert min(got) > 0.8 * OUT_BITS / streams, got


@pytest.mark.option("--rate-in")
@pytest.mark.parametrize("streams", [1, 8])
def test_streams_to_the_guest_get_the_rate_in_equal_parts(guest: Guest, streams: int) -> None:
    got = measured(guest.run(*client("-R", "-P", streams)).stdout)
    assert abs(sum(got) / IN_BITS - 1) < WITHIN, got
    assert min(got) > 0.8 * IN_BITS / streams, got


def test_threads_share_one_rate(lab: Lab) -> None:
    with lab.guest(*RATES, *NO_PORTS, "--threads", "2") as guest:
        for rate, options in ((OUT_BITS, ()), (IN_BITS, ("-R",))):
            got = measured(guest.run(*client("-P", 6, *options)).stdout)
            assert abs(sum(got) / rate - 1) < WITHIN, got


@pytest.mark.parametrize(("options", "rate"), [((), OUT_BITS), (("-R",), IN_BITS)])
def test_datagrams_over_the_rate_are_dropped_and_counted(
    lab: Lab, guest: Guest, options: tuple[str, ...], rate: int
) -> None:
    before = dropped(lab)
    flood = client("-u", "-b", OFFERED_BITS, "-l", DATAGRAM_BYTES, "-O", 0, "-t", SECONDS + 1, *options)
    got = json.loads(guest.run(*flood).stdout)["end"]["sum_received"]
    headers = (DATAGRAM_BYTES + 28) / DATAGRAM_BYTES  # of IPv4 and UDP
    assert abs(got["bits_per_second"] * headers / rate - 1) < WITHIN, got
    assert dropped(lab) > before


def dropped(lab: Lab) -> int:
    return int(json.loads(lab.host.run(program("pasta-py"), "stats", "--json", CONTROL).stdout)["drop_rate"])


def test_the_summary_shows_the_rates(lab: Lab) -> None:
    assert "rate: at most 40mbit out and 24mbit in" in lab.host.run(
        program("pasta-py"), "show", CONTROL
    ).stdout.replace("  ", " ")


def test_names_and_the_other_direction_pass_beside_streams_and_datagrams(guest: Guest) -> None:
    flood = guest.popen(*client("-u", "-b", OFFERED_BITS, "-l", DATAGRAM_BYTES, "-t", 4))
    streams = guest.popen(*client("-P", 4, "-t", 4, port=5202))
    answers = [guest.run("dig", "+short", "+tries=1", "+time=2", f"@{REMOTE4}", "a.test").stdout for _ in range(20)]
    assert answers == ["192.0.2.77\n"] * 20
    sent = measured(streams.communicate(timeout=60)[0])
    flood.communicate(timeout=60)
    assert sum(sent) > 0.4 * OUT_BITS, "a flood of datagrams leaves streams half"
