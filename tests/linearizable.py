"""Whether what concurrent clients were told can be true of one store that does one thing at a time. Pure.

The search is Wing and Gong's with Lowe's memory: of the requests that may come next, because no other one was answered
before they were sent, try each that fits the state, and never the same rest of a history in the same state again. A
request whose outcome is unknown may take effect at any time after it was sent, or never.

The keys that an atomic batch may join are searched together, all others each alone: a history is linearizable if its
part of each key is. What revisions promise beyond that, one order of all changes of all keys that agrees with real
time, needs no search.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

UNKNOWN = math.inf
"""When a request was answered that never was."""

MOST_STEPS = 2_000_000


class Cell(NamedTuple):
    """What a key holds. `revision`: 0 if nobody was told. `last`: the highest revision the key is known to have had."""

    value: str | None = None
    revision: int = 0
    last: int = 0


Kind = Literal["get", "put", "add", "merge", "touch", "delete"]


class Step(NamedTuple):
    """What is wanted of one key. `argument`: the value of a put, the number of an add, the JSON of a merge.

    `if_match`: only if the key has this revision; 0: only if it does not exist; None: in any case.
    """

    kind: Kind
    key: str
    argument: str = ""
    if_match: int | None = None


class Answer(NamedTuple):
    """What came of it. `done`: it was; else the key is absent, or the condition does not hold.

    `revision`: of the change, or of what is there, 0 if nothing is. `value`: what it is now, None if that was not said.
    `existed`: whether there was a value before, None if that was not said. `previous`: which.
    """

    done: bool
    revision: int = 0
    value: str | None = None
    existed: bool | None = None
    previous: str | None = None


class Request(NamedTuple):
    """One request: all its steps at once, or if `failed` is the index of one, nothing but that one's answer.

    Times are of one clock. `answers` is empty if the outcome is unknown.
    """

    sent: float
    answered: float
    steps: tuple[Step, ...]
    answers: tuple[Answer, ...] = ()
    failed: int | None = None


State = tuple[Cell, ...]


class NotLinearizable(AssertionError):
    """No order explains the history."""


def check(history: Sequence[Request], groups: Sequence[Sequence[str]]) -> None:
    """Raise `NotLinearizable` unless `history` is. `groups`: the keys, together with those they share batches with.

    No key exists at the beginning.
    """
    check_revisions(history)
    group_of = {key: number for number, group in enumerate(groups) for key in group}
    parts: list[list[Request]] = [[] for _ in groups]
    for request in history:
        [number] = {group_of[step.key] for step in request.steps}
        parts[number].append(request)
    for group, part in zip(groups, parts, strict=True):
        _Search(part, group).run()


def check_revisions(history: Sequence[Request]) -> None:
    """Raise `NotLinearizable` unless each change has a revision of its own, above those of all changes, of whatever
    keys, that were answered before it was sent."""
    changes = [
        (
            request,
            [
                answer.revision
                for step, answer in zip(request.steps, request.answers, strict=True)
                if answer.done and step.kind != "get"
            ],
        )
        for request in history
        if request.answers and request.failed is None
    ]
    given = [revision for _, revisions in changes for revision in revisions]
    if len(set(given)) < len(given):
        raise NotLinearizable("a revision was given twice")
    ends = sorted(
        ((request.answered, max(revisions), request) for request, revisions in changes if revisions),
        key=lambda end: end[0],
    )
    highest, before, at = 0, None, 0
    for request, revisions in sorted(changes, key=lambda change: change[0].sent):
        while at < len(ends) and ends[at][0] < request.sent:
            if ends[at][1] > highest:
                _, highest, before = ends[at]
            at += 1
        if revisions and min(revisions) <= highest:
            raise NotLinearizable(f"{request} has a lower revision than {before}, which was over before")


class _Search:
    def __init__(self, history: Sequence[Request], keys: Sequence[str]) -> None:
        by_time = sorted(history, key=lambda request: request.sent)
        self._known = [request for request in by_time if request.answered != UNKNOWN]
        self._unknown = [request for request in by_time if request.answered == UNKNOWN]
        self._index = {key: index for index, key in enumerate(keys)}
        self._seen: set[tuple[int, int, int, State]] = set()

    def run(self) -> None:
        """Find an order. The first `first` known requests are in it, and those beyond whose bits are set in `ahead`."""
        start: State = (Cell(),) * len(self._index)
        stack = [self._successors(0, 0, 0, start)]
        furthest, steps = (0, 0, 0, start), 0
        while stack:
            steps += 1
            assert steps < MOST_STEPS, "the history is too tangled to be searched"
            node = next(stack[-1], None)
            if node is None:
                stack.pop()
            elif node[0] == len(self._known):
                return
            elif node not in self._seen:
                self._seen.add(node)
                furthest = max(furthest, node, key=lambda reached: reached[0])
                stack.append(self._successors(*node))
        if self._known:
            first, ahead, _, state = furthest
            rest = "\n".join(map(str, self._next(first, ahead)[0].values()))
            raise NotLinearizable(f"{first} of {len(self._known)} requests led to {state}; none fits of\n{rest}")

    def _next(self, first: int, ahead: int) -> tuple[dict[int, Request], float]:
        """The known requests that may come next, and when the first of them was answered."""
        horizon, found = UNKNOWN, {}
        for place in range(first, len(self._known)):
            request = self._known[place]
            if request.sent > horizon:
                break
            if not ahead >> (place - first) & 1:
                horizon = min(horizon, request.answered)
                found[place] = request
        return found, horizon

    def _successors(self, first: int, ahead: int, used: int, state: State) -> Iterator[tuple[int, int, int, State]]:
        found, horizon = self._next(first, ahead)
        for place, request in sorted(found.items(), key=lambda item: item[1].answered):
            after = self._apply(state, request)
            if after is not None:
                now = ahead | 1 << (place - first)
                low = (~now & (now + 1)).bit_length() - 1  # how many of the lowest bits are set
                yield first + low, now >> low, used, after
        for place, request in enumerate(self._unknown):
            if request.sent > horizon:
                break
            if not used >> place & 1:
                after = self._apply(state, request)
                if after is not None and after != state:
                    yield first, ahead, used | 1 << place, after

    def _apply(self, state: State, request: Request) -> State | None:
        """The state after `request`, None if it cannot have been answered like this."""
        cells = list(state)
        answers: Sequence[Answer | None] = request.answers or [None] * len(request.steps)
        for number, (step, answer) in enumerate(zip(request.steps, answers, strict=True)):
            at = self._index[step.key]
            if number == request.failed:
                assert answer is not None
                if not fails_a_batch(cells[at], step):
                    return None
                # The answer tells what is there now, and not what the batch had put there.
                is_changed = cells[at] != state[at]
                fits = not may_be_done(cells[at], step) if is_changed else told(cells[at], step, answer)
                return state if fits else None
            if answer is not None and request.failed is None:
                after = told(cells[at], step, answer)
                fails = len(request.steps) > 1 and not answer.done and fails_a_batch(cells[at], step)
                if after is None or fails:
                    return None
                cells[at] = after
            elif may_be_done(cells[at], step):
                cells[at] = done(cells[at], step, None)
            elif fails_a_batch(cells[at], step):
                return state if answer is None else None
        return tuple(cells)


def may_be_done(cell: Cell, step: Step) -> bool:
    """Whether `step` takes effect on a key that holds `cell`."""
    if step.if_match == 0 and cell.value is not None:
        return False
    if step.if_match and step.if_match != cell.revision:
        return False  # also where nobody was told the revision: then its sender cannot know it
    return cell.value is not None or step.kind in ("put", "add", "merge")


def fails_a_batch(cell: Cell, step: Step) -> bool:
    """Whether an atomic batch fails with `step`, which may not be done.

    Not for a get or delete of an absent key, unless the key must exist.
    """
    return bool(step.if_match) or step.kind not in ("get", "delete") or cell.value is not None


def done(cell: Cell, step: Step, revision: int | None) -> Cell:
    """The cell after `step`, which may be done. `revision`: of the change, None if nobody was told."""
    value: str | None = cell.value
    if step.kind == "get":
        return cell
    if step.kind == "put":
        value = step.argument
    elif step.kind == "add":
        value = str(int(cell.value or "0") + int(step.argument))
    elif step.kind == "merge":
        value = json.dumps(json.loads(cell.value or "{}") | json.loads(step.argument), separators=(",", ":"))
    elif step.kind == "delete":
        value = None
    return Cell(value, 0 if value is None or revision is None else revision, revision or cell.last)


def told(cell: Cell, step: Step, answer: Answer) -> Cell | None:
    """The cell after `step` was answered with `answer`, None if it cannot have been."""
    if answer.done != may_be_done(cell, step):
        return None
    if answer.done and step.kind != "get":
        after = done(cell, step, answer.revision)
        if answer.revision <= cell.last:
            return None
        if answer.value is not None and answer.value != after.value:
            return None
        if answer.existed is not None and answer.existed != (cell.value is not None):
            return None
        return None if answer.previous is not None and answer.previous != (cell.value or "") else after
    if answer.value is not None and answer.value != cell.value:
        return None
    if cell.value is None or not answer.revision:
        return cell if cell.value is None and not answer.revision else None
    if cell.revision:
        return cell if cell.revision == answer.revision else None
    return Cell(cell.value, answer.revision, answer.revision) if answer.revision > cell.last else None
