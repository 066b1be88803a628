"""Frozen records with named, typed fields: what dataclasses(frozen=True) gives, for the worker.

Rejected: the dataclasses module. Importing it costs a bare interpreter 2.9 MB of resident memory and 15 ms
(it pulls in inspect, re, typing, enum), which the worker pays for days and every container start pays once.
A type checker sees ordinary keyword-only frozen dataclasses.

Invariants: a record never changes after construction; every field is set; two records are equal when their
classes and fields are.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, dataclass_transform
else:

    def dataclass_transform(**_options):
        return lambda cls: cls


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Record:
    """Base class: a subclass lists its fields as annotations, with defaults where it has them."""

    _fields: "ClassVar[tuple[str, ...]]" = ()

    def __init_subclass__(cls) -> None:
        # The class's own annotations only, and since Python 3.14 (PEP 649) evaluated by this very look-up: cls.__dict__ has none.
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
