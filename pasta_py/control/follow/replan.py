"""After a change of the host: the plan again, and how it differs from the one before. Runs in a child of the watcher."""

from pasta_py import model, worker_protocol
from pasta_py.control.follow import grace, packing, sentences, state
from pasta_py.control.ip import packed
from pasta_py.control.planning import host, plan, resolv_conf
from pasta_py.errors import PastaError

#: Fields of WorkerPlan that follow from the host, which model.HostUpdate has too.
_FOLLOWED = tuple(name for name in model.HostUpdate._fields if name in model.WorkerPlan._fields)


def run(data: bytes, inotify: int, now_ms: int) -> "worker_protocol.Value":
    """A tuple: the new state; the link plan and the worker's update, both encoded, b"" for what does not differ; lines for the log;
    when to look again, ms, or -1; names of files, and indices of interfaces, whose events matter.

    Where the host has nothing to offer, or not what the options name, all stays as it was, and one line says why.
    """
    names = tuple(state.watch_resolv_conf(inotify))
    was: state.State = packing.unpack(data)
    options = was.options
    try:
        seen = host.snapshot(*plan.interfaces(options))
        counted, due_ms = grace.settle(was.counted, seen, resolv_conf.read(), now_ms, options.follow_grace * 1000)
        before, now = _plan(was), _plan(was.replace(counted=counted))
    except PastaError as error:
        said = f"the guest keeps its network as it is: {error}"
        lines = () if was.trouble == said else (said,)
        links = tuple(state.links_that_matter(was.counted.host))
        return packing.pack(was.replace(trouble=said)), b"", b"", lines, -1, names, links
    became = was.replace(counted=counted, trouble="")
    link = packing.pack(now.link) if now.link != before.link else b""
    update = _update(now, counted)
    changed = worker_protocol.encode(update) if update != _update(before, was.counted) else b""
    links = tuple({*state.links_that_matter(seen), *state.links_that_matter(counted.host)})
    return packing.pack(became), link, changed, tuple(sentences.lines(before, now)), due_ms, names, links


def _plan(now: "state.State") -> plan.Plan:
    made = plan.build(now.options, now.counted.host, now.counted.resolv, shares_etc=now.shares_etc)
    if not now.policy:
        return made
    from pasta_py.control.planning import egress

    return egress.into(made, now.policy, now.options, now.counted.host)


def _update(made: plan.Plan, counted: grace.Counted) -> model.HostUpdate:
    values = {name: getattr(made.worker, name) for name in _FOLLOWED}
    return model.HostUpdate(**values, gone=tuple(map(packed, counted.gone)))
