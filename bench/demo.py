"""`make run`: the main job on this machine. A file is fetched by a command in a network of its own, and every frame captured.

The HTTP server listens on the host's loopback, which the guest reaches at its gateway's address: nothing leaves the machine,
and a machine without any network will do. Run without arguments; `demo.py inside PORT4 PORT6` is the guest's part.
"""

import functools
import hashlib
import http.server
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

SIZE = 64 << 20
NAME = "big.bin"
FAMILIES = {4: (socket.AF_INET, "127.0.0.1"), 6: (socket.AF_INET6, "::1")}
PCAP_HEADER, PCAP_RECORD = 24, 16
ETHERTYPES = {0x0800: "IPv4", 0x86DD: "IPv6", 0x0806: "ARP"}
PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}


class Server(http.server.ThreadingHTTPServer):
    """One family, a free port of the loopback."""

    def __init__(self, family: int, directory: str) -> None:
        self.address_family, address = FAMILIES[family]
        super().__init__((address, 0), functools.partial(Quiet, directory=directory))


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *values: object) -> None:
        """The guest tells what it fetched."""


def servers(directory: str) -> dict[int, Server]:
    made = {}
    for family in FAMILIES:
        try:
            made[family] = Server(family, directory)
        except OSError as error:
            print(f"host: no IPv{family} on the loopback: {error.strerror}")
            continue
        threading.Thread(target=made[family].serve_forever, daemon=True).start()
    return made


def inside(ports: dict[int, int]) -> int:
    """In the guest: show the addresses, fetch the file once per family."""
    from pyroute2 import IPRoute

    gateways: dict[int, str] = {}
    with IPRoute() as netlink:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in netlink.get_links()}
        for item in netlink.get_addr():
            if names[item["index"]] != "lo":
                print(f"guest: {names[item['index']]} has {item.get_attr('IFA_ADDRESS')}/{item['prefixlen']}")
        for family, (number, _loopback) in FAMILIES.items():
            for route in netlink.get_default_routes(family=number):
                if gateway := route.get_attr("RTA_GATEWAY"):
                    gateways.setdefault(family, f"{gateway}%{names[route.get_attr('RTA_OIF')]}")
    fetched = 0
    for family, port in ports.items():
        if family not in gateways or not port:
            print(f"guest: no IPv{family} gateway, nothing to fetch that way")
            continue
        gateway, _, device = gateways[family].partition("%")
        scope = f"%25{device}" if gateway.startswith("fe80:") else ""
        host = f"[{gateway}{scope}]" if family == 6 else gateway
        url = f"http://{host}:{port}/{NAME}"
        try:
            fetch(url)
        except urllib.error.URLError as error:
            print(f"guest: {url}: {error.reason}; is the host's loopback up? (ip link show lo)")
            return 1
        fetched += 1
    return 0 if fetched else 1


def fetch(url: str) -> None:
    digest, size, start = hashlib.sha256(), 0, time.monotonic()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=30) as answer:
        while piece := answer.read(1 << 20):
            digest.update(piece)
            size += len(piece)
    seconds = time.monotonic() - start
    print(f"guest: {url}: {size} bytes in {seconds:.2f} s, sha256 {digest.hexdigest()}", flush=True)


def summary(path: Path) -> str:
    """Frames by protocol in a capture, read record by record (nanosecond pcap in this machine's byte order)."""
    kinds: Counter[str] = Counter()
    total, frames, first, last = 0, 0, 0, 0
    with path.open("rb") as file:
        file.read(PCAP_HEADER)
        while len(record := file.read(PCAP_RECORD)) == PCAP_RECORD:
            seconds, nanoseconds, kept, length = (int.from_bytes(record[i : i + 4], sys.byteorder) for i in range(0, 16, 4))
            frame = file.read(kept)
            first, last = first or seconds * 10**9 + nanoseconds, seconds * 10**9 + nanoseconds
            name = ETHERTYPES.get(int.from_bytes(frame[12:14], "big"), "other")
            if name in ("IPv4", "IPv6"):
                name += " " + PROTOCOLS.get(frame[23] if name == "IPv4" else frame[20], "other")
            kinds[name] += 1
            total += length
            frames += 1
    listed = ", ".join(f"{count} {name}" for name, count in kinds.most_common())
    return f"{frames} frames, {total} bytes in {(last - first) / 1e9:.2f} s: {listed}"


def main() -> int:
    program = Path(sys.executable).with_name("pasta-py")
    with tempfile.TemporaryDirectory(prefix="pasta-demo-") as directory:
        data = os.urandom(SIZE)
        (Path(directory) / NAME).write_bytes(data)
        running = servers(directory)
        ports = [str(running[family].server_port if family in running else 0) for family in FAMILIES]
        wanted = hashlib.sha256(data).hexdigest()
        print(f"host:  serving {NAME}, {len(data)} bytes, sha256 {wanted}, on the loopback")
        capture = Path(directory) / "out.pcap"
        command = [str(program), "--pcap", str(capture), "--", sys.executable, __file__, "inside", *ports]
        print("host:  " + " ".join(command), flush=True)
        said = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as guest:
            for line in guest.stdout or ():
                print(line, end="", flush=True)
                said.append(line)
        if guest.returncode:
            print(f"host:  pasta-py exited with status {guest.returncode}")
            return 1
        print(f"host:  capture: {summary(capture)}")
        sums = [line.split()[-1] for line in said if " sha256 " in line]
        intact = set(sums) == {wanted}
        print("host:  what was fetched is what was served" if intact else "host:  what was fetched DIFFERS from what was served")
        return 0 if intact else 1


if __name__ == "__main__":
    sys.exit(inside(dict(zip(FAMILIES, map(int, sys.argv[2:])))) if sys.argv[1:2] == ["inside"] else main())
