"""From options to a running translator, and what comes after: the orchestration of everything in control.

    worker starts ─┐ (loads and locks itself in meanwhile)
    namespaces     │ of a command, or found
    host ── plan   │
    ports, files   │
    tap, addresses │ made inside the namespace, by a child; in the background by control itself, which stays there
    hand-over ─────┘ plan and descriptors; "ready"
    background: pidfile, "detach", exit 0          foreground: wait for the command, the worker or a signal

The worker starts (`dispatch` may have forked it already) before anything that takes time to import. So this module imports
little at its head, and the rest while the worker starts. The worker and the command end when their sockets to control
close, also when control is killed.
"""

import posix as os  # lean imports: docs/architecture.md

from pasta_py import descriptors
from pasta_py.control.commandline.port_spec import PORTS
from pasta_py.control.start import worker_process
from pasta_py.control.start.worker_process import WorkerProcess
from pasta_py.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # lean imports: docs/architecture.md

    from pasta_py.control.commandline.options import Options
else:
    import _signal

#: From the Python API (api_entry.py): listening sockets with their names, and a descriptor that is closed when the start is over.
from_api: dict[int, str] = {}
start_fd = -1
_EBADF = 9


def run(options: "Options") -> int:
    """Do what the options say; the exit status. PastaError, with nothing left behind, if that is impossible."""
    _refuse_unavailable(options)
    inherited = {**_inherited(), **from_api}
    ours = [sock.fileno() for _pid, sock in worker_process.early]
    _refuse_closed(options, inherited, ours)
    clean_inheritance({fd for fd in (options.fd, *inherited, *ours, start_fd) if fd is not None and fd >= 0})
    if options.foreground:
        from pasta_py.control.guest import syscalls

        syscalls.become_subreaper()  # the worker and the command's first process are children of children
    worker = WorkerProcess(_runas(options), by_chroot=options.chroot_fallback, modules=_modules(options))
    try:
        return _serve(options, worker, inherited)
    finally:
        worker.close()


def _serve(options: "Options", worker: WorkerProcess, inherited: dict[int, str]) -> int:
    from pasta_py.control.exit_stack import ExitStack
    from pasta_py.control.start import hand_over

    with ExitStack() as stack:
        pid_fd = hand_over.open_pid_file(options, stack)
        command = hand_over.prepare_command(options, stack)
        control = hand_over.open_control(options, stack)
        report = hand_over.open_report(options, stack)
        learner = hand_over.open_learner(options, stack)
        hand_over.hand_over(options, worker, command, inherited, control, report, learner)
        if not options.foreground:
            if control:
                control.rename(worker.pid)
            hand_over.write_pid(pid_fd, options, worker.pid)
            worker.detach()
            return 0
        from pasta_py.control.start import foreground

        held = foreground.hold_signals()
        hand_over.write_pid(pid_fd, options, os.getpid())
        _tell_api()
        status = foreground.wait(options, worker, command, held)
        if command:
            command.close()
        worker.finish()
        if learner:
            learner.finish(options)
        if report:
            report.write()
        if control:
            control.remove()
        return status


def _tell_api() -> None:
    """Tell the Python API that the start is over: it waits until this descriptor is closed."""
    global start_fd
    if start_fd >= 0:
        os.close(start_fd)
        start_fd = -1


def _modules(options: "Options") -> "tuple[str, ...]":
    """What the worker has to load before it locks itself in, because not every worker needs it."""
    policy: tuple[str, ...] = ("dns_start", "denials", "rule_set") if options.has_policy else ()
    policy += ("decisions", "rotating") if options.decision_log else ()
    policy += ("learning",) if options.learn else ()
    dns = ("dns_start",) if options.egress_dns and not policy else policy
    metrics = ("metrics",) if options.metrics else ()
    follow = ("following", *(("forced_renewal",) if not options.config_net else ())) if options.follow else ()
    return (*dns, *metrics, *follow, *_port_modules(options), *(("link_server",) if options.program == "passt" else ()))


def _port_modules(options: "Options") -> "tuple[str, ...]":
    """Of forwarded ports that change while the worker runs. Runtimes name all ports, and need none of these."""
    if options.conf_path:
        return ("autoports", "port_rules", "pesto_server")
    directions = (options.tcp_ports, options.udp_ports, options.tcp_ns, options.udp_ns)
    named = all(specs and all(each.kind == PORTS for spec in specs for each in spec.chunks) for specs in directions)
    return () if named or options.program == "passt" else ("autoports",)


def _refuse_unavailable(options: "Options") -> None:
    if options.splice_only and (options.fd is not None or options.pcap):
        other = "--fd" if options.fd is not None else "--pcap"
        raise UsageError(f"--splice-only and {other} are both given: without a tap there are no frames; give one of them")
    if options.report and not options.foreground:
        raise UsageError("--report is written at the end, and a start in the background has none: give a command, or --foreground")
    if options.report and options.flow_log:
        raise UsageError("--report and --flow-log are both given: give --flow-log, and make the page later with `pasta-py report`")
    for name in ("filter", "snaplen", "size", "files"):
        if getattr(options, f"pcap_{name}") and not options.pcap:
            raise UsageError(f"--pcap-{name} is given without --pcap: name the capture's file with --pcap")
    if options.pcap_files and not options.pcap_size:
        raise UsageError("--pcap-files is given without --pcap-size: say when the next file is due")
    if options.fd is not None and options.threads > 1 and not options.vhost_user:
        raise UsageError("--fd and --threads are both given: a descriptor is one queue, for one thread: leave out one of them")
    if options.fd is not None and (options.netns or options.pid is not None or options.command):
        raise UsageError("--fd takes the place of a namespace: give no PID, --netns or command beside it")


def _refuse_closed(options: "Options", inherited: dict[int, str], ours: list[int]) -> None:
    """Check the descriptors of --fd and LISTEN_FDS, before a socket that we make takes the number of a closed one."""
    for fd in ours:
        if fd in inherited:
            why = f"{os.strerror(_EBADF)}: LISTEN_FDS counts sockets from descriptor 3 on"
            raise UsageError(f"inherited socket {fd}: {why}")
    if options.fd is None:
        return
    try:
        if options.fd in ours:
            raise OSError(_EBADF, os.strerror(_EBADF))
        os.fstat(options.fd)
    except OSError as error:
        raise UsageError(f"--fd {options.fd}: {error.strerror}: open it for this process first") from None


def _runas(options: "Options") -> "tuple[int, int] | None":
    """UID and GID of --runas. Without a group: that of the login, and for a number without a login the same number."""
    if not options.runas:
        return None
    import grp
    import pwd

    user, _, group = options.runas.partition(":")
    try:
        login = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
        uid, gid = login.pw_uid, login.pw_gid
    except KeyError:
        if not user.isdigit():
            raise UsageError(f"--runas {options.runas!r}: there is no user {user!r}: give a login, or a number") from None
        uid = gid = int(user)
    if group:
        try:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise UsageError(f"--runas {options.runas!r}: there is no group {group!r}: give a name, or a number") from None
    if os.geteuid() and (uid, gid) != (os.geteuid(), os.getegid()):
        raise UsageError(f"--runas {options.runas!r}: only root can become another user: leave it out")
    return (uid, gid)


def _inherited() -> dict[int, str]:
    """Sockets of socket activation, with their names."""
    if b"LISTEN_FDS" not in os.environ:
        return {}
    from pasta_py.control.forwarding import systemd_sockets

    return systemd_sockets.take()


def clean_inheritance(keep: set[int]) -> None:
    """Close what our caller has left open, but for the standard streams and `keep`; give signals their default actions."""
    descriptors.close_from(3, keep)
    for stream in (0, 1, 2):
        try:
            os.fstat(stream)
        except OSError:
            os.open("/dev/null", os.O_RDWR)  # the lowest free number: this one
            os.set_inheritable(stream, True)
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
