"""The worker's life: lock in, take the plan, turn the core's crank until the guest is gone or someone says so.

control -> worker   to a fork, what `main` is to be given (`forked`)
control -> worker   the plan (worker_protocol), then, for a worker that is to outlive control, b"detach", or changes of rules
worker -> control   any number of b"warning <line>\\n", then b"ready <PID as control sees it>\\n" or b"error <line>\\n";
                    for each change b"done\\n" or b"error <line>\\n"

The end, and its exit status: 0 for SIGTERM, SIGQUIT, control's end before "detach", the end of the guest's namespace,
its process, or its tap where nothing else is watched; 128+n for SIGINT and SIGHUP before "detach" (later they are ignored,
as they are where control's caller has had them ignored); 1 for the end of the tap alone, and for an error, which is reported.
"""

# ruff: noqa: SIM105 - contextlib is not imported here

import _socket
import gc
import posix as os  # os takes 0.8 ms to import
import sys
import time

from pasta_py import model, worker_protocol
from pasta_py.errors import ConfError, PastaError, last_resort, reason
from pasta_py.worker import autoports, helper, log, ndp, pesto_server, plane, port_rules, sandbox, slowpath

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # the same functions, wrapped, and known to type checkers
    from collections.abc import Callable, Sequence
    from types import FrameType
else:
    import _signal

_CONTROL, _SIGNAL, _PIDFD, _INOTIFY, _CONF, _CONF_CLIENT = range(1, 7)
_MESSAGE_BYTES = 64
_FORKED_FD = 3
_AT_ONCE = 256  # sockets of listeners
_MAX_FD = 1 << 20
_SHORTAGE_S = 10
_SIGNAL_BYTES = 64
_INOTIFY_BYTES = 16 << 10
_EVENT_HEAD_BYTES = 16  # struct inotify_event without its name
_IN_MOVED_FROM = 0x40
_IN_MOVED_TO = 0x80
_IN_DELETE = 0x200
_IN_DELETE_SELF = 0x400
_IN_MOVE_SELF = 0x800
_IN_UNMOUNT = 0x2000
_NAME_GONE = _IN_MOVED_FROM | _IN_MOVED_TO | _IN_DELETE
_DIRECTORY_GONE = _IN_DELETE_SELF | _IN_MOVE_SELF | _IN_UNMOUNT
# RFC 4861, 6.2.1: MaxRtrAdvInterval is 600 s at most.
_ADVERTISE_S = 600
_NEVER = float("inf")


def main(socket_fd: int, *runas: int, by_chroot: bool = False, called: "Sequence[str]" = ()) -> None:
    """Serve the control process at the other end of socket_fd, as the user with that UID and GID; never returns.

    `called`: the command line to be seen as, if it is to be another.
    """
    status = 1
    if called:
        plane.set_command_line(called)
    sock = _socket.socket(fileno=socket_fd)
    try:
        status = _run(sock, runas, by_chroot)
    except (PastaError, OSError, ValueError, MemoryError) as error:
        _say(sock, f"error {_line(error)}")
    finally:
        os._exit(status)


def forked(socket_fd: int, called: "Sequence[str]") -> None:
    """As `main`, in a fork of control's that has imported nothing yet: what came along is taken off; never returns.

    Control says then what else `main` is given: b"UID GID " or nothing, and b"1" or b"0" for by_chroot.
    """
    if socket_fd != _FORKED_FD:
        os.dup2(socket_fd, _FORKED_FD, inheritable=False)
    os.closerange(_FORKED_FD + 1, _MAX_FD)
    for number in (_signal.SIGTERM, _signal.SIGQUIT, _signal.SIGCHLD):
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    plane.forget_environment(worker_protocol.KEPT_ENVIRONMENT)
    sock = _socket.socket(fileno=_FORKED_FD)
    words = sock.recv(_MESSAGE_BYTES).split()
    sock.detach()
    if not words:  # there was nothing to be done
        os._exit(0)
    *runas, by_chroot = map(int, words)
    main(_FORKED_FD, *runas, by_chroot=bool(by_chroot), called=called)


def _line(error: "PastaError | OSError | ValueError | MemoryError") -> str:
    if isinstance(error, OSError | MemoryError):
        return f"the worker process cannot go on: {last_resort(error)}"
    return str(error)


def _say(sock: "_socket.socket", line: str) -> None:
    try:
        sock.send(line.replace("\n", " ").encode("utf-8", "replace") + b"\n")
    except OSError:
        pass  # Control has gone: nobody is left to be told.


def _run(sock: "_socket.socket", runas: "tuple[int, ...]", by_chroot: bool) -> int:
    try:
        os.setsid()  # Ctrl-C on control's terminal is for the command
    except PermissionError:
        pass  # Already the head of a session.
    null = os.open("/dev/null", os.O_RDWR)
    if null != sock.fileno() + 1:
        os.dup2(null, sock.fileno() + 1, inheritable=False)
        os.close(null)
        null = sock.fileno() + 1
    time.tzset()
    helper_fd = null + 1
    helper.start(null, helper_fd, by_chroot=by_chroot)
    try:
        pid, warnings = sandbox.enter(helper_fd, (runas[0], runas[1]) if runas else None, by_chroot=by_chroot)
    except OSError as error:
        if not runas:
            raise
        raise PastaError(f"Couldn't become user {runas[0]}, group {runas[1]}: {error.strerror}: see --runas") from None
    received = worker_protocol.recv_plan(sock)
    if received is None:
        return 0
    plan, fds = received
    plane.call_process(plan.program)
    worker = Worker(sock, plan, fds, pid, helper_fd)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
    warnings += worker.warnings + (sandbox.close(worker.files) or worker.helper_warnings)
    for level, line in plan.said:
        worker.log.write(level, line, asked=True)
    for line in warnings:
        _say(sock, f"warning {line}")
        if plan.log_syslog or plan.log_size:
            worker.log.write(log.WARNING, line)
    gc.enable()  # as a fork of control's it began without
    _say(sock, f"ready {pid}")
    return worker.serve()


class Worker:
    """The core, its watches and its log. Owns every descriptor it was given."""

    def __init__(
        self, sock: "_socket.socket", plan: "model.WorkerPlan", fds: worker_protocol.Descriptors, pid: int, helper_fd: int
    ) -> None:
        roles: dict[str, list[int]] = {}
        for role, fd in zip(plan.descriptors, fds.take(len(plan.descriptors)), strict=True):
            roles.setdefault(role, []).append(fd)
        taps = roles.get(model.FD_TAP, [])
        if not 0 < len(taps) <= plane.SHARDS_MAX:
            raise PastaError("the plan lacks the tap, or has more of its queues than there can be threads")
        self.plan, self.sock, self.attached = plan, sock, True
        self.log = log.Log(roles.get(model.FD_LOG, [-1])[0], plan, pid)
        self.wakeup, self.signals = _catch_signals()
        self.plane = plane.Plane(plan, taps[0])
        changing = model.FD_CONF in roles or plan.changing
        listeners = list(fds) if changing or plan.auto_rules else []  # 40 bytes each, which others do without
        for listener in plan.listeners:
            for offset in range(0, listener.count, _AT_ONCE):
                part = fds.take(min(_AT_ONCE, listener.count - offset))
                self.plane.add_listeners(listener, part, offset=offset)
        self.warnings: list[str] = []
        self.helper_warnings: list[str] = []  # of layers that the worker itself says more about, if it lacks them too
        self.auto: autoports.AutoPorts | None = None
        self.scan_at = _NEVER
        in_guest = self._use_helper(helper_fd, roles, listeners)
        self.conf: pesto_server.Server | None = None
        if changing:
            self.rules = port_rules.Rules(self.plane, plan, listeners, in_guest, self.auto)
        for fd in roles.get(model.FD_CONF, ()):
            self.conf = pesto_server.Server(self.plane, fd, (_CONF, _CONF_CLIENT), self.rules, self.log)
        for fd in roles.get(model.FD_CAPTURE, ()):
            try:
                self.plane.capture(fd, plan.pcapng)
            except OSError as error:
                raise PastaError(f"Couldn't write to the capture file: {reason(error, 'choose another for --pcap')}") from None
        if len(taps) > 1:
            try:
                self.plane.add_shards(taps[1:])
            except OSError as error:
                raise PastaError(f"Couldn't start {len(taps)} threads: {reason(error, 'choose fewer with --threads')}") from None
        self.files = [fd for role in (model.FD_CAPTURE, model.FD_LOG) for fd in roles.get(role, ())]
        self.inotify = roles.get(model.FD_NETNS_INOTIFY, [-1])[0]
        self.watched = bool({model.FD_NETNS_INOTIFY, model.FD_NETNS_PIDFD} & set(roles))  # else the tap alone tells its end
        watches = [(sock.fileno(), _CONTROL), (self.wakeup, _SIGNAL)]
        watches += [(fd, _PIDFD) for fd in roles.get(model.FD_NETNS_PIDFD, ())]
        watches += [(fd, _INOTIFY) for fd in roles.get(model.FD_NETNS_INOTIFY, ())]
        for fd, ident in watches:
            self.plane.watch(fd, ident)
        self.leases = slowpath.Leases(plan) if plan.leases > 1 else None
        self.shown: dict[str, int] = {}
        self.short_of_memory, self.tell_shortage_at = False, 0.0
        self.advertise_at = _NEVER
        self.stats_at = time.monotonic() + plan.stats_s if plan.stats_s else _NEVER

    def _use_helper(
        self, fd: int, roles: "dict[str, list[int]]", listeners: "list[int]"
    ) -> "dict[tuple[int, int], list[int]]":
        """Send the helper into the guest's namespace if anything needs it; without it local connections take the tap.

        Returns the sockets of plan.guest_ports, by protocol and port.
        """
        netns = roles.get(model.FD_GUEST_NETNS, [])
        userns = roles.get(model.FD_GUEST_USERNS, [])
        conf = model.FD_CONF in roles  # which may ask for anything later
        used = bool(netns) and (self.plan.splice or bool(self.plan.guest_ports) or bool(self.plan.auto_rules) or conf)
        try:
            if used:
                lost = helper.enter(fd, userns[0] if userns else None, netns[0])
                if lost:
                    self.helper_warnings.append(f"sandbox: no filter on the helper's system calls: {lost}")
        except OSError as error:
            if self.plan.guest_ports or self.plan.local_only:
                raise PastaError(
                    f"no sockets in the guest's namespace, so neither -T nor --splice-only: {error.strerror}"
                ) from None
            self.warnings.append(f"no splice and no automatic ports: the guest's namespace cannot be entered: {error.strerror}")
            used = False
        for namespace in netns + userns:
            os.close(namespace)
        if not used:
            os.close(fd)
            return {}
        self.plane.set_helper(fd)
        in_guest: dict[tuple[int, int], list[int]] = {}
        for port, bound in helper.listen(self.plane, self.plan, self.warnings):
            in_guest.setdefault(port, []).append(bound)
        if self.plan.auto_rules or conf:
            self._forward_automatically([bound for fds in in_guest.values() for bound in fds] + listeners)
        return in_guest

    def _forward_automatically(self, ours: "list[int]") -> None:
        try:
            self.auto = autoports.AutoPorts(
                self.plane, self.plan, autoports.diag_socket(self.plane.diag_in_guest())
            )
            for fd in ours:
                self.auto.exclude(fd)
            self.auto.scan()
            self.scan_at = time.monotonic() + autoports.INTERVAL_S
        except OSError as error:
            self.warnings.append(f"no automatic forwarding of ports: sock_diag: {error.strerror}")

    def serve(self) -> int:
        """Until the end; returns the exit status."""
        handlers: dict[int, Callable[[], int | None]] = {
            _CONTROL: self._on_control,
            _SIGNAL: self._on_signal,
            _PIDFD: self._on_process_end,
            _INOTIFY: self._on_directory,
            _CONF: self._on_conf,
            _CONF_CLIENT: self._on_conf_client,
        }
        try:
            self._advertise()
            self._arm()
            while True:
                try:
                    status = self._turn(handlers)
                except MemoryError:  # what it was about is lost, as a frame or a line may be; descriptors are told again
                    self.short_of_memory = True
                    continue
                if status is not None:
                    return status
        except Exception as error:  # standard error is gone: the log is the only way to be heard
            self.log.write(log.ERROR, f"internal error: {type(error).__name__}: {error}")
            return 1
        finally:
            self.plane.close()
            self.log.close()

    def _turn(self, handlers: "dict[int, Callable[[], int | None]]") -> "int | None":
        """One event of the core; the exit status when it was the last."""
        kind, ident, data = self.plane.run()
        if self.short_of_memory:
            self._tell_shortage()
        if kind == plane.PUNT:
            answer = slowpath.reply(self.plan, data, self.leases)
            if answer is not None:
                self.plane.send(answer)
        elif kind == plane.WATCH:
            return handlers[ident]()
        elif kind == plane.LOG:
            self.log.write(ident, data.decode("utf-8", "replace"))
        elif kind == plane.TICK:
            self._on_tick()
        elif kind == plane.END:
            missed = self._is_missed()
            self.log.write(log.WARNING if missed else log.INFO, f"the tap is gone ({os.strerror(ident)}): quitting")
            return 1 if missed and self.watched else 0
        return None

    def _tell_shortage(self) -> None:
        self.short_of_memory = False
        now = time.monotonic()
        if now >= self.tell_shortage_at:
            self.tell_shortage_at = now + _SHORTAGE_S
            self.log.write(log.WARNING, "out of memory: some frames or log lines were lost (is there a limit, ulimit -v?)")

    # ---- what is watched ----

    def _on_control(self) -> "int | None":
        try:
            message, fds = worker_protocol.recv_message(self.sock)
        except OSError:
            return 0
        if message and self.plan.changing:
            self._on_change(message, fds)
            return None
        if message != b"detach":
            return 0
        self.plane.unwatch(self.sock.fileno())
        self.sock.close()
        self.attached = False
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        _signal.signal(_signal.SIGHUP, _signal.SIG_IGN)
        return None

    def _on_change(self, message: bytes, fds: "list[int]") -> None:
        try:
            self.rules.change(message, fds)
            _say(self.sock, "done")
        except (ConfError, OSError) as error:
            _say(self.sock, f"error {error}")

    def _on_signal(self) -> "int | None":
        try:
            numbers = os.read(self.wakeup, _SIGNAL_BYTES)
        except BlockingIOError:
            return None
        for number in numbers:
            if number in (_signal.SIGTERM, _signal.SIGQUIT):
                return 0
            if self.attached:
                return 128 + number
        return None

    def _on_process_end(self) -> int:
        self.log.write(log.INFO, "the process of the network namespace has ended: quitting")
        return 0

    def _on_directory(self) -> "int | None":
        try:
            data = os.read(self.inotify, _INOTIFY_BYTES)
        except BlockingIOError:
            return None
        if not namespace_gone(data, worker_protocol.path_bytes(self.plan.netns_name)):
            return None
        self.log.write(log.INFO, f"the network namespace {self.plan.netns_name} is gone: quitting")
        return 0

    def _on_conf(self) -> None:
        assert self.conf is not None
        self.conf.on_listener()
        self._arm()

    def _on_conf_client(self) -> None:
        assert self.conf is not None
        if self.conf.on_client() and self.auto:
            self._scan()
            self.scan_at = time.monotonic() + autoports.INTERVAL_S
        self._arm()

    def _is_missed(self) -> bool:
        """Whether somebody in the foreground still counts on us: at the end of a command the tap may go before control."""
        try:
            return self.attached and bool(self.sock.recv(_MESSAGE_BYTES, _socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    # ---- what is done from time to time ----

    def _arm(self) -> None:
        scan_at = self.scan_at if self.auto and self.auto.rules else _NEVER
        due = min(self.stats_at, self.advertise_at, scan_at, self.conf.due if self.conf else _NEVER)
        self.plane.tick(max(1, int((due - time.monotonic()) * 1000)) if due < _NEVER else 0)

    def _on_tick(self) -> None:
        now = time.monotonic()
        if now >= self.advertise_at:
            self._advertise()
        if now >= self.stats_at:
            self._show_counters()
            self.stats_at = now + self.plan.stats_s
        if self.auto and self.auto.rules and now >= self.scan_at:
            self._scan()
            self.scan_at = now + autoports.INTERVAL_S
        if self.conf:
            self.conf.on_tick()
        self._arm()

    def _scan(self) -> None:
        try:
            assert self.auto is not None
            self.auto.scan()
        except OSError as error:
            self.log.write(log.WARNING, f"automatic forwarding of ports ends: sock_diag: {error.strerror}")
            self.auto = None

    def _advertise(self) -> None:
        frame = ndp.advertisement(self.plan)
        if frame:
            self.plane.send(frame)
        self.advertise_at = time.monotonic() + _ADVERTISE_S if frame else _NEVER

    def _show_counters(self) -> None:
        counters = self.plane.counters()
        if counters != self.shown:
            self.shown = counters
            # Asked for with --stats, so that --quiet does not hide it.
            self.log.write(log.INFO, "stats: " + " ".join(f"{k}={v}" for k, v in counters.items() if v), asked=True)


def _catch_signals() -> "tuple[int, int]":
    """A pipe that gets one byte, the number, for each signal.

    The C part of Python's handler writes it, whichever thread the signal reaches and while the core blocks.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    _signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (_signal.SIGTERM, _signal.SIGQUIT, _signal.SIGINT, _signal.SIGHUP):
        asks_to_end = number in (_signal.SIGTERM, _signal.SIGQUIT)
        if asks_to_end or _signal.getsignal(number) is not _signal.SIG_IGN:  # as control's caller has it
            _signal.signal(number, _noted)
    return reader, writer


def _noted(_number: int, _frame: "FrameType | None") -> None:
    """The pipe has it already."""


def namespace_gone(events: bytes, name: bytes) -> bool:
    """Whether inotify's events (struct inotify_event, inotify(7)) say that `name` or its directory is gone."""
    position = 0
    while position + _EVENT_HEAD_BYTES <= len(events):
        mask = int.from_bytes(events[position + 4 : position + 8], sys.byteorder)
        size = int.from_bytes(events[position + 12 : position + 16], sys.byteorder)
        position += _EVENT_HEAD_BYTES
        found = events[position : position + size].rstrip(b"\0")
        position += size
        if mask & _DIRECTORY_GONE or (mask & _NAME_GONE and found == name):
            return True
    return False
