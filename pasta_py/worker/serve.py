"""A worker that serves: the loop over the core's events, and what is done at intervals.

Invariants: an event for which memory runs out is dropped, as a link may drop a frame, and the loop goes on. The core reports a
descriptor again while it is readable.
"""

import posix as os  # os takes 0.8 ms to import
import sys
import time

from pasta_py import defaults, model
from pasta_py.worker import dhcp4, log, ndp, plane, slowpath, watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pasta_py.model import WorkerPlan
    from pasta_py.worker import autoports, dns_service, forced_renewal, link_server, logs_and_control, pesto_server

_SHORTAGE_S = 10  # between two lines about lack of memory
# RFC 4861, 6.2.1: MaxRtrAdvInterval is 600 s at most.
_DNS_S = 0.1  # how late a time-out of DNS may be
_NEVER = float("inf")


class Worker:
    """The core, its watched descriptors and its log."""

    def __init__(
        self, core: "plane.Plane", plan: "WorkerPlan", journal: log.Log, control: "watch.Control",
        handlers: "dict[int, Callable[[], int | None]]", ticks: "Ticks", logs: "logs_and_control.LogsAndControl",
        dns: "dns_service.Service | None" = None, link: "link_server.Server | None" = None,
    ) -> None:  # fmt: skip
        self._core, self._plan, self._log, self._control = core, plan, journal, control
        self._handlers, self._ticks, self._logs, self._dns, self._link = handlers, ticks, logs, dns, link
        self._leases = dhcp4.Leases(plan) if plan.leases > 1 else None
        self._renewals = _renewals()
        self._short_of_memory, self._tell_shortage_at = False, 0.0
        self.at_end: Callable[[], None] = lambda: None  # what is told last

    def adopt(self, plan: "WorkerPlan") -> None:
        """Go on with a changed plan. The guest hears at once what it cannot see by itself: router advertisements."""
        told = ndp.withdrawals(self._plan, plan)
        if self._renewals:
            told += slowpath.forced(self._plan, plan, self._renewals)
        for frame in told:
            self._core.send(frame)
        self._plan = plan
        if self._leases:
            self._leases.adopt(plan)
        self._ticks.adopt(plan)
        if self._dns:
            from pasta_py.worker import dns_start  # loaded before the worker was locked in

            self._dns.adopt(plan, dns_start.servers(plan))

    def serve(self) -> int:
        """Run until the end; returns the exit status (worker_protocol)."""
        try:
            self._ticks.advertise()
            self._ticks.arm()
            while True:
                try:
                    status = self._turn()
                except MemoryError:
                    self._short_of_memory = True
                    continue
                if status is not None:
                    return status
        except Exception as error:  # standard error is /dev/null by now: only the log is left
            self._log.write(log.ERROR, f"internal error: {type(error).__name__}: {error}")
            return 1
        finally:
            self.at_end()
            self._logs.finish()
            self._end_capture()
            self._core.close()
            self._log.close()

    def _end_capture(self) -> None:
        """Say what a capture has got. `pasta` keeps that for the level of notices: runtimes keep what it says in their logs."""
        if model.FD_CAPTURE not in self._plan.descriptors:
            return
        frames, size, dropped, why = self._core.end_capture()
        if why:
            self._log.write(log.WARNING, why)
        text = f"capture: {frames} frames ({size} bytes) written, {dropped} left out"
        self._log.write(log.INFO, text, asked=self._plan.program == "pasta-py")

    def _turn(self) -> "int | None":
        """One event of the core; the exit status when it was the last."""
        kind, ident, data = self._core.run()
        if self._short_of_memory:
            self._tell_shortage()
        if kind == plane.PUNT:
            if self._link:
                self._link.on_frame(data)
            answer = slowpath.reply(self._plan, data, self._leases, self._renewals)
            if answer is not None:
                self._core.send(answer)
        elif kind == plane.WATCH:
            handler = self._handlers.get(ident)  # None: it was removed after the core had seen its event
            return handler() if handler else None
        elif self._dns and kind in (plane.DNS, plane.DNS_STREAM, plane.ASK):
            if kind == plane.DNS:
                self._dns.on_frame(data, ident)
            elif kind == plane.DNS_STREAM:
                self._dns.on_stream(ident, data)
            else:
                address, name = data[:16], data[16:]
                self._dns.ask_again(name.decode(), address, lambda: self._core.answered(address, name))
            self._ticks.watch_dns()
        elif kind == plane.LOG:
            self._log.write(ident, data.decode("utf-8", "replace"))
        elif kind == plane.TICK:
            self._ticks.on_tick()
        elif kind == plane.EVENTS:
            self._logs.on_events()
        elif kind == plane.LIST:
            self._logs.on_list(ident, data)
        elif kind == plane.END:
            return self._link.on_end(ident) if self._link else self._on_end(ident)
        return None

    def _on_end(self, number: int) -> int:
        """The tap is gone, with this errno. Where the guest's namespace is watched too, the end of the tap alone is a failure."""
        missed = self._control.is_open()
        self._log.write(log.WARNING if missed else log.INFO, f"the tap is gone ({os.strerror(number)}): quitting")
        watched = watch.PROCESS in self._handlers or watch.DIRECTORY in self._handlers
        return 1 if missed and watched else 0

    def _tell_shortage(self) -> None:
        self._short_of_memory = False
        now = time.monotonic()
        if now >= self._tell_shortage_at:
            self._tell_shortage_at = now + _SHORTAGE_S
            self._log.write(log.WARNING, "out of memory: some frames or log lines were lost (is there a limit, ulimit -v?)")


def _renewals() -> "forced_renewal.Renewals | None":
    if "pasta_py.worker.forced_renewal" not in sys.modules:  # control has it loaded where it is needed
        return None
    from pasta_py.worker import forced_renewal

    return forced_renewal.Renewals()


class Ticks:
    """What is done at intervals. The core has one timer: arm() sets it to whatever is due first."""

    def __init__(
        self, core: "plane.Plane", plan: "WorkerPlan", journal: log.Log, auto: "autoports.AutoPorts | None",
        pesto: "pesto_server.Server | None", logs: "logs_and_control.LogsAndControl", dns: "dns_service.Service | None" = None,
    ) -> None:  # fmt: skip
        self._core, self._plan, self._log, self._auto, self._pesto = core, plan, journal, auto, pesto
        self._logs, self._dns, self._dns_at = logs, dns, _NEVER
        self._advertise_at = _NEVER
        self._stats_at = time.monotonic() + plan.stats_s if plan.stats_s else _NEVER
        self._shown: dict[str, int] = {}

    def adopt(self, plan: "WorkerPlan") -> None:
        """Go on with a changed plan, which is advertised at once."""
        self._plan = plan
        self.advertise()
        self.arm()

    def arm(self) -> None:
        """Set the core's timer; needed after anything that may have become due earlier."""
        due = min(
            self._stats_at,
            self._advertise_at,
            self._auto.due if self._auto else _NEVER,
            self._pesto.due if self._pesto else _NEVER,
            self._dns_at,
            self._logs.due,
        )
        self._core.tick(max(1, int((due - time.monotonic()) * 1000)) if due < _NEVER else 0)

    def on_tick(self) -> None:
        now = time.monotonic()
        if now >= self._advertise_at:
            self.advertise()
        if now >= self._stats_at:
            self._show_counters()
            self._stats_at = now + self._plan.stats_s
        if self._auto and now >= self._auto.due:
            self.scan()
        if self._pesto:
            self._pesto.on_tick()
        if self._dns and now >= self._dns_at:
            self._dns.on_tick()
            self._dns_at = now + _DNS_S if self._dns.busy else _NEVER
        self._logs.on_tick()
        self.arm()

    def watch_dns(self) -> None:
        """After anything that may have begun a question or a connection."""
        if self._dns and self._dns.busy and self._dns_at == _NEVER:
            self._dns_at = time.monotonic() + _DNS_S
            self.arm()

    def scan(self) -> None:
        """Bind and unbind automatic ports, now."""
        if self._auto:
            try:
                self._auto.scan()
            except OSError as error:
                self._log.write(log.WARNING, f"automatic forwarding of ports ends: sock_diag: {error.strerror}")
                self._auto = None

    def advertise(self) -> None:
        """Send a router advertisement, where the plan has them on."""
        frame = ndp.advertisement(self._plan)
        if frame:
            self._core.send(frame)
        self._advertise_at = time.monotonic() + defaults.ADVERTISE_S if frame else _NEVER

    def _show_counters(self) -> None:
        counters = self._core.counters()
        if counters != self._shown:
            self._shown = counters
            # The user asked for them (--stats), so --quiet does not hide them.
            self._log.write(log.INFO, "stats: " + " ".join(f"{k}={v}" for k, v in counters.items() if v), asked=True)


def pesto_handlers(pesto: "pesto_server.Server", ticks: Ticks) -> "dict[int, watch.Handler]":
    """The handlers of the control socket (--conf-path) and its client, which the server itself watches."""

    def on_listener() -> None:
        pesto.on_listener()
        ticks.arm()

    def on_client() -> None:
        if pesto.on_client():
            ticks.scan()
        ticks.arm()

    return {watch.PESTO: on_listener, watch.PESTO_CLIENT: on_client}
