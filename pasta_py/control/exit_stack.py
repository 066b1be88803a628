"""The part of contextlib.ExitStack that control needs: undo steps, called last first (lean imports: docs/architecture.md)."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self


class ExitStack:
    """Calls back at the end of a `with` block, however it ends. All callbacks run, even if one raises."""

    def __init__(self) -> None:
        self._callbacks: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def callback(self, function: "Callable[..., object]", *args: "Any") -> None:
        self._callbacks.append((function, args))

    def pop_all(self) -> None:
        """Forget the callbacks: what was made has another owner now."""
        self._callbacks.clear()

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *reason: object) -> None:
        while self._callbacks:
            function, args = self._callbacks.pop()
            try:
                function(*args)
            except BaseException:
                self.__exit__(*reason)
                raise
