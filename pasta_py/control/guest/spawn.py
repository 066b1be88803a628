"""A command in new namespaces: three short-lived processes that start early and wait.

    control ── entrant     makes the namespaces, forks the first process of the new PID namespace, ends
       └────── init        that process; adopts orphans, ends with the command and kills what is left
                 └── command

The command is not the first process itself, unless the caller asks for that (`as_pid_1`): the kernel shields that one from most
signals, Ctrl-C among them. All stay in control's process group, so that the terminal treats them as one job.

Control sends "arm" (the entrant is gone: from now on die with control), then, for a command that needs a resolv.conf of
its own, the View for it, then "run". When control ends, even by SIGKILL, all of them end. Exit statuses: init's is
the command's, 128+n for death by signal n.
"""

import _socket
import errno
import posix as os  # lean imports: docs/architecture.md
import sys

from pasta_py import defaults, descriptors, worker_protocol
from pasta_py.control.commandline.notices import refuse, warn
from pasta_py.control.guest import syscalls
from pasta_py.control.guest.environment import environment
from pasta_py.control.guest.namespaces import flush_streams, map_ids, write_setting
from pasta_py.errors import HostError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # lean imports: docs/architecture.md
    from collections.abc import Mapping, Sequence

    from pasta_py.control.guest.own_resolv_conf import OwnResolv
    from pasta_py.control.planning.resolv_conf import View
else:
    import _signal

_REPLY_BYTES = 4096
_VIEW_BYTES = 64 << 10
_FAILED = 1
_CANNOT_EXECUTE, _NOT_FOUND = 126, 127  # exit statuses of a shell (POSIX, XCU 2.8.2)
_DEFAULT_PATH = b"/bin:/usr/bin"  # where there is no $PATH
_PROC_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
_MADE = b"made"  # the answer of a child whose namespaces are complete
_PING_GROUPS = "/proc/sys/net/ipv4/ping_group_range"
_MAX_HOSTNAME_BYTES = 64  # __NEW_UTS_LEN
# Signals that a terminal or a user sends to the whole job: init ignores them, the command handles them.
_FOR_COMMAND = (
    _signal.SIGINT,
    _signal.SIGQUIT,
    _signal.SIGTSTP,
    _signal.SIGTTIN,
    _signal.SIGTTOU,
    _signal.SIGHUP,
    _signal.SIGTERM,
)
_HINTS = {
    errno.ENOENT: "give the path of a program, or the name of one in $PATH",
    errno.EACCES: "is it a program that this user may execute?",
    errno.ENOEXEC: "it is no program, and a script names its interpreter in its first line",
}


class Command:
    """A command that waits in its namespaces; `pid` is init's, as control sees it."""

    def __init__(self, pid: int, sock: _socket.socket) -> None:
        self.pid, self._sock = pid, sock
        self.ended = False  # set by start/foreground.py, which reaps it

    def see(self, view: "View") -> None:
        """Before `run`: give it a resolv.conf of its own."""
        self._send(worker_protocol.encode(tuple(view.__dict__.values())))

    def run(self) -> None:
        """Let it start."""
        self._send(b"run")

    def _send(self, message: bytes) -> None:
        try:
            self._sock.send(message)
        except OSError:
            raise HostError("Failed to start command or shell: its namespace is gone") from None

    def close(self) -> None:
        """End it, started or not."""
        self._sock.close()
        if not self.ended:
            try:
                os.kill(self.pid, _signal.SIGKILL)
            except ProcessLookupError:
                pass


def argv_of(command: "Sequence[str]") -> tuple[str, list[str]]:
    """The file to execute and its arguments; without a command, the user's shell as a login shell."""
    if command:
        return command[0], list(command)
    shell = login_shell()
    prompt = ["-C", "eval $_pasta_py_fish"] if b"_pasta_py_fish" in os.environ else []
    return shell, ["-" + shell.rpartition("/")[2], *prompt]


def login_shell() -> str:
    """The path of the user's shell."""
    return _decoded(os.environ.get(b"SHELL") or b"/bin/sh")


def _decoded(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def prepare(
    command: "Sequence[str]", *, program: str, hostname: str = "", pidns: bool = True, as_pid_1: bool = False, userns: bool = True,
    stdout: int = 1, kept: "Sequence[str] | None" = None,
) -> Command:  # fmt: skip
    """Make the namespaces for a command, which then waits there. HostError when the kernel refuses them.

    `program`: whose name error lines begin with. A command that cannot be executed ends with status 126 or 127 under pasta-py, as
    under a shell, and with 1 under other names. `as_pid_1`: the command is the first process of its PID namespace. `stdout`: the
    descriptor that becomes its standard output. `kept`: for --sandbox, paths that stay in directories that are covered
    (sandbox_files.py); None: no directory is.
    """
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    flush_streams()
    entrant = os.fork()
    if entrant == 0:
        ours.close()
        os.dup2(stdout, 1)
        if kept is not None:
            _enter_covered(theirs, program, command, hostname_of(hostname), kept, as_pid_1=as_pid_1)
        _enter(theirs, program, command, hostname_of(hostname), pidns=pidns, as_pid_1=as_pid_1, userns=userns)
    theirs.close()
    try:
        ours.settimeout(defaults.COMMAND_SETUP_S)
        try:
            reply = worker_protocol.decode(ours.recv(_REPLY_BYTES) or b"n")
        except TimeoutError:
            reply = "Couldn't create namespaces: no answer for too long"
            os.kill(entrant, _signal.SIGKILL)
        if pidns or not isinstance(reply, int):  # else the entrant has become init
            os.waitpid(entrant, 0)
        if not isinstance(reply, int):
            raise HostError(str(reply or "Couldn't create namespaces: the process that does it died"))
        ours.send(b"arm")
        ours.settimeout(None)
    except BaseException:
        ours.close()
        raise
    return Command(reply, ours)


def hostname_of(wanted: str) -> str:
    """The name of a command's UTS namespace. `wanted`: --hostname, or ""."""
    name = wanted or f"pasta-{os.uname().nodename}"
    return name.encode("utf-8", "surrogateescape")[:_MAX_HOSTNAME_BYTES].decode(errors="ignore")


# ---- in the entrant and its descendants: nothing below returns to the caller ----


def _enter(
    sock: _socket.socket, program: str, command: "Sequence[str]", hostname: str, *, pidns: bool, as_pid_1: bool, userns: bool
) -> None:
    try:
        _close_others(sock)
        _make_namespaces(program, hostname, pidns=pidns, userns=userns)
        if not pidns:
            sock.send(worker_protocol.encode(os.getpid()))
            _init(sock, program, command, pidns=False)
        child = os.fork()
        if child == 0:
            _init(sock, program, command, pidns=True, as_pid_1=as_pid_1)
        sock.send(worker_protocol.encode(child))
        os._exit(0)
    except HostError as error:
        sock.send(worker_protocol.encode(str(error)))
    except OSError as error:
        sock.send(worker_protocol.encode(str(_refusal(error))))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(_FAILED)


def _enter_covered(
    sock: _socket.socket, program: str, command: "Sequence[str]", hostname: str, kept: "Sequence[str]", *, as_pid_1: bool
) -> None:
    """As _enter, in a user namespace inside another one, which makes mounts that the command's root cannot take off.

    The fresh /proc is one of them: below it lies the host's. So the PID namespace belongs to the outer one.
    """
    # The last two are for what comes later: the package itself may lie in a directory that is covered.
    from pasta_py.control.guest import own_resolv_conf, sandbox_files, try_namespaces  # noqa: F401

    uid, gid = os.geteuid(), os.getegid()
    try:
        _close_others(sock)
        _unshare_or_explain(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID)
        map_ids(uid, gid)
        syscalls.mount("", "/", "", syscalls.MS_SLAVE | syscalls.MS_REC)
        try:
            sandbox_files.cover(kept)
        except OSError as error:
            raise HostError(f"--sandbox: the host's directories cannot be covered: {error.filename}: {reason(error)}") from None
        here, there = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(here)
            _init_covered(sock, there, program, command, hostname, as_pid_1=as_pid_1)
        os.close(there)
        reply = os.read(here, _REPLY_BYTES)
        sock.send(worker_protocol.encode(child if reply == _MADE else reply.decode() or "Couldn't create namespaces"))
        os._exit(0)
    except (HostError, OSError) as error:
        sock.send(worker_protocol.encode(_told(error)))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(_FAILED)


def _init_covered(
    sock: _socket.socket, answer: int, program: str, command: "Sequence[str]", hostname: str, *, as_pid_1: bool
) -> None:
    try:
        try:
            syscalls.mount("proc", "/proc", "proc", _PROC_FLAGS)
        except OSError as error:
            why = "in a container, let it have one (--security-opt unmask=ALL)"
            raise HostError(f"--sandbox: no fresh /proc for the command: {error.strerror}: {why}") from None
        _make_namespaces(program, hostname, pidns=False, userns=True)
        os.write(answer, _MADE)
    except (HostError, OSError) as error:
        os.write(answer, _told(error).encode())
        os._exit(_FAILED)
    os.close(answer)
    _init(sock, program, command, pidns=True, as_pid_1=as_pid_1, proc=False)


def _told(error: "HostError | OSError") -> str:
    return str(_refusal(error) if isinstance(error, OSError) else error)


def _close_others(sock: _socket.socket) -> None:
    """Close control's other sockets and files: their readers wait for the last descriptor to close."""
    descriptors.close_from(3, {sock.fileno()})


def _make_namespaces(program: str, hostname: str, *, pidns: bool, userns: bool) -> None:
    uid, gid = os.geteuid(), os.getegid()
    flags = syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
    flags |= (syscalls.CLONE_NEWPID if pidns else 0) | (syscalls.CLONE_NEWUSER if userns else 0)
    _unshare_or_explain(flags, userns=userns)
    if userns:
        map_ids(uid, gid)
    syscalls.set_hostname(hostname)
    try:
        # Ping sockets for the guest's root, as under passt's pasta. The setting is per network namespace.
        write_setting(_PING_GROUPS, "0 0")
    except OSError as error:  # in a container, /proc/sys is often read-only
        warn(program, f"the command gets no ping sockets: {_PING_GROUPS}: {error.strerror}")
    syscalls.mount("", "/", "", syscalls.MS_SLAVE | syscalls.MS_REC)


def _unshare_or_explain(flags: int, *, userns: bool = True) -> None:
    try:
        syscalls.unshare(flags)
    except OSError as error:
        if not userns and error.errno == errno.EPERM:
            why = "only root can with --netns-only: leave it out"
            raise HostError(f"Couldn't create namespaces: {error.strerror}: {why}") from None
        raise _refusal(error, userns=userns) from None


def _refusal(error: OSError, *, userns: bool = True) -> HostError:
    """Which of the namespaces is refused, and by what. `error` of unshare has no file name, one of a setting has."""
    from pasta_py.control.guest import try_namespaces

    number, path = error.errno or 0, str(error.filename or "fork")
    if reason(error) != error.strerror:  # a shortage of memory, processes or descriptors
        return HostError(f"Couldn't set up namespaces: {path}: {reason(error)}")
    if path not in ("fork", "unshare"):
        return HostError(str(try_namespaces.Refusal(kind="user", number=number, path=path)))
    return HostError(str(try_namespaces.first_refusal(userns=userns) or try_namespaces.Refusal(kind="user", number=number)))


def _init(
    sock: _socket.socket, program: str, command: "Sequence[str]", *, pidns: bool, as_pid_1: bool = False, proc: bool = True
) -> None:
    """`proc`: mount a /proc for the PID namespace."""
    status = _FAILED
    try:
        if sock.recv(8) != b"arm":
            return
        syscalls.set_parent_death_signal(_signal.SIGKILL)
        if pidns and proc:
            _mount_proc(program)
        message = sock.recv(_VIEW_BYTES)
        resolv = None
        if message not in (b"run", b""):
            resolv = _own_resolv(program, message)
            message = sock.recv(8)
        # If control ends after this, the parent death signal ends us; if it has ended before, the socket is closed.
        if message != b"run" or _is_closed(sock):
            return
        if as_pid_1:
            _execute(program, command, {}, parent=0)
        before = {number: _signal.signal(number, _signal.SIG_IGN) for number in _FOR_COMMAND}
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            sock.close()
            _execute(program, command, before, parent=0 if pidns else parent)
        for fd in (0, 1, 2):  # only the command may hold them: a reader of its output waits for the last descriptor to close
            os.close(fd)
        status = _wait(child, resolv)
    except OSError as error:
        refuse(program, f"Failed to start command or shell: {reason(error)}")
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _is_closed(sock: _socket.socket) -> bool:
    try:
        return not sock.recv(8, _socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


def _mount_proc(program: str) -> None:
    try:
        syscalls.mount("proc", "/proc", "proc", _PROC_FLAGS)
    except OSError as error:
        # In a container that hides parts of /proc, the kernel refuses a new mount of it.
        warn(program, f"no fresh /proc for the command: {error.strerror}")


def _own_resolv(program: str, encoded: bytes) -> "OwnResolv":
    from pasta_py.control.guest.own_resolv_conf import OwnResolv
    from pasta_py.control.planning.resolv_conf import View

    values = worker_protocol.decode(encoded)
    assert isinstance(values, tuple)
    own = OwnResolv(View(**dict(zip(View._fields, values))))  # type: ignore[arg-type]
    try:
        own.start()
    except HostError as error:
        warn(program, str(error))
    return own


def _wait(child: int, resolv: "OwnResolv | None") -> int:
    """Reap every child that ends, until the command does; its exit status."""
    if resolv:
        _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGCHLD,))  # SIGIO is blocked already
    while True:
        pid, raw = os.waitpid(-1, os.WNOHANG if resolv else 0)
        if pid == child:
            code = os.waitstatus_to_exitcode(raw)
            return code if code >= 0 else 128 - code
        if resolv and not pid and _signal.sigwait((_signal.SIGCHLD, _signal.SIGIO)) == _signal.SIGIO:
            resolv.changed()


def _execute(program: str, command: "Sequence[str]", before: "Mapping[_signal.Signals, object]", *, parent: int) -> None:
    """`parent`: the process with which the command ends; 0 where its PID namespace ends it."""
    file, argv = argv_of(command)
    status = _FAILED
    try:
        for number, handler in before.items():
            _signal.signal(number, handler)  # type: ignore[arg-type]
        for number in (_signal.SIGPIPE, _signal.SIGXFSZ):  # Python ignores these for itself
            _signal.signal(number, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, [])
        if parent:
            syscalls.set_parent_death_signal(_signal.SIGKILL)
            if os.getppid() != parent:
                return
        _replace_process(_paths(file), argv)
    except OSError as error:
        refuse(program, f"Failed to start command or shell: {file}: {_why_not(program, error, command)}")
        if program == "pasta-py":
            status = _NOT_FOUND if error.errno == errno.ENOENT else _CANNOT_EXECUTE
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _paths(file: str) -> list[str]:
    """Where a program of that name may be: $PATH, as exec(3) reads it."""
    if "/" in file:
        return [file]
    directories = _decoded(os.environ.get(b"PATH", _DEFAULT_PATH)).split(":")
    return [f"{each}/{file}" if each else file for each in directories]


def _replace_process(paths: "Sequence[str]", argv: list[str]) -> None:
    """Execute the first that is there. OSError: why the first that is there cannot be executed."""
    refused: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in paths:
        try:
            os.execve(path, argv, environment())
        except OSError as error:
            # EACCES may be about a directory of $PATH.
            if refused.errno == errno.ENOENT and error.errno not in (errno.ENOENT, errno.ENOTDIR) and os.access(path, os.F_OK):
                refused = error
    raise refused


def _why_not(program: str, error: OSError, command: "Sequence[str]") -> str:
    """Why a command cannot be executed, and what to do."""
    hint = _HINTS.get(error.errno or 0, "")
    if error.errno == errno.ENOENT and command:
        interpreter = _interpreter(command[0])
        words = command[0].split()
        if interpreter:
            hint = f"the interpreter in its first line, {interpreter}, is missing: install it, or name another one there"
        elif len(words) > 1:
            hint = f"give the program and its arguments as words of their own, as in: {' '.join(words)}"
        elif command[0].isdigit():
            hint = "a PID stands alone, behind all options"
        elif program == "pasta-py":
            hint = _of_others(command[0]) or hint
    return reason(error, hint)


def _of_others(word: str) -> str:
    """What a word means that is a subcommand of other programs, or is like one of ours; "" for others."""
    import difflib  # for an error only

    from pasta_py.control.commandline.option_table import SUBCOMMANDS

    if word in ("help", "version"):
        return f"did you mean pasta-py --{word}?"
    if word in ("exec", "run", "start"):
        return "a command needs no word before it, as in: pasta-py -- true"
    near = difflib.get_close_matches(word, SUBCOMMANDS, n=1, cutoff=0.7)
    return f"did you mean the subcommand, pasta-py {near[0]}?" if near else ""


def _interpreter(file: str) -> str:
    """The interpreter that a script names; "" for what is no script."""
    for path in _paths(file):
        try:
            with open(path, "rb") as script:
                first = script.readline(256)
        except OSError:
            continue
        if first.startswith(b"#!") and first[2:].split():
            return first[2:].split()[0].decode(errors="replace")
    return ""
