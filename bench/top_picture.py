"""docs/top-80.svg and docs/top-200.svg: `pasta-py top` at two widths, of a session that really runs here.

    python -m bench.top_picture [DIRECTORY]     default: docs

In namespaces of its own: addresses for documentation (RFC 5737) on the loopback, a nameserver, services that send at several rates.
"""

import contextlib
import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMESERVER = "198.51.100.53"
#: Name, address, port, and how many bytes a second the service sends; 0: it answers nothing.
SERVICES = (
    ("deb.example.org", "198.51.100.10", 443, 3_200_000),
    ("registry.example.net", "198.51.100.20", 443, 900_000),
    ("git.example.com", "203.0.113.22", 22, 40_000),
    ("db.example.com", "203.0.113.32", 5432, 3_000),
    ("cache.example.com", "203.0.113.33", 6379, 0),
)
GUEST = """
import os, socket, sys, threading, time
def take(name, port):
    sock = socket.create_connection((name, int(port)))
    sock.sendall(b"please" * 100)
    while sock.recv(1 << 16):
        pass
print("up", flush=True)
sys.stdin.readline()
for word in sys.argv[1:]:
    threading.Thread(target=take, args=word.split(":"), daemon=True).start()
clock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
clock.connect(("198.51.100.53", 123))
while True:
    clock.send(bytes(48))
    time.sleep(0.5)
"""
SESSION_S, LOOK_S = 4.0, 1.0


def serve(listener: socket.socket, rate: int) -> None:
    """Send to each client, at this rate."""

    def send(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not rate:
                time.sleep(1)
            while True:
                sock.sendall(bytes(rate // 20))
                time.sleep(0.05)

    while True:
        threading.Thread(target=send, args=[listener.accept()[0]], daemon=True).start()


def session(directory: Path) -> None:
    """Run it, and draw what top shows of it."""
    from rich.console import Console

    from pasta_py.control.subcommands.instances import Instance
    from pasta_py.control.subcommands.top import View

    for _name, address, port, rate in SERVICES:
        listener = socket.create_server((address, port))
        threading.Thread(target=serve, args=[listener, rate], daemon=True).start()
    clock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)  # takes what comes
    clock.bind((NAMESERVER, 123))
    path = f"{directory}/control.sock"
    words = [f"{name}:{port}" for name, _address, port, _rate in SERVICES]
    command = [str(Path(sys.executable).parent / "pasta-py"), "--quiet", "--control", path, "--dns", NAMESERVER]
    argv = [*command, "--", sys.executable, "-c", GUEST, *words]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout and process.stdout.readline() == "up\n"
        view, instance = View(f"pasta-py {process.pid} make all"), Instance(path, process.pid)
        instance.flows()  # from now on names are read
        print(file=process.stdin, flush=True)
        end = time.monotonic() + SESSION_S
        while time.monotonic() < end:
            select.select([], [], [], LOOK_S)
            view.update(instance.flows(), time.monotonic())
        for width in (80, 200):
            with open(os.devnull, "w") as nowhere:
                console = Console(record=True, width=width, height=14, file=nowhere, force_terminal=True, highlight=False)
                console.print(view.picture(width, 14))
            console.save_svg(f"{directory}/top-{width}.svg", title=f"pasta-py top, {width} columns")
        process.terminate()


def staged(directory: Path, names: dict[str, str], play: Callable[[Path], None]) -> int:
    """As root of namespaces of its own: these names and their addresses, a nameserver for them, then `play`."""
    for words in ("link set lo up", *(f"addr add {address}/32 dev lo" for address in {NAMESERVER, *names.values()})):
        subprocess.run(["ip", *words.split()], check=True)
    program = HERE.parent / "tests" / "programs" / "nameserver.py"
    zone = "".join(f"{name} A {address}\n" for name, address in names.items()) + "\n"
    asked = [sys.executable, str(program), NAMESERVER, f"{directory}/asked"]
    with subprocess.Popen(asked, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nameserver:
        assert nameserver.stdin and nameserver.stdout
        nameserver.stdin.write(zone)
        nameserver.stdin.flush()
        nameserver.stdout.readline()
        try:
            play(directory)
        finally:
            nameserver.kill()
    return 0


def in_namespaces(module: str, directory: str) -> None:
    """Run `python -m MODULE inside DIRECTORY` as root of namespaces of its own."""
    spaces = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    subprocess.run([*spaces, sys.executable, "-m", module, "inside", directory], cwd=HERE.parent, check=True)


def main() -> int:
    if sys.argv[1:2] == ["inside"]:
        return staged(Path(sys.argv[2]), {name: address for name, address, _port, _rate in SERVICES}, session)
    target = Path(sys.argv[1] if len(sys.argv) > 1 else HERE.parent / "docs")
    with tempfile.TemporaryDirectory(prefix="pasta-top-") as directory:
        in_namespaces("bench.top_picture", directory)
        for path in Path(directory).glob("top-*.svg"):
            # The reader's own font: nothing is fetched.
            text = re.sub(r"@font-face \{.*?\}|<!--.*?-->", "", path.read_text(), flags=re.DOTALL)
            (target / path.name).write_text("\n".join(line.rstrip() for line in text.splitlines() if line.strip()) + "\n")
            print(target / path.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
