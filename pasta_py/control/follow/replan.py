"""After a change of the host: the plan again, and how it differs from the one before."""

from pasta_py import model, worker_protocol
from pasta_py.control import follow
from pasta_py.control.follow import grace, packing, sentences
from pasta_py.control.ip import packed
from pasta_py.control.planning import host, plan, resolv_conf
from pasta_py.errors import PastaError
from pasta_py.record import Record


class Replanned(Record):
    """`before`, `link` and `update` are encoded; b"" for a link plan or worker's update that does not differ."""

    state: follow.State
    before: bytes = b""  # the link plan up to now
    link: bytes = b""
    update: bytes = b""
    lines: tuple[str, ...] = ()  # for the log
    due_ms: int = -1  # when to look again, by the monotonic clock; -1: at the next change
    names: tuple[str, ...] = ()  # of files whose events matter
    links: tuple[int, ...] = ()  # indices of interfaces whose events matter


def run(was: follow.State, inotify: int, now_ms: int) -> Replanned:
    """From one state to the next. Where the host has nothing to offer, or not what the options name, all stays as it was, and one
    line says why."""
    names = tuple(follow.watch_resolv_conf(inotify))
    options = was.options
    try:
        seen = host.snapshot(*plan.interfaces(options))
        counted, due_ms = grace.settle(was.counted, seen, resolv_conf.read(), now_ms, options.follow_grace * 1000)
        before, now = _plan(was), _plan(was.replace(counted=counted))
    except PastaError as error:
        said = f"the guest keeps its network as it is: {error}"
        return Replanned(
            state=was.replace(trouble=said),
            lines=() if was.trouble == said else (said,),
            names=names,
            links=tuple(follow.links_that_matter(was.counted.host)),
        )
    differs = now.link != before.link
    update = _update(now, counted)
    return Replanned(
        state=was.replace(counted=counted, trouble=""),
        before=packing.pack(before.link) if differs else b"",
        link=packing.pack(now.link) if differs else b"",
        update=worker_protocol.encode(update) if update != _update(before, was.counted) else b"",
        lines=tuple(sentences.lines(before, now)),
        due_ms=due_ms,
        names=names,
        links=tuple({*follow.links_that_matter(seen), *follow.links_that_matter(counted.host)}),
    )


def _plan(now: follow.State) -> plan.Plan:
    made = plan.build(now.options, now.counted.host, now.counted.resolv, shares_etc=now.shares_etc)
    if not now.policy:
        return made
    from pasta_py.control.planning import egress

    return egress.into(made, now.policy, now.options, now.counted.host)


def _update(made: plan.Plan, counted: follow.Counted) -> model.HostUpdate:
    return model.host_update(made.worker, tuple(map(packed, counted.gone)))
