"""The commands of the control socket that only read."""

from pasta_py import __version__, worker_protocol
from pasta_py.errors import ControlError
from pasta_py.model import IPPROTO_TCP, IPPROTO_UDP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.worker.control_server import Context, Request
    from pasta_py.worker.json_lines import Value


_PROTOCOLS = {"tcp": IPPROTO_TCP, "udp": IPPROTO_UDP}


def status(context: "Context", _request: "Request") -> "dict[str, Value]":
    """What this instance is."""
    plan, counters = context.plan, context.core.counters()
    return {
        "pid": context.pid,
        "program": plan.program,
        "version": __version__,
        "serves": plan.serves,
        "since": context.since,
        "threads": plan.pairs if plan.vhost_user else plan.descriptors.count("tap"),
        "flows": sum(value for name, value in counters.items() if name.endswith("_flows")),
        "sent_bytes": counters["tap_rx_bytes"],
        "received_bytes": counters["tap_tx_bytes"],
    }


def stats(context: "Context", _request: "Request") -> "dict[str, Value]":
    """All counters, by their names in --stats."""
    return {"counters": {**context.core.counters()}, "lost_events": context.core.lost_events()}


def show(context: "Context", _request: "Request") -> "dict[str, Value]":
    """The plan, for `pasta-py show` of the same version: its text is made where the start's summary is."""
    plan, policy = context.plan, context.policy
    if policy:
        rules = policy.rules
        plan = plan.replace(egress_rules=rules.texts, egress_default=rules.default, egress_dns=rules.names)
    return {"version": __version__, "plan": worker_protocol.encode(plan).hex()}


def port(context: "Context", request: "Request") -> "dict[str, Value]":
    """Whether this instance listens at a port of the host."""
    number, name = request.get("port"), request.get("protocol")
    proto = _PROTOCOLS.get(name) if isinstance(name, str) else None
    if proto is None:
        raise ControlError("port: expected \"protocol\", tcp or udp")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 1 << 16:
        raise ControlError("port: expected \"port\", a number from 1 to 65535")
    return {"listens": context.holds(proto, number)}
