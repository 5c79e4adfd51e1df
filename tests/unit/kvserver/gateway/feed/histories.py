"""Events, blocks and a history at hand, for the tests of the feed's pure parts."""

from __future__ import annotations

from kvserver.gateway.feed.events import ActivityLine, Block, Event
from kvserver.gateway.feed.selection import Selection
from kvserver.gateway.feed.snapshots import Page
from shards.wire.clock import Now
from shards.wire.protocol import (
    Change,
)

T = 1_795_000_000_123


def event(change: Change, revision: int = 57, unit: int = 0) -> Event:
    return Event(change, revision, unit or revision, Now(T, T))


def blocks(changes: list[Change]) -> list[Block]:
    events = [event(change, revision) for revision, change in enumerate(changes, 1)]
    return [Block(i, i + 1, 0, [each]) for i, each in enumerate(events)]


class Told:
    """A history that is at hand, with lines of activity."""

    epoch = "e"

    def __init__(self, changes: list[Change], lines: list[ActivityLine]) -> None:
        self._blocks = blocks(changes)
        self._lines = lines
        self.dropped = 0

    def shown(self) -> int:
        return len(self._blocks)

    watermark = end = shown

    def oldest(self) -> int:
        return 1

    def now_ms(self) -> int:
        return T

    def was_given_out(self, revision: int) -> bool:
        return True

    def block_after(self, revision: int) -> Block:
        return self._blocks[revision]

    def is_near(self, revision: int) -> bool:
        return False

    def pass_over(self, revision: int, selection: Selection, ops: frozenset[str] | None) -> int:
        return revision

    def map_page(self, selection: Selection, after: bytes, values: bool) -> Page:
        raise NotImplementedError

    def activity_from(self, number: int) -> tuple[int, ActivityLine | None]:
        number = max(number, self.dropped)
        return (number + 1, self._lines[number]) if number < len(self._lines) else (len(self._lines), None)
