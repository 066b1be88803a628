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
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .machines import MACHINES, GuestCommand, Machine
from .model import FORWARD, LARGE_MTU, LOCAL_IN, LOCAL_OUT, OUT, Order, Sample, Subject, Work
from .translators import CONGESTION, Namespace, Running, StartError, cpu_seconds, resident_mb

HOSTS = {4: "192.0.2.2", 6: "2001:db8::2"}
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
#: Each translator that forwards has this many ports of the host to itself, and of the guest's loopback; all below those
#: that the kernel gives to connections.
PORTS_EACH = 40
FIRST_FORWARDED, FIRST_OF_MANY = 20000, 22000
ANY = {4: "0.0.0.0", 6: "::"}
LOOPBACK = "127.0.0.1"
ROUNDS_OF_IDLE = 3  # each takes seconds: the connections have to be made first
Endpoint = subprocess.Popen[str] | GuestCommand
SETTLE_S, IDLE_S = 2.0, 1.0
LISTS, LIST_PAUSE_S = 5, 0.05
SLICES_IN_HALF = 5  # of streams.c: 100 ms each
LEAST_GREEDY_GBIT = 0.1  # a stream that gets no more beside requests is not what they are measured beside


def ip(lines: str, namespace: Namespace | None = None) -> None:
    for line in lines.strip().splitlines():
        if namespace:
            namespace.run("ip", *line.split())
        else:
            subprocess.run(["ip", *line.split()], check=True, timeout=20)


class Bench:
    """One run: the network, the translators of the present round, and the samples so far."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.ports = itertools.count(20000)
        self.remote = Namespace(order.endpoint, order.directory, order.congestion)
        Path(CONGESTION).write_text(order.congestion)
        ip(HOST_SETUP.format(mtu=LARGE_MTU, pid=self.remote.holder.pid))
        ip(REMOTE_SETUP, self.remote)
        ip(ROUTES)
        self.running: dict[str, Running] = {}
        self.forwarded: dict[str, Iterator[int]] = {}
        self.samples: list[dict[str, list[Sample]]] = [{} for _ in order.works]

    def run(self) -> None:
        """Every piece of work: within a round the subjects take turns, each round beginning with another one.

        Work of the same MTU and the same ports shares its translators, which are new in each round.
        """
        groups: dict[tuple[object, ...], list[int]] = {}
        for index, work in enumerate(self.order.works):
            groups.setdefault((index,) if work.fresh else (work.mtu, work.way == OUT), []).append(index)
        for members in groups.values():
            for number in range(self.order.rounds):
                for index in members:
                    work, subjects = self.order.works[index], self.order.subjects
                    if work.role in ("idle", "list") and number >= ROUNDS_OF_IDLE:
                        continue
                    shift = number % len(subjects)
                    for subject in subjects[shift:] + subjects[:shift]:
                        if subject.kind in work.kinds:
                            self.take(number, index, subject)
                self.stop_all()

    def take(self, number: int, index: int, subject: Subject) -> None:
        """One sample of one subject; what goes wrong belongs to this sample only, and the next begins anew."""
        work = self.order.works[index]
        try:
            sample = self.fresh_sample(subject, work) if work.fresh else self.sample(subject, work)
        except (StartError, OSError, ValueError, KeyError, AssertionError, subprocess.SubprocessError) as error:
            sample = Sample(error=" ".join(f"{type(error).__name__}: {error}".split()))
        if sample.error and subject.name in self.running:
            self.running.pop(subject.name).close()
        self.samples[index].setdefault(subject.name, []).append(sample)
        figures = sample.error or "  ".join(f"{name} {value:.4g}" for name, value in sample.values.items())
        label = f"{work.role} mtu {work.mtu} ipv{work.family} {work.a} {work.b} {work.c} {work.way}"
        print(f"round {number + 1}  {label}  {subject.name}: {figures}", file=sys.stderr)

    def fresh_sample(self, subject: Subject, work: Work) -> Sample:
        """Start it afresh: the time until ready, and its memory 0.3 s later; or what idle connections do to it."""
        spec = f"{FIRST_OF_MANY}-{FIRST_OF_MANY + work.a - 1}" if work.role == "start" and work.a else "none"
        started = Running(subject, work.mtu, self.order, spec)
        try:
            if work.role == "idle":
                return self.idle_sample(work, started)
            if work.role == "list":
                return self.list_sample(work, started)
            time.sleep(0.3)
            return Sample({"start_ms": started.start_ms, "rss_mb": resident_mb(started.pids())})
        finally:
            started.close()

    def idle_sample(self, work: Work, running: Running) -> Sample:
        """The rate of connections before and after many are open, and what these take of memory and time meanwhile."""
        alone = self.measure(Work("crr"), running)
        if alone.error:
            return alone
        before = resident_mb(running.pids())
        with self.idle_flows(work.a, running) as report:
            if "error" in report:
                return Sample(error=str(report["error"]))
            time.sleep(SETTLE_S)
            after, cpu, begin = resident_mb(running.pids()), cpu_seconds(running.pids()), time.monotonic()
            time.sleep(IDLE_S)
            cpu = (cpu_seconds(running.pids()) - cpu) / (time.monotonic() - begin)
            beside = self.measure(Work("crr"), running)
            if beside.error:
                return beside
        values = {"rate_kept": beside.values["per_s"] / alone.values["per_s"]}
        values["connects_per_s"] = work.a / report["seconds"]
        if running.pid:
            values.update(bytes_per_flow=(after - before) * 1e6 / work.a, idle_cpu_percent=100 * cpu)
        return Sample(values)

    def list_sample(self, work: Work, running: Running) -> Sample:
        """What a list of many flows takes, alone and beside traffic, and what requests and responses notice of lists.

        The translator's control socket is beside its namespace's path (watching.py).
        """
        path, values = f"{running.netns}.sock", {}
        with self.idle_flows(work.a, running) as report:
            if "error" in report:
                return Sample(error=str(report["error"]))
            time.sleep(SETTLE_S)
            cpu = cpu_seconds(running.pids())
            values["list_ms"] = statistics.median(list_flows(path)[0] for _ in range(LISTS)) * 1000
            values["list_cpu_ms"] = (cpu_seconds(running.pids()) - cpu) / LISTS * 1000
            values["list_bytes"] = list_flows(path)[1]
            alone, took = self.measure(Work("rr"), running), []
            stop = threading.Event()

            def lists() -> None:
                while not stop.wait(LIST_PAUSE_S):
                    took.append(list_flows(path)[0])

            lister = threading.Thread(target=lists)
            lister.start()
            beside = self.measure(Work("rr"), running)
            stop.set()
            lister.join()
            if alone.error or beside.error:
                return Sample(error=alone.error or beside.error)
        values["beside_ms"] = statistics.median(took) * 1000
        for name in ("p50_us", "p99_us", "max_us"):
            values[f"alone_{name}"], values[f"lists_{name}"] = alone.values[name], beside.values[name]
        return Sample(values)

    @contextlib.contextmanager
    def idle_flows(self, count: int, running: Running) -> Iterator[dict[str, Any]]:
        """Open this many connections and keep them; the client's report."""
        rest = [REMOTES[4], str(next(self.ports)), "0", "30000", str(count)]
        server = self.server(self.remote.path, "idle", rest)
        client = self.endpoint(running.netns, "idle-load", rest, stdin=subprocess.PIPE)
        try:
            yield self.report(client)
        finally:
            end(client, server)

    def translator(self, subject: Subject, work: Work) -> Running:
        """The running translator of this subject; started where it is not there (any more)."""
        now = self.running.get(subject.name)
        if now and now.lives():
            return now
        if now:
            self.running.pop(subject.name).close()
        first = FIRST_FORWARDED + self.order.subjects.index(subject) * 2 * PORTS_EACH
        inbound = outbound = "none"
        if work.way != OUT:
            inbound, outbound = f"{first}-{first + PORTS_EACH - 1}", f"{first + PORTS_EACH}-{first + 2 * PORTS_EACH - 1}"
        made = Machine if subject.kind in MACHINES else Running
        now = self.running[subject.name] = made(subject, work.mtu, self.order, inbound, outbound, inbound)
        return now

    def sample(self, subject: Subject, work: Work) -> Sample:
        running = self.translator(subject, work)
        if work.family == 6:
            running.wait_ipv6(REMOTES[6])
        sample = self.beside_greedy(work, running) if work.greedy else self.measure(work, running)
        if not running.lives():
            sample.error = "the translator ended"
        time.sleep(0.05)
        return sample

    def beside_greedy(self, work: Work, running: Running) -> Sample:
        """The same beside a stream that takes what it can get."""
        rest = [REMOTES[4], str(next(self.ports)), "0", str(round(self.order.seconds * 1000) + 3000), "1", "0"]
        server = self.server(self.remote.path, "tcp", rest)
        client = self.endpoint(running.netns, "tcp-load", rest)
        try:
            time.sleep(0.2)
            before, begin = received_bytes(), time.monotonic()
            sample = self.measure(work, running)
            gbit = (received_bytes() - before) * 8 / (time.monotonic() - begin) / 1e9
            if not sample.error and (client.poll() is not None or gbit < LEAST_GREEDY_GBIT):
                return Sample(error=f"the greedy stream carried only {gbit:.2f} Gb/s, or ended")
            sample.values["greedy_gbit"] = gbit
            return sample
        finally:
            end(client, server)

    def ends(self, work: Work, running: Running) -> tuple[str, str, str, str, int]:
        """The namespaces of server and client, the addresses that they bind and connect to, and the port."""
        host = "/proc/self/ns/net"
        if work.way == OUT:
            port = work.c if work.role == "ucrr" else next(self.ports)
            return self.remote.path, running.netns, REMOTES[work.family], REMOTES[work.family], port
        base = FIRST_FORWARDED + self.order.subjects.index(running.subject) * 2 * PORTS_EACH
        offset = next(self.forwarded.setdefault(running.subject.name, itertools.cycle(range(PORTS_EACH))))
        if work.way == FORWARD:
            return running.netns, self.remote.path, ANY[work.family], HOSTS[work.family], base + offset
        if work.way == LOCAL_IN:
            return running.netns, host, ANY[4], LOOPBACK, base + offset  # they enter at the guest's own address
        assert work.way == LOCAL_OUT
        return host, running.netns, LOOPBACK, LOOPBACK, base + PORTS_EACH + offset

    def measure(self, work: Work, running: Running) -> Sample:
        """One measurement: a server, a client, and the translator's CPU time around both."""
        at_server, at_client, bound, connected, port = self.ends(work, running)
        times = [str(round(each * 1000)) for each in (self.order.warm, self.order.seconds)]
        rest = [str(port), *times, str(work.a), str(work.b), str(work.c)]
        server = self.server(at_server, work.role, [bound, *rest])
        client: Endpoint | None = None
        try:
            before, resent, begin = cpu_seconds(running.pids()), running.resent_segments(), time.monotonic()
            client = self.client(running, at_client, f"{work.role}-load", [connected, *rest])
            to_client, to_server = work.a > 0, work.b > 0
            receivers: list[Endpoint] = [client] if to_client or work.role not in ("tcp", "udp", "quic") else []
            if to_server if work.role == "tcp" else not receivers:
                receivers.append(server)
            reports = [self.report(each) for each in receivers]
            cpu, wall = cpu_seconds(running.pids()) - before, time.monotonic() - begin
            sample = combine(work.role, reports, cpu, wall)
            if work.role == "tcp" and running.guest and not sample.error:
                sample.values["resent"] = float(running.resent_segments() - resent)
            return sample
        finally:
            end(client, server)

    def server(self, netns: str, role: str, rest: list[str]) -> "subprocess.Popen[str]":
        process = self.endpoint(netns, f"{role}-serve", rest)
        assert process.stdout
        if process.stdout.readline() != "ready\n":
            end(process)
            raise StartError("the server did not start")
        return process

    def endpoint(self, netns: str, role: str, rest: list[str], stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
        command = [self.order.endpoint, netns, role, *rest]
        return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def client(self, running: Running, netns: str, role: str, rest: list[str]) -> Endpoint:
        if running.console:
            return GuestCommand(running.console, [self.order.endpoint, "/proc/self/ns/net", role, *rest])
        return self.endpoint(netns, role, rest)

    def report(self, process: Endpoint) -> dict[str, Any]:
        """What a receiver reports at its end; its alarm bounds the wait."""
        assert process.stdout and process.stderr
        line = process.stdout.readline()
        if line.startswith("{"):
            return dict(json.loads(line))
        error = (line or process.stderr.readline()).strip()
        return {"error": error or f"an endpoint ended without a report (status {process.wait()})"}

    def stop_all(self) -> None:
        for running in self.running.values():
            running.close()
        self.running.clear()


def list_flows(path: str) -> tuple[float, int]:
    """Ask a control socket for all open flows; the time until the last of them is here, and the bytes."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        begin, count, tail = time.perf_counter(), 0, b""
        sock.sendall(b'{"command":"flows"}\n')
        while not tail.endswith(b'"more":false}\n'):
            data = sock.recv(1 << 20)
            if not data:
                raise StartError("the control socket closed in the middle of a list")
            count, tail = count + len(data), (tail + data)[-16:]
        return time.perf_counter() - begin, count


def received_bytes() -> int:
    """From the remote, in all of the host's connections."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()
    return next(int(line.partition(":")[2].split()[0]) for line in lines if line.strip().startswith("up0:"))


def end(*endpoints: Endpoint | None) -> None:
    """Let the first of them end by itself, shortly, and kill all."""
    for number, process in enumerate(endpoints):
        if process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0 if number else 0.3)
            process.kill()
            process.communicate()


def combine(role: str, reports: list[dict[str, Any]], cpu_s: float, wall_s: float) -> Sample:
    """The figures of one measurement from its receivers' reports and the translator's processor time."""
    for report in reports:
        if "error" in report:
            return Sample(error=str(report["error"]))
    values: dict[str, float] = {"cpu_share": cpu_s / wall_s}
    if role in ("tcp", "udp", "quic"):
        values["gbit"] = sum(report["bytes"] * 8 / report["seconds"] / 1e9 for report in reports)
        values["cpu_s_per_gb"] = cpu_s / (sum(report["total"] for report in reports) / 1e9)
    if role == "tcp":
        values["slowest_gbit"] = sum(slowest_gbit(report) for report in reports)
        values["silence_ms"] = max(report["silence_ms"] for report in reports)
    elif role == "peers":
        values["loss_percent"] = 100 * (1 - reports[0]["count"] / reports[0]["sent"])
        values["cpu_us_each"] = cpu_s * 1e6 / reports[0]["count"]  # of those that came back: what is lost costs less
    elif role in ("udp", "quic"):
        values["loss_percent"] = 100 * (1 - reports[0]["count"] / reports[0]["sent"])
        values["offered_gbit"] = values["gbit"] / (reports[0]["count"] / reports[0]["sent"])
    else:
        values.update({name: reports[0][name] for name in ("p50_us", "p99_us", "max_us", "lost")})
        values["per_s"] = reports[0]["count"] / reports[0]["seconds"]
    return Sample(values)


def slowest_gbit(report: dict[str, Any]) -> float:
    """The rate of the stream's slowest half second, or of all of it where that is less."""
    slices = report["slices"]
    halves = [sum(slices[i : i + SLICES_IN_HALF]) for i in range(len(slices) - SLICES_IN_HALF + 1)]
    return min([report["bytes"] / report["seconds"], *(2 * each for each in halves)]) * 8 / 1e9


def end_with(lifeline: int) -> None:
    """End this process, and so its PID namespace, when the other end of the lifeline is closed."""
    os.read(lifeline, 1)
    os._exit(1)


def main() -> None:
    path = Path(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # the lifeline ends us, whoever else gets the terminal's signals
    threading.Thread(target=end_with, args=[int(sys.argv[2])], daemon=True).start()
    try:
        bench = Bench(Order.from_json(json.loads(path.read_text())))
        bench.run()
    except (StartError, OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", None) or "").strip()  # of a command that failed
        sys.exit(f"bench: {error}{': ' if said else ''}{said}")
    taken = [{name: [vars(sample) for sample in each] for name, each in samples.items()} for samples in bench.samples]
    path.with_name("result.json").write_text(json.dumps({"works": taken}))


if __name__ == "__main__":
    main()
