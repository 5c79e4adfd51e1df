"""Pages of a snapshot, brought to one revision. Pure.

A page is read from the maps of all shards, each of which is somewhere else in the history. Folding the events of its
range into it, up to a revision that none of the maps had passed, makes of it the store at exactly that revision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from kvserver.gateway.feed.events import Event, SnapshotItem
from kvserver.gateway.feed.selection import Selection

PAGE_ITEMS: Final = 1000
"""Keys of a page, about."""
PAGE_BYTES: Final = 512 << 10
"""Bytes of values in a page, about."""
BEYOND: Final = b"\xff"
"""Behind a prefix: above all keys that start with it, since keys are UTF-8."""


class Page(NamedTuple):
    """Keys in byte order, and what they hold; expired ones too, as long as no event has told their end.

    Attributes:
        last: every key up to it that was there is in the page; None: to the end.
        applied: the last revision that any of the maps had applied.
    """

    items: list[SnapshotItem]
    last: bytes | None
    applied: int


class MapPart(NamedTuple):
    """What one map has of a page. `more`: it may have further keys of the prefix, above the last of these."""

    items: list[SnapshotItem]
    more: bool
    applied: int


Read = Callable[[bytes, bytes], Sequence[MapPart]]
"""What all maps have of keys that start with a prefix and stand above a key."""
ReadKey = Callable[[bytes], MapPart]
"""What the maps have of one key."""


def read_page(read: Read, read_key: ReadKey, selection: Selection, after: bytes) -> Page:
    """The next page of the keys of `selection` above `after`."""
    items: list[SnapshotItem] = []
    applied = size = 0
    ranges = selection.ranges()
    for start, is_key in ranges:
        if after >= start if is_key else after > start and not after.startswith(start):
            continue  # all its keys are below
        parts = [read_key(start)] if is_key else read(start, after)
        applied = max(applied, *(part.applied for part in parts))
        ends = [part.items[-1].key for part in parts if part.more]
        found = sorted(item for part in parts for item in part.items)
        if ends:  # beyond the lowest, some map may have keys that were not read
            return Page(items + [item for item in found if item.key <= min(ends)], min(ends), applied)
        items += found
        size += sum(len(item.value) for item in found)
        if (len(items) >= PAGE_ITEMS or size >= PAGE_BYTES) and start != ranges[-1].start:
            return Page(items, start if is_key else start + BEYOND, applied)
    return Page(items, None, applied)


class FoldedPage:
    """The keys of a page, and those that come to be in its range.

    Attributes:
        revision: it shall be the store at that.
        last: every key up to it is in it; None: to the end.
    """

    def __init__(self, page: Page, revision: int) -> None:
        self.revision, self.last = revision, page.last
        self._items = {item.key: item for item in page.items}

    def add(self, events: Iterable[Event], selection: Selection, above: bytes) -> None:
        """Fold those of `events` up to its revision that are of keys of `selection` above `above`."""
        for event in events:
            if event.revision > self.revision:
                return
            key = event.key
            if key > above and (self.last is None or key <= self.last) and selection.covers(key):
                self._fold(event)

    def _fold(self, event: Event) -> None:
        """What the map had already changes nothing in the end: what came after it is folded, too."""
        if event.op == "put":
            self._items[event.key] = SnapshotItem(
                event.key,
                event.revision,
                event.time_ms,
                event.expires_ms,
                event.content_type,
                event.value,
                len(event.value),
            )
        elif event.op == "touch":
            item = self._items.get(event.key)
            if item is not None:  # else the map knows already that the key is gone
                self._items[event.key] = item._replace(revision=event.revision, expires_ms=event.expires_ms)
        elif event.op != "mark":
            self._items.pop(event.key, None)

    def items(self) -> list[SnapshotItem]:
        """The page as it is now."""
        return [self._items[key] for key in sorted(self._items)]
