"""Verbs of several calls, against a store that is a dictionary."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from kvserver.client.core import scripts
from kvserver.client.core.calls import Await, Call, Script, Sleep
from kvserver.client.errors import AnswerTooLarge, KVError, NotFound, OutcomeUnknown, PreconditionFailed, Result
from kvserver.client.model import DELETE, KEEP, Deleted, Entry, Written


def run(script: Script[Any], answer: Callable[[Call[Any]], Any]) -> Any:
    """Carry out a script: `answer` gives the result of each call, or an error to raise."""
    try:
        step = next(script)
        while True:
            result: Any = None
            if isinstance(step, Call):
                result = answer(step)
            elif isinstance(step, Await):
                result = step.function(*step.arguments)
            else:
                assert isinstance(step, Sleep)
            step = script.throw(result) if isinstance(result, Exception) else script.send(result)
    except StopIteration as end:
        return end.value


class Store:
    """One key. Somebody else writes `rivals` values, each after a read."""

    def __init__(self, value: bytes | None, rivals: int = 0) -> None:
        self.value, self.revision, self.rivals = value, 10, rivals
        self.calls: list[str] = []

    def __call__(self, call: Call[Any]) -> Any:
        self.calls.append(call.method)
        if call.method == "GET":
            entry = None if self.value is None else Entry("k", self.value, self.revision, "text/plain")
            if self.rivals:
                self.rivals, self.revision, self.value = self.rivals - 1, self.revision + 1, b"rival"
            return entry
        condition = call.headers.get("If-Match", "")
        if (condition or call.headers.get("If-None-Match")) != (
            f'"{self.revision}"' if self.value is not None else "*"
        ):
            return False if call.method == "DELETE" and self.value is None else PreconditionFailed()
        self.revision += 1
        if call.method == "DELETE":
            self.value = None
            return True
        self.value = call.body
        return Written(self.revision)


def update(
    store: Callable[[Call[Any]], Any], change: Callable[[Entry | None], Any], tries: int = 5, **more: Any
) -> Any:
    options = {"json": False, "ttl": KEEP, "idempotent": False} | more
    return run(scripts.update("", "k", change, tries=tries, **options), store)


def test_an_update_creates_changes_and_deletes() -> None:
    store = Store(None)
    assert update(store, lambda entry: b"1" if entry is None else b"?").revision == 11
    assert update(store, lambda entry: entry.value + b"2" if entry else b"?").value == b"12"
    assert update(store, lambda _: DELETE) is None
    assert store.value is None
    assert update(store, lambda _: DELETE) is None and store.calls[-1] == "GET"


def test_an_update_may_leave_it() -> None:
    store = Store(b"1")
    assert update(store, lambda _: KEEP).revision == 10
    assert store.calls == ["GET"]


def test_an_update_is_tried_again_with_what_is_there_now() -> None:
    store = Store(b"1", rivals=2)
    assert update(store, lambda entry: entry.value + b"!" if entry else b"?").value == b"rival!"
    assert store.calls == ["GET", "PUT"] * 3
    store = Store(b"1", rivals=2)
    assert update(store, lambda entry: DELETE) is None
    assert store.calls == ["GET", "DELETE"] * 3


def test_an_update_gives_up() -> None:
    store = Store(b"1", rivals=99)
    with pytest.raises(PreconditionFailed):
        update(store, lambda _: b"2", tries=3)
    assert store.calls == ["GET", "PUT"] * 3


def test_an_update_does_not_go_on_after_what_may_have_been_done() -> None:
    calls = []

    def answer(call: Call[Any]) -> Any:
        calls.append(call.method)
        return None if call.method == "GET" else OutcomeUnknown()

    with pytest.raises(OutcomeUnknown):
        update(answer, lambda _: b"1")
    assert calls == ["GET", "PUT"]


def test_an_update_in_json() -> None:
    store = Store(b'{"n":1}')
    update(store, lambda entry: {"n": entry.json()["n"] + 1} if entry else None, json=True)
    assert json.loads(store.value or b"") == {"n": 2}


def test_many_are_read_in_batches_that_go_on_where_an_answer_was_full() -> None:
    stored = {f"k{number}": b"v" for number in range(2500)}
    batches: list[int] = []

    def answer(call: Call[Any]) -> Any:
        if call.method == "GET":
            return Entry("alone", b"large", 1, "")
        keys = [op["key"] for op in json.loads(call.body)["ops"]]
        batches.append(len(keys))
        return [
            Result(413, error=AnswerTooLarge())
            if key == "alone" or at >= 700
            else Result(200, 1, Entry(key, stored[key], 1, ""))
            if key in stored
            else Result(404, error=NotFound())
            for at, key in enumerate(keys)
        ]

    found = run(scripts.get_many("", ["none", "alone", *stored, "none"]), answer)
    assert found.pop("none") is None and found.pop("alone").value == b"large"
    assert {key: entry.value for key, entry in found.items()} == stored
    assert max(batches) == 1000


def test_a_read_of_many_raises_what_stops_it() -> None:
    with pytest.raises(KVError):
        run(scripts.get_many("", ["a"]), lambda _: [Result(403, error=KVError())])


def deletes(*answers: Any) -> tuple[Callable[[Call[Any]], Any], list[str]]:
    left, targets = list(answers), list[str]()

    def answer(call: Call[Any]) -> Any:
        targets.append(call.target.partition("?")[2])
        return left.pop(0)

    return answer, targets


def lost(**members: object) -> OutcomeUnknown:
    error = OutcomeUnknown()
    error.members = members
    return error


def test_a_delete_goes_on_with_its_cut() -> None:
    answer, targets = deletes(Deleted(5, False, 9), Deleted(3, True, 9))
    assert run(scripts.delete_prefix("", "p", False, None, False), answer) == Deleted(8, True, 9)
    assert targets == ["prefix=p", "prefix=p&cut=9"]


def test_a_delete_goes_on_after_a_shard_was_lost_if_the_server_told_its_cut() -> None:
    answer, targets = deletes(lost(cut=9, deleted=2), Deleted(3, True, 9))
    assert run(scripts.delete_prefix("", "p", False, None, False), answer) == Deleted(5, True, 9)
    assert targets == ["prefix=p", "prefix=p&cut=9"]
    for error in (lost(), lost(cut="9")):
        with pytest.raises(OutcomeUnknown):
            run(scripts.delete_prefix("", "p", False, None, False), deletes(error)[0])


def test_a_delete_keeps_its_limit() -> None:
    answer, targets = deletes(Deleted(5, False, 9), Deleted(2, False, 9))
    assert run(scripts.delete_prefix("", "p", False, 7, False), answer) == Deleted(7, False, 9)
    assert targets == ["prefix=p&limit=7", "prefix=p&limit=2&cut=9"]
