"""A Linux guest under QEMU behind passt, over `-netdev stream`: one boot, and all that a user notices."""

import pytest
from guest_checks import PORT, Checks
from lab import REMOTE4, Lab
from machines import passt
from qemu import qemu
from servers import dnsmasq

pytestmark = [pytest.mark.as_built, pytest.mark.unsanitized]

SIZE = 20_000_000


@pytest.mark.timeout(600)
def test_a_guest_over_a_stream(lab: Lab) -> None:
    lab.resolv(f"nameserver {REMOTE4}\n")
    dnsmasq(lab)
    checks = Checks(lab, SIZE)
    with passt(lab, "-t", str(PORT)) as made:
        netdev = ("stream", "id=n", "server=off", "addr.type=unix", f"addr.path={made.socket}")
        with qemu(lab, netdev) as vm:
            checks.addresses(vm)
            checks.names(vm)
            checks.all(vm)
            vm.qmp("stop")
            vm.qmp("cont")
            checks.pings(vm)
        made.wait_said("Client connection closed")
