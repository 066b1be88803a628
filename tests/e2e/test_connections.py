"""Many connections at once, many one after another, and readers that stall."""

import sys
import time
from collections.abc import Iterator

import pytest
from exchange import ORDERS
from lab import PROGRAMS, REMOTES, Lab, Script, Translator, wait_until

AT_ONCE = 1000
SIZE = 100_000
GONE_S = 2  # no descriptor is left this long after the last close

IN_TURN = 20_000
WARM_UP = 2_000  # after that many, whatever is allocated once has been
FLAT_KIB = 512

STREAM = 100_000_000
STALL_S = 2
# What a stalled stream may add to the translator: its spill buffer and the loop's own buffers. The stream itself waits in
# the kernel's socket buffers.
STALL_KIB = 1024


@pytest.fixture(autouse=True)
def fresh(lab: Lab) -> Iterator[None]:
    yield
    assert not lab.translators(), "a translator is left behind"


def assert_as_before(translator: Translator, before: int) -> None:
    """It has as many descriptors as before, after GONE_S at most."""
    wait_until(lambda: translator.descriptors() == before, GONE_S, f"{before} descriptors, as before")


@pytest.mark.parametrize("family", [4, 6])
def test_a_thousand_connections_in_every_order_of_close(lab: Lab, family: int) -> None:
    address = REMOTES[family]
    server = lab.remote.start("exchange.py", "serve", address, 7000 + family)
    with lab.guest() as guest:
        translator = lab.translator()
        before = translator.descriptors()
        client = guest.script("exchange.py", "connect", address, 7000 + family, AT_ONCE, SIZE, timeout=240)
        assert_as_before(translator, before)
    served = server.result()
    wanted = {order: len(range(index, AT_ONCE, len(ORDERS))) for index, order in enumerate(ORDERS)}
    for side in (client, served):
        assert side["errors"] == []
        assert side["orders"] == wanted


@pytest.mark.unsanitized
def test_twenty_thousand_connections_leave_memory_flat(lab: Lab) -> None:
    server = lab.remote.start("short.py", "serve", REMOTES[4], 7010)
    with lab.guest() as guest:
        translator = lab.translator()
        before = translator.descriptors()
        guest.script("short.py", "connect", REMOTES[4], 7010, WARM_UP)
        warm = translator.rss_kib()
        guest.script("short.py", "connect", REMOTES[4], 7010, IN_TURN - WARM_UP, timeout=240)
        grown = translator.rss_kib() - warm
        assert grown <= FLAT_KIB, f"{grown} KiB more after {IN_TURN} connections than after {WARM_UP} ({warm} KiB)"
        assert_as_before(translator, before)
    assert server.result()["served"] == IN_TURN


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("reader", ["remote", "guest"])
@pytest.mark.unsanitized
def test_a_reader_that_stalls_loses_nothing(lab: Lab, reader: str, family: int) -> None:
    address, port = REMOTES[family], 7020 + family + (10 if reader == "guest" else 0)
    roles = {"remote": "send", "guest": "send", reader: "read"}
    remote = lab.remote.start("stream.py", roles["remote"], address, port, STREAM, STALL_S, "listen")
    with lab.guest() as guest:
        translator = lab.translator()
        before, descriptors = translator.rss_kib(), translator.descriptors()
        arguments = (roles["guest"], address, port, STREAM, STALL_S, "connect")
        process = guest.popen(sys.executable, PROGRAMS / "stream.py", *arguments)
        highest = 0
        while process.poll() is None:
            highest = max(highest, translator.rss_kib())
            time.sleep(0.1)
        ours, theirs = Script.finished(process), remote.result()
        assert_as_before(translator, descriptors)
    assert ours["bytes"] == theirs["bytes"] == STREAM
    assert ours["sha256"] == theirs["sha256"]
    sender = ours if reader == "remote" else theirs
    assert float(str(sender["longest_send_s"])) > STALL_S / 2, (
        "the stall did not reach the sender, so nothing was tested"
    )
    assert highest - before <= STALL_KIB, f"{highest - before} KiB more than the {before} KiB before the stream"
