"""Waiting for a key: every state is looked at once, in order."""

from __future__ import annotations

from datetime import UTC, datetime

from kvserver.client.changes import Delete, Envelope, Put, Reset, Synced
from kvserver.client.core.feed.waiting import Waiter
from kvserver.client.model import Entry

NOW = datetime(2026, 11, 22, tzinfo=UTC)
START, END = Reset("start", True), Synced("e.9")


def put(revision: int, value: bytes = b"v") -> Put:
    return Put("k", value, len(value), revision, NOW, "t/t", None, "live")


def test_a_key_is_waited_for() -> None:
    waiter = Waiter("k", None)
    assert not waiter.is_over(Envelope("e.0", ()))
    assert not waiter.is_over(Envelope("e.1.YQ.0", (START,)))
    assert not waiter.is_over(Envelope("e.1", (END,)))
    assert waiter.is_over(Envelope("e.2", (put(2),)))
    assert waiter.entry is not None and waiter.entry.revision == 2


def test_within_a_snapshot_nothing_is_known() -> None:
    waiter = Waiter("k", None)
    assert not waiter.is_over(Envelope("e.1.aw.0", (START, put(1))))
    assert not waiter.is_over(Envelope("e.2.aw.0", (Delete("k", 2, NOW, "request"),)))
    assert not waiter.is_over(Envelope("e.2", (END,)))


def test_a_state_that_lasts_for_one_change_is_seen() -> None:
    asked: list[bytes | None] = []

    def is_two(entry: Entry | None) -> bool:
        asked.append(entry and entry.value)
        return entry is not None and entry.value == b"2"

    waiter = Waiter("k", is_two)
    changes = (START, END, put(1, b"1"), put(2, b"2"), put(3, b"3"), Delete("k", 4, NOW, "request"))
    assert waiter.is_over(Envelope("e.4", changes))
    assert asked == [None, b"1", b"2"]
    assert waiter.entry is not None and waiter.entry.value == b"2"


def test_the_error_says_what_was_waited_for() -> None:
    assert str(Waiter("k", None).error(1.5)) == "'k' is not as wanted after 1.5 s"
