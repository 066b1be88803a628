"""The same with larger files and other MTUs, when QEMU starts passt itself, and when either of the two begins anew."""

import pytest
from guest_checks import PORT, Checks
from lab import PATIENCE_S, REMOTE4, REMOTE6, Lab, program, wait_until
from machines import Passt, passt
from qemu import qemu
from servers import dnsmasq

pytestmark = [pytest.mark.as_built, pytest.mark.unsanitized, pytest.mark.timeout(1800)]

SIZE = 200_000_000


@pytest.fixture(scope="module")
def checks(lab: Lab) -> Checks:
    lab.resolv(f"nameserver {REMOTE4}\n")
    dnsmasq(lab)
    return Checks(lab, SIZE)


def stream(made: Passt, *more: str) -> tuple[str, ...]:
    return ("stream", "id=n", "server=off", "addr.type=unix", f"addr.path={made.socket}", *more)


@pytest.mark.parametrize("mtu", [1500, 9000, 65520])
def test_large_files_at_each_mtu(lab: Lab, checks: Checks, mtu: int) -> None:
    with passt(lab, "-t", str(PORT), "-m", str(mtu)) as made, qemu(lab, stream(made), device=f",host_mtu={mtu}") as vm:
        checks.addresses(vm, mtu)
        checks.all(vm)


def test_a_thousand_connections_a_reboot_and_a_pause(lab: Lab, checks: Checks) -> None:
    with passt(lab, "-t", str(PORT)) as made, qemu(lab, stream(made)) as vm:
        checks.addresses(vm)
        checks.connections(vm, 1000)
        vm.qmp("system_reset")
        vm.booted()
        checks.addresses(vm)
        checks.forwarded(vm, 4)
        checks.paused_in_the_middle_of_a_file(vm)


def test_qemu_reconnects_to_a_new_passt(lab: Lab, checks: Checks) -> None:
    with passt(lab) as made, qemu(lab, stream(made, "reconnect-ms=200")) as vm:
        wait_until(lambda: "New guest MAC" in made.said(), 20, "the guest's first frame")
        checks.addresses(vm)
        made.process.kill()
        made.end()
        with passt(lab, fresh=False) as again:
            again.wait_said("accepted connection")
            checks.pings(vm)


def test_qemu_starts_passt_itself(lab: Lab, checks: Checks) -> None:
    netdev = ("passt", "id=n", f"path={program('passt')}", "quiet=off", f"tcp-ports={PORT}")
    with qemu(lab, netdev) as vm:
        checks.addresses(vm)
        checks.pings(vm)
        checks.forwarded(vm, 4)
        pids = lab.host.run("pidof", "passt").stdout.split()
        lab.host.run("kill", "-9", *pids)
        wait_until(
            lambda: set(lab.host.run("pidof", "passt", check=False).stdout.split()) - set(pids),
            20,
            "QEMU starts it anew",
        )
        vm.run(f"for i in $(seq 20); do ping -c 1 -W 2 {REMOTE6} && break; done")
        vm.run(f"ping -c 1 -W 20 {REMOTE4}")
    wait_until(lambda: not lab.host.run("pidof", "passt", check=False).stdout, PATIENCE_S, "it ends with QEMU")
