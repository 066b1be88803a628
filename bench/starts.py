"""`python -m bench.starts --ours DIRECTORY [--peer PROGRAM] [--slirp4netns PROGRAM]`: what a start costs, side by side.

Uses the standard library alone, so it also runs inside a root of another system (`make bench-start`). Hermetic: everything happens
in namespaces of its own, whose host has one interface with an address and a default route of each family.

Each round starts every program once, in turn, so that what else happens on the machine meets all of them. Wall time counts until
the parent has exited, or slirp4netns has written to its -r descriptor. CPU time is that of all processes: those that have ended
(getrusage), and those that go on (schedstat), all up to that moment.
"""

import argparse
import contextlib
import json
import os
import resource
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import translators

AT_ONCE = 10
IDLE = 50
IDLE_S = 10
LIMIT_S = 30
NO_PORTS = ("-t", "none", "-u", "none", "-T", "none", "-U", "none")
HOST = (
    "ip link set lo up",
    "ip link add up0 type veth peer name far0",
    "ip link set up0 up",
    "ip link set far0 up",
    "ip addr add 192.0.2.2/24 dev up0",
    "ip addr add 2001:db8::2/64 dev up0 nodad",
    "ip route add default via 192.0.2.1",
    "ip route add default via 2001:db8::1",
)
# The largest ratio of ours to another program's, or None: wall time, CPU time.
TARGETS: dict[tuple[str, str], tuple[float, float | None]] = {
    ("attached", "passt"): (1.2, 1.8),
    ("command", "passt"): (1.2, None),
    ("slirp4netns", "bare python"): (1.5, None),
    (f"{AT_ONCE} at once", "passt"): (1.1, None),
}
PSS_TARGET = 0.28  # of passt's
Sample = tuple[float, float]  # wall and CPU time in ms
Start = Callable[[], Sample]


class StartsError(Exception):
    """A program that did not start; one line."""


class Guests:
    """Empty network namespaces, bound to paths as runtimes do."""

    def __init__(self, directory: str) -> None:
        self.directory, self.made = directory, 0

    def make(self) -> str:
        self.made += 1
        path = f"{self.directory}/guest-{self.made}"
        Path(path).touch()
        maker = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo && read _"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with maker:
            assert maker.stdout
            maker.stdout.readline()
            translators.mount(f"/proc/{maker.pid}/ns/net", path)
        return path

    def remove(self, path: str) -> None:
        """Ends the translator of that namespace too, if it watches its path."""
        translators.unmount(path)
        os.unlink(path)


def cpu_ended_ms() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1000


def cpu_running_ms(pids: list[int]) -> float:
    return translators.cpu_seconds(pids) * 1000  # of those that have not ended: cpu_ended_ms counts these


def offspring(before: set[int]) -> list[int]:
    """The new processes of this PID namespace, once those that have ended are reaped (we are its first process)."""
    reap()
    return sorted(processes() - before)


def processes() -> set[int]:
    return {int(each) for each in os.listdir("/proc") if each.isdigit()}


def stop(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + LIMIT_S
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        reap()
        if time.monotonic() > end:
            raise StartsError(f"processes {pids} do not end")
        time.sleep(0.002)


def reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def settled(pids: list[int]) -> None:
    """Return when they have used no CPU time for 20 ms."""
    used = -1.0
    end = time.monotonic() + LIMIT_S
    while used != (used := cpu_running_ms(pids)) and time.monotonic() < end:
        time.sleep(0.02)
        reap()


def used_ms(before: float, left: list[int]) -> float:
    """CPU time since cpu_ended_ms() was `before`, until the processes that are left are idle."""
    settled(left)
    return cpu_ended_ms() - before + cpu_running_ms(left)


def attach(program: str, netns: str) -> list[str]:
    """The command line."""
    return [program, "--config-net", *NO_PORTS, "--quiet", "--pid", f"{netns}.pid", "--netns", netns]


def attached(program: str, guests: Guests) -> Sample:
    """As podman starts it. CPU time until the instance is idle."""
    netns, before, cpu = guests.make(), processes(), cpu_ended_ms()
    begin = time.perf_counter()
    done = subprocess.run(
        attach(program, netns), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=LIMIT_S, check=False
    )
    wall = (time.perf_counter() - begin) * 1000
    if done.returncode:
        raise StartsError(f"{program}: {done.stderr.decode(errors='replace').strip() or done.returncode}")
    left = offspring(before)
    used = used_ms(cpu, left)
    stop(left)
    guests.remove(netns)
    return wall, used


def command(*argv: str) -> Sample:
    """A program that ends by itself."""
    cpu, begin = cpu_ended_ms(), time.perf_counter()
    subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=LIMIT_S, check=True)
    return (time.perf_counter() - begin) * 1000, cpu_ended_ms() - cpu


def slirp4netns(program: str, guests: Guests) -> Sample:
    """As rootlesskit starts it: ready when it writes to the descriptor given with -r."""
    netns, before = guests.make(), processes()
    cpu, begin = cpu_ended_ms(), time.perf_counter()
    ready, theirs = os.pipe()
    argv = [program, "-c", "-6", "-r", str(theirs), "--netns-type=path", netns, "tap0"]
    process = subprocess.Popen(argv, pass_fds=[theirs], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(theirs)
    try:
        if not select.select([ready], [], [], LIMIT_S)[0] or not os.read(ready, 1):
            raise StartsError(f"{program}: not ready")
        wall = (time.perf_counter() - begin) * 1000
        left = offspring(before)
        used = used_ms(cpu, left)
    finally:
        os.close(ready)
        process.terminate()
        process.wait()
    stop(offspring(before))
    guests.remove(netns)
    return wall, used


def at_once(program: str, guests: Guests) -> Sample:
    """AT_ONCE attached starts together: wall time until the last parent has exited, and CPU time of one."""
    netns, before = [guests.make() for _ in range(AT_ONCE)], processes()
    cpu, begin = cpu_ended_ms(), time.perf_counter()
    started = [subprocess.Popen(attach(program, each)) for each in netns]
    if any(each.wait(LIMIT_S) for each in started):
        raise StartsError(f"{program}: of {AT_ONCE} at once some do not start")
    wall = (time.perf_counter() - begin) * 1000
    left = offspring(before)
    used = used_ms(cpu, left)
    stop(left)
    for each in netns:
        guests.remove(each)
    return wall, used / AT_ONCE


def idle_pss_mb(program: str, guests: Guests) -> float:
    """Proportional set size of one of IDLE idle instances, all of its processes, in MB (10^6 bytes)."""
    before, netns = processes(), [guests.make() for _ in range(IDLE)]
    for each in netns:
        subprocess.run(attach(program, each), timeout=LIMIT_S, check=True)
    left = offspring(before)
    settled(left)
    total = translators.proportional_mb(left)
    stop(left)
    for each in netns:
        guests.remove(each)
    return total / IDLE


def idle_cpu_ms(program: str) -> float:
    """CPU time in ms that a second costs an idle instance with automatic ports, the default of a command."""
    before = processes()
    process = subprocess.Popen([program, "--config-net", "--quiet", "--", "/bin/sleep", str(LIMIT_S)])
    time.sleep(1)  # the start is over
    left = offspring(before)
    used = cpu_running_ms(left)
    time.sleep(IDLE_S)
    used = cpu_running_ms(left) - used
    process.terminate()
    process.wait()
    stop(offspring(before))
    return used / IDLE_S


def measure(rounds: int, starts: dict[str, dict[str, Start]]) -> dict[str, dict[str, list[Sample]]]:
    """`starts`: by what is started, then by program."""
    found: dict[str, dict[str, list[Sample]]] = {}
    for what, programs in starts.items():
        names = list(programs)
        for name in names:
            programs[name]()  # files into the page cache
        for number in range(rounds):
            for name in names if number % 2 else reversed(names):
                found.setdefault(what, {}).setdefault(name, []).append(programs[name]())
    return found


def report(found: dict[str, dict[str, list[Sample]]]) -> None:
    print(f"{'start':24} {'program':14} {'wall ms':>9} {'CPU ms':>9}   median; ratio of ours to it, pair by pair")
    for what, programs in found.items():
        own = programs["pasta-py"]
        for name, samples in programs.items():
            line = f"{what:24} {name:14} "
            line += " ".join(f"{statistics.median(each[at] for each in samples):9.1f}" for at in (0, 1))
            if name != "pasta-py":
                ratios = [statistics.median(a[at] / b[at] for a, b in zip(own, samples, strict=True)) for at in (0, 1)]
                targets = TARGETS.get((what, name), (None, None))
                told = zip(("wall", "CPU"), ratios, targets, strict=True)
                line += "   " + ", ".join(f"{word} {ratio:.2f}{judged(ratio, target)}" for word, ratio, target in told)
            print(line)


def judged(ratio: float, target: float | None) -> str:
    return "" if target is None else f" (≤ {target}: {'met' if ratio <= target else 'missed'})"


def inside(options: argparse.Namespace) -> None:
    for line in HOST:
        subprocess.run(line.split(), check=True)
    with tempfile.TemporaryDirectory(prefix="pasta-starts-", ignore_cleanup_errors=True) as directory:
        guests = Guests(directory)
        pastas = {"pasta-py": f"{options.ours}/pasta"}
        slirps = {"pasta-py": f"{options.ours}/slirp4netns"}
        if options.peer:
            pastas["passt"] = options.peer
        if options.slirp4netns:
            slirps["slirp4netns"] = options.slirp4netns
        bare: dict[str, Start] = {"bare python": partial(command, options.python, "-I", "-S", "-c", "pass")}
        end_at_once = ("--config-net", "--quiet", "--", "/bin/true")
        starts: dict[str, dict[str, Start]] = {
            "attached": {name: partial(attached, path, guests) for name, path in pastas.items()} | bare,
            "command": {name: partial(command, path, *end_at_once) for name, path in pastas.items()},
            "slirp4netns": {name: partial(slirp4netns, path, guests) for name, path in slirps.items()} | bare,
            f"{AT_ONCE} at once": {name: partial(at_once, path, guests) for name, path in pastas.items()},
        }
        if options.only:
            starts = {what: each for what, each in starts.items() if what in options.only.split(",")}
        found = measure(options.rounds, starts)
        version = subprocess.run([options.python, "-V"], capture_output=True, text=True, check=True).stdout.strip()
        print(
            f"{version}, {os.uname().release}, {os.cpu_count()} processors; {options.rounds} rounds, programs in turn"
        )
        report(found)
        idle = {} if options.only else {name: idle_pss_mb(path, guests) for name, path in pastas.items()}
        for name, pss in idle.items():
            ratio = "" if name == "pasta-py" else f"   {idle['pasta-py'] / pss:.2f}{judged(idle['pasta-py'] / pss, PSS_TARGET)}"
            print(f"{f'memory, {IDLE} idle':24} {name:14} {pss:9.2f} MB of PSS each{ratio}")
            print(f"{'idle, automatic ports':24} {name:14} {idle_cpu_ms(pastas[name]):9.2f} ms of CPU time a second")
    if options.json:
        Path(options.json).write_text(json.dumps({"starts": found, "idle_pss_mb": idle}, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.starts", description="What a start costs, beside the peers.")
    parser.add_argument("--ours", required=True, metavar="DIRECTORY", help="where our programs are installed")
    parser.add_argument("--peer", default="", metavar="PROGRAM", help="passt's pasta")
    parser.add_argument("--slirp4netns", default="", metavar="PROGRAM", help="the original slirp4netns")
    parser.add_argument("--python", default=sys.executable, metavar="PROGRAM", help="the interpreter that ours runs on")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--only", default="", metavar="START[,START...]", help="attached, command, slirp4netns, '10 at once'"
    )
    parser.add_argument("--json", default="", metavar="FILE", help="where to write all samples")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        spaces = [
            "unshare",
            "--user",
            "--map-root-user",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]
        return subprocess.run([*spaces, sys.executable, "-m", "bench.starts", *sys.argv[1:], "--inside"], check=False).returncode
    try:
        inside(options)
    except (StartsError, OSError, subprocess.SubprocessError) as error:
        print(f"starts: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
