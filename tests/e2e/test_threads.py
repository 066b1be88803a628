"""More than one thread (--threads): everything that one thread carries, each flow in the thread that it belongs to.

Which thread a connection belongs to follows from its addresses and ports and a random key, so tests have many of them.
"""

import os
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from capture import assert_sound, frames
from exchange import ORDERS
from lab import BIG, REMOTE4, REMOTES, Lab, program, wait_until
from ports import FAMILIES, IN_GUEST, LOOPBACK, PROTOS, RULES, SEEN, Cell, ask, cells, faults, options
from test_breakout import ATTEMPTS, SIGSYS, Target
from traffic import Bulk

STREAMS, GROUPS = 6, 4  # that the second of two threads has none of 24 happens once in 16 million runs
WORKS_S = 0.15
CONNECTIONS = 120
SIZE = 100_000
SHORT = 1000
#: Of all frames of the guest, how many another thread had to be given: a SYN in two, and what a flow that rested begins with.
HANDED_OF_BULK = 0.02


def tasks(pid: int) -> dict[str, tuple[int, float]]:
    """Thread ID and processor time of each thread, by name."""
    found = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        text = Path(f"/proc/{pid}/task/{task}/stat").read_text()
        name, rest = text[text.index("(") + 1 : text.rindex(")")], text.rpartition(") ")[2].split()
        found[name] = (int(task), (int(rest[11]) + int(rest[12])) / os.sysconf("SC_CLK_TCK"))
    return found


def counters(log: str) -> Counter[str]:
    """As in the last line of --stats: those that are not zero."""
    return Counter({key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", log.rpartition("stats: ")[2])})


def settled(lab: Lab, path: str, **wanted: int) -> Counter[str]:
    """The counters in this log when so many connections have been opened, or more, and all have ended."""
    found: list[Counter[str]] = []

    def ended() -> bool:
        found.append(counters(lab.host.run("cat", path).stdout))
        done = all(found[-1][name] >= least for name, least in wanted.items())
        return done and not found[-1]["tcp_flows"] + found[-1]["splice_flows"]

    wait_until(ended, 60, f"counters of connections that have ended: {wanted}")
    return found[-1]


@pytest.mark.quiet
@pytest.mark.option("--threads")
def test_streams_run_in_all_threads_and_arrive_whole(lab: Lab) -> None:
    log = f"{BIG}/threads.log"
    with lab.guest("--threads", 2, "--stats", 1, "--log-file", log) as guest:
        pid = lab.translator().pid
        assert "pasta-shard1" in tasks(pid)
        streams: list[Bulk] = []
        before = tasks(pid)["pasta-shard1"][1]
        while tasks(pid)["pasta-shard1"][1] - before < WORKS_S:
            assert len(streams) < STREAMS * GROUPS, "the second thread does nothing"
            streams += [Bulk(lab, guest, REMOTES[FAMILIES[i % 2]], rate=20e6) for i in range(STREAMS)]
            deadline = time.monotonic() + 5
            while tasks(pid)["pasta-shard1"][1] - before < WORKS_S and time.monotonic() < deadline:
                time.sleep(0.1)
        for stream in streams:
            stream.finish()
        seen = settled(lab, log, tcp_opened=len(streams))
    lab.host.run("rm", log)
    assert seen["tcp_opened"] == len(streams) and not seen["shard_dropped"]
    assert seen["shard_frames"] < HANDED_OF_BULK * seen["tap_rx_frames"]


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_connections_in_every_order_of_close(lab: Lab, family: int, threads: int) -> None:
    server = lab.remote.start("exchange.py", "serve", REMOTES[family], 7400)
    with lab.guest("--threads", threads) as guest:
        translator = lab.translator()
        before = translator.descriptors()
        client = guest.script("exchange.py", "connect", REMOTES[family], 7400, CONNECTIONS, SIZE, timeout=240)
        wait_until(lambda: translator.descriptors() == before, 30, "descriptors as before")
    served = server.result()
    wanted = {order: len(range(index, CONNECTIONS, len(ORDERS))) for index, order in enumerate(ORDERS)}
    for side in (client, served):
        assert side["errors"] == [] and side["orders"] == wanted


def test_short_connections(lab: Lab) -> None:
    server = lab.remote.start("short.py", "serve", REMOTE4, 7401)
    with lab.guest("--threads", 2) as guest:
        guest.script("short.py", "connect", REMOTE4, 7401, SHORT)
    assert server.result()["served"] == SHORT


def test_forwarded_ports_and_local_connections(lab: Lab) -> None:
    """By all kinds of clients: through the tap, and from socket to socket."""
    for space in (lab.host, lab.remote):
        space.sysctl(ipv4__icmp_ratelimit=0, ipv6__icmp__ratelimit=0)
    log = f"{BIG}/ports.log"
    with lab.guest(*options(RULES[:4]), "--threads", 2, "--stats", 1, "--log-file", log) as guest:
        server = guest.start("portserve.py", "any", *IN_GUEST)
        for client in ("loopback", "host", "remote"):
            ours = [cell for proto in PROTOS for cell in cells(client, proto) if cell.port < 7034]
            assert not faults(lab, ours, SEEN, size=300_000)
        server.result()
        asked = [cell for client in SEEN for cell in cells(client, "tcp") if cell.port < 7034 and cell.answered]
        local = len([cell for cell in asked if cell.client == "loopback"])
        seen = settled(lab, log, splice_opened=local, tcp_opened=len(asked) - local)
    lab.host.run("rm", log)
    assert seen["shard_sockets"] >= seen["splice_opened"] // 2 and not seen["shard_dropped"]


def test_without_a_tap(lab: Lab) -> None:
    words = ("-t", "7001", "-u", "none", "-T", "none", "-U", "none", "--stats", 1, "--log-file", f"{BIG}/splice.log")
    with lab.guest("--splice-only", "--threads", 2, *words) as guest:
        server = guest.start("portserve.py", "loopback", 7001)
        asked = [Cell("single", "loopback", "tcp", family, 7001, True) for family in FAMILIES for _ in range(4)]
        for cell, result in zip(asked, ask(lab.host, asked, size=1_000_000), strict=True):
            assert result["at"] == [LOOPBACK[cell.family], 7001] and result["equal"]
        server.result()
        seen = settled(lab, f"{BIG}/splice.log", splice_opened=len(asked))
    assert seen["splice_opened"] == len(asked) and seen["shard_sockets"] == len(asked) // 2


def test_one_capture_has_what_all_threads_see(lab: Lab) -> None:
    path = f"{BIG}/threads.pcap"
    server = lab.remote.start("exchange.py", "serve", REMOTE4, 7402)
    with lab.guest("--threads", 4, "--pcap", path) as guest:
        client = guest.script("exchange.py", "connect", REMOTE4, 7402, 36, SIZE, timeout=240)
        guest.run("ping", "-c2", "-i0.2", REMOTE4)
    assert client["errors"] == server.result()["errors"] == []
    found = frames(lab.host, path)
    lab.host.run("rm", path)
    assert_sound(found)
    moments = [float(frame["frame.time_epoch"]) for frame in found]
    assert moments == sorted(moments)
    ports = {frame["tcp.srcport"] for frame in found if frame["tcp.dstport"] == "7402" and int(frame["tcp.len"] or 0)}
    assert len(ports) == 36


def test_a_thread_is_locked_in_like_the_process(lab: Lab) -> None:
    with lab.guest("--threads", 2):
        thread, _time = tasks(lab.translator().pid)["pasta-shard1"]
        assert Target(lab, lab.inner_pid(thread)).call(*ATTEMPTS["open a file"][-1]) == f"killed {SIGSYS}"


def test_the_guests_last_words_are_passed_on(lab: Lab) -> None:
    """A command writes to as many connections as there are, and ends."""
    words = "import socket, sys\nfor _ in range(24):\n    socket.create_connection((sys.argv[1], 7403)).sendall(b'x' * 60_000)\n"
    heard = lab.remote.popen("socat", "-u", f"TCP-LISTEN:7403,bind={REMOTE4},fork,backlog=64", f"OPEN:{BIG}/words,creat,append")
    wait_until(lambda: lab.remote.run("ss", "-tlnH", "sport = :7403").stdout, 30, "the remote listens")
    lab.host.run(program(), "--config-net", "--threads", 3, "--", sys.executable, "-c", words, REMOTE4)
    size = ("stat", "-c", "%s", f"{BIG}/words")  # the first connection makes it
    wait_until(lambda: int(lab.remote.run(*size, check=False).stdout or 0) == 24 * 60_000, 30, "every byte")
    heard.send_signal(signal.SIGTERM)
    lab.remote.run("rm", f"{BIG}/words")


def test_the_worker_ends_with_its_guest_and_on_a_signal(lab: Lab) -> None:
    with lab.guest("--threads", 4) as guest:
        pid = lab.translator().pid
        assert len(tasks(pid)) == 4
        guest.setup("link set eth0 down")
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not lab.translators(), 30, "the worker has ended")
