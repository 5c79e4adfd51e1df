"""The checker of histories is checked: what a store did is accepted, what none can have done is found."""

from __future__ import annotations

import random

import pytest

from tests import effort
from tests.linearizable import (
    UNKNOWN,
    Answer,
    Cell,
    Kind,
    NotLinearizable,
    Request,
    Step,
    check,
    done,
    fails_a_batch,
    may_be_done,
)

KEYS = ["a", "b", "{t}1", "{t}2"]
GROUPS = [["a"], ["b"], ["{t}1", "{t}2"]]


def one(sent: float, answered: float, step: Step, *answer: Answer) -> Request:
    return Request(sent, answered, (step,), answer)


def get(sent: float, answered: float, value: str | None, revision: int = 0, key: str = "a") -> Request:
    return one(sent, answered, Step("get", key), Answer(value is not None, revision, value))


def put(
    sent: float, answered: float, value: str, revision: int = 0, *, if_match: int | None = None, key: str = "a"
) -> Request:
    """Of an unknown outcome without a revision."""
    return one(sent, answered, Step("put", key, value, if_match), *([Answer(True, revision)] if revision else []))


def refused(sent: float, answered: float, revision: int, if_match: int) -> Request:
    return one(sent, answered, Step("put", "a", "refused", if_match), Answer(False, revision))


def delete(sent: float, answered: float, revision: int = 0) -> Request:
    return one(sent, answered, Step("delete", "a"), Answer(revision > 0, revision))


def add(sent: float, answered: float, revision: int, value: str) -> Request:
    return one(sent, answered, Step("add", "a", "1"), Answer(True, revision, value))


def lost(sent: float, step: Step) -> Request:
    return one(sent, UNKNOWN, step)


PUT_1 = put(0, 1, "x", 1)
TWO_KEYS = (Step("put", "{t}1", "x"), Step("put", "{t}2", "x"))
NO_BATCH = (Step("put", "{t}1", "x"), Step("put", "{t}2", "x", if_match=7))
MADE_ONCE = (Step("get", "{t}1", if_match=0), Step("put", "{t}2", "x"))

POSSIBLE: dict[str, list[Request]] = {
    "nothing": [],
    "absent": [get(0, 1, None)],
    "read": [PUT_1, get(2, 3, "x", 1)],
    "read while it is put": [put(0, 9, "x", 1), get(1, 2, None), get(3, 4, "x", 1)],
    "two puts at once": [put(0, 9, "x", 2), put(1, 8, "y", 1), get(10, 11, "x", 2)],
    "condition": [PUT_1, put(2, 9, "y", 2, if_match=1), refused(3, 8, 2, 1), get(10, 11, "y", 2)],
    "made once": [put(0, 9, "x", 1, if_match=0), refused(1, 8, 1, 0)],
    "lost, and never done": [PUT_1, put(2, UNKNOWN, "y"), get(3, 4, "x", 1), get(5, 6, "x", 1)],
    "lost, and done late": [PUT_1, put(2, UNKNOWN, "y"), get(3, 4, "x", 1), get(5, 6, "y", 2), get(7, 8, "y", 2)],
    "lost, and overwritten": [PUT_1, put(2, UNKNOWN, "y"), get(3, 4, "y", 2), put(5, 6, "z", 3), get(7, 8, "z", 3)],
    "lost, and told by a refusal": [PUT_1, put(2, UNKNOWN, "y"), refused(3, 4, 2, 1), get(5, 6, "y", 2)],
    "a lost delete": [PUT_1, lost(2, Step("delete", "a")), get(3, 4, "x", 1), get(5, 6, None)],
    "numbers": [add(0, 9, 1, "1"), add(1, 8, 2, "2"), add(2, 7, 3, "3"), get(10, 11, "3", 3)],
    "both keys": [Request(0, 1, TWO_KEYS, (Answer(True, 1), Answer(True, 2))), get(2, 3, "x", 2, "{t}2")],
    "neither key": [
        Request(0, 1, NO_BATCH, (Answer(False), Answer(False)), 1),
        get(2, 3, None, key="{t}1"),
    ],
    "a check of an absent key": [Request(0, 1, MADE_ONCE, (Answer(False), Answer(True, 1))), get(2, 3, "x", 1, "{t}2")],
    "a check that fails a batch": [
        put(0, 1, "x", 1, key="{t}1"),
        Request(2, 3, MADE_ONCE, (Answer(False, 1), Answer(False)), 0),
        get(4, 5, None, key="{t}2"),
    ],
    "keys apart": [put(0, 5, "x", 2), put(1, 6, "y", 1, key="b"), get(7, 8, "x", 2), get(7, 8, "y", 1, "b")],
}

IMPOSSIBLE: dict[str, list[Request]] = {
    "out of nothing": [get(0, 1, "x", 1)],
    "before it was sent": [get(0, 1, "x", 1), put(2, 3, "x", 1)],
    "a stale read": [PUT_1, put(2, 3, "y", 2), get(4, 5, "x", 1)],
    "an absent read": [PUT_1, get(2, 3, None)],
    "there and back": [PUT_1, put(2, 9, "y", 2), get(3, 4, "y", 2), get(5, 6, "x", 1)],
    "another revision": [PUT_1, get(2, 3, "x", 2)],
    "another value": [PUT_1, get(2, 3, "y", 1)],
    "a lost update": [PUT_1, put(2, 9, "y", 2, if_match=1), put(3, 8, "z", 3, if_match=1)],
    "made twice": [put(0, 9, "x", 1, if_match=0), put(1, 8, "y", 2, if_match=0)],
    "refused for nothing": [PUT_1, refused(2, 3, 1, 1)],
    "refused for what is not there": [PUT_1, refused(2, 3, 2, 9)],
    "a deleted key": [PUT_1, delete(2, 3, 2), get(4, 5, "x", 1)],
    "deleted twice": [PUT_1, delete(2, 9, 2), delete(3, 8, 3)],
    "not deleted": [PUT_1, delete(2, 3)],
    "lost, done, undone": [PUT_1, put(2, UNKNOWN, "y"), get(3, 4, "y", 2), get(5, 6, "x", 1)],
    "lost, and done twice": [PUT_1, put(2, UNKNOWN, "y"), get(3, 4, "y", 2), put(5, 6, "z", 3), get(7, 8, "y", 4)],
    "lost, and seen before": [PUT_1, get(2, 3, "y", 2), put(4, UNKNOWN, "y")],
    "a lost condition that does not hold": [
        PUT_1,
        put(2, 3, "y", 2),
        put(4, UNKNOWN, "z", if_match=1),
        get(5, 6, "z", 3),
    ],
    "one number for two": [add(0, 9, 1, "1"), add(1, 8, 2, "1")],
    "a number is missing": [add(0, 1, 1, "1"), add(2, 3, 2, "3")],
    "half a batch": [
        Request(0, 9, TWO_KEYS, (Answer(True, 1), Answer(True, 2))),
        get(1, 2, "x", 1, "{t}1"),
        get(3, 4, None, key="{t}2"),
    ],
    "half a lost batch": [Request(0, UNKNOWN, TWO_KEYS), get(1, 2, "x", 1, "{t}1"), get(3, 4, None, key="{t}2")],
    "a failed batch": [Request(0, 1, NO_BATCH, (Answer(False), Answer(False)), 1), get(2, 3, "x", 1, "{t}1")],
    "a batch that failed with the check of an absent key": [
        Request(0, 1, MADE_ONCE, (Answer(False), Answer(False)), 0),
    ],
    "a batch that was done against its check": [
        put(0, 1, "x", 1, key="{t}1"),
        Request(2, 3, MADE_ONCE, (Answer(False, 1), Answer(True, 2))),
    ],
    "a batch that failed for nothing": [
        put(0, 1, "x", 7, key="{t}2"),
        Request(2, 3, NO_BATCH, (Answer(False), Answer(False, 7)), 1),
    ],
    "revisions against time": [put(0, 1, "x", 2), put(2, 3, "y", 1, key="b")],
    "one revision for two": [put(0, 9, "x", 1), put(0, 9, "y", 1, key="b")],
    "a revision that returns": [put(0, 9, "x", 5), delete(1, 8, 6), put(2, 7, "y", 4), get(10, 11, "y", 4)],
    "201 for an old key": [PUT_1, one(2, 3, Step("put", "a", "y"), Answer(True, 2, existed=False))],
    "another previous value": [PUT_1, one(2, 3, Step("put", "a", "y"), Answer(True, 2, previous="z"))],
    "a touch that changes": [PUT_1, one(2, 3, Step("touch", "a"), Answer(True, 2)), get(4, 5, "y", 2)],
    "a merge that forgets": [
        put(0, 1, '{"x":1}', 1),
        one(2, 3, Step("merge", "a", '{"y":2}'), Answer(True, 2, '{"y":2}')),
    ],
}


@pytest.mark.parametrize("name", POSSIBLE)
def test_what_can_be(name: str) -> None:
    check(POSSIBLE[name], GROUPS)


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be(name: str) -> None:
    with pytest.raises(NotLinearizable):
        check(IMPOSSIBLE[name], GROUPS)


class Run:
    """A store that does one thing at a time, and clients that are told later, or never."""

    def __init__(self, seed: int) -> None:
        self.random, self.cells = random.Random(seed), dict.fromkeys(KEYS, Cell())
        self.revision = self.clock = 0
        self.told: list[tuple[float, str, int]] = []  # when, of which key, which revision

    def request(self) -> Request:
        """A request whose moment is now; it was sent some time before, and is answered some time after."""
        self.clock += 10
        keys = self.random.choice([["a"], ["b"], ["{t}1"], ["{t}2"], ["{t}1", "{t}2"]])
        cells = dict(self.cells)
        sent = self.clock - self.random.randint(0, 50)
        steps = [self.step(key, sent) for key in keys]
        answers, failures = [], []
        for number, step in enumerate(steps):
            before = cells[step.key]
            answers.append(self.do(cells, step))
            if not answers[-1].done and fails_a_batch(before, step):
                failures.append(number)
        failed = failures[0] if len(keys) > 1 and failures else None
        if failed is None:
            self.cells = cells
        else:
            answers[failed] = Answer(False, self.cells[keys[failed]].revision)
        if self.random.random() < 0.1:
            return Request(sent, UNKNOWN, tuple(steps))
        answered = self.clock + self.random.randint(1, 50)
        if failed is None:
            self.told += [(answered, key, answer.revision) for key, answer in zip(keys, answers, strict=True)]
        return Request(sent, answered, tuple(steps), tuple(answers), failed)

    def step(self, key: str, sent: float) -> Step:
        kinds: list[Kind] = ["get", "get", "put", "touch", "delete", "add" if key == "a" else "merge"]
        kind = self.random.choice(kinds)
        value = str(self.clock) if key == "a" else f'{{"p":{self.clock}}}'
        argument = {"put": value, "add": "3", "merge": f'{{"m":{self.clock}}}'}.get(kind, "")
        revisions = [revision for when, of, revision in self.told if of == key and when < sent][-2:]
        return Step(kind, key, argument, self.random.choice([None, None, 0, *revisions]))

    def do(self, cells: dict[str, Cell], step: Step) -> Answer:
        cell = cells[step.key]
        if step.kind == "get" or not may_be_done(cell, step):
            return Answer(may_be_done(cell, step), cell.revision, cell.value)
        self.revision += 1
        cells[step.key] = after = done(cell, step, self.revision)
        return Answer(True, self.revision, after.value, cell.value is not None)


@pytest.mark.parametrize("seed", range(effort.times(30)))
def test_what_a_store_did_is_accepted_and_what_it_did_not_is_found(seed: int) -> None:
    run = Run(seed)
    history = [run.request() for _ in range(40)]
    check(history, GROUPS)
    read = next(n for n, request in enumerate(history) if request.answers and request.steps[0].kind == "get")
    answers = (Answer(True, 1, "never written"), *history[read].answers[1:])
    history[read] = history[read]._replace(answers=answers, failed=None)
    with pytest.raises(NotLinearizable):
        check(history, GROUPS)
