"""--follow: what its processes may do and cost, and that nothing is missed in any order of changes."""

from __future__ import annotations

import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from followed import SOON_S, Followed, following
from lab import (
    GATEWAY4,
    HOST4,
    HOST6,
    NO_PORTS,
    PROGRAMS,
    REMOTE4,
    Lab,
    comm,
    program,
    wait_until,
    wire,
)

# ---- a random walk ----

_LINKS = ("eth0", "eth1", "eth2")
LONG = bool(os.environ.get("PASTA_LONG"))
WALK_STEPS, LOOK_EVERY = 1000 if LONG else 60, 20


def step(random: Random, f: Followed) -> str:
    """One change of the host, of any kind; what it was."""
    link, last = random.choice(_LINKS), random.randrange(20, 26)
    net = _LINKS.index(link)
    four, fives = f"192.0.{2 + net}.{last}/24", f"2001:db8:{net or ''}::{last}/64".replace(":::", "::")
    commands = (
        f"addr add {four} dev {link}",
        f"addr del {four} dev {link}",
        f"addr add {fives} dev {link} nodad",
        f"addr del {fives} dev {link}",
        f"addr change {fives} dev {link} preferred_lft {random.choice(('0', 'forever'))} valid_lft forever",
        f"route replace default via 192.0.{2 + net}.1 dev {link} metric {random.choice((1, 5, 9))}",
        f"route del default metric {random.choice((1, 5, 9))}",
        f"-6 route replace default via fe80::{last} dev {link} metric {random.choice((1, 5, 9))}",
        f"-6 route del default metric {random.choice((1, 5, 9))}",
        f"route replace 203.0.113.{16 * random.randrange(16)}/28 dev {link}",
        f"route flush proto boot dev {link}",
        f"link set {link} mtu {random.choice((1280, 1500, 9000))}",
        f"link set {link} down",
        f"link set {link} up",
        f"link set {link} up",
        f"addr flush dev {link} scope global",
    )
    command = random.choice(commands)
    f.lab.host.run("ip", *command.split(), caps=True, check=False)  # many are refused, as on any host
    return command


@pytest.mark.parametrize("seed", range(2))
def test_after_any_walk_the_guest_is_as_after_a_fresh_start(seed: int) -> None:
    random = Random(seed)
    with following(grace=1) as f:
        for name in _LINKS[1:]:
            wire(f.lab, name=name, peer=name)
        for _ in range(WALK_STEPS // LOOK_EVERY):
            done = [step(random, f) for _ in range(LOOK_EVERY)]
            try:
                f.is_as_fresh()
            except AssertionError as error:
                raise AssertionError(f"{done}\n{error}") from None


# ---- the processes ----


def test_where_the_right_would_count_on_the_host_addresses_are_not_followed() -> None:
    """Root of the namespace that the host's network belongs to, and a guest without a user namespace. Nameservers are followed."""
    with Lab(mapped_root=True) as lab:
        log = lab.directory / "log"
        lab.host.run("ip", "netns", "add", "box", caps=True)
        options = (
            "--config-net",
            "--follow",
            "--dns-forward",
            "10.53.53.53",
            "-l",
            log,
            "-f",
            *NO_PORTS,
            "--netns",
            "box",
        )
        lab.host.popen(program(), *options, caps=True)
        wait_until(lambda: log.exists() and "would count on the host too" in log.read_text(), SOON_S, "a line says so")
        assert not [pid for pid in lab.descendants() if comm(pid) == "pasta-apply"]
        lab.host.setup("addr add 192.0.2.77/24 dev eth0")
        lab.resolv(f"nameserver {REMOTE4}\n")
        wait_until(
            lambda: "another nameserver" in log.read_text() or "nameservers:" in log.read_text(), SOON_S, "nameservers"
        )
        assert "192.0.2.77" not in lab.host.run("ip", "netns", "exec", "box", "ip", "addr", caps=True).stdout


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_what_the_two_processes_may_do() -> None:
    with following() as f:
        watch, apply = f.process("pasta-watch"), f.process("pasta-apply")
        f.change("addr add 192.0.2.77/24 dev eth0")
        f.is_as_fresh()
        for pid, capabilities in ((watch, 0), (apply, 1 << 12)):
            found = status(pid)
            for kind in ("CapEff", "CapPrm", "CapAmb", "CapInh"):  # the programs that the applier starts have its capability
                assert int(found[kind], 16) == capabilities, (pid, kind)
            assert found["NoNewPrivs"] == "1" and found["Seccomp"] == "2"
        host, guest = os.readlink(f"/proc/{f.lab.pid}/ns/net"), os.readlink(f"/proc/{f.guest.pid}/ns/net")
        assert os.readlink(f"/proc/{watch}/ns/net") == host and os.readlink(f"/proc/{apply}/ns/net") == guest
        kinds = {
            pid: sorted(os.readlink(f"/proc/{pid}/fd/{fd}").partition(":")[0] for fd in os.listdir(f"/proc/{pid}/fd"))
            for pid in (watch, apply)
        }
        assert kinds[watch] == ["/dev/null"] * 3 + ["/memfd", "anon_inode", "socket", "socket", "socket"], kinds
        assert kinds[apply] == ["/dev/null"] * 3 + ["socket"], kinds


WAITING_KIB = 600


@pytest.mark.unsanitized
def test_waiting_takes_little_memory() -> None:
    """The anonymous pages of both, those included that they share with the process that they are forks of."""
    with following() as f:
        pages = [status(f.process(name))["RssAnon"].split()[0] for name in ("pasta-watch", "pasta-apply")]
        assert sum(map(int, pages)) <= WAITING_KIB


@pytest.mark.unsanitized
def test_a_change_needs_no_call_that_the_filter_refuses() -> None:
    """Of the processes that wait, and of the programs that they start. A call that is refused fails with ENOSYS."""
    with following(grace=0) as f:
        trace = f.lab.directory / "trace"
        pids = [f.process(name) for name in ("pasta-watch", "pasta-apply")]
        strace = subprocess.Popen(
            ["strace", "-f", "-o", str(trace), *(f"-p{pid}" for pid in pids)], stderr=subprocess.PIPE, text=True
        )
        try:
            assert strace.stderr
            for _ in pids:
                assert "attached" in strace.stderr.readline()
            f.change("addr add 192.0.2.77/24 dev eth0")
            f.has(HOST4, HOST6, "192.0.2.77")
            f.change("addr del 192.0.2.77/24 dev eth0")
            f.has(HOST4, HOST6)
        finally:
            strace.terminate()
            strace.communicate()
        lines = trace.read_text().splitlines()
        assert len([line for line in lines if "execve(" in line]) >= 4  # two programs for each change
        assert not [line for line in lines if "ENOSYS" in line]


_ROOTLESS = 'unshare -n sleep 1000 & while [ "$(readlink /proc/$!/exe)" != "$(readlink -f "$(which sleep)")" ]; do :; done; "$@" $!'


def test_in_the_background_as_rootless_podman_calls_it() -> None:
    """The program is root of a user namespace, as is the guest; the host's network belongs to the one above."""
    with Lab() as lab:
        log = lab.directory / "log"
        options = ("--config-net", "--follow", "--follow-grace", 1, "-l", log, *NO_PORTS, "--netns-only")
        rootless = lab.host.popen("unshare", "-Ur", "sh", "-c", _ROOTLESS + "; wait", "sh", program(), *options)
        wait_until(lambda: lab.translators(), SOON_S, "the program serves")
        guest = lab.descendant(lambda pid: comm(pid) == "sleep", "the process that has the guest's namespaces")

        def known(address: str) -> bool:
            return address in Path(f"/proc/{guest}/net/fib_trie").read_text()

        lab.host.setup("addr add 192.0.2.77/24 dev eth0")
        wait_until(lambda: known("192.0.2.77"), SOON_S, "the guest has the new address")
        lab.host.setup("addr del 192.0.2.77/24 dev eth0")
        wait_until(lambda: not known("192.0.2.77"), SOON_S, "and then no longer")
        rootless.kill()


@pytest.mark.parametrize("name", ["pasta-watch", "pasta-apply"])
def test_one_of_them_is_killed_and_traffic_goes_on(name: str) -> None:
    with following() as f:
        watch, apply = f.process("pasta-watch"), f.process("pasta-apply")
        os.kill({"pasta-watch": watch, "pasta-apply": apply}[name], signal.SIGKILL)
        f.says("no longer followed")
        wait_until(lambda: not {comm(watch), comm(apply)} & {"pasta-watch", "pasta-apply"}, SOON_S, "both have ended")
        assert f.guest.run("ping", "-c1", "-W20", REMOTE4, check=False).returncode == 0


def test_they_end_with_the_worker() -> None:
    with following() as f:
        watch, apply = f.process("pasta-watch"), f.process("pasta-apply")
        os.kill(f.lab.translator().pid, signal.SIGKILL)
        wait_until(lambda: not {comm(watch), comm(apply)} & {"pasta-watch", "pasta-apply"}, SOON_S, "both have ended")


CONTAINERS = 3


def _attached(lab: Lab, name: str, *options: object) -> Path:
    """Attach to a new network namespace with that name, as container engines do. Returns the log."""
    log = lab.directory / name
    lab.host.run("ip", "netns", "add", name, caps=True)
    attach = (program(), "--config-net", *NO_PORTS, "-l", log, "-d", *options, "--netns", f"/run/netns/{name}")
    lab.host.run(*attach, caps=True)
    return log


def test_a_container_takes_one_instance_of_inotify() -> None:
    """A user has 128. It watches the namespace's name and the host's resolv.conf."""
    with Lab() as lab:
        lab.host.run("sh", "-c", f"echo {CONTAINERS} >/proc/sys/user/max_inotify_instances", caps=True)
        names = [f"c{number}" for number in range(CONTAINERS)]
        logs = [_attached(lab, name) for name in names]
        lab.resolv(f"nameserver {GATEWAY4}\n")
        for name, log in zip(names, logs, strict=True):
            wait_until(lambda log=log: "nameserver" in log.read_text(), SOON_S, f"{name} follows resolv.conf")  # type: ignore[misc]
        for name, log in zip(names, logs, strict=True):
            lab.host.run("ip", "netns", "del", name, caps=True)
            wait_until(lambda log=log: f"namespace {name} is gone" in log.read_text(), SOON_S, f"that of {name} ends")  # type: ignore[misc] # noqa: B023
        wait_until(lambda: not lab.translators(), SOON_S, "all have ended")


def test_the_end_of_the_namespace_is_seen_when_the_watcher_has_been_killed() -> None:
    with Lab() as lab:
        log = _attached(lab, "c")

        def watchers() -> list[int]:
            return [pid for pid in lab.descendants() if comm(pid) == "pasta-watch"]

        wait_until(watchers, SOON_S, "pasta-watch runs")
        os.kill(watchers()[0], signal.SIGKILL)
        wait_until(lambda: "no longer followed" in log.read_text(), SOON_S, "the log says that")
        lab.resolv(f"nameserver {GATEWAY4}\n")  # which is not about the namespace
        lab.translator()
        lab.host.run("ip", "netns", "del", "c", caps=True)
        wait_until(lambda: not lab.translators(), SOON_S, "it has ended")
        assert "namespace c is gone" in log.read_text()


PAIRS_A_SECOND = 500
PAIRS_S = 20 if LONG else 3
MOST_CPU = 0.02


@pytest.mark.quiet
def test_hundreds_of_other_interfaces_cost_almost_nothing_and_hide_no_change() -> None:
    """Beside it, pairs of interfaces are made and deleted, 500 a second where the kernel makes that many. An address that comes in
    the midst of them is there as soon as ever."""
    with following() as f:
        watch, apply = f.process("pasta-watch"), f.process("pasta-apply")
        ticks = os.sysconf("SC_CLK_TCK")

        def used_s() -> float:
            """Processor time of both, with their children."""
            fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15] for pid in (watch, apply)]
            return sum(int(field) for each in fields for field in each) / ticks

        before = used_s()
        pairs = f.lab.host.popen(sys.executable, PROGRAMS / "veths.py", PAIRS_A_SECOND, PAIRS_S, caps=True)
        made, said = pairs.communicate(timeout=280)
        used = used_s() - before
        assert pairs.returncode == 0, said
        found = json.loads(made)
        rate = f"{found['pairs'] / found['seconds']:.0f} pairs a second of {PAIRS_A_SECOND} that were asked for"
        print(f"{rate}, {used / found['seconds']:.4f} of a processor")
        assert used <= MOST_CPU * found["seconds"] + 1 / ticks
        pairs = f.lab.host.popen(sys.executable, PROGRAMS / "veths.py", PAIRS_A_SECOND, PAIRS_S, caps=True)
        f.change("addr add 192.0.2.77/24 dev eth0")
        f.has(HOST4, HOST6, "192.0.2.77")
        assert pairs.poll() is None, "the address was there before the last pair"
        assert pairs.communicate(timeout=280)[0]
        f.is_as_fresh()


ROUNDS, ROUND_S, CHANGE_EVERY_S, MOST_LOST = 9, 2, 0.05, 0.05


@contextmanager
def changing(lab: Lab) -> Iterator[None]:
    """Addresses and routes of the host come and go, twenty a second, by one process."""
    ip = lab.host.popen("ip", "-batch", "-", caps=True)
    over = threading.Event()

    def change() -> None:
        assert ip.stdin
        for turn in itertools.cycle(range(40)):
            if over.wait(CHANGE_EVERY_S):
                return
            word, last = ("add", "del")[turn % 2], 100 + turn // 2
            kinds = (f"addr {word} 192.0.2.{last}/24 dev eth0", f"route {word} 203.0.113.{last}/32 via {GATEWAY4}")
            ip.stdin.write(kinds[turn // 2 % 2] + "\n")
            ip.stdin.flush()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        ip.communicate(timeout=60)


@pytest.mark.quiet
@pytest.mark.skipif(not LONG, reason="compares throughput for half a minute: part of `make test-follow`")
def test_throughput_stays_while_the_host_changes() -> None:
    """A guest that follows beside one that does not, in turn, under the same changes. Medians."""
    with following(grace=1) as f, f.lab.guest(*NO_PORTS, "--no-follow") as other, changing(f.lab):
        f.lab.remote.serve("iperf3", "-s", port=5201, proto="tcp")
        sent: dict[int, list[float]] = {f.guest.pid: [], other.pid: []}
        for _ in range(ROUNDS):
            for guest in (f.guest, other):
                done = json.loads(guest.run("iperf3", "-J", "-c", REMOTE4, "-t", ROUND_S).stdout)
                sent[guest.pid].append(done["end"]["sum_received"]["bits_per_second"])
        ours, theirs = (statistics.median(sent[guest.pid]) for guest in (f.guest, other))
        print(f"{ours / 1e9:.2f} and {theirs / 1e9:.2f} Gb/s")
        assert ours >= (1 - MOST_LOST) * theirs
        f.says("the host's network has changed")
