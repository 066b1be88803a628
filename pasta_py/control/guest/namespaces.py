"""Finding, opening, watching and entering the namespaces of a guest.

A Guest owns descriptors of namespaces, not paths, whose meaning may change meanwhile. `call_inside` does its work in a short-lived
child, so that the calling process keeps its namespaces (rejected: setns in control and back, since a joined user namespace
cannot be left again). A process that has nothing else to do uses `stay_inside`.
"""

import _socket
import errno
import fcntl
import posix as os  # lean imports: docs/architecture.md
import sys

from pasta_py import defaults, worker_protocol
from pasta_py.control.exit_stack import ExitStack
from pasta_py.control.guest import syscalls
from pasta_py.errors import HostError, PastaError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # lean imports: docs/architecture.md
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    Job: TypeAlias = "Callable[[], tuple[worker_protocol.Value, Sequence[int]]]"
else:
    import _signal

_NETNS_DIRECTORY = "/run/netns"  # where ip-netns(8) keeps names
_NS_GET_USERNS, _NS_GET_NSTYPE = 0xB701, 0xB703  # ioctl_ns(2)
_STAY_S = 180  # the rest of a start, whose last step has a limit of 60 s
_UNKNOWN = -1  # what the kernel shows for a process that has ended
_MAX_REPLY_BYTES = 64 << 10
_GONE = (
    syscalls.IN_DELETE
    | syscalls.IN_MOVED_FROM
    | syscalls.IN_MOVED_TO
    | syscalls.IN_DELETE_SELF
    | syscalls.IN_MOVE_SELF
    | syscalls.IN_ONLYDIR
)
_FILES = {"network": "net", "user": "user"}
_MISSING = os.strerror(errno.ENOENT)  # in the words of pasta and slirp4netns, for callers that look for them


class Guest:
    """Descriptors of a guest's namespaces; -1 is "none". Closed by `close`."""

    def __init__(self, netns: int = -1, userns: int = -1, pidfd: int = -1, inotify: int = -1, name: str = "") -> None:
        self.netns, self.userns, self.pidfd, self.inotify, self.name = netns, userns, pidfd, inotify, name
        self.watch = 0  # the number that inotify has for the directory with the name

    def close(self) -> None:
        for fd in (self.netns, self.userns, self.pidfd, self.inotify):
            if fd >= 0:
                os.close(fd)
        self.netns = self.userns = self.pidfd = self.inotify = -1


def by_pid(pid: int, *, netns_only: bool = False, userns: str = "", watch: bool = True) -> Guest:
    """The network namespace of a process, and its user namespace or the one at `userns`.

    Watched until that process ends. HostError if there is no such process, or it is not ours.
    """
    with ExitStack() as stack:
        guest = Guest()
        stack.callback(guest.close)
        net_path = f"/proc/{pid}/ns/net"
        # The pidfd comes first: if the PID is used again meanwhile, the pidfd shows that the process has ended.
        pidfd = _open_pidfd(pid)
        if pidfd < 0:
            raise HostError(f"Couldn't open network namespace {net_path}: {_MISSING}: give the PID of a process that runs")
        guest.pidfd = pidfd
        if _number_on_procfs(pidfd) not in (pid, _UNKNOWN):
            raise HostError(f"Couldn't open network namespace {net_path}: /proc is another PID namespace's: mount this one's there")
        guest.netns = _open_namespace(net_path, "network", syscalls.CLONE_NEWNET)
        if not netns_only:
            guest.userns = _open_userns(userns or f"/proc/{pid}/ns/user")
        if syscalls.readable(pidfd, 0):
            raise HostError(f"Couldn't open network namespace {net_path}: process {pid} has ended")
        if not watch:
            os.close(pidfd)
            guest.pidfd = -1
        stack.pop_all()
        return guest


def by_path(path: str, *, userns: str = "", watch: bool = True) -> Guest:
    """The network namespace at a path, or under /run/netns for a bare name; joined through `userns` if given."""
    full = path if "/" in path else f"{_NETNS_DIRECTORY}/{path}"
    with ExitStack() as stack:
        guest = Guest()
        stack.callback(guest.close)
        guest.netns = _open_namespace(full, "network", syscalls.CLONE_NEWNET)
        if userns:
            guest.userns = _open_userns(userns)
        if watch:
            _watch(guest, full)
        stack.pop_all()
        return guest


def _watch(guest: Guest, path: str) -> None:
    words = path.split("/")
    on_procfs = words[:2] == ["", "proc"] and len(words) > 3
    owner = words[2] if on_procfs and words[2].isdecimal() else ""
    if owner:
        guest.pidfd = _open_pidfd(int(owner))
        if guest.pidfd < 0:
            raise HostError(f"Couldn't open network namespace {path}: {_MISSING}: give the path of a process that runs")
    if on_procfs and (owner or words[2] == "self"):
        of_thread = len(words) == 7 and words[3] == "task" and words[4].isdecimal()
        if (of_thread or len(words) == 5) and words[-2] in ("ns", "fd"):
            return  # inotify does not work on procfs
    directory, _, name = path.rpartition("/")
    directory = directory or "/"
    try:
        guest.inotify, guest.watch = syscalls.inotify_watch(directory, _GONE)
        guest.name = name
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise HostError(f"Couldn't watch {directory} for the end of the namespace: {error.strerror}") from None
        _look_for(guest, path)
    try:
        os.stat(path)
    except OSError as error:
        raise HostError(f"Couldn't open network namespace {path}: {error.strerror}") from None


def _look_for(guest: Guest, path: str) -> None:
    """Watch the path without inotify, for a user whose 128 instances of it are all in use.

    A shell looks once a second and ends when the path is gone. Its end is what the worker waits for; it may outlive the worker.
    """
    null = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]
    look = ["sh", "-c", 'while [ -e "$1" ]; do sleep 1; done', "sh", path]
    try:
        looker = os.posix_spawn("/bin/sh", look, {"PATH": "/usr/bin:/bin"}, file_actions=null, setsid=True)
        if guest.pidfd >= 0:  # of the process in the path: the path ends when it does, so one is enough
            os.close(guest.pidfd)
            guest.pidfd = -1
        guest.pidfd = os.pidfd_open(looker)
    except OSError as error:
        raise HostError(f"Couldn't watch {path} for the end of the namespace: {reason(error)}") from None


def _open_pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    except OSError as error:
        raise HostError(f"Couldn't watch process {pid}: {reason(error)}") from None


def _number_on_procfs(pidfd: int) -> int:
    """The process's PID in the PID namespace of /proc, which may not be ours; proc_pid_fdinfo(5)."""
    try:
        with open(f"/proc/self/fdinfo/{pidfd}", encoding="utf-8") as file:
            for line in file:
                word, _, number = line.partition(":")
                if word == "Pid":
                    return int(number)
    except OSError:  # no /proc: opening the namespace fails, and says so
        pass
    return _UNKNOWN


def _open_namespace(path: str, kind: str, flag: int) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"Couldn't open {kind} namespace {path}: {reason(error, _hint(path, error))}") from None
    try:
        found = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        found = 0
    if found != flag:
        os.close(fd)
        instead = f"give a path such as /proc/PID/ns/{_FILES[kind]}"
        raise HostError(f"Couldn't open {kind} namespace {path}: it is no {kind} namespace: {instead}")
    return fd


def _hint(path: str, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "only its owner and root can open it"
    if not isinstance(error, FileNotFoundError):
        return ""
    if path.startswith("/run/netns/"):
        return "`ip netns list` shows those there are"
    if path.startswith("/proc/") and not os.access("/proc/self", os.F_OK):
        from pasta_py.control.requirements import why_no_namespace

        return str(why_no_namespace.NO_PROC)
    return "give the path of one that exists, if it has not just ended"


def _open_userns(path: str) -> int:
    """A descriptor of the user namespace, or -1 when we are in it already (the kernel refuses to join it again)."""
    fd = _open_namespace(path, "user", syscalls.CLONE_NEWUSER)
    theirs, ours = os.fstat(fd), os.stat("/proc/self/ns/user")
    if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino):
        os.close(fd)
        return -1
    return fd


def join(guest: Guest) -> None:
    """Enter the guest's user namespace, then its network namespace. There is no way back."""
    syscalls.be_private()  # or the guest's root could trace us, and reach the host's files through us
    if guest.userns >= 0:
        try:
            syscalls.setns(guest.userns, syscalls.CLONE_NEWUSER)
        except OSError as error:
            why = f"{error.strerror}: it must belong to this user"
            raise HostError(f"Couldn't join the user namespace: {why}") from None
    try:
        syscalls.setns(guest.netns, syscalls.CLONE_NEWNET)
    except PermissionError as error:
        raise HostError(f"Couldn't join the network namespace: {error.strerror}: {_why_not_join(guest)}") from None
    except OSError as error:
        raise HostError(f"Couldn't join the network namespace: {reason(error)}") from None


def _why_not_join(guest: Guest) -> str:
    """What it would take to join a network namespace that refused us."""
    try:
        owner = fcntl.ioctl(guest.netns, _NS_GET_USERNS)
    except OSError:  # the owner is an ancestor of our user namespace
        return "it belongs to the host, which only root can join"
    try:
        same = os.fstat(owner).st_ino == os.stat("/proc/self/ns/user").st_ino
    finally:
        os.close(owner)
    if same:
        return "only root can join it, or a program with CAP_SYS_ADMIN in this user namespace"
    return "give its user namespace with --userns" if guest.userns < 0 else "its user namespace is another one"


def stay_inside(guest: Guest, job: "Job") -> "tuple[worker_protocol.Value, list[int]]":
    """As `call_inside`, but this process itself joins the guest and stays there. That saves 1 ms where it needs the host no more.

    From then on the guest's root may be able to stop it: a timer ends it, so that its caller need not wait without limit.
    """
    try:
        syscalls.die_after(_STAY_S)
    except OSError:
        pass  # no timer is free: go on without the limit
    join(guest)
    try:
        value, fds = job()
    except OSError as error:
        raise _failed(error) from None
    return value, list(fds)


def call_inside(guest: Guest, job: "Job", timeout_s: float = defaults.INSIDE_S) -> "tuple[worker_protocol.Value, list[int]]":
    """Run `job` in a child that has joined the guest; returns its value and its descriptors (ours to close).

    A PastaError of the job is raised here with the same text; the child never outlives the call.
    """
    flush_streams()
    parent = os.getpid()
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        child = os.fork()
        if child == 0:
            _inside(guest, job, theirs, parent)
        theirs.close()
        try:
            return _collect(ours, timeout_s)
        finally:
            _end(child, 1.0)
    finally:
        ours.close()
        theirs.close()


def map_ids(uid: int, gid: int) -> None:
    """Become root of the user namespace that this process has made. OSError with the name of the file that refuses."""
    # user_namespaces(7): an ordinary user may map its own IDs only, and its group only after setgroups is denied.
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        write_setting(f"/proc/self/{name}", text)


def write_setting(path: str, text: str) -> None:
    """Write one of the kernel's settings; OSError with its path."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def flush_streams() -> None:
    """Flush before a fork, so that nothing is written twice. A stream that our caller closed is None."""
    for stream in (sys.stdout, sys.stderr):
        if stream:
            stream.flush()


def _end(child: int, wait_s: float) -> None:
    """Reap the child; kill it first if it still runs after `wait_s`."""
    ended = False
    try:
        pidfd = os.pidfd_open(child)
        try:
            ended = syscalls.readable(pidfd, wait_s)
        finally:
            os.close(pidfd)
    finally:
        if not ended:
            os.kill(child, _signal.SIGKILL)
        os.waitpid(child, 0)


def _inside(guest: Guest, job: "Job", sock: "_socket.socket", parent: int) -> None:
    """The child's part of call_inside; never returns."""
    status = 1
    try:
        join(guest)
        syscalls.set_parent_death_signal(_signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        value, fds = job()
        rights = [worker_protocol.rights(fds)] if fds else []
        sock.sendmsg([worker_protocol.encode((True, value))], rights)
        status = 0
    except (PastaError, OSError) as error:
        sock.send(worker_protocol.encode((False, str(_failed(error) if isinstance(error, OSError) else error))))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _failed(error: OSError) -> HostError:
    return HostError(f"Couldn't set up the namespace: {reason(error)}")


def _collect(sock: "_socket.socket", timeout_s: float) -> "tuple[worker_protocol.Value, list[int]]":
    sock.settimeout(timeout_s)
    try:
        data, ancillary, _flags, _address = sock.recvmsg(_MAX_REPLY_BYTES, _socket.CMSG_SPACE(64), _socket.MSG_CMSG_CLOEXEC)
    except TimeoutError:
        late = f"no answer from inside within {timeout_s:g} s"
        raise HostError(f"Couldn't set up the namespace: {late}: is the machine overloaded?") from None
    fds = [fd for _level, _kind, payload in ancillary for fd in worker_protocol.descriptors(payload)]
    reply = worker_protocol.decode(data) if data else None
    if not isinstance(reply, tuple) or len(reply) != 2:
        raise HostError("Couldn't set up the namespace: the process that configures it died: was it killed, or is memory short?")
    ok, value = reply
    if ok is not True:
        raise HostError(str(value))
    return value, fds
