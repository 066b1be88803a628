"""`--learn FILE`: a process that writes the rules which the guest has needed, while the worker cannot write.

It is a fork of control that keeps one socket to the worker and the directory of FILE. Landlock lets it write there only. Every
LEARN_S, and when the worker has closed the socket, it writes a new file beside FILE and puts it in FILE's place, so FILE is
whole at any moment. What FILE had before stays, line by line, and comes first.

What the worker says may be the guest's invention: a rule is written only if it reads back as the same narrow rule; all else becomes
a comment of printable characters. The table is bounded.
"""

import _socket
import posix as os  # lean imports: docs/architecture.md
import time

from pasta_py import defaults, descriptors, model
from pasta_py.control.commandline import egress_rule
from pasta_py.control.commandline.notices import WARNING, tell
from pasta_py.control.planning import egress, egress_groups
from pasta_py.errors import HostError, UsageError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.control.commandline.options import Options

_KEPT = 8192
_MESSAGE_BYTES = 64 << 10
_TYPE, _REGULAR = 0o170000, 0o100000  # inode(7)
_HEAD = "# Rules that --learn has written: what the guest has needed. Remove what it should not have.\nversion 1\n"


class Writer:
    """Control's side: the process, and the worker's end of the socket."""

    def __init__(self, options: "Options") -> None:
        """HostError: the file cannot be written."""
        path = _real(options.learn)
        folder, _, name = path.rpartition("/")
        before = _read(options.learn, path)
        try:
            directory = os.open(folder or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _refused(options.learn, error) from None
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        try:
            _try(options.learn, directory, name)
            self.pid = os.fork()
            if self.pid == 0:
                _run(theirs.detach(), directory, Learned(before), name)
        finally:
            os.close(directory)
            theirs.close()
        os.set_blocking(ours.fileno(), False)
        self._sock: _socket.socket | None = ours

    def descriptors(self) -> "list[tuple[str, int]]":
        assert self._sock
        return [(model.FD_LEARN, self._sock.fileno())]

    def finish(self, options: "Options") -> None:
        """The worker has ended: wait for the file."""
        self.close()
        try:
            _pid, status = os.waitpid(self.pid, 0)
        except ChildProcessError:
            return  # reaped already, with the worker
        if status:
            tell(options, WARNING, f"--learn {options.learn!r} could not be written at the end")

    def close(self) -> None:
        if self._sock:
            self._sock.close()
            self._sock = None


def _real(path: str) -> str:
    """The path without symbolic links: a rename would replace a link."""
    import os.path

    return os.path.realpath(path)


def _refused(path: str, error: OSError) -> HostError:
    return HostError(f"Couldn't write --learn {path!r}: {reason(error, 'choose a path that can be written')}")


def _read(said: str, path: str) -> str:
    """What the file has; it was read as rules before, so it is text."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_mode & _TYPE != _REGULAR:
                raise HostError(f"--learn {said!r} is no file: it is replaced as a whole, so name a file")
            return file.read().decode("utf-8-sig", "replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise _refused(said, error) from None


def _try(said: str, directory: int, name: str) -> None:
    """A file that cannot be written fails at the start."""
    try:
        os.close(_create(directory, _temporary(name)))
        os.unlink(_temporary(name), dir_fd=directory)
    except OSError as error:
        raise _refused(said, error) from None


def _temporary(name: str) -> str:
    return f".{name[:200]}.{os.getpid()}.new"


def _create(directory: int, name: str) -> int:
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644, dir_fd=directory)


# ---- what is learned ----


class Learned:
    """The lines of the file, and what is added to them. Pure."""

    def __init__(self, before: str) -> None:
        self._before = before.replace("\r\n", "\n")
        self._rules: dict[str, list[int]] = {}  # how often, and when first
        self._unnamed: dict[str, list[int]] = {}
        self._asked: dict[str, list[int]] = {}
        self._had = egress_rule.parse_file(self._before.encode(), "").rules if self._before.strip() else egress_rule.Rules()
        self.changed = False

    def take(self, message: bytes) -> None:
        """Records of learning.py. Others are passed over."""
        for record in message.decode("ascii", "replace").split("\n"):
            fields = record.split("\t")
            if len(fields) == 7 and all(fields[i].isdecimal() and len(fields[i]) < 16 for i in (3, 5, 6)):
                kind, name, address, port, protocol, count, first = fields
                if kind != "query" and protocol not in ("tcp", "udp", "icmp"):
                    continue
                end = f"/{protocol}" if protocol == "icmp" else f":{port}/{protocol}"
                self._add(kind, name, address, end, int(count), int(first))

    def _add(self, kind: str, name: str, address: str, end: str, count: int, first: int) -> None:
        name = "".join(c if "!" <= c <= "~" and c != "#" else "?" for c in name)
        address = "".join(c for c in address if c in "0123456789abcdef.:")
        if kind == "query":
            table, key = self._asked, name
        elif text := narrowest(name, address, end):
            table, key = self._rules, text
        else:
            table, key = self._unnamed, f"{f'[{address}]' if ':' in address else address}{end}"
        if key not in table:
            if sum(map(len, (self._rules, self._unnamed, self._asked))) >= _KEPT:
                return
            table[key] = [0, first]
        table[key][0] += count
        self.changed = True

    def text(self) -> str:
        """The whole file."""
        lines = [self._before.rstrip("\n")] if self._before.strip() else [_HEAD.rstrip("\n")]
        rules = [egress_rule.parse(text, allow=True) for text in self._rules]
        useless, first = egress.useless(egress_rule.joined([self._had, *rules])), len(self._had.texts)
        new = enumerate(zip(rules, self._rules.values()), first)
        lines += [f"allow {rule}  # learned: {_times(seen)}" for index, (rule, seen) in new if index not in useless]
        lines += self._comments("# no name: allow", self._unnamed)
        allowed = tuple(rule for rule in (*self._had, *rules) if rule.allow)
        alone = {name: seen for name, seen in self._asked.items() if not any(_names(rule, name) for rule in allowed)}
        lines += self._comments("# asked for alone:", alone)
        if not any(line.split()[:1] == ["default"] for line in self._before.split("\n")):
            lines.append("default none")
        return "\n".join(lines) + "\n"

    def _comments(self, head: str, what: "dict[str, list[int]]") -> "list[str]":
        """Those that the file does not have yet."""
        return [f"{head} {each}  # {_times(seen)}" for each, seen in what.items() if f"{head} {each}  " not in self._before]


def _names(rule: "egress_rule.Rule", name: str) -> bool:
    """Whether a rule is for this name."""
    below = rule.kind == egress_rule.BELOW and name.endswith(f".{rule.name}")
    return below or (rule.kind == egress_rule.NAME and rule.name == name)


def _times(seen: "list[int]") -> str:
    count, first = seen
    return f"{'once' if count == 1 else f'{count} times'}, first {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(first // 1000))}"


def narrowest(name: str, address: str, end: str) -> str:
    """The rule for a connection to a name, with the address where the name alone would not lead there; "": there is none."""
    packed = _packed(address)
    if not packed:
        return ""
    limit = "" if not egress_groups.is_grouped(packed) else f"=[{address}]" if ":" in address else f"={address}"
    text = f"{name}{limit}{end}"
    try:
        rule = egress_rule.parse(text, allow=True)
    except UsageError:
        return ""
    return text if name and rule.kind == egress_rule.NAME and str(rule) == text else ""


def _packed(address: str) -> bytes:
    """16 bytes; b"" for what is no address."""
    for family, head in ((_socket.AF_INET, bytes(10) + b"\xff\xff"), (_socket.AF_INET6, b"")):
        try:
            return head + _socket.inet_pton(family, address)
        except (OSError, ValueError):
            pass
    return b""


# ---- the process ----


def _run(fd: int, directory: int, learned: Learned, name: str) -> None:
    """Write until the worker is gone; never returns."""
    status = 1
    try:
        _confine(fd, directory)
        sock = _socket.socket(fileno=3)
        due = time.monotonic() + defaults.LEARN_S
        while True:
            sock.settimeout(max(0.0, due - time.monotonic()) or 0.001)
            try:
                message = sock.recv(_MESSAGE_BYTES)
                if not message:
                    break
                learned.take(message)
            except TimeoutError:
                pass
            if time.monotonic() >= due:
                _write(4, learned, name)
                due = time.monotonic() + defaults.LEARN_S
        status = 0 if _write(4, learned, name) else 1
    finally:
        os._exit(status)


def _confine(fd: int, directory: int) -> None:
    """Keep the socket and the directory, as descriptors 3 and 4, and no right to anything else."""
    from pasta_py.control.guest import syscalls

    os.setsid()
    low = [os.dup(each) for each in (fd, directory)]
    while min(low) < 5:
        low = [os.dup(each) for each in low]
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    for number, each in enumerate(low, 3):
        os.dup2(each, number, inheritable=False)
    descriptors.close_from(5)
    try:
        syscalls.keep_directory(4)
    except OSError:
        pass  # a kernel without Landlock: the process still has no other descriptor


def _write(directory: int, learned: Learned, name: str) -> bool:
    """Put the file in place if there is news. False: it failed, and the file is as it was."""
    if not learned.changed:
        return True
    temporary = _temporary(name)
    try:
        fd = _create(directory, temporary)
        try:
            data = learned.text().encode("utf-8", "replace")
            while data:
                data = data[os.write(fd, data) :]
            os.fsync(fd)
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            os.unlink(temporary, dir_fd=directory)
            return False
        finally:
            os.close(fd)
    except OSError:
        return False
    learned.changed = False
    return True
