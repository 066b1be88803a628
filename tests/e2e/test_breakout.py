"""What code that has taken the worker over can do: every attempt is made from inside the real process, and ends it.

`inject` (inject.c) stops the process with ptrace and makes its main thread, waiting in the kernel, call what is asked for.
Each attempt first succeeds in a process of the same host that is not locked in, so that it is the sandbox that refuses it.
"""

import contextlib
import errno
import os
import platform
import re
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import BIG, PROGRAMS, REMOTE4, Guest, Lab, comm, descriptors, program, tool, wait_until

REFUSE = PROGRAMS / "refuse.py"
AT_FDCWD = -100
SIGSYS = 31
# Prints its PID once it has a terminal (descriptor 0) and waits.
_FREE = """
import os, pty, time
out = os.dup(1)
pid, _ = pty.fork()
if pid == 0:
    os.write(out, b"%d\\n" % os.getpid())
    while True:
        time.sleep(1000)
os.waitpid(pid, 0)
"""
_WAIT = "import os, time; print(os.getpid(), flush=True); time.sleep(1000)"
_LISTEN = """
import os, socket, time
socks = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
socks[0].bind("\\0breakout")
socks[1].bind("/run/netns/breakout.sock")
print(os.getpid(), flush=True)
time.sleep(1000)
"""
EXEC = "7"  # PROT_READ | PROT_WRITE | PROT_EXEC
ANONYMOUS = "0x22"  # MAP_PRIVATE | MAP_ANONYMOUS

Call = tuple[object, ...]

# Name: the call, after those that prepare it and are not made in the worker; "$" is the last one's result.
ATTEMPTS: dict[str, list[Call]] = {
    "open a file": [("openat", AT_FDCWD, "=/etc/passwd", 0)],
    "create a file": [("openat", AT_FDCWD, "=/run/netns/breakout", "0x41", "0600")],
    "open a file, openat2": [("openat2", AT_FDCWD, "=/etc/passwd", "#" + "00" * 24, 24)],
    "make a directory": [("mkdirat", AT_FDCWD, "=/run/netns/breakout.d", "0755")],
    "remove a file": [("openat", AT_FDCWD, "=/run/netns/gone", "0x41", "0600"), ("unlinkat", AT_FDCWD, "=/run/netns/gone", 0)],
    "make a link": [("symlinkat", "=/etc/passwd", AT_FDCWD, "=/run/netns/breakout.l")],
    "leave the root": [("chroot", "=/tmp")],
    "change directory": [("chdir", "=/tmp")],
    "exec": [("execve", "=/bin/true", 0, 0)],
    "exec a descriptor": [("openat", AT_FDCWD, "=/bin/true", 0), ("execveat", "$", "=", 0, 0, "0x1000")],
    "fork": [("clone", SIGSYS - 14, 0, 0, 0, 0)],  # SIGCHLD: fork()
    "ptrace": [("ptrace", 16, "VICTIM", 0, 0)],  # PTRACE_ATTACH
    "kill": [("kill", "VICTIM", 0)],
    "kill a thread": [("tgkill", "VICTIM", "VICTIM", 0)],
    "name a process": [("pidfd_open", "VICTIM", 0)],
    "limit a process": [("prlimit64", "VICTIM", 7, 0, 0)],
    "UNIX socket": [("socket", socket.AF_UNIX, 1, 0)],
    "pair of UNIX datagram sockets": [("socketpair", socket.AF_UNIX, 2, 0, "#" + "00" * 8)],
    "netlink socket": [("socket", socket.AF_NETLINK, 3, 0)],
    "packet socket": [("socket", socket.AF_PACKET, 3, 0)],
    "raw socket": [("socket", socket.AF_INET, 3, 1)],
    "raw socket, IPv6": [("socket", socket.AF_INET6, 3, 58)],
    "multipath TCP": [("socket", socket.AF_INET, 1, 262)],
    "UDP-Lite": [("socket", socket.AF_INET, 2, 136)],
    "socket option": [("socket", socket.AF_INET, 1, 0), ("setsockopt", "$", 1, 15, "#01000000", 4)],  # SO_REUSEPORT
    "mark": [("socket", socket.AF_INET, 1, 0), ("setsockopt", "$", 1, 36, "#01000000", 4)],  # SO_MARK
    "mount": [("mount", "=none", "=/mnt", "=tmpfs", 0, 0)],
    "unmount": [("mount", "=none", "=/mnt", "=tmpfs", 0, 0), ("umount2", "=/mnt", 0)],
    "enter a namespace": [("openat", AT_FDCWD, "=/proc/self/ns/net", 0), ("setns", "$", 0)],
    "new user namespace": [("unshare", "0x10000000")],
    "new network namespace": [("unshare", "0x40000000")],
    "executable memory": [("mmap", 0, 4096, EXEC, ANONYMOUS, -1, 0)],
    "a file as memory": [("openat", AT_FDCWD, "=/bin/true", 0), ("mmap", 0, 4096, 1, 2, "$", 0)],
    "shared memory": [("mmap", 0, 4096, 3, "0x21", -1, 0)],
    "make memory executable": [("mprotect", "page", 4096, EXEC)],
    "memory file": [("memfd_create", "=x", 0)],
    "type on the terminal": [("ioctl", 0, "0x5412", "=x")],  # TIOCSTI
    "terminal's size": [("ioctl", 0, "0x5413", "#" + "00" * 8)],  # TIOCGWINSZ
    "io_uring": [("io_uring_setup", 8, "#" + "00" * 120)],
    "page faults": [("userfaultfd", 1)],
    "keyring": [("keyctl", 0, -3, 1)],
    "be dumpable": [("prctl", 4, 1, 0, 0, 0)],
    "change user": [("setresuid", -1, -1, -1)],
    "personality": [("personality", "0x0040000")],
    "watch files": [("inotify_init1", 0)],
    "watch a signal": [("fcntl", 0, 8, "VICTIM")],  # F_SETOWN
    "copy a descriptor": [("fcntl", 0, 0, 0)],  # F_DUPFD
    "take a path's status": [("newfstatat", AT_FDCWD, "=/etc/passwd", "#" + "00" * 144, 0)],
    "advise on memory": [("madvise", "page", 4096, 14)],  # MADV_HUGEPAGE
}
HELPER = (
    "open a file", "exec", "fork", "ptrace", "kill", "UNIX socket", "netlink socket", "raw socket", "socket option",
    "enter a namespace", "new user namespace", "executable memory", "mount", "type on the terminal",
)  # fmt: skip


class Target:
    """A process of the lab, by its PID there."""

    def __init__(self, lab: Lab, pid: int) -> None:
        self.lab, self.pid = lab, pid

    def call(self, *call: object) -> str:
        """What became of it: "returned N", or "killed SIGNAL"."""
        return self.lab.host.run(tool("inject"), self.pid, *call, caps=True).stdout.strip()


@contextlib.contextmanager
def started(lab: Lab, script: str) -> "Iterator[Target]":
    process = lab.host.popen(sys.executable, "-I", "-S", "-c", script, caps=True, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        yield Target(lab, int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait(30)


@pytest.fixture(scope="module")
def victim(lab: Lab) -> "Iterator[int]":
    with started(lab, _WAIT) as target:
        yield target.pid


def fill(call: Call, result: str, victim: int) -> Call:
    return tuple(result if word == "$" else victim if word == "VICTIM" else word for word in call)


def free(lab: Lab, calls: list[Call], victim: int) -> int:
    """The result of the last call, in a process that may do everything."""
    result = "0"
    with started(lab, _FREE) as target:
        for call in calls:
            word, _, result = target.call(*fill(call, result, victim)).partition(" ")
            assert word == "returned", f"{call}: {word} {result}"
    return int(result)


def helper(lab: Lab) -> int:
    return lab.descendant(lambda pid: comm(pid) == "pasta-helper", "the helper")


def worker(lab: Lab, guest: Guest) -> Target:
    return Target(lab, lab.inner_pid(lab.translator().pid))


def test_a_call_that_is_allowed_harms_nothing(lab: Lab) -> None:
    with lab.guest() as guest:
        word, address = worker(lab, guest).call("mmap", 0, 4096, 3, ANONYMOUS, -1, 0).split()
        assert word == "returned" and int(address) > 0
        guest.run("ping", "-c1", "-W20", REMOTE4)


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


@pytest.mark.parametrize("capture", [(), ("--pcap", f"{BIG}/state.pcap")], ids=["plain", "capture"])
def test_nothing_is_left_to_worker_and_helper(lab: Lab, capture: tuple[str, ...]) -> None:
    with lab.guest(*capture):
        both = {"worker": lab.translator().pid, "helper": helper(lab)}
        for name, pid in both.items():
            for task in os.listdir(f"/proc/{pid}/task"):
                now = status(int(task))
                assert (now["Seccomp"], now["NoNewPrivs"]) == ("2", "1"), (name, task)
                kept = 1 << 10 if name == "helper" else 0  # CAP_NET_BIND_SERVICE, in the guest's user namespace
                assert {int(now[kind], 16) for kind in ("CapPrm", "CapEff")} == {kept}, name
                assert {int(now[kind], 16) for kind in ("CapInh", "CapBnd", "CapAmb")} == {0}, name
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert re.search(r"^Max processes +0 +0 ", limits, re.MULTILINE)
            assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
            assert bool(re.search(r"^Max file size +0 +0 ", limits, re.MULTILINE)) == (name == "helper" or not capture)
            if os.geteuid() == 0:  # not dumpable: the rest is for root to read
                assert os.stat(f"/proc/{pid}/maps").st_uid == 0
                maps = Path(f"/proc/{pid}/maps").read_text()
                assert " r-xp " in maps and not re.search(r" .wx. ", maps), "memory that is both written and executed"
                (mount,) = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
                assert " / / ro,nosuid,nodev,noexec" in mount and " tmpfs " in mount
                assert os.listdir(f"/proc/{pid}/root") == [] and os.readlink(f"/proc/{pid}/cwd") == "/"
                for kind in ("mnt", "ipc", "uts", "user") + (("pid",) if name == "worker" else ("net",)):
                    assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/{lab.pid}/ns/{kind}"), (name, kind)
        if os.geteuid() == 0:
            kinds = Counter(re.sub(r"[\d\[\]]", "", link) for link in descriptors(both["worker"]))
            # Control, helper and watcher, two for sock_diag; the log and the pipe of signals; the tap; the loop.
            wanted = {"/dev/null": 3, "socket:": 5, "pipe:": 3, "/dev/net/tun": 1, "anon_inode:eventpoll": 1}
            assert kinds == wanted | ({f"{BIG}/state.pcap": 1} if capture else {})
            assert Counter(re.sub(r"[\d\[\]]", "", link) for link in descriptors(both["helper"])) == {"/dev/null": 3, "socket:": 1}


@pytest.mark.parametrize("prefix", [("unshare", "-Ur", "--") * 2, (sys.executable, REFUSE, "-")], ids=["nested", "filtered"])
def test_every_layer_closes_where_others_have_been_before(lab: Lab, prefix: tuple[object, ...]) -> None:
    script = f"ping -qc1 -W20 {REMOTE4} >/dev/null; sed -n 's/Seccomp_filters:.//p' /proc/self/status"
    done = lab.host.run(*prefix, program(), "--config-net", "--", "sh", "-ec", script)
    assert "sandbox" not in done.stderr, done.stderr
    assert done.stdout.strip() == ("0" if prefix[0] == "unshare" else "1")


def unix(address: bytes) -> tuple[str, int]:
    """struct sockaddr_un as `inject` takes it, and its length."""
    packed = struct.pack("=H", socket.AF_UNIX) + address
    return f"#{packed.hex()}", len(packed)


def test_the_socket_to_syslog_reaches_nobody_else(lab: Lab) -> None:
    """Not an abstract address of the host's network namespace (by Landlock), nor one in its file system (by the empty root)."""
    with started(lab, _LISTEN), lab.stray() as guest:
        addresses = [unix(b"\0breakout"), unix(b"/run/netns/breakout.sock\0")]
        for address in addresses:
            assert free(lab, [("socket", socket.AF_UNIX, 2, 0), ("connect", "$", *address)], 0) == 0
        lab.host.run(program(), "--config-net", lab.inner_pid(guest.pid))
        pid = lab.translator().pid
        links = {int(fd): os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        table = [line.split() for line in lab.host.run("cat", "/proc/net/unix").stdout.splitlines()[1:]]
        datagram = {f"socket:[{inode}]" for _, _, _, _, kind, _, inode, *_ in table if int(kind) == socket.SOCK_DGRAM}
        (log,) = [fd for fd, link in links.items() if link in datagram]
        abstract, named = (worker(lab, guest).call("connect", log, *address) for address in addresses)
        assert abstract == f"returned {-errno.EPERM}"
        assert named in (f"returned {-errno.ENOENT}", f"returned {-errno.EACCES}")
        assert worker(lab, guest).call("sendto", log, "=x", 1, 0, *addresses[0]) == f"returned {-errno.EPERM}"
    wait_until(lambda: not lab.translators(), 5, "the worker is gone with its guest")


def test_a_layer_that_is_refused_costs_one_line(lab: Lab) -> None:
    prefix = (sys.executable, REFUSE, "317" if platform.machine() == "x86_64" else "277")  # seccomp(2)
    done = lab.host.run(*prefix, program(), "--config-net", "--", "ping", "-qc1", "-W20", REMOTE4)
    (line,) = [line for line in done.stderr.splitlines() if "sandbox" in line]
    assert line == "pasta: warning: sandbox: no filter on system calls: Operation not permitted"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.unsanitized if name == "advise on memory" else ()) for name in ATTEMPTS]
)
def test_an_attempt_from_inside_ends_the_worker(lab: Lab, victim: int, name: str) -> None:
    calls = ATTEMPTS[name]
    assert free(lab, calls, victim) >= 0
    with lab.guest() as guest:
        target = worker(lab, guest)
        assert target.call(*fill(calls[-1], "0", victim)) == f"killed {SIGSYS}"


@pytest.mark.parametrize("name", HELPER)
def test_an_attempt_from_inside_ends_the_helper(lab: Lab, victim: int, name: str) -> None:
    with lab.guest():
        target = Target(lab, lab.inner_pid(helper(lab)))
        assert target.call(*fill(ATTEMPTS[name][-1], "0", victim)) == f"killed {SIGSYS}"


def test_an_attempt_from_inside_the_captures_thread_ends_the_worker(lab: Lab) -> None:
    with lab.guest("--pcap", f"{BIG}/breakout.pcap"):
        pid = lab.translator().pid
        names = {task: (Path(f"/proc/{pid}/task/{task}/comm")).read_text() for task in os.listdir(f"/proc/{pid}/task")}
        (thread,) = [int(task) for task, name in names.items() if name == "pasta-capture\n"]
        assert Target(lab, lab.inner_pid(thread)).call(*ATTEMPTS["open a file"][-1]) == f"killed {SIGSYS}"


def test_the_foreground_says_what_ended_the_worker(lab: Lab) -> None:
    with lab.guest("--stderr") as guest:
        assert worker(lab, guest).call("unshare", 0) == f"killed {SIGSYS}"
        wait_until(lambda: not lab.translators(), 5, "the worker has ended")
        guest.process.terminate()
        assert guest.process.stderr is not None
        (line,) = [line for line in guest.process.stderr if "the worker process ended" in line]
        assert "by its sandbox, for a system call that is not allowed" in line
