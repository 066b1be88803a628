"""A Linux guest under QEMU behind passt --vhost-user: one boot, and all that a user notices; also when either begins anew."""

from pathlib import Path

import pytest
from guest_checks import PORT, Checks
from lab import PATIENCE_S, REMOTE4, Lab, program, wait_until
from machines import Passt, passt
from qemu import Vm, qemu
from servers import dnsmasq
from test_vhost_queues import switches

pytestmark = [
    pytest.mark.as_built,
    pytest.mark.unsanitized,
    pytest.mark.option("--vhost-user"),
    pytest.mark.timeout(1800),
]

SIZE = 200_000_000
MEMORY_MB = 768
CPUS = 2
MEMORY = ("-object", f"memory-backend-memfd,id=m,size={MEMORY_MB}M,share=on", "-numa", "node,memdev=m")
NETDEV = ("vhost-user", "id=n", "chardev=c")


def chardev(made: Passt) -> tuple[str, ...]:
    return (*MEMORY, "-chardev", f"socket,id=c,path={made.socket},reconnect-ms=200")


@pytest.fixture(scope="module")
def checks(lab: Lab) -> Checks:
    lab.resolv(f"nameserver {REMOTE4}\n")
    dnsmasq(lab)
    return Checks(lab, SIZE)


def test_a_guest_over_vhost_user(lab: Lab, checks: Checks) -> None:
    """Then its virtual machine pauses, it boots anew, and passt does."""
    with passt(lab, "--vhost-user", "-t", str(PORT)) as made, qemu(lab, NETDEV, more=chardev(made), memory=MEMORY_MB) as vm:
        checks.addresses(vm)
        checks.names(vm)
        checks.all(vm)
        features = vm.run("cat /sys/class/net/eth0/device/features").strip()
        offered = {0, 1, 7, 8, 11, 12, 15, 28, 29, 32}
        assert {bit for bit, one in enumerate(features) if one == "1"} >= offered, "QEMU passes the offloads on"
        checks.connections(vm, 1000)
        checks.paused_in_the_middle_of_a_file(vm)
        vm.qmp("system_reset")
        vm.booted()
        checks.addresses(vm)
        checks.down(vm, 4)
        made.process.kill()
        made.end()
        with passt(lab, "--vhost-user", fresh=False) as again:
            again.wait_said("accepted connection")
            checks.pings(vm)
            checks.down(vm, 6)


def interrupts(vm: Vm) -> dict[str, int]:
    """Of each queue of the network card, by its name, so far."""
    found = {}
    for line in vm.run("grep virtio0- /proc/interrupts").splitlines():
        words = line.split()
        found[words[-1].removeprefix("virtio0-")] = sum(map(int, words[1 : 1 + CPUS]))
    return found


def regions(lab: Lab) -> int:
    """Of guests' memory, in all processes of passt."""
    ours = [pid for pid in lab.descendants() if Path(f"/proc/{pid}/comm").read_text() == "passt\n"]
    return sum(Path(f"/proc/{pid}/maps").read_text().count("memfd:memory-backend-memfd") for pid in ours)


def test_memory_is_plugged_in_in_the_middle_of_a_file(lab: Lab, checks: Checks) -> None:
    """The memory table is another one then."""

    def more() -> None:
        before = regions(lab)
        vm.qmp("object-add", **{"qom-type": "memory-backend-memfd", "id": "n", "size": 128 << 20, "share": True})
        vm.qmp("device_add", driver="pc-dimm", id="dimm", memdev="n")
        wait_until(lambda: regions(lab) > before, 20, "passt maps it")

    memory = f"{MEMORY_MB},slots=1,maxmem=4G"
    with passt(lab, "--vhost-user") as made, qemu(lab, NETDEV, more=chardev(made), memory=memory) as vm:
        checks.addresses(vm)
        checks.in_the_middle_of_a_file(vm, more)
        assert "gave us" not in made.said() and made.said().count("accepted connection") == 1


@pytest.mark.option("--threads")
def test_two_pairs_of_queues(lab: Lab, checks: Checks) -> None:
    """The guest uses both, and so do our threads, in whichever pair a connection begins."""
    queues = {"rx-0", "rx-1", "tx-0", "tx-1"}
    with (
        passt(lab, "--vhost-user", "--threads", 2, "-t", str(PORT)) as made,
        qemu(
            lab,
            (*NETDEV, "queues=2"),
            more=(*chardev(made), "-smp", str(CPUS)),
            memory=MEMORY_MB,
            device=",mq=on,vectors=6",
        ) as vm,
    ):
        checks.addresses(vm)
        assert set(vm.run("ls /sys/class/net/eth0/queues").split()) == queues
        before = interrupts(vm), switches(lab)
        checks.connections(vm, 100)
        checks.all(vm)
        after = interrupts(vm), switches(lab)
        assert all(after[0][f"input.{pair}"] > before[0][f"input.{pair}"] + 10 for pair in range(2)), after
        assert after[1]["pasta-shard1"] > before[1]["pasta-shard1"] + 10
        vm.qmp("stop")
        vm.qmp("cont")
        checks.connections(vm, 100)
        vm.qmp("system_reset")
        vm.booted()
        checks.addresses(vm)
        checks.connections(vm, 100)


def test_qemu_starts_it_itself(lab: Lab, checks: Checks) -> None:
    netdev = ("passt", "id=n", "vhost-user=on", f"path={program('passt')}", "quiet=off")
    with qemu(lab, netdev, more=MEMORY, memory=MEMORY_MB) as vm:
        checks.addresses(vm)
        checks.pings(vm)
    wait_until(lambda: not lab.host.run("pidof", "passt", check=False).stdout, PATIENCE_S, "it ends with QEMU")
