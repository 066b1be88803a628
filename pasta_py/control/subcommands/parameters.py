"""The parameters of a subcommand: its function's own, each with an Option or Argument in its annotation.

typer makes help and completion of them. It takes 100 ms to import, so the words of a call are read here, as those of `pasta` are.
"""

from pasta_py.control.commandline import getopt_long
from pasta_py.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


class Argument:
    """What a word means. `metavar`: what the help calls it; "": by its parameter. `min`, `max`: of a number."""

    def __init__(
        self, *names: str, help: str = "", metavar: str = "", min: float | None = None, max: float | None = None,
        show_default: bool = True,
    ) -> None:  # fmt: skip
        self.names, self.help, self.metavar, self.show_default = names, help, metavar, show_default
        self.min, self.max = min, max


class Option(Argument):
    """The same behind one of `names`, with their dashes; none: its parameter's."""


class Parameter:
    """A parameter of a function."""

    def __init__(self, name: str, annotation: "Any", default: "tuple[object, ...]") -> None:
        """`default`: empty, or with one member."""
        self.name, self.default = name, default
        self.kind: "Any" = getattr(annotation, "__origin__", annotation)  # of Annotated: the type
        self.told: Argument = getattr(annotation, "__metadata__", (Argument(),))[0]
        names = self.told.names or (f"--{name}",)
        self.long = next(each[2:] for each in names if each.startswith("--")) if isinstance(self.told, Option) else ""
        self.short = next((each[1:] for each in names if not each.startswith("--")), "") if self.long else ""
        inner = [each for each in getattr(self.kind, "__args__", ()) if each is not type(None)]
        plain = inner[0] if self.kind.__class__.__name__ == "UnionType" else self.kind
        self.many = getattr(plain, "__origin__", plain) is list
        self.type = str if self.many else plain

    def value(self, text: str) -> object:
        """UsageError: it is no number, or out of range."""
        if self.type not in (int, float):
            return text
        low, high = self.told.min, self.told.max
        try:
            number: float = self.type(text)
            if (low is None or number >= low) and (high is None or number <= high):
                return number
        except ValueError:
            pass
        range_ = f" from {low} to {high}" if high is not None else f", {low} or more" if low is not None else ""
        raise UsageError(f"invalid value {text!r} for {f'--{self.long}' if self.long else self.name}: expected a number{range_}")


def of(function: "Callable[..., int]") -> list[Parameter]:
    """In their order."""
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    defaults = function.__defaults__ or ()
    first = len(names) - len(defaults)
    return [Parameter(n, function.__annotations__[n], defaults[i - first : i - first + 1] if i >= first else ())
            for i, n in enumerate(names)]  # fmt: skip


def read(function: "Callable[..., int]", argv: "Sequence[str]") -> "dict[str, Any] | None":
    """The values to call `function` with; None: help is wanted. UsageError: words that it does not take."""
    parameters = of(function)
    options = {each.long: each for each in parameters if each.long}
    takes_value = {long: each.type is not bool for long, each in options.items()}
    letters = {each.short: long for long, each in options.items() if each.short}
    values: "dict[str, Any]" = {each.name: each.default[0] for each in parameters if each.default}
    words: list[str] = []
    for long, text in getopt_long.read(argv, {**takes_value, "help": False}, {**letters, "h": "help"}, words, permute=True):
        if long == "help":
            return None
        values[options[long].name] = options[long].value(text) if takes_value[long] else True
    for each in parameters:
        if each.long or not words:
            continue
        if each.many:
            values[each.name], words = words, []
        else:
            values[each.name] = each.value(words.pop(0))
    if words:
        raise UsageError(f"{words[0]!r} is a word too many: leave it out")
    for each in parameters:
        if each.name not in values:
            raise UsageError(f"{each.told.metavar or each.name.upper()} is missing: {each.told.help}")
    return values


def for_typer(function: "Callable[..., int]") -> "Callable[..., int]":
    """A function with the same parameters, as typer has them annotated."""
    import inspect
    from typing import Annotated

    import typer

    def described(**_values: object) -> int:
        raise AssertionError("typer only shows help")

    shown = []
    for each in of(function):
        told = each.told
        more: "dict[str, Any]" = {} if each.type is bool else {"min": told.min, "max": told.max}
        make: "Any" = typer.Option if each.long else typer.Argument
        info = make(
            *(told.names if each.long else ()), help=told.help, metavar=told.metavar or None, show_default=told.show_default, **more
        )
        default = each.default[0] if each.default else inspect.Parameter.empty
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        shown.append(inspect.Parameter(each.name, kind, default=default, annotation=Annotated[each.kind, info]))
    described.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    described.__annotations__ = {each.name: each.annotation for each in shown}
    return described
