"""Records and a history without a store, for the tests of what clients share."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

from kvserver.gateway.feed.walk import Overtaken
from kvserver.gateway.history.shared import SharedHistory
from kvserver.gateway.wal.tail import Position
from shards.log.records import DATA, Record
from shards.wire.protocol import PutEvent, encode_events

LARGE = 300 << 10  # a record of it is a block


T = 1_795_000_000_123


class Observer:
    """A client that wants changes only."""

    listens = False

    def wake(self) -> None:
        """Nothing to do."""

    def each_second(self) -> None:
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
