"""What the clients of one gateway share, while they come and go."""

from __future__ import annotations

import pytest

from kvserver.gateway.feed.walk import Overtaken
from kvserver.gateway.history import shared as history
from kvserver.gateway.history.shared import SharedHistory
from kvserver.gateway.wal.tail import Position
from tests.unit.kvserver.gateway.history.stores import LARGE, Observer, new_history, record


def shown_behind(shared: SharedHistory, revision: int) -> list[int]:
    """What a client at `revision` gets."""
    found: list[int] = []
    while revision < shared.shown():
        block = shared.block_after(revision)
        found += [event.revision for event in block.events_after(revision)]
        revision = block.end
    return found


def test_who_comes_after_the_last_one_left_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both within one breath of a long round: the history goes on where the newcomer begins, never back."""
    position = Position(LARGE, 0)
    shared = new_history(position)
    first, second = Observer(), Observer()
    shared.observers.add(first)

    def change_places() -> None:
        if first in shared.observers:
            shared.observers.discard(first)
            shared.skip_to(Position(6 * LARGE, 5))  # as `LogFollower.add_observer` does for the first who looks
            shared.observers.add(second)

    monkeypatch.setattr(history, "breathe", change_places)
    shared.show([record(1), record(2), record(3)], [])
    monkeypatch.setattr(history, "breathe", lambda: None)
    assert shared.shown() == 5
    shared.show([record(6)], [])
    assert shown_behind(shared, 5) == [6]
    with pytest.raises(Overtaken):  # the log has the rest: here there is none
        shown_behind(shared, 3)
