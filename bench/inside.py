"""The inner half: root of its own user namespace, first process of its own PID namespace. Plays the host and measures.

    host (here)  --veth, MTU 65520--  remote;  a guest namespace for each translator, made by it

Usage: python -m bench.inside ORDER.json LIFELINE_FD; writes result.json beside the order. When the lifeline closes it
exits, and with the first process of a PID namespace ends every other one in it.
"""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from .model import DIRECT, Cell, Order, Sample, Subject
from .translators import CONGESTION, Namespace, Running, StartError, cpu_seconds, resident_mb

LINK_MTU = 65520
REMOTES = {4: "192.0.2.10", 6: "2001:db8::10"}
HOST_SETUP = """
link set lo up
link add up0 mtu {mtu} type veth peer name up1 mtu {mtu} netns {pid}
link set up0 up
addr add 192.0.2.2/24 dev up0
addr add 2001:db8::2/64 dev up0 nodad
"""
REMOTE_SETUP = """
link set lo up
link set up1 up
addr add 192.0.2.1/24 dev up1
addr add 192.0.2.10/24 dev up1
addr add 2001:db8::1/64 dev up1 nodad
addr add 2001:db8::10/64 dev up1 nodad
"""
ROUTES = """
route add default via 192.0.2.1
-6 route add default via 2001:db8::1
"""
Key = tuple[str, int, int, int, int]


def key_of(cell: Cell) -> Key:
    """Cells with the same key are different figures of one measurement."""
    role = "start" if cell.role == "memory" else cell.role
    return role, cell.mtu, cell.family, cell.a, cell.b


def ip(lines: str, namespace: Namespace | None = None) -> None:
    for line in lines.strip().splitlines():
        if namespace:
            namespace.run("ip", *line.split())
        else:
            subprocess.run(["ip", *line.split()], check=True, timeout=20)


class Bench:
    """One run: the network, the translators of the present MTU, and the samples so far."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.ports = itertools.count(20000)
        self.remote = Namespace(order.endpoint, order.directory, order.congestion)
        Path(CONGESTION).write_text(order.congestion)
        ip(HOST_SETUP.format(mtu=LINK_MTU, pid=self.remote.holder.pid))
        ip(REMOTE_SETUP, self.remote)
        ip(ROUTES)
        self.running: dict[str, Running] = {}
        self.samples: dict[Key, dict[str, list[Sample]]] = {}

    def run(self) -> None:
        """Every cell: within a round the subjects take turns, each round beginning with another one."""
        keys = list(dict.fromkeys(key_of(cell) for cell in self.order.cells))
        groups: dict[int, list[Key]] = {}
        for key in keys:
            groups.setdefault(0 if key[0] == "start" else key[1], []).append(key)
        for mtu, members in groups.items():
            six = any(key[2] == 6 for key in members)
            for number in range(self.order.rounds):
                for key in members:
                    subjects = self.order.subjects
                    shift = number % len(subjects)
                    for subject in subjects[shift:] + subjects[:shift]:
                        sample = self.start_sample(subject) if mtu == 0 else self.sample(subject, key, six)
                        self.samples.setdefault(key, {}).setdefault(subject.name, []).append(sample)
                        self.say(number, key, subject, sample)
            self.stop_all()

    def say(self, number: int, key: Key, subject: Subject, sample: Sample) -> None:
        figures = sample.error or "  ".join(f"{name} {value:.4g}" for name, value in sample.values.items())
        role, mtu, family, a, b = key
        print(f"round {number + 1}  {role} mtu {mtu} ipv{family} {a} {b}  {subject.name}: {figures}", file=sys.stderr)

    def start_sample(self, subject: Subject) -> Sample:
        """Start it afresh: the time until ready, and its memory 0.3 s later."""
        if subject.kind == DIRECT:
            return Sample(error="nothing to start")
        try:
            started = Running(subject, LINK_MTU, self.order)
        except StartError as error:
            return Sample(error=f"start: {error}")
        try:
            time.sleep(0.3)
            return Sample({"start_ms": started.start_ms, "rss_mb": resident_mb(started.pids())})
        finally:
            started.close()

    def translator(self, subject: Subject, mtu: int, six: bool) -> Running:
        """The running translator of this subject; started where it is not there (any more)."""
        now = self.running.get(subject.name)
        if now and now.lives():
            return now
        if now:
            self.running.pop(subject.name).close()
        now = self.running[subject.name] = Running(subject, mtu, self.order)
        if six:
            now.wait_ipv6(REMOTES[6])
        return now

    def sample(self, subject: Subject, key: Key, six: bool) -> Sample:
        try:
            running = self.translator(subject, key[1], six)
        except StartError as error:
            return Sample(error=f"start: {error}")
        sample = self.measure(key, running)
        if not running.lives():
            sample.error = "the translator ended"
        time.sleep(0.05)
        return sample

    def measure(self, key: Key, running: Running) -> Sample:
        """One measurement: a server in the remote, a client in the guest, the translator's CPU time around both."""
        role, _, family, a, b = key
        times = [str(round(each * 1000)) for each in (self.order.warm, self.order.seconds)]
        rest = [REMOTES[family], str(next(self.ports)), *times, str(a), str(b)]
        server = self.endpoint(self.remote.path, f"{role}-serve", rest)
        client = None
        try:
            assert server.stdout
            if server.stdout.readline() != "ready\n":
                return Sample(error="the server did not start")
            before, begin = cpu_seconds(running.pids()), time.monotonic()
            client = self.endpoint(running.netns, f"{role}-load", rest)
            receivers = {"tcp": ([client] if a else []) + ([server] if b else []), "udp": [client if a else server]}
            reports = [self.report(each) for each in receivers.get(role, [client])]
            cpu = cpu_seconds(running.pids()) - before
            return combine(role, reports, cpu, time.monotonic() - begin)
        finally:
            for process in (client, server):
                if process:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(0.3 if process is client else 0)
                    process.kill()
                    process.communicate()

    def endpoint(self, netns: str, role: str, rest: list[str]) -> "subprocess.Popen[str]":
        command = [self.order.endpoint, netns, role, *rest]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def report(self, process: "subprocess.Popen[str]") -> dict[str, Any]:
        """What a receiver reports at its end; its alarm bounds the wait."""
        assert process.stdout and process.stderr
        line = process.stdout.readline()
        if line.startswith("{"):
            return dict(json.loads(line))
        error = process.stderr.readline().strip()
        return {"error": error or f"an endpoint ended without a report (status {process.wait()})"}

    def stop_all(self) -> None:
        for running in self.running.values():
            running.close()
        self.running.clear()


def combine(role: str, reports: list[dict[str, Any]], cpu_s: float, wall_s: float) -> Sample:
    """The figures of one measurement from its receivers' reports and the translator's processor time."""
    for report in reports:
        if "error" in report:
            return Sample(error=str(report["error"]))
    values: dict[str, float] = {"cpu_share": cpu_s / wall_s}
    if role in ("tcp", "udp"):
        values["gbit"] = sum(report["bytes"] * 8 / report["seconds"] / 1e9 for report in reports)
        values["cpu_s_per_gb"] = cpu_s / (sum(report["total"] for report in reports) / 1e9)
    if role == "tcp":
        values["silence_ms"] = max(report["silence_ms"] for report in reports)
    elif role == "udp":
        values["loss_percent"] = 100 * (1 - reports[0]["count"] / reports[0]["sent"])
        values["offered_gbit"] = values["gbit"] / (reports[0]["count"] / reports[0]["sent"])
    else:
        values.update({name: reports[0][name] for name in ("p50_us", "p99_us", "max_us", "lost")})
        values["per_s"] = reports[0]["count"] / reports[0]["seconds"]
    return Sample(values)


def end_with(lifeline: int) -> None:
    """End this process, and so its PID namespace, when the other end of the lifeline is closed."""
    os.read(lifeline, 1)
    os._exit(1)


def main() -> None:
    path = Path(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # the lifeline ends us, whoever else gets the terminal's signals
    threading.Thread(target=end_with, args=[int(sys.argv[2])], daemon=True).start()
    bench = Bench(Order.from_json(json.loads(path.read_text())))
    bench.run()
    cells = [
        {name: [vars(sample) for sample in taken] for name, taken in bench.samples[key_of(cell)].items()}
        for cell in bench.order.cells
    ]
    path.with_name("result.json").write_text(json.dumps({"cells": cells}))


if __name__ == "__main__":
    main()
