"""Mixed traffic for a minute, or for PASTA_SOAK_S seconds (`make soak`: 20 minutes): nothing wrong, and nothing that grows."""

import os
import re
import sys
import time

import pytest
from lab import PROGRAMS, REMOTE4, REMOTE6, Lab, Script
from traffic import Bulk, said

pytestmark = [pytest.mark.unsanitized, pytest.mark.quiet]

SECONDS = float(os.environ.get("PASTA_SOAK_S", "60"))
PORT = 7650
PACED = 1_000_000
SAMPLE_S = 1.0
SILENT4 = "192.0.2.99"
# Growth from the middle third of the run to the last: a page here and there, and what happens to be open.
MORE_KIB, MORE_DESCRIPTORS, MORE_FLOWS = 512, 15, 30


def worst(samples: list[int], third: int) -> int:
    size = len(samples) // 3
    return max(samples[third * size : (third + 1) * size])


@pytest.mark.timeout(SECONDS + 120)
def test_soak(lab: Lab) -> None:
    lab.host.setup(f"neigh add {SILENT4} lladdr 02:00:00:00:00:99 dev eth0")
    servers = [lab.remote.start("crowd.py", REMOTE4, port) for port in (PORT, 53)]
    memory, descriptors, flows, log = [], [], [], ""
    with lab.guest("--stats", 1) as guest:
        worker = lab.translator()
        streams = [Bulk(lab, guest, address, PACED) for address in (REMOTE4, REMOTE6)]
        mixed = guest.popen(sys.executable, PROGRAMS / "mixed.py", REMOTE4, SILENT4, PORT, SECONDS)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(SAMPLE_S)
            memory.append(worker.rss_kib())
            descriptors.append(worker.descriptors())
            new = said(guest)
            log += new
            flows += [int(tcp) + int(udp) for tcp, udp in re.findall(r"tcp_flows=(\d+).* udp_flows=(\d+)", new)]
        result = Script.finished(mixed)
        for stream in streams:
            stream.finish()
    assert result["errors"] == []
    assert [line for line in log.splitlines() if "stats: " not in line] == []
    moved = sum(int(str(side["received"])) for stream in streams for side in (stream.ours, stream.theirs))
    print(f"{SECONDS:.0f} s: {result}; {moved >> 20} MiB streamed; KiB, descriptors, flows at most, by thirds: " + ", ".join(
        "/".join(str(worst(samples, third)) for third in range(3)) for samples in (memory, descriptors, flows)))  # fmt: skip
    limits = {"KiB": (memory, MORE_KIB), "descriptors": (descriptors, MORE_DESCRIPTORS), "flows": (flows, MORE_FLOWS)}
    for name, (samples, more) in limits.items():
        assert worst(samples, 2) <= worst(samples, 1) + more, f"{name}: {samples}"
    for server in servers:
        server.result()
