"""The follower of the log."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from kvserver.gateway.history import source
from kvserver.gateway.history.catch_up import CatchUpTurns
from kvserver.gateway.history.order import LatestPuts, Merger, PendingActivity
from kvserver.gateway.history.source import LogFollower
from kvserver.gateway.history.wal_readers import WalReaders
from kvserver.gateway.wal.tail import Position
from tests.unit.kvserver.gateway.history.stores import LARGE, new_history, record


def test_a_round_ends_when_the_place_it_shows_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last client leaves while records are shown to clients of `/wal`, before those of `/v1/feed` get them."""
    shared = new_history(Position(LARGE, 0))
    reader: Any = None  # the log is not read
    feed = LogFollower.__new__(LogFollower)
    parts: dict[str, Any] = {
        "counts": Counter(),
        "history": shared,
        "_row": SimpleNamespace(listening=1, position=0),
        "_wal": WalReaders(reader, Counter(), CatchUpTurns()),
        "_puts": LatestPuts(0),
        "_pending": PendingActivity(),
        "_shown": Position(LARGE, 0),
        "_merger": Merger(Position(4 * LARGE, 3)),
    }
    vars(feed).update(parts)
    end = Position(6 * LARGE, 5)
    monkeypatch.setattr(source, "breathe", lambda: feed._skip_to(end))
    feed._show([record(1), record(2), record(3)])
    assert (feed._shown, feed._merger.position, shared.shown()) == (end, end, 5)
