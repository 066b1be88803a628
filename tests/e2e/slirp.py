"""slirp4netns in tests: ours beside the real one, started as its callers start it."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import sid
from lab import PROGRAMS, Guest, Lab, program

REAL = "/usr/bin/slirp4netns"
NAMES = ("ours", "real")
GATEWAY, DNS, GUEST4 = "10.0.2.2", "10.0.2.3", "10.0.2.100"
GATEWAY6, DNS6 = "fd00::2", "fd00::3"
API = "api.sock"


def path(name: str) -> str:
    """ "ours", "real" for the machine's own, "sid" for 1.3."""
    if name == "sid":
        return str(sid.program("slirp4netns", "slirp4netns"))
    return REAL if name == "real" else program("slirp4netns")


class Running:
    """A slirp4netns that has said that it is ready."""

    def __init__(self, lab: Lab, process: "subprocess.Popen[str]") -> None:
        self.lab, self._process = lab, process
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        told = json.loads(line)
        self.ready, self.pid = told["ready"], told["pid"]

    def end(self, how: str = "close") -> dict[str, object]:
        """End it by its exit descriptor ("close", "write"), by "kill N", or "wait" for its own end; what it said, its status."""
        out, err = self._process.communicate(how + "\n", timeout=60)
        assert self._process.returncode == 0, err
        return dict(json.loads(out))

    def api(self, request: "dict[str, object] | str") -> dict[str, object]:
        """The answer to one request, as its callers ask it: everything at once, and that was all."""
        text = request if isinstance(request, str) else json.dumps(request)
        done = self.lab.host.run("socat", "-t30", "-", f"UNIX-CONNECT:{API}", input=text)
        return dict(json.loads(done.stdout))

    def forward(self, proto: str, host_port: int, guest_port: int, **more: object) -> int:
        """Add a forwarding; its number."""
        arguments = {"proto": proto, "host_port": host_port, "guest_port": guest_port, **more}
        answer = self.api({"execute": "add_hostfwd", "arguments": arguments})
        returned = answer["return"]
        assert isinstance(returned, dict), answer
        return int(returned["id"])


def start(lab: Lab, name: str, *arguments: object, caps: bool = False) -> Running:
    """Start it with these arguments, its ready and its exit descriptor; returns when it is ready, or has ended."""
    words = ["-r", "READY", "-e", "EXIT", *map(str, arguments)]
    return Running(lab, lab.host.popen(sys.executable, PROGRAMS / "slirp_hold.py", path(name), *words, caps=caps))


@contextlib.contextmanager
def connected(lab: Lab, name: str, *options: object, caps: bool = False) -> "Iterator[tuple[Guest, Running]]":
    """A namespace that it has connected. `caps`: with the host's capabilities."""
    with lab.stray() as guest:
        running = start(lab, name, *options, lab.inner_pid(guest.pid), "tap0", caps=caps)
        assert running.ready == "1", running.end("wait")
        try:
            yield guest, running
        finally:
            if running._process.poll() is None:
                running.end()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(lab.directory / API)
