"""The commands of the control socket that only read."""

from pasta_py import __version__, worker_protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.worker.control_server import Context, Request
    from pasta_py.worker.json_lines import Value


def status(context: "Context", _request: "Request") -> "dict[str, Value]":
    """What this instance is."""
    plan, counters = context.plan, context.core.counters()
    return {
        "pid": context.pid,
        "program": plan.program,
        "version": __version__,
        "serves": plan.serves,
        "since": context.since,
        "threads": plan.descriptors.count("tap"),
        "flows": sum(value for name, value in counters.items() if name.endswith("_flows")),
        "sent_bytes": counters["tap_rx_bytes"],
        "received_bytes": counters["tap_tx_bytes"],
    }


def stats(context: "Context", _request: "Request") -> "dict[str, Value]":
    """All counters, by their names in --stats."""
    return {"counters": {**context.core.counters()}, "lost_events": context.core.lost_events()}


def show(context: "Context", _request: "Request") -> "dict[str, Value]":
    """The plan, for `pasta-py show` of the same version: its text is made where the start's summary is."""
    return {"version": __version__, "plan": worker_protocol.encode(context.plan).hex()}
