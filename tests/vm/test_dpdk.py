"""DPDK's virtio-user behind passt --vhost-user: a front end that is no hypervisor, with its own order of messages.

Its program testpmd sends each datagram back to where it came from. It has no TCP.
"""

import os
import subprocess
from pathlib import Path

import pytest
from lab import HOST4, HOST6, PATIENCE_S, Lab, wait_until
from machines import passt

HERE = Path(__file__).resolve().parent
ROOT = Path(os.environ.get("PASTA_DPDK_ROOT") or HERE.parents[1] / "build" / "dpdk")
PORT = 7000
DATAGRAMS = 200
MAC = "02:00:00:00:00:01"  # ours
#: Sends datagrams of growing sizes, one after the other; prints how many came back as they were.
ASK = """
import os, socket, sys
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
sock.connect((sys.argv[1], int(sys.argv[2])))
sock.settimeout(5)
count = 0
for number in range(int(sys.argv[3])):
    data = os.urandom(20 + 7 * number)
    for _ in range(5):
        sock.send(data)
        try:
            count += sock.recv(2000) == data
            break
        except (TimeoutError, ConnectionRefusedError):
            pass
print(count)
"""

pytestmark = [
    pytest.mark.as_built,
    pytest.mark.unsanitized,
    pytest.mark.option("--vhost-user"),
    pytest.mark.option("--threads"),
    pytest.mark.timeout(900),
]


def fetched() -> Path:
    """Where it is; its packages are fetched where they are not."""
    wanted = [line.replace(" ", "=") for line in (HERE / "dpdk.txt").read_text().splitlines() if not line.startswith("#")]
    subprocess.run(["sh", HERE.parent / "sid.sh", ROOT, *wanted], stdout=subprocess.DEVNULL, check=True)
    return ROOT / "usr/bin/dpdk-testpmd"


def drivers(lab: Lab) -> list[str]:
    """Those that it needs; the directory where it looks by itself is not there. DPDK takes none from below a directory
    that all may write to, as /tmp, so they are in the lab's own /run."""
    (libraries,) = (ROOT / "usr/lib").glob("*-linux-gnu")
    here = Path("/run/drivers")
    if lab.host.run("test", "-e", here, check=False).returncode:
        lab.host.run("mkdir", here, caps=True)
        lab.host.run("mount", "--bind", libraries, here, caps=True)
    names = ("bus_vdev", "mempool_ring", "net_virtio")
    return [word for name in names for word in ("-d", str(here / min(libraries.glob(f"librte_{name}.so*")).name))]


@pytest.mark.parametrize("queues", [1, 2])
def test_virtio_user_sends_datagrams_back(lab: Lab, queues: int) -> None:
    options = ("--vhost-user", "--threads", queues, "-u", PORT, "-m", 1500, "--mac-addr", MAC)
    program = fetched()
    with passt(lab, *options) as made:
        command = (
            program, "--no-pci", "--no-huge", "--in-memory", "-m", "256", "-l", "0,1", "--no-telemetry", *drivers(lab),
            f"--vdev=net_virtio_user0,path={made.socket},queues={queues}", "--", "--no-mlockall", "--total-num-mbufs=4096",
            f"--rxq={queues}", f"--txq={queues}", "--forward-mode=5tswap", "--auto-start", "--stats-period=1",
        )  # fmt: skip
        log = lab.directory / "testpmd.log"
        with log.open("w") as file:
            guest = lab.host.popen(*command, stdout=file, stderr=file)
        try:
            wait_until(lambda: "Port statistics" in log.read_text() or guest.poll() is not None, 30, "testpmd forwards")
            assert guest.poll() is None, log.read_text()
            for host in (HOST4, HOST6):
                said = lab.remote.run("python3", "-c", ASK, host, PORT, DATAGRAMS, timeout=120).stdout
                assert int(said) == DATAGRAMS, log.read_text()[-2000:]
        finally:
            guest.kill()
            guest.wait(PATIENCE_S)
        made.wait_said("Client connection closed")
        assert "WARNING" not in made.said(), made.said()
