"""A Linux guest under QEMU behind passt --vhost-user: one boot, and all that a user notices; also when either begins anew."""

import pytest
from guest_checks import PORT, Checks
from lab import PATIENCE_S, REMOTE4, Lab, program, wait_until
from machines import Passt, passt
from qemu import qemu
from servers import dnsmasq

pytestmark = [
    pytest.mark.as_built,
    pytest.mark.unsanitized,
    pytest.mark.option("--vhost-user"),
    pytest.mark.timeout(1800),
]

SIZE = 200_000_000
MEMORY_MB = 768
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


def test_qemu_starts_it_itself(lab: Lab, checks: Checks) -> None:
    netdev = ("passt", "id=n", "vhost-user=on", f"path={program('passt')}", "quiet=off")
    with qemu(lab, netdev, more=MEMORY, memory=MEMORY_MB) as vm:
        checks.addresses(vm)
        checks.pings(vm)
    wait_until(lambda: not lab.host.run("pidof", "passt", check=False).stdout, PATIENCE_S, "it ends with QEMU")
