"""What the clients of one gateway share, while they come and go."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from kvserver.gateway.feed.follow import Overtaken
from kvserver.gateway.history import shared as history
from kvserver.gateway.history import source
from kvserver.gateway.history.order import LatestPuts, Merger, PendingActivity
from kvserver.gateway.history.shared import SharedHistory
from kvserver.gateway.history.source import LogFollower
from kvserver.gateway.wal.tail import Position
from kvserver.gateway.wal.views import Marks
from shards.log.records import DATA, Record
from shards.wire.protocol import PutEvent, encode_events

LARGE = 300 << 10  # a record of it is a block
T = 1_795_000_000_123


class HistoryObserver:
    """A client that wants changes only."""

    listens = False

    def wake(self) -> None:
        """Nothing to do."""

    def tick(self) -> None:
        """Nothing to do."""


def record(revision: int) -> Record:
    """A put, which takes a block by itself."""
    payload = encode_events([PutEvent(b"k", b"v", "text/plain", 0)])
    lsn = revision * LARGE
    return Record(DATA, 0, 1, lsn, lsn + LARGE, 0, revision, T, payload)


def new_history(at: Position) -> SharedHistory:
    """One of a store without maps and without a log."""

    def trimmed(*_: Any) -> None:
        raise Overtaken

    board: Any = SimpleNamespace(
        facts=SimpleNamespace(epoch="e", shards=0), log=SimpleNamespace(oldest=0, oldest_revision=0)
    )
    reader: Any = SimpleNamespace(read=trimmed, close=lambda: None)
    return SharedHistory(board, reader, Counter(), at)


def shown_behind(shared: SharedHistory, revision: int) -> list[int]:
    """What a client at `revision` gets."""
    found: list[int] = []
    while revision < shared.shown():
        block = shared.after(revision)
        found += [event.revision for event in block.after(revision)]
        revision = block.end
    return found


def test_who_comes_after_the_last_one_left_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both within one breath of a long round: the history goes on where the newcomer begins, never back."""
    position = Position(LARGE, 0)
    shared = new_history(position)
    first, second = HistoryObserver(), HistoryObserver()
    shared.observers.add(first)

    def change_places() -> None:
        if first in shared.observers:
            shared.observers.discard(first)
            shared.skip_to(Position(6 * LARGE, 5))  # as `LogFollower.enter` does for the first who looks
            shared.observers.add(second)

    monkeypatch.setattr(history, "breathe", change_places)
    shared.show([record(1), record(2), record(3)], [])
    monkeypatch.setattr(history, "breathe", lambda: None)
    assert shared.shown() == 5
    shared.show([record(6)], [])
    assert shown_behind(shared, 5) == [6]
    with pytest.raises(Overtaken):  # the log has the rest: here there is none
        shown_behind(shared, 3)


def test_a_round_ends_when_the_place_it_shows_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for the round that shows records to clients of `/wal`, and hands them to the history afterwards."""
    shared = new_history(Position(LARGE, 0))
    feed = LogFollower.__new__(LogFollower)
    parts: dict[str, Any] = {
        "counts": Counter(),
        "history": shared,
        "_followers": set(),
        "_row": SimpleNamespace(listening=1, position=0),
        "_tails": {},
        "_marks": Marks(),
        "_puts": LatestPuts(0),
        "_waiting": PendingActivity(),
        "_shown": Position(LARGE, 0),
        "_merger": Merger(Position(4 * LARGE, 3)),
    }
    vars(feed).update(parts)
    end = Position(6 * LARGE, 5)
    monkeypatch.setattr(source, "breathe", lambda: feed._skip_to(end))
    feed._show([record(1), record(2), record(3)])
    assert (feed._shown, feed._merger.position, shared.shown()) == (end, end, 5)
