"""Many forwarded ports: time to ready, memory and descriptors, beside passt where it is installed; prints a table.

    python -m bench.ports [PROGRAM...]        default: our `pasta`, and the first other one on the PATH

Runs in a user and network namespace of its own, as nothing leaves it; about ten seconds.
"""

import contextlib
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from .__main__ import CHECKOUT, elsewhere, ours
from .translators import family_of, resident_mb

SPECS = ("none", "20000-29999", "all", "auto", "1024-65535,~5000-6000")
DESCRIPTORS = 1 << 18  # passt opens several for each port
INSIDE = "PASTA_BENCH_PORTS_INSIDE"
SETUP = """\
link set lo up
link add eth0 up type veth peer name far
link set far up
addr add 192.0.2.2/24 dev eth0
addr add 2001:db8::2/64 dev eth0 nodad
route add default via 192.0.2.1
route add default via inet6 2001:db8::1 dev eth0
"""


def family(pid: int) -> list[int]:
    """A process and its descendants, without the command that it runs."""
    return [each for each in family_of(pid) if Path(f"/proc/{each}/comm").read_text().strip() not in ("sh", "sleep")]


def kernel_kib() -> int:
    """The machine's slab, which sockets are made of."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Slab:"))


def measure(program: str, spec: str) -> str:
    """One row: seconds until the guest's command runs, then what the running program holds."""
    slab, started = kernel_kib(), time.monotonic()
    options = ["--config-net", "-t", spec, "-u", "none", "-T", "none", "-U", "none"]
    command = [program, *options, "--", "sh", "-c", "echo ready; exec sleep 60"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout and process.stderr
            os.set_blocking(process.stderr.fileno(), False)
            if process.stdout.readline() != b"ready\n":
                reason = (process.stderr.read() or b"").decode(errors="replace").strip().splitlines()
                return f"did not start: {reason[-1] if reason else 'no reason given'}"
            took = time.monotonic() - started
            pids = family(process.pid)
            fds = 0
            for pid in pids:
                fds += os.stat(f"/proc/{pid}/fd").st_size  # a count, since Linux 6.2; readable where fd/ itself is not
            return f"{took:8.3f} {resident_mb(pids):9.1f} {fds:9d} {(kernel_kib() - slab) / 1024:9.1f}"
        finally:
            for pid in family(process.pid)[::-1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 15)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()


def main(programs: list[str]) -> None:
    if INSIDE not in os.environ:
        with contextlib.suppress(ValueError, OSError):  # not as root: the table says what could not start
            resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        namespaces = ["unshare", "-Urnpf", "--mount-proc", "--kill-child", sys.executable, "-m", "bench.ports", *programs]
        environment = {**os.environ, INSIDE: "1", "PYTHONPATH": str(CHECKOUT)}
        sys.exit(subprocess.run(namespaces, env=environment, check=False).returncode)
    subprocess.run(["ip", "-batch", "-"], input=SETUP, text=True, check=True)
    print(f"{'program':34} {'-t':22} {'ready s':>8} {'RSS MB':>9} {'fds':>9} {'slab MiB':>9}")
    for program in programs or filter(None, [str(ours()), elsewhere("pasta")]):
        for spec in SPECS:
            result = measure(program, spec) if Path(program).exists() else "not installed"
            print(f"{program:34} {spec:22} {result}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
