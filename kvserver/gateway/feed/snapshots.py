"""Pages of a snapshot, brought to one revision. Pure.

A page is read from the maps of all shards, each of which has applied the history up to some revision of its own.
Folding into it the events of its range, up to a revision that no map had passed, makes it the store as of exactly that
revision.
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
"""Appended to a prefix, it sorts above all keys that begin with the prefix, since keys are UTF-8."""


class Page(NamedTuple):
    """Keys in byte order, and what they hold. Expired ones too, as long as no event has shown their end.

    Attributes:
        last: the page has every key up to it; None: up to the end.
        applied: the last revision that any of the maps had applied.
    """

    items: list[SnapshotItem]
    last: bytes | None
    applied: int


class MapPart(NamedTuple):
    """The part of a page in one map. `more`: it may hold further keys of the prefix, above the last of these."""

    items: list[SnapshotItem]
    more: bool
    applied: int


Read = Callable[[bytes, bytes], Sequence[MapPart]]
"""Reads from all maps the keys that begin with a prefix and are above a key."""
ReadKey = Callable[[bytes], MapPart]
"""Reads one key from its map."""


def read_page(read: Read, read_key: ReadKey, selection: Selection, after: bytes) -> Page:
    """Read the next page of the keys of `selection` above `after`."""
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
    """A page, brought to `revision` with the events of its range.

    Attributes:
        revision: it becomes the store as of that.
        last: it has every key up to it; None: up to the end.
    """

    def __init__(self, page: Page, revision: int) -> None:
        self.revision, self.last = revision, page.last
        self._items = {item.key: item for item in page.items}

    def add_events(self, events: Iterable[Event], selection: Selection, above: bytes) -> None:
        """Fold those of `events`, which are in order, that are of keys of `selection` above `above`."""
        for event in events:
            if event.revision > self.revision:
                return
            key = event.key
            if key > above and (self.last is None or key <= self.last) and selection.covers(key):
                self._fold_event(event)

    def _fold_event(self, event: Event) -> None:
        """Apply one event. One that the map had applied does no harm: what followed it is folded, too."""
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
            if item is not None:  # else the map has already lost the key
                self._items[event.key] = item._replace(revision=event.revision, expires_ms=event.expires_ms)
        elif event.op != "mark":
            self._items.pop(event.key, None)

    def items(self) -> list[SnapshotItem]:
        """Return the items of the page, in byte order."""
        return [self._items[key] for key in sorted(self._items)]
