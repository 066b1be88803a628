"""Purpose: frozen records with named, typed fields, as dataclasses(frozen=True, kw_only=True) are, also for a type checker.

Invariants: a record never changes after construction; every field is set; two records are equal if their classes and fields are.

Rejected: the dataclasses module. Its import (with inspect, re, typing, enum) costs a bare interpreter 2.9 MB of resident memory,
which the worker would keep as long as it runs, and 15 ms at each start.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, dataclass_transform
else:

    def dataclass_transform(**_options):
        return lambda cls: cls


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Record:
    """Base class: a subclass lists its fields as annotations, with defaults for some."""

    _fields: "ClassVar[tuple[str, ...]]" = ()

    def __init_subclass__(cls) -> None:
        # Only the class's own annotations. Since Python 3.14 (PEP 649) this look-up evaluates them, and cls.__dict__ has none.
        own = tuple(name for name in cls.__annotations__ if not name.startswith("_"))
        cls._fields = cls._fields + own

    def __init__(self, **values: "Any") -> None:
        for name in self._fields:
            if name in values:
                self.__dict__[name] = values.pop(name)
            elif hasattr(type(self), name):
                self.__dict__[name] = getattr(type(self), name)
            else:
                raise TypeError(f"{type(self).__name__}: field {name!r} is missing")
        if values:
            raise TypeError(f"{type(self).__name__}: unknown field {next(iter(values))!r}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: cannot delete {name!r}")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def __hash__(self) -> int:
        return hash((type(self), tuple(self.__dict__.values())))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={self.__dict__[n]!r}' for n in self._fields)})"

    def replace(self, **changes: "Any") -> "Any":
        """A copy with some fields changed."""
        return type(self)(**{**self.__dict__, **changes})
