"""From the socket to control to a worker that serves.

The order is forced. The helper starts first, because it needs the rights that the worker gives up. The worker locks itself in
before it receives the plan. The core's threads start when all else is built; the filter on system calls comes after them and
covers them all. Then control hears "ready".
"""



import _socket
import gc
import posix as os  # os takes 0.8 ms to import
import sys
import time

from pasta_py import model, worker_protocol
from pasta_py.errors import PastaError, reason
from pasta_py.worker import (
    confine,
    helper,
    later,
    log,
    logs_and_control,
    plane,
    sandbox,
    serve,
    watch,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pasta_py.worker import autoports, dns_service, link_server, pesto_server, port_rules

    #: the descriptors that came with the plan, by their role (model.FD_TAP and following)
    Roles = dict[str, list[int]]

_FILES = (model.FD_CAPTURE, model.FD_LOG, model.FD_FLOW_LOG, model.FD_DECISION_LOG)
_LISTENERS_AT_ONCE = 256  # sockets in one call of the core


def start_worker(sock: "_socket.socket", runas: "tuple[int, ...]", by_chroot: bool) -> "serve.Worker | None":
    """Lock the process in, receive the plan, build what it says, tell control; None if control closed without sending a plan.

    Arguments as those of `__main__.main`. PastaError, OSError: the worker cannot start.
    """
    later.keep(later.KEPT_FOR_EGRESS if "pasta_py.worker.rule_set" in sys.modules else ())
    null, helper_fd = _start_helper(sock, by_chroot)
    lost: list[str] = []
    watcher = _start_watcher(null, helper_fd, lost)
    keep_fd = helper_fd + 1 if watcher else helper_fd
    try:
        pid, warnings = sandbox.enter(keep_fd, (runas[0], runas[1]) if runas else None, by_chroot=by_chroot)
    except OSError as error:
        if not runas:
            raise
        raise PastaError(f"Couldn't become user {runas[0]}, group {runas[1]}: {error.strerror}: see --runas") from None
    received = worker_protocol.recv_plan(sock)
    if received is None:
        return None
    plan, fds = received
    lacking = list(warnings)
    confine.call_process(plan.program)
    roles = _by_role(plan, fds)
    journal = log.Log(roles.get(model.FD_LOG, [-1])[0], plan, pid)
    unfiltered: list[str] = []
    warnings += lost
    if watcher and model.FD_FOLLOW_STATE not in roles:
        watcher.close()
        watcher = None
    if not watcher:
        for role in model.FOLLOW_ROLES:
            for fd in roles.pop(role, ()):
                os.close(fd)
    worker = _build(sock, plan, fds, roles, helper_fd, watcher, journal, warnings, unfiltered)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
    files = [fd for role in _FILES for fd in roles.get(role, ())]
    # Where the worker has no filter either, its own warning says enough.
    closed = sandbox.close(files, vhost_user=plan.vhost_user, whole=plan.whole_sandbox) or unfiltered
    warnings += closed
    lacking += closed
    if plan.whole_sandbox and lacking:
        raise PastaError(f"--sandbox needs every layer of the sandbox, and one is missing: {lacking[0].removeprefix('sandbox: ')}")
    for level, line in plan.said:
        journal.write(level, line, asked=True)
    if journal.lost and not plan.log_syslog:
        warnings.append("the log file takes no lines (is the disk full?): choose another with --log-file")
    for line in warnings:
        worker_protocol.send_line(sock, f"warning {line}")
        if plan.log_syslog or plan.log_size:
            journal.write(log.WARNING, line)
    gc.enable()  # control disables it before it forks
    if watcher:
        _begin_to_follow(watcher, plan, roles)  # it waits until control has heard "ready", too
    worker_protocol.send_line(sock, f"ready {pid}")
    return worker


def _start_watcher(null: int, helper_fd: int, warnings: "list[str]") -> "_socket.socket | None":
    """The socket to the process that will follow the host; None if there is none."""
    if "pasta_py.worker.following" not in sys.modules:  # control has it loaded
        return None
    from pasta_py.worker import following

    try:
        return following.start(null, helper_fd + 1)
    except OSError as error:
        warnings.append(f"the host's network is not followed: {error.strerror}")
        return None


def _begin_to_follow(watcher: "_socket.socket", plan: "model.WorkerPlan", roles: "Roles") -> None:
    from pasta_py.worker import following

    following.begin(watcher, plan, roles)


def _start_helper(sock: "_socket.socket", by_chroot: bool) -> "tuple[int, int]":
    """Leave control's session and fork the helper; returns descriptors of /dev/null and of the socket to the helper.

    They get the two numbers after the socket to control, so that the sandbox can close all descriptors above.
    """
    try:
        os.setsid()  # Ctrl-C on control's terminal is for the command
    except PermissionError:
        pass  # already the head of a session
    null = os.open("/dev/null", os.O_RDWR)
    if null != sock.fileno() + 1:
        os.dup2(null, sock.fileno() + 1, inheritable=False)
        os.close(null)
        null = sock.fileno() + 1
    time.tzset()  # reads the time zone's file, which the sandbox puts out of reach: syslog lines have local time
    helper.start(null, null + 1, by_chroot=by_chroot)
    return null, null + 1


def _by_role(plan: "model.WorkerPlan", fds: worker_protocol.Descriptors) -> "Roles":
    """Take the descriptors that have a role off `fds`, which keeps the listeners' sockets."""
    roles: Roles = {}
    for role, fd in zip(plan.descriptors, fds.take(len(plan.descriptors)), strict=True):
        roles.setdefault(role, []).append(fd)
    if model.FD_LINK not in roles and not 0 < len(roles.get(model.FD_TAP, ())) <= plane.SHARDS_MAX:
        raise PastaError("the plan lacks the tap, or has more of its queues than there can be threads")
    return roles


def _build(
    sock: "_socket.socket", plan: "model.WorkerPlan", fds: worker_protocol.Descriptors, roles: "Roles", helper_fd: int,
    watcher: "_socket.socket | None", journal: log.Log, warnings: "list[str]", unfiltered: "list[str]",
) -> "serve.Worker":  # fmt: skip
    """The core with all that the plan wants of it, what Python watches, and the worker around them.

    Adds to `warnings`; to `unfiltered`, if the helper has no filter on its system calls.
    """
    signals = watch.catch_signals()
    taps, conf = roles.get(model.FD_TAP, [-1]), model.FD_CONF in roles
    core = plane.Plane(plan, taps[0])
    if plan.egress:
        core.set_egress(plan.egress)
    if plan.detours:
        core.set_detours(plan)
    changing = conf or plan.changing
    host_fds = list(fds) if changing or plan.auto_rules else []  # 40 bytes each, for those who need them later
    for listener in plan.listeners:
        for offset in range(0, listener.count, _LISTENERS_AT_ONCE):
            part = fds.take(min(_LISTENERS_AT_ONCE, listener.count - offset))
            core.add_listeners(listener, part, offset=offset)
    guest_fds: dict[tuple[int, int], list[int]] = {}  # by protocol and port
    auto: autoports.AutoPorts | None = None
    if _enter_guest(plan, helper_fd, roles, warnings, unfiltered):
        core.set_helper(helper_fd)
        for port, bound in helper.listen(core, plan, warnings):
            guest_fds.setdefault(port, []).append(bound)
        if plan.auto_rules or conf:
            auto = _forward_automatically(core, plan, [fd for each in guest_fds.values() for fd in each] + host_fds, warnings)
    rules, pesto = _changing_ports(core, plan, host_fds, guest_fds, auto, roles, journal) if changing else (None, None)
    if model.FD_CAPTURE in roles:
        try:
            core.capture(
                roles[model.FD_CAPTURE], pcapng=plan.pcapng, code=plan.capture_filter, snaplen=plan.capture_snaplen,
                file_bytes=plan.capture_file_bytes,
            )  # fmt: skip
        except OSError as error:
            raise PastaError(f"Couldn't write to the capture file: {reason(error, 'choose another for --pcap')}") from None
    queues = [-1] * (plan.pairs - 1) if plan.vhost_user else taps[1:]  # a front end brings its own
    if queues:
        try:
            core.add_shards(queues)
        except OSError as error:
            raise PastaError(f"Couldn't start {1 + len(queues)} threads: {reason(error, 'choose fewer with --threads')}") from None
    handlers: dict[int, watch.Handler] = {}
    dns = None
    if plan.serves_dns:
        from pasta_py.worker import dns_start  # loaded before the worker was locked in

        dns = dns_start.service(core, plan, handlers)
    logs = logs_and_control.LogsAndControl(core, plan, journal, logs_and_control.owner_of(sock), dns)
    logs.holds = lambda proto, port: _holds(plan, rules, auto, proto, port)
    ticks = serve.Ticks(core, plan, journal, auto, pesto, logs, dns)
    control = watch.Control(core, sock, rules if plan.changing else None)
    handlers |= watch.handlers(core, plan, roles, journal, control, signals)
    if pesto:
        handlers |= serve.pesto_handlers(pesto, ticks)
    if plan.pcapng:
        logs.name_capture()
    if model.FD_FLOW_LOG in roles:
        logs.log_flows(roles[model.FD_FLOW_LOG], plan.flow_log_file_bytes)
    for role, ident in ((model.FD_CONTROL, watch.READING), (model.FD_CONTROL_CHANGING, watch.CHANGING)):
        for fd in roles.get(role, ()):
            logs.listen(fd, ident, handlers, ticks.arm, changing=role == model.FD_CONTROL_CHANGING)
    for fd in roles.get(model.FD_METRICS, ()):
        _serve_metrics(core, fd, handlers)
    link = _serve_link(core, plan, roles, journal, handlers) if plan.stream else None
    worker = serve.Worker(core, plan, journal, control, handlers, ticks, logs, dns, link)
    if plan.egress and dns:
        _tell_decisions(core, plan, roles, journal, logs, dns, worker, ticks)
    if watcher:
        directory = roles.get(model.FD_NETNS_INOTIFY, ())
        _follow(core, plan, journal, handlers, watcher, worker, logs, directory, outlived=True)
    for fd in roles.get(model.FD_HOST_UPDATES, ()):  # control's, which ends with us
        _follow(core, plan, journal, handlers, _socket.socket(fileno=fd), worker, logs, outlived=False)
    return worker


def _holds(
    plan: "model.WorkerPlan", rules: "port_rules.Rules | None", auto: "autoports.AutoPorts | None", proto: int, port: int
) -> bool:  # fmt: skip
    """Whether a port of the host is bound here."""
    if auto and auto.holds(proto, port):
        return True
    if rules:
        return rules.holds(proto, port)
    return any(each.proto == proto and each.port <= port < each.port + each.count for each in plan.listeners)


def _serve_metrics(core: plane.Plane, fd: int, handlers: "dict[int, watch.Handler]") -> None:
    from pasta_py.worker import metrics  # loaded before the worker was locked in

    server = metrics.Server(core, fd, watch.METRICS_CLIENTS, handlers)
    handlers[watch.METRICS] = server.on_listener
    core.watch(fd, watch.METRICS)


def _follow(
    core: plane.Plane, plan: "model.WorkerPlan", journal: log.Log, handlers: "dict[int, watch.Handler]",
    sock: "_socket.socket", worker: "serve.Worker", logs: logs_and_control.LogsAndControl, directory: "Iterable[int]" = (),
    *, outlived: bool,
) -> None:  # fmt: skip
    """Hear what the process at the other end of the socket says of the host. `directory`: what watches the namespace's name."""
    from pasta_py.worker import host_updates  # loaded before the worker was locked in

    updates = host_updates.HostUpdates(core, plan, journal, sock, outlived=outlived)
    updates.adopt = worker.adopt
    if logs.policy:
        updates.adopt_policy = logs.policy.rules.adopt
    core.watch(updates.fileno(), watch.FOLLOW)
    handlers[watch.FOLLOW] = updates.on_readable
    for fd in directory:
        watch.leave_directory(core, fd, plan, journal, updates)


def _tell_decisions(
    core: plane.Plane, plan: "model.WorkerPlan", roles: "Roles", journal: log.Log, logs: logs_and_control.LogsAndControl,
    dns: "dns_service.Service", worker: "serve.Worker", ticks: "serve.Ticks",
) -> None:  # fmt: skip
    """What the egress policy decides: in the decision log, and at the end what it has denied."""
    from pasta_py.worker import denials, rule_set

    policy = logs.policy = rule_set.Policy(core, plan, journal, dns, logs.readers, ticks.arm)
    if model.FD_DECISION_LOG in roles:
        logs.log_decisions(roles[model.FD_DECISION_LOG], plan.flow_log_file_bytes)
    if model.FD_LEARN in roles:
        logs.learn(roles[model.FD_LEARN][0])
    if not plan.tells_denials:
        return
    counted = denials.Denials(core, policy.rules, policy.search)
    logs.readers().add_taker(counted.on_records)
    dns.on_judged.append(counted.on_query)
    dns.on_withheld.append(counted.on_withheld)

    def tell() -> None:
        logs.on_events()
        counted.tell(journal)

    worker.at_end = tell


def _serve_link(
    core: plane.Plane, plan: "model.WorkerPlan", roles: "Roles", journal: log.Log, handlers: "dict[int, watch.Handler]"
) -> "link_server.Server":
    from pasta_py.worker import link_server

    server = link_server.Server(core, plan, roles.get(model.FD_LINK, [-1])[0], watch.LINK, journal)
    handlers[watch.LINK] = server.on_listener
    return server


def _enter_guest(
    plan: "model.WorkerPlan", fd: int, roles: "Roles", warnings: "list[str]", unfiltered: "list[str]"
) -> bool:
    """Send the helper into the guest's namespaces if anything needs it there; whether it is there.

    Without the helper local connections take the tap. The socket `fd` is closed then, which ends the helper.
    """
    netns, userns = roles.get(model.FD_GUEST_NETNS, []), roles.get(model.FD_GUEST_USERNS, [])
    # The control socket may bring rules that need the helper.
    needed = plan.splice or plan.guest_ports or plan.auto_rules or model.FD_CONF in roles
    entered = False
    if netns and needed:
        try:
            lost = helper.enter(fd, userns[0] if userns else None, netns[0])
            if lost:
                unfiltered.append(f"sandbox: no filter on the helper's system calls: {lost}")
            entered = True
        except OSError as error:
            if plan.guest_ports or plan.local_only:
                lost = "no sockets in the guest's namespace, so neither -T nor --splice-only"
                raise PastaError(f"{lost}: {error.strerror}") from None
            warnings.append(f"no splice and no automatic ports: the guest's namespace cannot be entered: {error.strerror}")
    for namespace in () if model.FD_FOLLOW_STATE in roles else netns + userns:
        os.close(namespace)
    if not entered:
        os.close(fd)
    return entered


def _changing_ports(
    core: "plane.Plane", plan: "model.WorkerPlan", host_fds: "list[int]", guest_fds: "dict[tuple[int, int], list[int]]",
    auto: "autoports.AutoPorts | None", roles: "Roles", journal: log.Log,
) -> "tuple[port_rules.Rules, pesto_server.Server | None]":  # fmt: skip
    """The forwarded ports that control or pesto changes, and the server of pesto where there is its socket."""
    from pasta_py.worker import port_rules  # loaded before the worker was locked in

    rules = port_rules.Rules(core, plan, host_fds, guest_fds, auto)
    if model.FD_CONF not in roles:
        return rules, None
    from pasta_py.worker import pesto_server

    return rules, pesto_server.Server(core, roles[model.FD_CONF][0], (watch.PESTO, watch.PESTO_CLIENT), rules, journal)


def _forward_automatically(
    core: "plane.Plane", plan: "model.WorkerPlan", ours: "list[int]", warnings: "list[str]"
) -> "autoports.AutoPorts | None":
    """Bind the automatic ports for what listens now. `ours`: our sockets, which are never targets."""
    from pasta_py.worker import autoports  # loaded before the worker was locked in

    auto: autoports.AutoPorts | None = None
    try:
        auto = autoports.AutoPorts(core, plan, autoports.diag_socket(core.diag_in_guest()))
        for fd in ours:
            auto.exclude(fd)
        auto.scan()
    except OSError as error:
        warnings.append(f"no automatic forwarding of ports: sock_diag: {error.strerror}")
    return auto
