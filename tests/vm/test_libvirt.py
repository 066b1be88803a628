"""libvirt's own daemon, in session mode, with passt as the back-end of a domain's interface."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import GATEWAY4, HOST4, REMOTE4, UID, Lab, program, wait_until
from machines import passt
from qemu import COMMAND_LINE, MAC, ROOT, Shell, fetch, initramfs, modules

pytestmark = [pytest.mark.as_built, pytest.mark.unsanitized, pytest.mark.timeout(600)]

#: Of packages, what a program looks for at its own place in /usr.
DATA = (("libvirt", "usr/lib/x86_64-linux-gnu/libvirt"), ("libvirt", "usr/share/libvirt"))
FIRMWARE = (("vm", "usr/share/qemu"), ("vm", "usr/share/seabios"))
DOMAIN = """
<domain type='qemu'>
  <name>vm</name><memory unit='MiB'>512</memory><vcpu>1</vcpu>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{kernel}</kernel><initrd>{image}</initrd><cmdline>{line}</cmdline>
  </os>
  <devices>
    <emulator>{emulator}</emulator>
    <interface type='{kind}'><mac address='{mac}'/>{interface}<model type='virtio'/><mtu size='1500'/></interface>
    <serial type='unix'><source mode='bind' path='{serial}'/></serial>
  </devices>
</domain>
"""
#: Of an interface whose passt libvirt starts.
STARTED = """
      <source dev='eth0'/><backend type='passt' logFile='{log}'/>
      <ip family='ipv4' address='192.0.2.99' prefix='24'/>
      <portForward proto='tcp'><range start='7080'/></portForward>
"""
#: Of an interface whose passt somebody else has started.
GIVEN = "<source type='unix' path='{socket}' mode='client'><reconnect enabled='yes' timeout='1'/></source>"


class Libvirt:
    """The daemon in a lab, and what its client says."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.packages = lab, fetch("libvirt.txt", ROOT.parent / "libvirt")
        self.log, self.serial = lab.directory / "domain.log", lab.directory / "serial.sock"
        places = {"libvirt": self.packages, "vm": fetch()}
        over = lab.directory / "overlay"
        for place, path in DATA + FIRMWARE:
            shutil.copytree(places[place] / path, over / path, symlinks=True)
        lab.host.run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={over}/usr:/usr", "/usr", caps=True)
        run, conf = lab.directory / "run", lab.directory / ".config/libvirt"
        run.mkdir(mode=0o700)
        conf.mkdir(parents=True)
        (conf / "qemu.conf").write_text('stdio_handler = "file"\nsecurity_driver = "none"\n')
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", f"{UID}:{UID}", run, conf.parent], check=True)
        environment = lab.environment()
        path = f"{Path(program()).parent}:{environment['PATH']}"
        self.environment = {**environment, "XDG_RUNTIME_DIR": str(run), "PATH": path}
        self.daemon = lab.host.popen(
            self.packages / "usr/sbin/libvirtd",
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: not self.client("list")[0], 30, "libvirt's daemon")

    def client(self, *words: object) -> tuple[int, str]:
        virsh = self.packages / "usr/bin/virsh"
        process = self.lab.host.popen(
            virsh, "-c", "qemu:///session", *words, env=self.environment, stderr=subprocess.STDOUT
        )
        out = process.communicate(timeout=60)[0]
        return process.returncode, out

    def virsh(self, *words: object) -> str:
        status, out = self.client(*words)
        assert status == 0, out
        return out

    def passts(self) -> list[str]:
        return self.lab.host.run("pidof", "passt", check=False).stdout.split()


    def create(self, kind: str, interface: str) -> tuple[int, str]:
        """A domain with this interface."""
        xml = DOMAIN.format(
            kernel=modules() / "vmlinuz",
            image=initramfs(self.lab.directory / "initramfs"),
            emulator=fetch() / "usr/bin/qemu-system-x86_64",
            line=COMMAND_LINE,
            kind=kind,
            interface=interface,
            mac=MAC,
            serial=self.serial,
        )
        (self.lab.directory / "vm.xml").write_text(xml)
        return self.client("create", self.lab.directory / "vm.xml")

    @contextlib.contextmanager
    def domain(self, kind: str, interface: str) -> Iterator[Shell]:
        """Its shell; the domain is destroyed at the end."""
        status, out = self.create(kind, interface)
        assert status == 0, out
        try:
            assert re.search(rf"{kind} +\S+ +virtio +{MAC}", self.virsh("domiflist", "vm"))
            with socket.socket(socket.AF_UNIX) as serial, contextlib.ExitStack() as stack:
                serial.connect(str(self.serial))
                shell = Shell(serial.fileno(), serial.fileno())
                stack.callback(shell.close)
                yield shell
        finally:
            self.client("destroy", "vm")


@pytest.fixture(scope="module")
def libvirt(lab: Lab) -> Iterator[Libvirt]:
    lab.resolv(f"nameserver {REMOTE4}\n")
    made = Libvirt(lab)
    yield made
    made.client("destroy", "vm")
    made.daemon.terminate()
    made.daemon.wait(30)


def answers(lab: Lab, shell: Shell, host: str) -> None:
    """The domain's service, at a forwarded port."""
    shell.run("(nc -ll -p 7080 -e echo in the domain) >/dev/null 2>&1 & true")
    said = lambda: lab.remote.run("socat", "-t10", "-", f"TCP:{host}:7080", check=False).stdout  # noqa: E731
    wait_until(lambda: said() == "in the domain\n", 20, "the domain's service")


def comes_back(shell: Shell) -> None:
    shell.run(f"for i in $(seq 30); do ping -c 1 -W 2 {REMOTE4} && break; done", timeout=90)
    shell.run(f"ping -c 1 -W 20 {REMOTE4}")


@pytest.mark.parametrize("kind", ["user", "vhostuser"])
def test_a_domain_whose_passt_libvirt_starts(lab: Lab, libvirt: Libvirt, kind: str) -> None:
    """Start, use, kill passt, destroy: as its users and its own restart do."""
    with libvirt.domain(kind, STARTED.format(log=libvirt.log)) as shell:
        (first,) = libvirt.passts()
        shown = lab.host.run("ps", "-o", "args=", "-p", first).stdout
        assert "--one-off" in shown and "--tcp-ports 7080" in shown and "--mtu 1500" in shown and "--interface eth0" in shown
        assert ("--vhost-user" in shown) == (kind == "vhostuser")
        assert shell.configure().split()[:3] == ["192.0.2.99/24", GATEWAY4, "1500"]
        shell.run(f"ping -c 1 -W 20 {REMOTE4}")
        answers(lab, shell, HOST4)
        lab.host.run("kill", "-9", first)
        wait_until(lambda: set(libvirt.passts()) - {first}, 30, "libvirt starts passt anew")
        comes_back(shell)
    wait_until(lambda: not libvirt.passts(), 20, "passt ends with the domain")
    assert "accepted connection" in libvirt.log.read_text()


@pytest.mark.option("--vhost-user")
def test_a_domain_with_a_passt_of_the_users_own(lab: Lab, libvirt: Libvirt) -> None:
    """libvirt's interface has the socket alone; passt outlives the domain, and a passt that begins anew is found again."""
    with (
        passt(lab, "--vhost-user", "-t", "7080") as made,
        libvirt.domain("vhostuser", GIVEN.format(socket=made.socket)) as shell,
    ):
        assert shell.configure().split()[:2] == [f"{HOST4}/24", GATEWAY4]
        shell.run(f"ping -c 1 -W 20 {REMOTE4}")
        answers(lab, shell, HOST4)
        made.process.kill()
        made.end()
        with passt(lab, "--vhost-user", fresh=False) as again:
            comes_back(shell)
            libvirt.virsh("destroy", "vm")
            again.wait_said("Client connection closed")
            assert again.process.poll() is None


def test_the_user_hears_why_passt_does_not_start(lab: Lab, libvirt: Libvirt) -> None:
    taken = lab.host.serve("socat", "TCP-LISTEN:7080", "STDOUT", port=7080)
    status, out = libvirt.create("user", STARTED.format(log=libvirt.log))
    taken.kill()
    taken.wait()
    assert status and "exit status 1: passt: " in out and "7080" in out and "in use" in out, out
