"""The entry point `slirp4netns`: its command line, on our engine. Stays in the foreground, and serves the API meanwhile.

The worker starts as soon as the command line is known to be good, and does what pasta's worker does. This process keeps the
user's rights to bind ports: it binds what the API requests, and hands the sockets over. Either ends with the other.
"""

import _socket
import errno
import posix as os  # lean imports: docs/architecture.md
import sys

from pasta_py.control.commandline.notices import complain, show
from pasta_py.control.slirp4netns import options
from pasta_py.control.slirp4netns.options import PROGRAM, SlirpOptions
from pasta_py.control.start import worker_process
from pasta_py.errors import HostError, PastaError, UsageError, WorkerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # lean imports: docs/architecture.md
    from collections.abc import Sequence

    from pasta_py.control.commandline.options import Options
    from pasta_py.control.guest.namespaces import Guest
    from pasta_py.control.guest.tap import Tap
    from pasta_py.control.planning.host import HostSnapshot
    from pasta_py.control.planning.plan import Plan
    from pasta_py.control.planning.resolv_conf import Resolv
    from pasta_py.control.slirp4netns.nameservers import Nameservers
    from pasta_py.control.start.control_socket import ControlSocket
    from pasta_py.control.start.worker_process import WorkerProcess
else:
    import _signal


def slirp4netns() -> None:
    """Console script `slirp4netns`."""
    from pasta_py.control.start.main import leave

    leave(run(sys.argv[1:]))


def run(argv: "Sequence[str]") -> int:
    """Parse the arguments and do it; the exit status. Expected failures are one line on standard error."""
    try:
        asked = options.parse(argv)
        if asked.action != "run":
            show(options.version_text() if asked.action == "version" else options.help_text())
            return 0
        return _start(asked)
    except PastaError as error:
        complain(f"{PROGRAM}: {' '.join(str(error).splitlines())}\n")
        if isinstance(error, UsageError):
            complain(options.USAGE + f"Try '{PROGRAM} --help' for all options.\n")
        return error.status
    except (OSError, MemoryError) as error:
        from pasta_py.control.start.main import failed

        return failed(PROGRAM, error)


def _start(asked: SlirpOptions) -> int:
    from pasta_py.control.guest import syscalls
    from pasta_py.control.start import launch

    tap_fd = int(asked.target) if asked.target_type == "tapfd" else -1
    from_user = (("exit-fd", asked.exit_fd), ("ready-fd", asked.ready_fd), ("FD", tap_fd))
    ours = {sock.fileno() for _pid, sock in worker_process.early}
    for name, fd in from_user:
        _keep_from_others(name, fd, ours)
    launch.clean_inheritance(ours | {fd for _name, fd in from_user if fd >= 0})
    syscalls.become_subreaper()
    modules = (*(("host_updates",) if asked.dns else ()), *(("port_rules",) if asked.api_socket else ()))
    worker = worker_process.WorkerProcess(modules=modules)
    try:
        return _serve(asked, worker)
    finally:
        worker.close()


def _keep_from_others(name: str, fd: int, ours: set[int]) -> None:
    """Keep the descriptor from the worker: its other end shall see when this process ends. `ours`: those that we have opened."""
    if fd > 2:
        try:
            if fd in ours:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            os.set_inheritable(fd, False)
        except OSError as error:
            raise UsageError(f"{name} {fd}: {error.strerror}: open it for this process first") from None


def _serve(asked: SlirpOptions, worker: "WorkerProcess") -> int:
    from pasta_py.control.commandline.notices import WARNING, tell
    from pasta_py.control.exit_stack import ExitStack
    from pasta_py.control.ip import IPv4Address
    from pasta_py.control.slirp4netns import plan

    with ExitStack() as stack:
        pasta = plan.as_pasta(asked, _mac(asked))
        for word in asked.surplus:
            tell(pasta, WARNING, f"too many arguments: {word!r} is passed over")
        control = _control(stack)
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        stack.callback(ours.close)
        stack.callback(theirs.close)
        read = _hand_over(asked, pasta, worker, control, theirs.fileno() if asked.dns else -1)
        _reap_all_but(worker)
        import select

        poll = select.poll()
        server = None
        if asked.api_socket:
            from pasta_py.control.slirp4netns import api

            own = plan.address(asked.network, plan.GUEST)
            assert isinstance(own, IPv4Address)
            server = api.Server(api.listen(asked.api_socket), api.HostForwards(worker, own), poll)
            stack.callback(server.close)
        _describe(asked)
        _say_ready(asked.ready_fd)
        poll.register(worker, select.POLLIN)
        nameservers = _follow(asked, pasta, ours, *read) if asked.dns else None
        if nameservers:
            stack.callback(nameservers.close)
            poll.register(nameservers, select.POLLIN)
        if asked.exit_fd >= 0:
            poll.register(asked.exit_fd, select.POLLIN | select.POLLPRI)
        return _wait(poll, server, worker, asked.exit_fd, nameservers)


def _reap_all_but(worker: "WorkerProcess") -> None:
    """Reap processes that the start has left: as the subreaper, we are their parent."""

    def reap(*_: object) -> None:
        try:
            while (child := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and child.si_pid != worker.pid:
                os.waitpid(child.si_pid, 0)
        except ChildProcessError:
            pass

    _signal.signal(_signal.SIGCHLD, reap)
    reap()


def _wait(
    poll: "select.poll", server: "api.Server | None", worker: "WorkerProcess", exit_fd: int, nameservers: "Nameservers | None"
) -> int:
    """Serve until the exit descriptor is ready or the worker ends; the exit status."""
    while True:
        for fd, _events in poll.poll(server.timeout_ms() if server else None):
            if fd == exit_fd:
                worker.finish()
                return 0
            if fd == worker.fileno():
                return _ended(worker)
            if nameservers and fd == nameservers.fileno():
                nameservers.changed()
            elif server:
                server.event(fd)
        if server:
            server.expire()


def _ended(worker: "WorkerProcess") -> int:
    """The exit status after the worker's end: 0 if the tap has gone with its namespace."""
    _pid, raw = os.waitpid(worker.pid, 0)
    worker.status = os.waitstatus_to_exitcode(raw)
    if worker.status < 0:
        raise WorkerError(f"the worker process ended by signal {-worker.status}: the namespace has no network any more")
    return worker.status


def _mac(asked: SlirpOptions) -> bytes:
    """The tap's MAC address, if we configure it: by default a random one (IEEE 802: locally administered, unicast)."""
    if asked.mac or not asked.configure:
        return asked.mac
    random = os.urandom(6)
    return bytes((random[0] & 0xFC | 2, *random[1:]))


def _control(stack: "ExitStack") -> int:
    """The control socket for `pasta-py ps` and its sisters, which goes with us; -1 where none can be made."""
    from pasta_py.control.start import control_socket

    made = control_socket.listen(os.getpid())
    if not made:
        return -1
    stack.callback(made.close)
    stack.callback(made.remove)
    for number in (_signal.SIGTERM, _signal.SIGHUP):
        if _signal.getsignal(number) == _signal.SIG_DFL:
            _signal.signal(number, lambda ours, _frame: _end_by(ours, made))
    return made.fd


def _end_by(number: int, made: "ControlSocket") -> None:
    """End by a signal as without a handler, which callers see in the status, but without the socket."""
    made.remove()
    _signal.signal(number, _signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _hand_over(
    asked: SlirpOptions, pasta: "Options", worker: "WorkerProcess", control: int, updates: int
) -> "tuple[HostSnapshot, Resolv]":
    """Set up everything, up to a worker that serves; what was read of the host. `control`: its control socket, or -1. `updates`:
    the worker's end of the socket that says what changes on the host, or -1."""
    from pasta_py import model
    from pasta_py.control.commandline.notices import WARNING, tell
    from pasta_py.control.exit_stack import ExitStack
    from pasta_py.control.planning import host, plan, resolv_conf
    from pasta_py.control.slirp4netns import plan as slirp_plan

    seen, names = host.snapshot(*plan.interfaces(pasta)), resolv_conf.read()
    made = slirp_plan.build(asked, pasta, seen, names)
    with ExitStack() as stack:
        tap = _tap(asked, made)
        stack.callback(os.close, tap.fd)
        for line in (*made.warnings, *tap.warnings):
            tell(pasta, WARNING, line)
        log_fd = os.dup(2)
        stack.callback(os.close, log_fd)
        descriptors = [(model.FD_TAP, tap.fd), (model.FD_LOG, log_fd)]
        descriptors += [pair for pair in ((model.FD_CONTROL, control), (model.FD_HOST_UPDATES, updates)) if pair[1] >= 0]
        final = made.worker.replace(
            guest_mac=tap.mac or made.worker.guest_mac,
            vnet_hdr=tap.vnet_hdr,
            uso=tap.uso,
            tunnels=tap.tunnels,
            changing=bool(asked.api_socket),
            lossy=asked.target_type in ("tapfd", "bess"),
            serves=f"process {asked.target}" if asked.target_type == "pid" else asked.target,
            descriptors=tuple(role for role, _fd in descriptors),
        )
        worker.hand_over(final, [fd for _role, fd in descriptors], pasta)
    return seen, names


def _follow(
    asked: SlirpOptions, pasta: "Options", sock: "_socket.socket", seen: "HostSnapshot", names: "Resolv"
) -> "Nameservers | None":
    """Begin to follow the host's nameservers. `sock`: to the worker. `seen`, `names`: what the worker has."""
    from pasta_py.control.commandline.notices import WARNING, tell
    from pasta_py.control.slirp4netns import nameservers, plan

    try:
        return nameservers.Nameservers(names, lambda now: plan.build(asked, pasta, seen, now).worker, sock)
    except OSError as error:
        tell(pasta, WARNING, f"changes of the host's nameservers are not followed: {error.strerror}")
        return None


def _tap(asked: SlirpOptions, made: "Plan") -> "Tap":
    from pasta_py.control.guest import tap as taps

    if asked.target_type == "tapfd":
        tap = taps.adopt(int(asked.target))
        if int(asked.target) > 2:
            os.close(int(asked.target))
        return tap
    if asked.target_type == "bess":
        return taps.adopt(_bess(asked.target))
    guest = _guest(asked)
    try:
        return taps.make_inside(guest, made.link) if asked.configure else taps.bare_inside(guest, asked.tapname)
    finally:
        guest.close()


def _guest(asked: SlirpOptions) -> "Guest":
    from pasta_py.control.guest import namespaces

    if asked.target_type == "pid":
        return namespaces.by_pid(int(asked.target), userns=asked.userns, watch=False)
    path = asked.target if asked.target.startswith("/") else f"{os.getcwd()}/{asked.target}"  # a name alone is a path here
    return namespaces.by_path(path, userns=asked.userns, watch=False)


def _bess(path: str) -> int:
    """The first connection at a UNIX socket of packets: User Mode Linux's bess transport, and QEMU's."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        try:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            listener.bind(path)
            listener.listen(1)
        except OSError as error:
            raise HostError(f"Couldn't listen at {path!r}: {error.strerror}: choose another path") from None
        complain(f"Waiting for connection to {path}\n")
        connection, _address = listener.accept()
    return connection.detach()


def _describe(asked: SlirpOptions) -> None:
    """Print what the guest may use, in slirp4netns's words."""
    from pasta_py.control.slirp4netns import plan

    network = asked.network
    gateway, dns, first, last, guest = (
        plan.address(network, n)
        for n in (plan.GATEWAY, plan.DNS, plan.DHCP, plan.DHCP_LAST, plan.GUEST)
    )
    lines = [
        "Starting slirp",
        f"* MTU:             {asked.mtu}",
        f"* Network:         {network.network_address}",
        f"* Netmask:         {network.netmask}",
        f"* Gateway:         {gateway}{'' if asked.host_loopback else ' (does not lead to the host)'}",
        f"* DNS:             {dns if asked.dns else 'none'}",
        f"* DHCP begin:      {first}",
        f"* DHCP end:        {last}",
        f"* Recommended IP:  {guest}",
    ]
    if asked.api_socket:
        lines.append(f"* API Socket:      {asked.api_socket}")
    if asked.host_loopback:
        six = f", [::1]:* as {plan.address6(plan.GATEWAY)}" if asked.ipv6 else ""
        what = f"127.0.0.1:* of the host as {gateway}{six}"
        lines.append(f"WARNING: the guest reaches {what}: --disable-host-loopback prohibits that")
    try:
        show("\n".join(lines) + "\n")
    except OSError:
        pass  # its reader is gone


def _say_ready(fd: int) -> None:
    if fd < 0:
        return
    try:
        os.write(fd, b"1")
        if fd > 2:
            os.close(fd)
    except OSError as error:
        raise HostError(f"Couldn't write to the ready-fd {fd}: {error.strerror}") from None


if TYPE_CHECKING:
    import select

    from pasta_py.control.exit_stack import ExitStack
    from pasta_py.control.slirp4netns import api
