"""core/worklist.h and the run queue of core/scheduling.h: each flow once, in order; no flow waits longer than a round."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from internals import build

module = build()
ffi, lib = module.ffi, module.lib
COUNT = 12
WHICH = st.integers(0, COUNT - 1)


class Worklist(RuleBasedStateMachine):
    """A worklist is a queue without repetitions, from whose middle anyone may go."""

    def __init__(self) -> None:
        super().__init__()
        self.list = ffi.new("struct worklist *")
        self.works = ffi.new(f"struct work[{COUNT}]")
        self.model: list[int] = []

    @rule(which=WHICH)
    def add(self, which: int) -> None:
        lib.x_worklist_add(self.list, ffi.addressof(self.works, which))
        self.model += [] if which in self.model else [which]

    @rule(which=WHICH)
    def remove(self, which: int) -> None:
        lib.x_worklist_remove(self.list, ffi.addressof(self.works, which))
        self.model = [each for each in self.model if each != which]

    @invariant()
    def same(self) -> None:
        forward, backward = [], []
        work = self.list.head
        while work:
            forward.append(work - self.works)
            work = work.next
        work = self.list.tail
        while work:
            backward.append(work - self.works)
            work = work.prev
        assert forward == self.model == backward[::-1]
        assert self.list.count == len(self.model)
        assert [which for which in range(COUNT) if self.works[which].queued] == sorted(self.model)


TestWorklist = Worklist.TestCase


class Line:
    def __init__(self, count: int) -> None:
        self.line = ffi.new("struct run_queue *")
        self.works = ffi.new("struct work[]", count)
        for which in range(count):
            lib.x_run_queue_add(self.line, ffi.addressof(self.works, which))

    def next(self, per_turn: int = lib.SCHED_TURN_FRAMES) -> tuple[int, int]:
        """Who is next, and its steps."""
        steps = ffi.new("uint32_t *")
        work = lib.x_run_queue_next(self.line, per_turn, steps)
        assert work
        return work - self.works, steps[0]

    def remove(self, which: int) -> None:
        lib.x_run_queue_remove(self.line, ffi.addressof(self.works, which))


def test_an_empty_line_has_nobody() -> None:
    assert not lib.x_run_queue_next(ffi.new("struct run_queue *"), lib.SCHED_TURN_FRAMES, ffi.new("uint32_t *"))


@pytest.mark.parametrize("count", [1, 2, 8, 9, 63, 64, 65, 512])
def test_all_are_served_alike_and_no_turn_is_longer_than_a_share(count: int) -> None:
    line = Line(count)
    had = [0] * count
    since = [0] * count
    longest = 0
    for _ in range(3000):
        who, steps = line.next()
        assert 0 < steps <= lib.SCHED_TURN_FRAMES
        longest = max(longest, since[who])
        since = [waited + steps for waited in since]
        since[who] = 0
        had[who] += steps
    assert max(had) - min(had) <= lib.SCHED_QUANTUM_MAX, "one quantum at most"
    assert longest <= max(lib.SCHED_ROUND, lib.SCHED_QUANTUM_MIN * count), "steps of others before it is its turn again"


def test_one_is_served_for_its_whole_quantum_before_the_next() -> None:
    line = Line(3)
    served: dict[int, int] = {}
    order: list[int] = []
    for _ in range(3 * lib.SCHED_QUANTUM_MAX // lib.SCHED_TURN_FRAMES):
        who, steps = line.next()
        order += [] if order[-1:] == [who] else [who]
        served[who] = served.get(who, 0) + steps
    assert order == [0, 1, 2] and set(served.values()) == {lib.SCHED_QUANTUM_MAX}


def test_small_turns_add_up_to_the_same_quantum() -> None:
    line = Line(3)
    turns = [line.next(1) for _ in range(3 * lib.SCHED_QUANTUM_MAX)]
    assert turns == [(who, 1) for who in range(3) for _ in range(lib.SCHED_QUANTUM_MAX)]


def test_who_leaves_and_comes_back_stands_at_the_end_with_a_whole_quantum() -> None:
    line = Line(2)
    assert line.next()[0] == 0
    line.remove(0)
    lib.x_run_queue_add(line.line, ffi.addressof(line.works, 0))
    turns: list[Any] = [line.next() for _ in range(2 * lib.SCHED_QUANTUM_MAX // lib.SCHED_TURN_FRAMES)]
    assert [who for who, _ in turns] == sorted((who for who, _ in turns), reverse=True)
    assert sum(steps for who, steps in turns if who == 0) == lib.SCHED_QUANTUM_MAX
