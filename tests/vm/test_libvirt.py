"""libvirt's own daemon, in session mode, with passt as the back-end of a domain's interface."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import HOST4, REMOTE4, UID, Lab, program, wait_until
from qemu import MAC, ROOT, Shell, fetch, initramfs, modules

pytestmark = [pytest.mark.as_built, pytest.mark.unsanitized, pytest.mark.timeout(600)]

#: Of packages, what a program looks for at its own place in /usr.
DATA = (("libvirt", "usr/lib/x86_64-linux-gnu/libvirt"), ("libvirt", "usr/share/libvirt"))
FIRMWARE = (("vm", "usr/share/qemu"), ("vm", "usr/share/seabios"))
DOMAIN = """
<domain type='qemu'>
  <name>vm</name><memory unit='MiB'>512</memory><vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{kernel}</kernel><initrd>{image}</initrd><cmdline>console=ttyS0 quiet panic=-1</cmdline>
  </os>
  <devices>
    <emulator>{emulator}</emulator>
    <interface type='user'>
      <mac address='{mac}'/><backend type='passt' logFile='{log}'/><model type='virtio'/><mtu size='1500'/>
      <ip family='ipv4' address='192.0.2.99' prefix='24'/>
      <portForward proto='tcp'><range start='7080'/></portForward>
    </interface>
    <serial type='unix'><source mode='bind' path='{serial}'/></serial>
  </devices>
</domain>
"""


class Libvirt:
    """The daemon in a lab, and what its client says."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.packages = lab, fetch("libvirt.txt", ROOT.parent / "libvirt")
        self.log, self.serial = lab.directory / "passt.log", lab.directory / "serial.sock"
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


@pytest.fixture
def libvirt(lab: Lab) -> Iterator[Libvirt]:
    made = Libvirt(lab)
    yield made
    made.client("destroy", "vm")
    made.daemon.terminate()
    made.daemon.wait(30)


def test_a_domain_with_passt(lab: Lab, libvirt: Libvirt) -> None:
    """Start, use, kill passt, destroy: as its users and its own restart do."""
    lab.resolv(f"nameserver {REMOTE4}\n")
    image = initramfs(lab.directory / "initramfs")
    emulator = fetch() / "usr/bin/qemu-system-x86_64"
    (lab.directory / "vm.xml").write_text(
        DOMAIN.format(
            kernel=modules() / "vmlinuz",
            image=image,
            emulator=emulator,
            mac=MAC,
            log=libvirt.log,
            serial=libvirt.serial,
        )
    )
    libvirt.virsh("create", lab.directory / "vm.xml")
    (first,) = libvirt.passts()
    shown = lab.host.run("ps", "-o", "args=", "-p", first).stdout
    assert "--one-off --socket " in shown and "--tcp-ports 7080" in shown and "--mtu 1500" in shown
    assert "user" in libvirt.virsh("domiflist", "vm") and MAC in libvirt.virsh("domiflist", "vm")
    with socket.socket(socket.AF_UNIX) as serial:
        serial.connect(str(libvirt.serial))
        shell = Shell(serial.fileno(), serial.fileno())
        try:
            assert shell.configure().split()[:2] == ["192.0.2.99/24", "192.0.2.1"]
            shell.run(f"ping -c 1 -W 20 {REMOTE4}")
            shell.run("(nc -ll -p 7080 -e echo in the domain) >/dev/null 2>&1 & true")
            answer = lambda: lab.remote.run("socat", "-t10", "-", f"TCP:{HOST4}:7080", check=False).stdout  # noqa: E731
            wait_until(lambda: answer() == "in the domain\n", 20, "the domain's service")
            lab.host.run("kill", "-9", first)
            wait_until(lambda: set(libvirt.passts()) - {first}, 30, "libvirt starts passt anew")
            shell.run(f"for i in $(seq 30); do ping -c 1 -W 2 {REMOTE4} && break; done", timeout=90)
            shell.run(f"ping -c 1 -W 20 {REMOTE4}")
        finally:
            shell.close()
    libvirt.virsh("destroy", "vm")
    wait_until(lambda: not libvirt.passts(), 20, "passt ends with the domain")
    assert "accepted connection" in libvirt.log.read_text()
