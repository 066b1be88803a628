"""The flow log (--flow-log): a JSON line for each flow opened, refused and closed, as docs/control.md describes them."""

from pasta_py.worker import plane

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.worker import event_readers, rotating


class FlowLog:
    """A reader that writes to files."""

    def __init__(self, core: "plane.Plane", files: "rotating.Rotating", hub: "event_readers.Readers") -> None:
        self._core, self._files, self._readers = core, files, hub
        hub.add(files.write)

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
