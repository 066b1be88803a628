"""The table of system calls is as short as it can be: a tour of all features, under strace, uses every row of it."""

import os
import re
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from calls import HELPER, NOT_HERE, WORKER, rows, used
from lab import BIG, NO_PORTS, REMOTE4, REMOTES, Guest, Lab, program, wait_until
from ports import FAMILIES, LOOPBACK, SEEN, Cell, ask, faults, judge
from servers import DNS_LONG, DNS_NAME, resolver
from traffic import Bulk

pytestmark = pytest.mark.unsanitized

PORT, AUTO, LOCAL, KEEP, CONTROLLED = 7300, 7301, 7302, 7303, 7304
SOON_S = 30
FLOWS = 2200


@pytest.fixture
def traces(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the traces are of everything that the program starts from now on.

    With these settings of malloc each table that grows is grown by mremap; else that depends on what has been freed before, and on
    how many flows live at the same time.
    """
    folder = lab.directory / f"traces{time.monotonic_ns()}"
    lab.host.run("mkdir", folder)
    traced = lab.directory / "pasta"
    lab.host.run("sh", "-c", f"cat >{traced}; chmod 755 {traced}", input=(
        f'#!/bin/sh\nexport MALLOC_MMAP_THRESHOLD_=4096 MALLOC_TOP_PAD_=0\n'
        f'exec strace -ff -qq -n -e raw=all -e signal=none -o {folder}/t{time.monotonic_ns()}-$$ {program()} "$@"\n'
    ))  # fmt: skip
    monkeypatch.setenv("PASTA_UNDER_TEST", str(traced))
    return folder


def connections(lab: Lab, guest: Guest) -> None:
    for family in FAMILIES:
        server = lab.remote.start("exchange.py", "serve", REMOTES[family], PORT)
        guest.script("exchange.py", "connect", REMOTES[family], PORT, 24, 100_000)
        server.result()
        tos = "tos=16" if family == 4 else "ipv6-tclass=16"
        host = REMOTES[family] if family == 4 else f"[{REMOTES[family]}]"
        server = lab.remote.start("portserve.py", "any", KEEP)
        probing = f"TCP{family}:{host}:{KEEP},{tos},keepalive,keepidle=1,keepintvl=1"
        guest.run("socat", "-u", "SYSTEM:sleep 2.5", probing)
        server.result()


def datagrams(lab: Lab, guest: Guest) -> None:
    for family in FAMILIES:
        server = lab.remote.start("answer.py", "echo", REMOTES[family], PORT)
        guest.script("probe.py", "echo", REMOTES[family], PORT, 1000, 20)
        guest.script("probe.py", "mtu", REMOTES[family], PORT, 1000, 1)  # nothing is too large
        server.result()
        guest.run("ping", "-c2", "-i0.2", "-t9", "-Q8", REMOTES[family])
    member = lab.remote.start("group_member.py", "eth0", REMOTES[4], REMOTES[6], "here", PORT)
    guest.script("group_ask.py", 0, f"255.255.255.255/{PORT}/4")
    member.result()


def burst(lab: Lab, guest: Guest) -> None:
    """More datagrams at once than the worker waits for one by one: they come while it is stopped."""
    script = f"""
import socket
flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
flow.connect(("{REMOTE4}", {PORT}))
flow.send(b"?")
flow.settimeout(60)
flow.recv(200)
"""
    asked = f"""
import socket
flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
flow.bind(("{REMOTE4}", {PORT}))
print("ready", flush=True)
peer = flow.recvfrom(10)[1]
print("asked", flush=True)
input()
for _ in range(1000):
    flow.sendto(bytes(100), peer)
print("answered", flush=True)
"""
    python = (sys.executable, "-I", "-S", "-c")
    server = lab.remote.popen(*python, asked)
    assert server.stdin and server.stdout and server.stdout.readline() == "ready\n"
    client = guest.popen(*python, script)
    assert server.stdout.readline() == "asked\n"
    worker = lab.translator().pid
    os.kill(worker, signal.SIGSTOP)
    try:
        assert server.communicate("go\n", timeout=SOON_S)[0] == "answered\n"
    finally:
        os.kill(worker, signal.SIGCONT)
    assert client.wait(90) == 0


def beside(lab: Lab, guest: Guest) -> None:
    """Short messages beside a stream that lasts as long as they do; with one thread, or the stream may be in another."""
    answers = lab.remote.start("answer.py", "echo", REMOTE4, PORT)
    stream = Bulk(lab, guest, REMOTE4)
    guest.script("probe.py", "echo", REMOTE4, PORT, 100, 300, timeout=240)  # each waits for the stream, which strace slows down
    stream.finish()
    answers.result()


def crowd(lab: Lab, guest: Guest) -> None:
    """So many flows at once that tables grow, and grow again; each is asked until it has answered."""
    script = f"""
import socket
flows = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range({FLOWS})]
for at in range(0, len(flows), 100):
    batch = flows[at : at + 100]
    for flow in batch:
        flow.connect(("{REMOTE4}", {PORT}))
        flow.settimeout(1)
    while batch:
        for flow in batch:
            flow.send(b"?")
        missing = []
        for flow in batch:
            try:
                flow.recv(10)
            except TimeoutError:
                missing.append(flow)
        batch = missing
"""
    server = lab.remote.start("answer.py", "echo", REMOTE4, PORT)
    guest.run("prlimit", f"--nofile={FLOWS + 100}:", sys.executable, "-I", "-S", "-c", script, timeout=240)
    server.result()


def ports(lab: Lab, guest: Guest) -> None:
    """What listens in the guest is reached from the host's loopback and from afar; the guest reaches the host's."""
    inside = guest.start("portserve.py", "any", AUTO)
    for client in ("loopback", "remote"):
        cells = [Cell("auto", client, proto, family, AUTO, True) for proto in ("tcp", "udp") for family in FAMILIES]
        assert not faults(lab, cells, SEEN, size=1_000_000, patience=SOON_S)
    inside.result()
    outside = lab.host.start("portserve.py", "any", LOCAL)
    found = [Cell("auto", "loopback", "tcp", family, LOCAL, True) for family in FAMILIES]
    results = ask(guest, found, size=1_000_000, patience=SOON_S)
    assert not [what for cell, result in zip(found, results, strict=True) for what in judge(cell, result, LOOPBACK)]
    outside.result()


def control_socket(lab: Lab, path: str) -> None:
    """Rules come and go while it runs; a client that says nothing is let go."""
    pesto = Path(sys.executable).parent / "pesto"
    with socket.socket(socket.AF_UNIX) as idle:
        idle.connect(path)
        for proto in ("-t", "-u"):
            lab.host.run(pesto, "--add", proto, CONTROLLED, path)
            lab.host.run(pesto, "--delete", proto, CONTROLLED, path)


def foreground(lab: Lab) -> None:
    lab.host.run("mkdir", "-p", f"{BIG}/tiny", caps=True)
    lab.host.run("mount", "-t", "tmpfs", "-o", "size=256k,mode=777", "none", f"{BIG}/tiny", caps=True)
    options = ("--pcap", f"{BIG}/tiny/out.pcap", "--log-file", f"{BIG}/tour.log", "--log-size", 4096, "--trace")
    options += ("--threads", 2, "--outbound-if4", "eth0", "--broadcast")
    with lab.guest(*options, "-t", "auto", "-u", "auto", "-T", "auto", "-U", "auto") as guest:
        connections(lab, guest)
        datagrams(lab, guest)
        burst(lab, guest)
        ports(lab, guest)
        crowd(lab, guest)
    lab.host.run("umount", f"{BIG}/tiny", caps=True)


def background(lab: Lab) -> None:
    """Let go by control, with a capture to a reader and rules that change, and ended by a signal."""
    fifo = f"{BIG}/fifo"
    lab.host.run("mkfifo", fifo)
    reader = lab.host.popen("sh", "-c", f"cat {fifo} >/dev/null")
    with lab.stray() as guest:
        pidfile, conf = f"{BIG}/pid", f"{lab.directory}/tour.sock"  # strace itself stays until the worker has ended
        options = ("--config-net", "--pid", pidfile, "--pcap", fifo, "--conf-path", conf, "-t", "none", "-u", "none")
        tracer = lab.host.popen(program(), *options, lab.inner_pid(guest.pid))
        wait_until(lambda: lab.host.run("test", "-s", pidfile, check=False).returncode == 0, 10, "it has gone to the background")
        guest.run("ping", "-c2", "-i0.2", REMOTE4)
        beside(lab, guest)
        control_socket(lab, conf)
        lab.host.run("sh", "-c", f"kill $(cat {pidfile})")
        tracer.wait(30)
    reader.wait(30)


def names(lab: Lab) -> None:
    """DNS that the worker answers itself: the guest asks over TCP, the worker both ways."""
    resolver(lab.host, "127.0.0.53", name_is=REMOTE4)
    lab.resolv("nameserver 127.0.0.53\n")
    with lab.guest(*NO_PORTS, "--egress-dns", "all") as guest:
        assert guest.run("dig", "+short", "+tcp", "+tries=1", DNS_NAME).stdout.split() == [REMOTE4]
        assert guest.run("dig", "+short", "+tries=1", DNS_LONG, "TXT").stdout.count("x" * 240) == 12


def test_every_row_is_used_and_nothing_else_is(lab: Lab, traces: Path) -> None:
    foreground(lab)
    background(lab)
    names(lab)
    time.sleep(0.2)
    for path in traces.iterdir():  # who joins the guest's user namespace is in its root's power unless it is not dumpable
        before, joins, _ = path.read_text(errors="replace").partition(" setns(")
        assert not joins or re.search(r" prctl\(0x4, 0, ", before), path
    found, strange = used(list(traces.iterdir()))
    assert not strange
    for who, name in ((WORKER, "worker"), (HELPER, "helper")):
        ours = [row for row in rows() if row.who & who]
        print("\n".join(f"{name} {found[who, row]:8} {row}" for row in ours))
        idle = [str(row) for row in ours if not found[who, row] and not row.why.startswith(NOT_HERE)]
        assert not idle, (name, idle)


@pytest.mark.quiet
def test_a_question_and_its_answer_cost_seven_calls(lab: Lab, traces: Path) -> None:
    """Two waits, for each direction one call that reads and one that writes, and one that finds no second frame: as passt's."""
    count = 400
    server = lab.remote.start("answer.py", "echo", REMOTE4, PORT)
    with lab.guest(*NO_PORTS) as guest:
        guest.script("probe.py", "echo", REMOTE4, PORT, 100, count)
    server.result()
    time.sleep(0.2)
    texts = [path.read_text(errors="replace") for path in traces.iterdir()]
    (worker,) = [text for text in texts if text.count(" sendmsg(") >= count]
    calls = [line.partition("(")[0].split()[-1] for line in worker.splitlines() if "(" in line]
    first, last = calls.index("sendmsg"), len(calls) - calls[::-1].index("sendmsg")
    assert 6.5 * count < last - first < 7.4 * count, Counter(calls[first:last])


def test_each_row_says_why() -> None:
    for row in rows():
        assert len(row.why.removeprefix(NOT_HERE)) > 2, row


def test_rows_of_one_call_follow_each_other() -> None:
    names = [row.name for row in rows()]
    assert len(set(names)) == 1 + sum(a != b for a, b in zip(names, names[1:], strict=False))
