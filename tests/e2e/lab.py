"""A hermetic host for whole-program tests: namespaces for the host, the remote machine and a router between them.

The host is a user namespace of an ordinary user (of UID 1000 where the tests themselves run as root), in which that
same user runs the program without any capability; only the set-up commands get capabilities. Nothing leaves the
namespaces, and they end, with everything inside, when the Lab is closed or the test process dies.

    host  --veth--  remote                  addresses: see `dual()`
    host  --veth--  router  --veth--  remote    with `routed()`, where the second link has its own MTU

The program under test is $PASTA_UNDER_TEST: the path of something that takes pasta's command line, or "direct", which
runs guest commands on the host itself, to check the tests. Default: `pasta` beside the Python that runs the tests.
"""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE.parent / "programs"  # what tests start as processes of their own
UID = os.geteuid() or 1000
HOST4, HOST6 = "192.0.2.2", "2001:db8::2"
GATEWAY4, GATEWAY6 = "192.0.2.1", "2001:db8::1"
REMOTE4, REMOTE6 = "192.0.2.10", "2001:db8::10"
FAR4, FAR6 = "198.51.100.10", "2001:db8:1::10"  # the remote, behind the router
REMOTES = {4: REMOTE4, 6: REMOTE6}
HOSTS = {4: HOST4, 6: HOST6}
GATEWAYS = {4: GATEWAY4, 6: GATEWAY6}
PATIENCE_S = 30.0  # for what has to come, on a machine however busy; whoever waits goes on at once
WITHOUT_TAP = ("pasta-helper", "pasta-watch", "pasta-apply")  # forks of the translator
BIG = "/run/big"  # memory-backed, private to each lab: for captures and the files of bulk transfers
#: Options: nothing is forwarded, and nothing looks for ports once a second.
NO_PORTS = ("-t", "none", "-u", "none", "-T", "none", "-U", "none")


def program(name: str = "pasta") -> str:
    """The path of the entry point to test, or "direct"."""
    chosen = os.environ.get("PASTA_UNDER_TEST")
    if chosen == "direct":
        return chosen
    if chosen and name == "pasta":
        return os.path.abspath(chosen)
    path = (Path(chosen) if chosen else Path(sys.executable)).parent / name
    if not path.exists():
        raise RuntimeError(f"{path} does not exist: install the project beside this Python, or set PASTA_UNDER_TEST")
    return str(path)


@functools.cache
def tool(name: str = "labtool") -> str:
    """Compile one of the C files of tests/programs once per run, where every user can execute it."""
    where = tempfile.TemporaryDirectory(prefix="pasta-labtool-")
    _keep.append(where)
    os.chmod(where.name, 0o755)
    path = f"{where.name}/{name}"
    flags = ["-std=c11", "-O2", "-pthread", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *flags, "-o", path, PROGRAMS / f"{name}.c"], check=True)
    return path


def closed_directories() -> list[str]:
    """CLOSED=NEEDED[:NEEDED] for each directory that UID may not enter and that what we run lies in."""
    needed = [Path(sys.base_prefix), Path(sys.prefix), HERE.parents[1]]
    needed += [Path(program()).parent] if program() != "direct" else []
    views: dict[Path, list[Path]] = {}
    for path in sorted(set(map(Path.resolve, needed))):
        closed = [above for above in path.parents if not above.stat().st_mode & 0o001]
        if closed and not any(path.is_relative_to(taken) for taken in views.get(closed[-1], [])):
            views.setdefault(closed[-1], []).append(path)
    return [f"{closed}={':'.join(map(str, paths))}" for closed, paths in views.items()] if os.geteuid() == 0 else []


_keep: list[tempfile.TemporaryDirectory[str]] = []


def wait_until(true: Callable[[], object], seconds: float, what: str) -> None:
    """Fail unless `true()` holds within `seconds`, or as long as that may take where the machine is busy."""
    started = time.monotonic()
    while not true():
        if time.monotonic() > started + max(seconds, PATIENCE_S):
            raise AssertionError(f"not within {time.monotonic() - started:.0f} s, where {seconds} should do: {what}")
        time.sleep(0.02)


class Space:
    """A place to run commands in: the namespaces of `pid`, with the network namespace of `net` where that is set."""

    def __init__(self, lab: "Lab", pid: int, net: int = 0) -> None:
        self.lab, self.pid, self.net = lab, pid, net

    def argv(self, command: Sequence[object], caps: bool = False) -> list[str]:
        head = [tool(), "enter", str(UID), str(self.lab.pid), str(self.pid), str(self.net), "caps" if caps else "plain"]
        return head + [str(word) for word in command]

    def popen(self, *command: object, caps: bool = False, **options: object) -> "subprocess.Popen[str]":
        """Start a command; its output is captured unless told otherwise. It ends with the lab at the latest."""
        settings: dict[str, object] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "env": self.lab.environment(),
            "cwd": self.lab.directory,
        }
        process = subprocess.Popen(self.argv(command, caps), **{**settings, **options})  # type: ignore[call-overload]
        self.lab.processes.append(process)
        return process

    def run(
        self, *command: object, caps: bool = False, timeout: float = 120, check: bool = True, input: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, at most `timeout` seconds; a nonzero exit fails the test unless check=False."""
        process = self.popen(*command, caps=caps)
        try:
            out, err = process.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"no end within {timeout} s: {command}\n{out}\n{err}") from None
        if check and process.returncode:
            raise AssertionError(f"exit status {process.returncode}: {command}\n{out}\n{err}")
        return subprocess.CompletedProcess(list(command), process.returncode, out, err)

    def setup(self, text: str) -> None:
        """Run `ip` commands, one a line, with the rights to do so."""
        lines = [f"ip {line}" for line in text.splitlines()]
        self.run("sh", "-ec", "\n".join(lines), caps=True)

    def sysctl(self, **values: object) -> None:
        """Write sysctls under net/, given with '__' for '/'."""
        lines = [f"echo '{v}' > /proc/sys/net/{k.replace('__', '/')}" for k, v in values.items()]
        self.run("sh", "-ec", "\n".join(lines), caps=True)

    def script(self, name: str, *args: object, timeout: float = 120) -> dict[str, object]:
        """Run one of the traffic programs (tests/programs); the JSON object that it printed."""
        return dict(json.loads(self.run(sys.executable, PROGRAMS / name, *args, timeout=timeout).stdout))

    def start(self, name: str, *args: object) -> "Script":
        """Start one of the traffic programs as a server; returns when it has said that it is ready."""
        return Script(self.popen(sys.executable, PROGRAMS / name, *args))

    def serve(self, *command: object, port: int, proto: str = "tcp", caps: bool = False) -> "subprocess.Popen[str]":
        """Start a server and wait until something listens on the port."""
        log = open(self.lab.directory / "servers.log", "ab")  # noqa: SIM115 (the child keeps it)
        process = self.popen(*command, caps=caps, stdout=log, stderr=log)
        log.close()
        option = "-tlnH" if proto == "tcp" else "-ulnH"
        wait_until(
            lambda: process.poll() is not None or self.run("ss", option, f"sport = :{port}").stdout,
            10,
            f"{command} listening on {port}",
        )
        assert process.poll() is None, (self.lab.directory / "servers.log").read_text()
        return process


class Script:
    """A running traffic program, which prints "ready", and a JSON object when it is done."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        if line != "ready\n":
            raise AssertionError(f"traffic program said {line!r}\n{process.stderr.read()}")

    def result(self, timeout: float = 120) -> dict[str, object]:
        """Close its input, which tells a server to finish, and return what it printed."""
        return self.finished(self.process, timeout)

    @staticmethod
    def finished(process: "subprocess.Popen[str]", timeout: float = 120) -> dict[str, object]:
        """The same for a program that was started by other means, and says no "ready"."""
        out, err = process.communicate(timeout=timeout)
        assert process.returncode == 0, err
        return dict(json.loads(out))


class Lab:
    """The namespaces of one hermetic host; a context manager."""

    def __init__(
        self, build: "Callable[[Lab], None] | None" = None, mapped_root: bool = False, pings: bool = True
    ) -> None:
        """`pings`: the host allows ping sockets; most do not."""
        self.uid = UID
        self.processes: list[subprocess.Popen[str]] = []
        self._directory = tempfile.TemporaryDirectory(prefix="pasta-e2e-", ignore_cleanup_errors=True)
        self.directory = Path(self._directory.name)
        resolv = self.directory / "resolv.conf"
        resolv.write_text("")
        os.chmod(self.directory, 0o755)
        if os.geteuid() == 0:
            os.chown(self.directory, UID, UID)
            os.chown(resolv, UID, UID)
        self._init = subprocess.Popen(
            [
                tool(),
                "init",
                str(UID),
                "root" if mapped_root else "user",
                resolv,
                "remote",
                "router",
                *closed_directories(),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._init.stdout is not None
        inner: dict[str, int] = {}
        for line in self._init.stdout:
            if line == "ready\n":
                break
            name, pid = line.split()
            inner[name] = int(pid)
        else:
            self.close()
            raise AssertionError("labtool init failed: are user namespaces allowed for ordinary users?")
        self.pid = next(iter(children(self._init.pid)))
        self.host = Space(self, self.pid)
        self.remote = Space(self, self.pid, inner["remote"])
        self.router = Space(self, self.pid, inner["router"])
        gid = 0 if mapped_root else UID
        for space in (self.host, self.remote, self.router):
            space.sysctl(
                ipv6__conf__default__accept_dad=0,
                ipv6__conf__default__dad_transmits=0,
                ipv6__conf__default__router_solicitations=0,
            )
            if pings:
                space.sysctl(ipv4__ping_group_range=f"{gid} {gid}")
            space.setup("link set lo up")
        for space in (self.remote, self.router):
            space.sysctl(ipv4__ip_unprivileged_port_start=0)
        self.host.run("mkdir", BIG, caps=True)
        self.host.run("chmod", "777", BIG, caps=True)
        self.host.run("chmod", "777", "/run/netns", caps=True)
        try:
            (build or dual)(self)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything that runs inside."""
        self._init.kill()
        for process in (self._init, *self.processes):
            process.kill()
            process.wait(PATIENCE_S)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
        self._directory.cleanup()

    def environment(self) -> dict[str, str]:
        kept = {
            k: v
            for k, v in os.environ.items()
            if k in ("PATH", "PYTHONPATH", "TMPDIR") or k.startswith(("COV", "GCOV", "LD_", "ASAN_", "UBSAN_"))
        }
        kept["PATH"] = kept.get("PATH", "") + ":/usr/sbin:/sbin"
        return {**kept, "HOME": str(self.directory), "LC_ALL": "C", "SHELL": "/bin/sh"}

    def resolv(self, text: str) -> None:
        """Set the contents of the host's /etc/resolv.conf."""
        (self.directory / "resolv.conf").write_text(text)

    def outer(self, path: str) -> Path:
        """How this process reaches a file inside the lab."""
        return Path(f"/proc/{self.pid}/root{path}")

    def descendants(self) -> list[int]:
        """PIDs, as seen from here, of everything that runs inside the lab."""
        found = [self._init.pid]
        for pid in found:
            found += children(pid)
        entered = [p.pid for p in self.processes if p.poll() is None]
        for pid in entered:
            entered += children(pid)
        return sorted(set(found[2:] + entered))

    def translators(self) -> list[int]:
        """PIDs, as seen from here, of the processes that hold a tap.

        Where we are not root, the translator's sandbox hides its descriptors from us, and shows it by that.
        """
        found = []
        for pid in self.descendants():
            try:
                holds = any("/dev/net/tun" in link for link in descriptors(pid))
            except PermissionError:
                holds = cmdline(pid)[:1] not in ([], [tool()]) and comm(pid) not in WITHOUT_TAP
            if holds:
                found.append(pid)
        return found

    def translator(self) -> "Translator":
        """The one process that holds a tap."""
        pids: list[int] = []

        def seen() -> bool:
            pids[:] = self.translators()
            return len(pids) == 1

        wait_until(seen, 5, "one process holds a tap")
        return Translator(pids[0])

    def inner_pid(self, pid: int) -> int:
        """The PID, as the host of the lab sees it, of a process seen from here; 0 if it is not inside, or has ended."""
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return 0
        ids = next(line for line in lines if line.startswith("NSpid:")).split()[1:]
        own = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("NSpid:"))
        depth = len(own.split()) - 1
        return int(ids[depth]) if len(ids) > depth else 0

    def held(self, what: str, token: str) -> int:
        """The PID, as seen from here, of the labtool that was started as "hold TOKEN" or "stray TOKEN"."""
        return self.descendant(lambda pid: cmdline(pid) == [tool(), what, token], f"{what} {token}")

    def descendant(self, wanted: "Callable[[int], bool]", what: str) -> int:
        """The PID, as seen from here, of the one process inside that is wanted, when it is there.

        The kernel's lists of children may lack one while another ends (proc_pid_children(5)), so a single look proves nothing.
        """
        found: list[int] = []

        def seen() -> bool:
            found[:] = [pid for pid in self.descendants() if wanted(pid)]
            return bool(found)

        wait_until(seen, 5, what)
        (pid,) = found
        return pid

    @contextlib.contextmanager
    def stray(self) -> "Iterator[Guest]":
        """New user, network and mount namespaces on the host, for the program to join."""
        token = f"stray-{len(self.processes)}"
        process = self.host.popen(tool(), "stray", token)
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield Guest(self, process, self.held("stray", token))
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait(PATIENCE_S)

    @contextlib.contextmanager
    def guest(
        self, *options: object, entry: str = "pasta", config: bool = True, limit: str = "", peer: "Path | None" = None
    ) -> "Iterator[Guest]":
        """A guest that stays while the test uses it, with the program in the foreground. `limit`: as for ulimit.

        `peer`: another pasta, for comparison.
        """
        token = f"guest-{len(self.processes)}"
        others = set(self.translators())
        if program(entry) == "direct" and peer is None:
            yield Guest(self, self.host.popen(tool(), "hold", token), self.pid)
            return
        command = [peer or program(entry), *(["--config-net"] if config else []), *options, "--", tool(), "hold", token]
        if limit:
            command = ["sh", "-c", f'ulimit {limit} && exec "$@"', "sh", *command]
        process = self.host.popen(*command)
        assert process.stdout is not None and process.stderr is not None
        if process.stdout.readline() != "held\n":
            raise AssertionError(f"the program did not start its command: {process.communicate(timeout=PATIENCE_S)[1]}")
        guest = Guest(self, process, self.held("hold", token))
        try:
            yield guest
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
            try:
                process.wait(PATIENCE_S)
            finally:
                process.kill()
        wait_until(lambda: others.issuperset(self.translators()), 5, "the program is gone after its command")


class Guest(Space):
    """A guest, entered as its root."""

    def __init__(self, lab: Lab, process: "subprocess.Popen[str]", pid: int) -> None:
        super().__init__(lab, pid)
        self.process = process

    def interface(self) -> str:
        """The name of the one interface that is not lo."""
        names = [str(link["ifname"]) for link in json.loads(self.run("ip", "-j", "link").stdout)]
        (name,) = [name for name in names if name != "lo"]
        return name


class Translator:
    """Measurements of the process that moves the packets."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def descriptors(self) -> int:
        """How many it has open."""
        try:
            return len(descriptors(self.pid))
        except PermissionError:
            count = os.stat(f"/proc/{self.pid}/fd").st_size  # since Linux 6.2
            assert count, "descriptors cannot be counted: this needs root, or Linux 6.2"
            return count

    def rss_kib(self) -> int:
        """Resident memory, KiB."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                return int(line.split()[1])
        raise AssertionError("no Rss line")


def children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def comm(pid: int) -> str:
    """The name of a process; "": it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def cmdline(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    return []


def descriptors(pid: int) -> list[str]:
    """What the descriptors of a process point at."""
    links: list[str] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return links


# Shapes of the host


def wire(lab: Lab, mtu: int = 65520, name: str = "eth0", peer: str = "eth0") -> None:
    """A link between host and remote, up, without addresses but the link-local ones."""
    net = lab.remote.net
    lab.host.setup(f"link add {name} mtu {mtu} up type veth peer name {peer} mtu {mtu} netns {net}")
    lab.remote.setup(f"link set {peer} up")


def remote_addresses(lab: Lab, link: str = "eth0") -> None:
    lab.remote.setup(
        f"""\
addr add {GATEWAY4}/24 dev {link}
addr add {REMOTE4}/24 dev {link}
addr add {GATEWAY6}/64 dev {link} nodad
addr add {REMOTE6}/64 dev {link} nodad
"""
    )


def dual(lab: Lab, mtu: int = 65520) -> None:
    """Both families, one address each, default routes to the remote."""
    wire(lab, mtu)
    remote_addresses(lab)
    lab.host.setup(
        f"""\
addr add {HOST4}/24 dev eth0
addr add {HOST6}/64 dev eth0 nodad
route add default via {GATEWAY4}
-6 route add default via {GATEWAY6}
"""
    )


# "unreachable" and "prohibit" routes of IPv4 have a limit of their own, which no namespace can change: 5 errors, then 1 a second.
REFUSED4 = """
table ip refused {
    chain forward {
        type filter hook forward priority filter;
        ip daddr 203.0.113.1 reject with icmp host-unreachable
        ip daddr 203.0.113.2 reject with icmp admin-prohibited
    }
}
"""


def routed(lab: Lab, far_mtu: int = 1400) -> None:
    """The remote is behind a router, on a link with a smaller MTU; the router also refuses some destinations."""
    lab.host.setup(f"link add eth0 mtu 65520 up type veth peer name near mtu 65520 netns {lab.router.net}")
    lab.router.setup(
        f"""\
link add far mtu {far_mtu} up type veth peer name eth0 mtu {far_mtu} netns {lab.remote.net}
link set near up
addr add {GATEWAY4}/24 dev near
addr add {GATEWAY6}/64 dev near nodad
addr add 198.51.100.1/24 dev far
addr add 2001:db8:1::1/64 dev far nodad
route add 203.0.113.0/30 dev far
route add blackhole 203.0.113.3
-6 route add unreachable 2001:db8:2::1
-6 route add prohibit 2001:db8:2::2
-6 route add blackhole 2001:db8:2::3
"""
    )
    lab.router.sysctl(
        ipv4__ip_forward=1, ipv6__conf__all__forwarding=1, ipv6__icmp__ratelimit=0, ipv4__icmp_ratelimit=0
    )
    lab.router.run("nft", "-f", "-", input=REFUSED4, caps=True)
    lab.remote.setup(
        f"""\
link set eth0 up
addr add {FAR4}/24 dev eth0
addr add {FAR6}/64 dev eth0 nodad
route add default via 198.51.100.1
-6 route add default via 2001:db8:1::1
"""
    )
    lab.host.setup(
        f"""\
addr add {HOST4}/24 dev eth0
addr add {HOST6}/64 dev eth0 nodad
route add default via {GATEWAY4}
-6 route add default via {GATEWAY6}
route add unreachable 203.0.113.11
-6 route add unreachable 2001:db8:2::11
"""
    )


def missing_tools(names: Sequence[str]) -> list[str]:
    """Those of the programs that this machine does not have."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [name for name in names if shutil.which(name, path=path) is None]
