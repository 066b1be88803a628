"""The unit files of docs/ports.md: systemd accepts them, and its own socket activation starts the program that they name."""

import re
import subprocess
from pathlib import Path

import pages
from lab import HOST4, Lab, program, wait_until

PORT = 7510


def units() -> dict[str, str]:
    """The socket and the service unit, as the document shows them."""
    return {name.lower(): pages.block("docs/ports.md", f"[{name}]") for name in ("Socket", "Service")}


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for suffix, text in units().items():
        (tmp_path / f"web.{suffix}").write_text(text.replace("ExecStart=pasta-py", f"ExecStart={program('pasta-py')}"))
    command = ["systemd-analyze", "verify", f"{tmp_path}/web.socket", f"{tmp_path}/web.service"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_socket_activation_starts_the_service_and_hands_its_socket_over(lab: Lab) -> None:
    (start,) = re.findall(r"ExecStart=pasta-py (.*)", units()["service"])
    (name,) = re.findall(r"FileDescriptorName=(.*)", units()["socket"])
    activate = ("systemd-socket-activate", "-l", f"{HOST4}:{PORT}", f"--fdname={name}", program("pasta-py"), "--config-net")
    process = lab.host.popen(*activate, *start.split())
    fetch = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://{HOST4}:{PORT}/")
    # The first client starts the service, which may not listen yet when the client's connection gets there.
    wait_until(lambda: lab.remote.run(*fetch, check=False).stdout == "200", 20, "the activated service answers")
    process.terminate()
    process.wait(30)
