"""Names out of copied answers, and nothing else out of anything a nameserver or guest can send."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pasta_py.worker import dns_names, dns_wire
from pasta_py.worker.dns_wire import Message, Rr

NAME, ALIAS = dns_wire.from_text("www.example.org"), dns_wire.from_text("host.cdn.test")
MAPPED = bytes(10) + b"\xff\xff"


class Core:
    """What the core has copied."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.wanted = False
        self.told: list[tuple[bytes, str]] = []

    def name_in_captures(self, address: bytes, name: str) -> None:
        self.told.append((address, name))

    def want_names(self, wanted: bool) -> None:
        self.wanted = wanted

    def take_answers(self) -> list[bytes]:
        found, self.answers = self.answers, []
        return found


def copied(*answers: bytes) -> dns_names.Copied:
    core = Core()
    found = dns_names.Copied(core)  # type: ignore[arg-type]
    found.want(stays=True)
    core.answers += answers
    found.refresh()
    assert core.wanted and {*found.known()} <= {*core.told}  # captures hear each name
    return found


def answer(*records: Rr, flags: int = dns_wire.QR, name: bytes = NAME, kind: int = dns_wire.A) -> bytes:
    return dns_wire.write(Message(7, flags, name, kind, sections=(list(records), [], [])))


def test_an_address_behind_an_alias_has_the_name_that_was_asked_for() -> None:
    records = (Rr(NAME, dns_wire.CNAME, 60, ALIAS), Rr(ALIAS, dns_wire.A, 60, bytes((192, 0, 2, 1))))
    found = copied(answer(*records, name=NAME.upper()), answer(Rr(NAME, dns_wire.AAAA, 60, bytes(range(16)))))
    assert found.lookup(MAPPED + bytes((192, 0, 2, 1))) == "www.example.org"
    assert found.lookup(bytes(range(16))) == "www.example.org"
    assert found.lookup(MAPPED + bytes((192, 0, 2, 2))) is None


def test_the_last_name_of_an_address_counts() -> None:
    record = Rr(ALIAS, dns_wire.A, 60, bytes((192, 0, 2, 1)))
    found = copied(answer(record), answer(record, name=ALIAS))
    assert found.lookup(MAPPED + bytes((192, 0, 2, 1))) == "host.cdn.test"


def test_a_query_names_nothing() -> None:
    assert not copied(answer(Rr(NAME, dns_wire.A, 60, bytes(4)), flags=0)).any


def test_names_are_bounded() -> None:
    found = copied(*(answer(Rr(NAME, dns_wire.A, 60, number.to_bytes(4, "big"))) for number in range(8200)))
    assert found.lookup(MAPPED + bytes(4)) is None
    assert found.lookup(MAPPED + (8199).to_bytes(4, "big")) == "www.example.org"


@given(st.binary(max_size=300), st.binary(max_size=60))
def test_no_bytes_do_harm(data: bytes, tail: bytes) -> None:
    copied(data, answer(Rr(NAME, dns_wire.A, 60, bytes(4))) + tail, answer(Rr(NAME, dns_wire.A, 60, bytes(4)))[: len(data)])


def test_long_after_the_last_list_nothing_is_copied() -> None:
    core = Core()
    found = dns_names.Copied(core)  # type: ignore[arg-type]
    found.want(stays=False)
    found.refresh()
    assert core.wanted
    found._until = 0.0
    found.refresh()
    assert not core.wanted
