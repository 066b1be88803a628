"""A guest that follows its host, and how to compare it with one that starts now."""

from __future__ import annotations

import json
import re
import select
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from lab import (
    GATEWAY4,
    GATEWAY6,
    HOST4,
    HOST6,
    NO_PORTS,
    Guest,
    Lab,
    Space,
    comm,
    wait_until,
)

SOON_S = 1
GRACE_S = 2
BOTH = f"""\
addr add {HOST4}/24 dev eth0
addr add {HOST6}/64 dev eth0 nodad
route add default via {GATEWAY4}
-6 route add default via {GATEWAY6}
"""


def bare(lab: Lab) -> None:
    """Only lo."""


def picture(space: Space) -> dict[str, set[object]]:
    """Addresses and routes as `ip` shows them, without the interface's name and the kernel's own link-local ones."""
    links = json.loads(space.run("ip", "-j", "addr").stdout)
    addresses: set[object] = set()
    for link in links:
        for each in link["addr_info"] if link["ifname"] != "lo" else ():
            if not each["local"].startswith("fe80:"):
                addresses.add((each["local"], each["prefixlen"], each["scope"], each.get("deprecated", False)))
    routes: set[object] = set()
    for family in ("-4", "-6"):
        for route in json.loads(space.run("ip", family, "-j", "route").stdout):
            if not route["dst"].startswith("fe80:"):
                kept = {name: value for name, value in route.items() if name not in ("dev", "nexthops")}
                hops = [{n: v for n, v in hop.items() if n != "dev"} for hop in route.get("nexthops", ())]
                routes.add(json.dumps([kept, hops], sort_keys=True))
    return {"addresses": addresses, "routes": routes}


class Followed:
    """A lab, and a guest that follows its host."""

    def __init__(self, lab: Lab, guest: Guest, log: Path, options: tuple[object, ...]) -> None:
        self.lab, self.guest, self.log, self._options = lab, guest, log, options

    def change(self, commands: str) -> None:
        self.lab.host.setup(commands)

    def is_as_fresh(self) -> None:
        """Wait until the guest has what a fresh start gives.

        It may keep a route that the host has kept, too, but that the kernel would not take now: its gateway is out of reach.
        """
        with self.lab.guest(*NO_PORTS, *self._options) as fresh:
            wanted = picture(fresh)
        found: list[dict[str, set[object]]] = []

        def same() -> bool:
            found[:] = [picture(self.guest)]
            if found[0] == wanted:
                return True
            kept = wanted["routes"] | picture(self.lab.host)["routes"]
            return found[0]["addresses"] == wanted["addresses"] and wanted["routes"] <= found[0]["routes"] <= kept

        try:
            wait_until(same, SOON_S, "the guest is as after a fresh start")
        except AssertionError:
            raise AssertionError(f"wanted {wanted}\nfound  {found[0]}\n{self.said()}") from None

    def has(self, *addresses: str) -> None:
        """Wait until the guest has these addresses and no others."""
        wait_until(lambda: {a[0] for a in picture(self.guest)["addresses"]} == set(addresses), SOON_S, f"{addresses}")  # type: ignore[index]

    def said(self) -> str:
        return self.log.read_text()

    def says(self, text: str) -> None:
        wait_until(lambda: text in self.said(), SOON_S, f"the log says {text!r}")

    def process(self, name: str) -> int:
        """The PID of pasta-watch or pasta-apply."""
        return self.lab.descendant(lambda pid: comm(pid) == name, f"{name} runs")


class Monitor:
    """The changes of a guest's addresses and routes from now on, with the time of each by the guest's kernel."""

    MARK = "10.255.255.1/32"

    def __init__(self, guest: Guest) -> None:
        self._guest, self._process = guest, guest.popen("ip", "-ts", "-o", "monitor", "address", "route")
        self.lines: list[str] = []
        wait_until(self._hears, SOON_S, "the monitor hears of a change")

    def _hears(self) -> bool:
        self._guest.setup(f"addr replace {self.MARK} dev lo")
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def now(self) -> float:
        """In seconds, by the same clock."""
        self._guest.setup(f"addr replace {self.MARK} dev lo\naddr del {self.MARK} dev lo")
        return self.times(f"Deleted .* inet {self.MARK}")[0]

    def times(self, *patterns: str) -> list[float]:
        """Wait for changes of these kinds, in any order: when each came, in seconds."""
        found: dict[str, float] = {}
        assert self._process.stdout
        while len(found) < len(patterns):
            line = self._process.stdout.readline()
            assert line, "the monitor has ended"
            self.lines.append(line)
            moment = datetime.fromisoformat(line[1 : line.index("]")]).timestamp()
            found |= {pattern: moment for pattern in patterns if re.search(pattern, line)}
        return [found[pattern] for pattern in patterns]

    def end(self) -> list[str]:
        """All changes, but those of the loopback interface."""
        self._process.terminate()
        self.lines += self._process.communicate()[0].splitlines()
        return [line for line in self.lines if ": lo " not in line and " dev lo " not in line]


@contextmanager
def following(
    *options: object, build: object = None, grace: int = GRACE_S, extra: tuple[object, ...] = ()
) -> Iterator[Followed]:
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(build))  # type: ignore[arg-type]
        log = lab.directory / "log"
        guest = stack.enter_context(
            lab.guest("--follow", "--follow-grace", grace, "-l", log, "-d", *NO_PORTS, *options, *extra)
        )
        yield Followed(lab, guest, log, options)
