"""What a guest under QEMU must be able to do, whatever brought it to passt's socket."""

import time
from collections.abc import Callable

from lab import BIG, GATEWAY4, HOST4, HOST6, REMOTE4, REMOTE6, REMOTES, Lab, wait_until
from qemu import Vm
from servers import DNS4, DNS_NAME, make_file, nginx

PORT, PORT_UP = 7080, 7090


class Checks:
    """The remote's servers, and questions to a guest."""

    def __init__(self, lab: Lab, size: int) -> None:
        self.lab, self.size = lab, size
        nginx(lab)
        self.digest = make_file(lab, "www/vm.bin", size)

    def addresses(self, vm: Vm, mtu: int = 65520) -> None:
        """DHCP has told everything; the kernel has made an address from the router advertisement."""
        assert vm.configure().split() == [f"{HOST4}/24", GATEWAY4, str(mtu), REMOTE4]
        usable = "ip -6 addr show dev eth0 scope global | grep -v tentative | grep -q inet6"
        vm.run(f"for i in $(seq 300); do {usable} && break; sleep 0.1; done")
        assert "2001:db8::" in vm.run("ip -6 addr show dev eth0 scope global")
        assert "via fe80:" in vm.run("ip -6 route show default")
        assert f"mtu {mtu} " in vm.run("ip link show dev eth0")

    def pings(self, vm: Vm) -> None:
        for address in (REMOTE4, REMOTE6):
            vm.run(f"ping -c 1 -W 20 {address}")

    def names(self, vm: Vm) -> None:
        assert DNS4 in vm.run(f"nslookup -type=a {DNS_NAME}", check=False)

    def down(self, vm: Vm, family: int) -> None:
        """A file, which stays in the guest."""
        address = REMOTES[4] if family == 4 else f"[{REMOTES[6]}]"
        vm.run(f"wget -q -O /tmp/vm.bin http://{address}/vm.bin", timeout=200)
        assert vm.run("sha256sum </tmp/vm.bin", timeout=200).split()[0] == self.digest

    def up(self, vm: Vm, family: int) -> None:
        """The file that down() has left."""
        receive = f"socat -b 1048576 -u TCP{family}-LISTEN:{PORT_UP},reuseaddr - | sha256sum"
        receiver = self.lab.remote.popen("sh", "-c", receive)
        wait_until(lambda: self.lab.remote.run("ss", "-tlnH", f"sport = :{PORT_UP}").stdout, 5, "the receiver")
        vm.run(f"nc {REMOTES[family]} {PORT_UP} </tmp/vm.bin", timeout=200)
        assert receiver.communicate(timeout=60)[0].split()[0] == self.digest

    def forwarded(self, vm: Vm, family: int) -> None:
        vm.run(f"(nc -ll -p {PORT} -e echo in the guest) >/dev/null 2>&1 & sleep 0.3")
        target = f"TCP4:{HOST4}:{PORT}" if family == 4 else f"TCP6:[{HOST6}]:{PORT}"
        wait_until(
            lambda: self.lab.remote.run("socat", "-t10", "-", target).stdout == "in the guest\n",
            20,
            "the guest's service",
        )
        vm.run("killall nc", check=False)

    def connections(self, vm: Vm, count: int) -> None:
        """One after another, each with a request and its answer, by both families in turn."""
        self.lab.remote.run("sh", "-c", f"echo small >{BIG}/www/small")
        ask = " && ".join(f"wget -q -O - http://{host}/small" for host in (REMOTE4, f"[{REMOTE6}]"))
        vm.run(f"for i in $(seq {count // 2}); do {ask} || break; done >/tmp/small", timeout=900)
        assert vm.run("wc -l </tmp/small").strip() == str(count)

    def in_the_middle_of_a_file(self, vm: Vm, what: Callable[[], object]) -> None:
        served = lambda: self.lab.remote.run("ss", "-tnH", "state", "established", "sport = :80").stdout  # noqa: E731
        vm.start(f"wget -q -O - http://{REMOTE4}/vm.bin | sha256sum")
        wait_until(served, 20, "the request")
        what()
        assert served(), "it was not in the middle"
        vm.qmp("cont")
        status, out = vm.result(200)
        assert status == 0 and out.split()[0] == self.digest

    def paused_in_the_middle_of_a_file(self, vm: Vm) -> None:
        """For longer than some timers of TCP: nothing may give up."""
        self.in_the_middle_of_a_file(vm, lambda: (vm.qmp("stop"), time.sleep(3)))

    def all(self, vm: Vm) -> None:
        self.pings(vm)
        for family in (4, 6):
            self.down(vm, family)
            self.up(vm, family)
            self.forwarded(vm, family)
