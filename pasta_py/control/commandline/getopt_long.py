"""Command lines as getopt_long(3) of glibc reads them, with the errors in its words: callers of these programs look for them.

Long options may be shortened while they stay unambiguous. Values come as `--x=v`, `--x v`, `-xV` and `-x V`; short options
cluster; `--` ends the options.

Rejected: getopt of the standard library, which words its errors differently; argparse (docs/architecture.md, Lean imports).
"""

from pasta_py.errors import UnknownOption, UsageError

#: Options that users know from other programs, and what stands in their place in `pasta`.
_OF_OTHERS = {
    "port": "-t and -u forward ports",
    "publish": "-t and -u forward ports",
    "rm": "nothing is left behind anyway",
    "verbose": "--debug says more",
}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


def names(table: "Sequence[tuple[str, str, str, str]]") -> "tuple[dict[str, bool], dict[str, str]]":
    """What read() needs, from rows of short form ("" for none), long form, name of the value ("" for none) and help text."""
    takes_value = {long: bool(value) for _short, long, value, _help in table}
    return takes_value, {short: long for short, long, _value, _help in table if short}


def read(
    args: "Sequence[str]",
    takes_value: "Mapping[str, bool]",
    letters: "Mapping[str, str]",
    rest: list[str],
    *,
    permute: bool = False,
    first_words: "Sequence[str]" = (),
) -> "Iterator[tuple[str, str]]":
    """Yield each option as it is met: its long name without dashes, and its value, "" for none. UsageError.

    `takes_value`: by long name. `letters`: short form to long name. The arguments that are no options go to `rest`. `permute`:
    options may follow arguments; otherwise the first argument ends them (getopt's "+"). `first_words`: names that the caller takes
    as the first word only, before it comes here.
    """
    words = iter(args)
    for word in words:
        if word == "--":
            rest.extend(words)
        elif word == "-" or not word.startswith("-"):
            rest.append(word)
            if not permute:
                rest.extend(words)
        elif word.startswith("--"):
            yield _long(word[2:], words, takes_value, first_words)
        else:
            yield from _cluster(word[1:], words, takes_value, letters)


def _long(
    written: str, following: "Iterator[str]", takes_value: "Mapping[str, bool]", first_words: "Sequence[str]"
) -> tuple[str, str]:
    """`written`: what follows the dashes, with any =VALUE."""
    name, equals, value = written.partition("=")
    long = _full_name(name, written, takes_value, first_words)
    if takes_value[long]:
        return long, value if equals else _next(following, f"option '--{long}' requires an argument")
    if equals:
        raise UsageError(f"option '--{long}' doesn't allow an argument")
    return long, ""


def _full_name(name: str, written: str, takes_value: "Mapping[str, bool]", first_words: "Sequence[str]") -> str:
    if name in takes_value:
        return name
    matches = [long for long in takes_value if long.startswith(name)]
    if not matches:
        hint = ": it has to be the first word" if name in first_words else _meant(name, [*takes_value, *first_words])
        raise UnknownOption(f"unrecognized option '--{written}'{hint}")
    if len(matches) > 1:
        listed = " ".join(f"'--{long}'" for long in matches)
        raise UsageError(f"option '--{written}' is ambiguous; possibilities: {listed}")
    return matches[0]


def _cluster(
    cluster: str, following: "Iterator[str]", takes_value: "Mapping[str, bool]", letters: "Mapping[str, str]"
) -> "Iterator[tuple[str, str]]":
    for position, letter in enumerate(cluster, 1):
        if letter not in letters:
            raise UnknownOption(f"invalid option -- '{letter}'")
        long = letters[letter]
        if takes_value[long]:
            yield long, cluster[position:] or _next(following, f"option requires an argument -- '{letter}'")
            return
        yield long, ""


def _meant(name: str, known: "Iterable[str]") -> str:
    """A question with the names that the misspelt one is most like; "" if it is like none."""
    import difflib  # 5 ms, for an error only

    if name in _OF_OTHERS and "tcp-ports" in known:
        return f": {_OF_OTHERS[name]}"
    near = [f"'--{each}'" for each in difflib.get_close_matches(name, known, n=2, cutoff=0.65)]
    return f": did you mean {' or '.join(near)}?" if near else ""


def _next(words: "Iterator[str]", missing: str) -> str:
    word = next(words, None)
    if word is None:
        raise UsageError(missing)
    return word
