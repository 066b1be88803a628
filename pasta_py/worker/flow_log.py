"""The flow log (--flow-log): a JSON line for each flow opened, refused and closed, as docs/control.md describes them."""

from pasta_py.worker import plane, rotating

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.worker import event_readers


class FlowLog:
    """A reader that writes to files."""

    def __init__(self, core: "plane.Plane", fds: "list[int]", limit: int, hub: "event_readers.Readers") -> None:
        """`limit`: bytes in each of the files."""
        self._core, self._readers = core, hub
        self._files = rotating.Rotating(fds, limit)
        hub.add(self._files.write)

    def finish(self) -> None:
        """The end: what waits, and a line for each flow that is still open."""
        self._core.finish()
        self._readers.on_events()
        shard = place = 0
        while self._core.list_flows(shard, place):
            kind, place, records = self._core.run()
            while kind != plane.LIST:
                kind, place, records = self._core.run()
            self._files.write(self._readers.lines(records, ended=True))
            shard += not place
