"""Sets up everything that a started worker needs, and hands it over: the guest, the tap, ports, files.

An ExitStack closes our copies of descriptors in any case: the worker has its own. `rollback` holds what only a failure undoes.
"""

import _socket
import posix as os  # lean imports: docs/architecture.md

from pasta_py import defaults, model
from pasta_py.control.commandline.notices import DEBUG, INFO, WARNING, complain, tell, version
from pasta_py.control.exit_stack import ExitStack
from pasta_py.errors import HostError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pasta_py.control.commandline.options import Options
    from pasta_py.control.follow import Sources
    from pasta_py.control.guest.namespaces import Guest
    from pasta_py.control.guest.spawn import Command
    from pasta_py.control.guest.tap import Tap
    from pasta_py.control.planning.egress import Said
    from pasta_py.control.planning.host import HostSnapshot
    from pasta_py.control.planning.plan import Plan
    from pasta_py.control.planning.resolv_conf import Resolv
    from pasta_py.control.start import learn_writer
    from pasta_py.control.start.control_socket import ControlSocket
    from pasta_py.control.start.report_file import Report
    from pasta_py.control.start.worker_process import WorkerProcess

_SYSLOG = "/dev/log"
_JOURNAL = "/run/systemd/journal/socket"  # systemd-journald(8)
_UNKNOWN_MAC = b"\xff" * 6  # a frame for the guest reaches it before it has sent one
_TYPE, _REGULAR = 0o170000, 0o100000  # inode(7)


def hand_over(
    options: "Options", worker: "WorkerProcess", command: "Command | None", inherited: dict[int, str],
    control: "ControlSocket | None" = None, report: "Report | None" = None, learner: "learn_writer.Writer | None" = None,
) -> None:  # fmt: skip
    """Set up everything, up to a worker that serves. No descriptor stays open here. `control`: the instance's control socket."""
    with ExitStack() as stack, ExitStack() as rollback:
        guest = _find_guest(options, command, stack)
        log_fd, log_syslog, log_format, log_size = _open_log(options, stack)
        sources = _sources(options, guest, stack) if options.follow else None
        plan, options, read = _plan(options)
        for line in plan.warnings:
            tell(options, WARNING, line)
        if command and plan.resolv:
            command.see(plan.resolv)
        if options.splice_only:
            options = _for_loopback(options, plan.worker)
        listeners: list[model.Listener] = []
        descriptors = [(model.FD_LOG, log_fd)]
        descriptors += sources.descriptors() if sources else []
        sockets = _listeners(options, inherited, stack, listeners)
        descriptors += _capture(options, stack)
        descriptors += _conf(options, stack, rollback)
        descriptors += report.descriptors() if report else _rotating(model.FD_FLOW_LOG, options.flow_log, "flow log", stack)
        descriptors += learner.descriptors() if learner else []
        descriptors += _rotating(model.FD_DECISION_LOG, options.decision_log, "decision log", stack)
        descriptors += _changing(options, stack, rollback)
        if options.control and plan.worker.egress:
            _refuse_visible(options, command)
        if control:
            rollback.callback(control.remove)
            descriptors.append((model.FD_CONTROL, control.fd))
        descriptors += _metrics(options, stack, rollback)
        descriptors += _of_guest(guest) if guest else []
        ports, capture = _ports(options, plan, guest, listeners), _captured(options)
        # The last step: control may not come back from the guest's namespaces. What it needs of the host, it has by now.
        tap = _make_tap(options, guest, plan, stack, rollback)
        for line in tap.warnings:
            tell(options, WARNING, line)
        descriptors += [(model.FD_LINK if tap.path else model.FD_TAP, fd) for fd in tap.fds]
        _empty_capture(options, descriptors)
        made = plan.worker.replace(
            **ports,
            **capture,
            **_link(options, plan, tap),
            log_syslog=log_syslog,
            log_format=log_format,
            log_size=log_size,
            serves=_serves(options),
            shown=_shown(plan),
            netns_name=guest.name if guest else "",
            netns_watch=guest.watch if guest else 0,
            descriptors=tuple(role for role, _fd in descriptors),
        )
        set_up = _summary(options, plan.replace(worker=made), tap, with_ports=guest is not None or tap.stream)
        if log_syslog or options.log_file:
            made = made.replace(said=_for_log(options, [*plan.warnings, *tap.warnings], set_up))

        def meanwhile() -> None:
            if sources:
                index = tap.index if guest and options.config_net else 0
                host, names, policy, shares_etc = read
                sources.tell(options, host, names, plan.link, index, policy, shares_etc=shares_etc)

        worker.hand_over(made, [fd for _role, fd in descriptors] + sockets, options, meanwhile)
        if sources:
            sources.begin()
        rollback.pop_all()
        for line in set_up:
            tell(options, INFO, line)
        if command and _greets(options):
            _greet(options, plan)


def _of_guest(guest: "Guest") -> list[tuple[str, int]]:
    """The guest's descriptors, with their roles."""
    roles = (model.FD_GUEST_USERNS, model.FD_GUEST_NETNS, model.FD_NETNS_PIDFD, model.FD_NETNS_INOTIFY)
    fds = (guest.userns, guest.netns, guest.pidfd, guest.inotify)
    return [(role, fd) for role, fd in zip(roles, fds) if fd >= 0]


# Parts of the worker's plan, by their names there.


def _ports(options: "Options", plan: "Plan", guest: "Guest | None", listeners: "list[model.Listener]") -> "dict[str, Any]":
    from pasta_py.control.forwarding import bind_ports

    auto_rules = bind_ports.auto_rules(options) if guest else ()
    return {
        "listeners": tuple(listeners),
        "guest_ports": bind_ports.guest_ports(options) if guest else (),
        "auto_rules": auto_rules,
        "rules": bind_ports.rules(options) if guest or options.conf_path else (),
        "splice": plan.worker.splice and (bool(auto_rules) or bool(listeners) or bool(options.conf_path)),
    }


def _captured(options: "Options") -> "dict[str, Any]":
    return {
        "flow_log_file_bytes": options.flow_log_size // defaults.FLOW_LOG_FILES,
        "capture_filter": _capture_filter(options),
        "capture_snaplen": options.pcap_snaplen,
        "capture_file_bytes": options.pcap_size,
    }


def _link(options: "Options", plan: "Plan", tap: "Tap") -> "dict[str, Any]":
    return {
        "guest_mac": tap.mac or plan.worker.guest_mac,
        "guest_scope6": tap.index,
        "vnet_hdr": tap.vnet_hdr,
        "uso": tap.uso,
        "tunnels": tap.tunnels,
        "stream": tap.stream,
        "vhost_user": options.vhost_user,
        "pairs": options.threads if options.vhost_user else 1,
        "one_off": options.one_off,
        "lossy": tap.lossy if tap.stream else plan.worker.lossy,
    }


def _serves(options: "Options") -> str:
    """What the user would call the guest."""
    if options.fd is not None:
        return f"descriptor {options.fd}"
    if options.spawn:
        return " ".join(options.command) or "a shell"
    return f"process {options.pid}" if options.pid is not None else options.netns


def _shown(plan: "Plan") -> tuple[tuple[str, str], ...]:
    """What `pasta-py show` needs to make the summary, beside the worker's plan (subcommands/show.py): making it takes 1 ms."""
    link = plan.link
    return (
        ("ifname", link.ifname),
        ("mtu", str(link.mtu)),
        ("configure", str(int(link.configure))),
        *(("address", str(address.interface)) for address in link.addresses),
        *(("template", name) for name in plan.templates),
        *(("dns", str(address)) for address in plan.dns),
        *(("search", domain) for domain in plan.search),
        *(("notice", line) for line in plan.notices),
    )


def _greets(options: "Options") -> bool:
    return options.greets and os.isatty(0) and os.isatty(2)


def _greet(options: "Options", made: "Plan") -> None:
    from pasta_py.control.guest import spawn
    from pasta_py.control.planning import summary

    for line in summary.greeting(made, spawn.hostname_of(options.hostname)):
        complain(f"{options.program}: {line}\n")


def _summary(options: "Options", made: "Plan", tap: "Tap", *, with_ports: bool) -> list[str]:
    if options.log_level < INFO:
        return []
    from pasta_py.control.forwarding import bind_ports
    from pasta_py.control.planning import summary

    lines = summary.lines(made, bind_ports.rules(options) if with_ports else ())
    return [*summary.socket_lines(tap.path, vhost_user=options.vhost_user), *lines] if tap.path else lines


def _for_log(options: "Options", warnings: list[str], set_up: list[str]) -> tuple[tuple[int, str], ...]:
    """The lines of standard error, for a log that is elsewhere. In a log file, each start begins with the version."""
    head = [(INFO, version(options.program).strip())] if options.log_file else []
    return (*head, *((WARNING, line) for line in warnings), *((INFO, line) for line in set_up))


# ---- files ----


def _open(path: str, flags: int, what: str, stack: ExitStack, mode: int = 0o600) -> int:
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, mode)
    except OSError as error:
        raise HostError(f"Couldn't open {what} {path!r}: {reason(error, 'choose a path that can be written')}") from None
    stack.callback(os.close, fd)
    return fd


def open_pid_file(options: "Options", stack: ExitStack) -> int:
    if not options.pid_file:
        return -1
    return _open(options.pid_file, os.O_WRONLY | os.O_TRUNC, "pidfile", stack)


def write_pid(fd: int, options: "Options", pid: int) -> None:
    if fd < 0:
        return
    try:
        os.write(fd, f"{pid}\n".encode())
    except OSError as error:
        raise HostError(f"Couldn't write pidfile {options.pid_file!r}: {reason(error, 'choose another place')}") from None


def open_control(options: "Options", stack: ExitStack) -> "ControlSocket | None":
    if not options.control_socket:
        return None
    from pasta_py.control.start import control_socket

    made = control_socket.listen(os.getpid() if options.foreground else 0)
    if made:
        stack.callback(made.close)
    else:
        tell(options, DEBUG, "no control socket, for lack of a place in XDG_RUNTIME_DIR: pasta-py ps cannot show this instance")
    return made


def _open_log(options: "Options", stack: ExitStack) -> tuple[int, bool, str, int]:
    """Descriptor for the worker's log, whether it is syslog or journald, the format, and the size limit if it is a log file."""
    if options.log_file:
        fd = _open(options.log_file, os.O_RDWR, "log file", stack)
        return fd, False, options.log_format, options.log_size if os.fstat(fd).st_mode & _TYPE == _REGULAR else 0
    if options.foreground:
        fd = os.dup(2)
        stack.callback(os.close, fd)
        return fd, False, options.log_format, 0
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    stack.callback(sock.close)
    for path, form in ((_JOURNAL, "journal"), (_SYSLOG, options.log_format)):
        try:
            sock.connect(path)
        except OSError:
            continue
        return sock.fileno(), True, form, 0
    return sock.fileno(), True, "text", 0  # neither is here: the lines are dropped, as by syslog(3)


def open_report(options: "Options", stack: ExitStack) -> "Report | None":
    if not options.report:
        return None
    from pasta_py.control.start import report_file

    report = report_file.Report(options)
    stack.callback(report.close)
    return report


def open_learner(options: "Options", stack: ExitStack) -> "learn_writer.Writer | None":
    if not options.learn:
        return None
    from pasta_py.control.start import learn_writer

    writer = learn_writer.Writer(options)
    stack.callback(writer.close)
    return writer


def _rotating(role: str, path: str, what: str, stack: ExitStack) -> list[tuple[str, int]]:
    """The files of a log that are written in turn, or a stream. All are opened now: the worker opens none. The log begins anew."""
    if not path:
        return []
    fds = [1 if path == "-" else _open(path, os.O_WRONLY, what, stack)]
    if path != "-" and os.fstat(fds[0]).st_mode & _TYPE == _REGULAR:
        fds += [_open(f"{path}.{number}", os.O_WRONLY, what, stack) for number in range(1, defaults.FLOW_LOG_FILES)]
        for fd in fds:
            os.ftruncate(fd, 0)
    return [(role, fd) for fd in fds]


def _capture(options: "Options", stack: ExitStack) -> list[tuple[str, int]]:
    if not options.pcap:
        return []
    _warn_of_port(options)
    if options.pcap_size:
        return _ring_of_captures(options, stack)
    fd = 1 if options.pcap == "-" else _open(options.pcap, os.O_WRONLY, "capture file", stack)
    if os.isatty(fd):
        raise HostError(f"--pcap {options.pcap!r} is a terminal: send the capture to a file or a program (> FILE, | PROGRAM)")
    status = os.fstat(fd)
    # Only pasta-py warns: container runtimes, which use `pasta`, restart containers and keep its output in their logs.
    if options.program == "pasta-py" and fd != 1 and status.st_mode & _TYPE == _REGULAR and status.st_size and os.isatty(2):
        tell(options, WARNING, f"--pcap: the file {options.pcap!r} is overwritten")
    return [(model.FD_CAPTURE, fd)]


def _ring_of_captures(options: "Options", stack: ExitStack) -> list[tuple[str, int]]:
    """All files are opened now: the worker opens none."""
    if options.pcap == "-":
        raise HostError("--pcap '-' is a stream, and --pcap-size is for files: leave out one of them")
    path, dot, suffix = options.pcap.rpartition(".")
    stem = path if dot and "/" not in suffix and path.rpartition("/")[2] else options.pcap
    end = options.pcap[len(stem) :]
    found = []
    for number in range(1, (options.pcap_files or defaults.CAPTURE_FILES) + 1):
        name = f"{stem}.{number}{end}"
        fd = _open(name, os.O_WRONLY, "capture file", stack)
        if os.fstat(fd).st_mode & _TYPE != _REGULAR:
            raise HostError(f"--pcap {name!r} is no file, and --pcap-size is for files: leave that out, or name another")
        found.append((model.FD_CAPTURE, fd))
    return found


def _capture_filter(options: "Options") -> bytes:
    if not options.pcap_filter:
        return b""
    from pasta_py.control.start import capture_filter  # ctypes takes 8 ms to import

    return capture_filter.compiled(options.pcap_filter, "--pcap-filter")


def _warn_of_port(options: "Options") -> None:
    """Docker's -p publishes a port, ours captures: warn of a file name that looks like a port."""
    from pasta_py.control.commandline import port_spec

    option = port_spec.meant_by(options.pcap)
    if option:
        taken = f"--pcap {options.pcap!r} looks like a port, and is taken as the name of a file"
        tell(options, WARNING, f"{taken}: to forward a port, give {option}")


def _capture_is_stdout(options: "Options") -> bool:
    """Whether the capture goes to standard output, even if by a name such as /dev/stdout."""
    if options.pcap in ("", "-"):
        return options.pcap == "-"
    try:
        named, ours = os.stat(options.pcap), os.fstat(1)
    except OSError:  # _capture makes it later, or refuses
        return False
    return (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)


def _empty_capture(options: "Options", descriptors: "Sequence[tuple[str, int]]") -> None:
    """Only once the tap is made: if another instance has the tap, the file may be its capture."""
    for role, fd in descriptors:
        if role == model.FD_CAPTURE and options.pcap != "-" and os.fstat(fd).st_mode & _TYPE == _REGULAR:
            os.ftruncate(fd, 0)


def _metrics(options: "Options", stack: ExitStack, rollback: ExitStack) -> list[tuple[str, int]]:
    if not options.metrics:
        return []
    from pasta_py.control.forwarding import pesto_socket
    from pasta_py.control.start import metrics_socket

    fd = metrics_socket.listen(options.metrics)
    stack.callback(os.close, fd)
    if metrics_socket.path_of(options.metrics):
        rollback.callback(pesto_socket.remove, metrics_socket.path_of(options.metrics))
    return [(model.FD_METRICS, fd)]


def _conf(options: "Options", stack: ExitStack, rollback: ExitStack) -> list[tuple[str, int]]:
    if not options.conf_path:
        return []
    from pasta_py.control.forwarding import pesto_socket

    fd = pesto_socket.listen(options.conf_path)
    stack.callback(os.close, fd)
    rollback.callback(pesto_socket.remove, options.conf_path)
    return [(model.FD_CONF, fd)]


def _changing(options: "Options", stack: ExitStack, rollback: ExitStack) -> list[tuple[str, int]]:
    if not options.control:
        return []
    from pasta_py.control.forwarding import pesto_socket

    fd = pesto_socket.listen(options.control, "--control")
    stack.callback(os.close, fd)
    rollback.callback(pesto_socket.remove, options.control)
    return [(model.FD_CONTROL_CHANGING, fd)]


def _refuse_visible(options: "Options", command: "Command | None") -> None:
    """No start where the guest could open the socket that changes its policy: it has the caller's UID."""
    from pasta_py.control.guest import visible_paths

    pid = command.pid if command else options.pid
    seen = visible_paths.seen_by(pid, options.control) if pid is not None else ""
    if seen:
        whose = "the command" if command else f"process {pid}"
        how = "with --sandbox, put it below /run or /tmp, which are covered" if command else "keep it out of what they share"
        raise HostError(f"--control {options.control!r}: {whose} sees it as {seen}, and could change its own rules there: {how}")


# ---- guest, plan, tap, ports ----


def prepare_command(options: "Options", stack: ExitStack) -> "Command | None":
    if not options.spawn or options.fd is not None:
        return None
    from pasta_py.control.guest import spawn

    if _greets(options):
        from pasta_py.control.guest import prompt

        prompt.mark(spawn.login_shell(), os.environ, prompt.name_of(spawn.hostname_of(options.hostname)))
    command = spawn.prepare(
        options.command,
        program=options.program,
        hostname=options.hostname,
        pidns=options.pidns,
        as_pid_1=options.as_pid_1,
        userns=not options.netns_only,
        stdout=2 if "-" in (options.flow_log, options.decision_log, options.report) or _capture_is_stdout(options) else 1,  # theirs
        kept=options.sandbox_keep if options.sandbox else None,
    )
    stack.callback(command.close)
    return command


def _find_guest(options: "Options", command: "Command | None", stack: ExitStack) -> "Guest | None":
    if options.fd is not None or options.program == "passt":
        return None
    from pasta_py.control.guest import namespaces

    if command:
        guest = namespaces.by_pid(command.pid, netns_only=options.netns_only, watch=False)
    elif options.pid is not None:
        only, userns = options.netns_only, options.userns
        guest = namespaces.by_pid(options.pid, netns_only=only, userns=userns, watch=options.netns_quit)
    else:
        guest = namespaces.by_path(options.netns, userns=options.userns, watch=options.netns_quit)
    stack.callback(guest.close)
    return guest


def _plan(options: "Options") -> "tuple[Plan, Options, tuple[HostSnapshot, Resolv, Said | None, bool]]":
    """The plan, the options with the interfaces' own names in the port specifications, and what the plan was made from."""
    from pasta_py.control.commandline import port_spec
    from pasta_py.control.planning import host, plan, resolv_conf

    policy = None
    if options.has_policy:
        from pasta_py.control.planning import egress

        policy = egress.read(options)
        options = egress.fitting(options, policy) if policy else options
    seen = host.snapshot(*plan.interfaces(options))
    tcp, udp = (port_spec.real_names(specs, seen.alternatives) for specs in (options.tcp_ports, options.udp_ports))
    shares_etc = os.geteuid() == 0 and options.fd is None
    names = resolv_conf.read()
    made = plan.build(options, seen, names, shares_etc=shares_etc)
    if policy:
        made = egress.into(made, policy, options, seen)
    if options.redirects or options.proxy:
        from pasta_py.control.planning import detours

        made = detours.into(made, options, seen)
    return made, options.replace(tcp_ports=tcp, udp_ports=udp), (seen, names, policy, shares_etc)


# ---- following the host ----


def _sources(options: "Options", guest: "Guest | None", stack: ExitStack) -> "Sources | None":
    """What will say that the host has changed, from now on."""
    from pasta_py.control.follow import Sources

    try:
        sources = Sources(guest.inotify if guest else -1)
    except OSError as error:
        tell(options, WARNING, f"the host's network is not followed: {reason(error)}")
        return None
    stack.callback(sources.close)
    return sources


def _for_loopback(options: "Options", plan: model.WorkerPlan) -> "Options":
    from pasta_py.control.commandline import port_spec

    versions = [version for version in (4, 6) if plan.family(version).on]
    tcp, udp = (port_spec.loopback_only(specs, versions) for specs in (options.tcp_ports, options.udp_ports))
    changed: Options = options.replace(tcp_ports=tcp, udp_ports=udp)
    return changed


def _make_tap(options: "Options", guest: "Guest | None", plan: "Plan", stack: ExitStack, rollback: ExitStack) -> "Tap":
    from pasta_py.control.guest import tap as taps

    tunnels = not options.pcap  # a capture shows each datagram inside a tunnel
    if options.program == "passt":
        tap = _link_of_virtual_machine(options, rollback)
    elif options.fd is not None:
        tap = taps.adopt(options.fd, tunnels=tunnels)
    else:
        assert guest is not None
        if options.splice_only:
            tap = taps.none_inside(guest, options.threads)
        else:
            tap = taps.make_inside(guest, plan.link, options.threads, stay=not options.foreground, tunnels=tunnels)
    stack.callback(_close_all, tap.fds)
    return tap


def _link_of_virtual_machine(options: "Options", rollback: ExitStack) -> "Tap":
    from pasta_py.control.forwarding import virtual_machine_socket
    from pasta_py.control.guest import tap as taps

    if options.fd is not None:
        fd, lossy = virtual_machine_socket.adopt(options.fd, stream=options.vhost_user)
        return taps.Tap(fd, vnet_hdr=False, uso=False, mac=_UNKNOWN_MAC, stream=True, lossy=lossy)
    if options.repair_path not in ("", "none"):
        tell(options, WARNING, f"--repair-path {options.repair_path!r}: migration is not offered: connections end with this host")
    listening = virtual_machine_socket.listen(options.socket)
    rollback.callback(virtual_machine_socket.remove, listening.path)
    return taps.Tap(listening.fd, vnet_hdr=False, uso=False, mac=_UNKNOWN_MAC, stream=True, path=listening.path)


def _listeners(
    options: "Options", inherited: dict[int, str], stack: ExitStack, listeners: list[model.Listener]
) -> list[int]:
    """Bind what is forwarded from the host: the sockets. `listeners` gets what they are for."""
    from pasta_py.control.forwarding import bind_ports

    bound = bind_ports.bind(options, lambda line: tell(options, WARNING, line), _owner_of)
    if inherited:
        from pasta_py.control.forwarding import systemd_sockets

        bound += systemd_sockets.listeners(inherited)
    sockets = [fd for _listener, fds in bound for fd in fds]
    stack.callback(_close_all, sockets)
    listeners += [listener for listener, _fds in bound]
    return sockets


def _owner_of(proto: str, port: int) -> str:
    from pasta_py.control.start import port_owner

    return port_owner.of_port(proto, port)


def _close_all(fds: "Sequence[int]") -> None:
    for fd in fds:
        os.close(fd)
