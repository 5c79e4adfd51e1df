"""Conflation: of many events, the latest of each key. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Final

from kvserver.gateway.feed.events import Event

MOST_KEYS: Final = 10_000
"""Keys that are conflated at a time: a client that is far behind keeps a revision for each of them."""


class LatestEvents:
    """Of the events that pass a filter, the latest put or delete of each key, and the latest touch after it.

    Marks of prefix deletes all stay.

    Attributes:
        end: the revision up to which events were conflated.
        all: whether no event was left out.
    """

    def __init__(self, events: Iterable[Event], until: int, shows: Callable[[Event], bool]) -> None:
        """Conflate `events`, which are in order, up to `until` or until they are of `MOST_KEYS` keys."""
        self.end = until
        latest: dict[bytes, tuple[int, int]] = {}
        marks: list[int] = []
        seen = unit = 0
        for event in events:
            if event.revision > until:
                break
            if not shows(event):
                continue
            if len(latest) + len(marks) >= MOST_KEYS and event.unit != unit:
                self.end = unit
                break
            unit = event.unit
            seen += 1
            if event.op == "mark":
                marks.append(event.revision)
            elif event.op == "touch":
                latest[event.key] = (latest.get(event.key, (0, 0))[0], event.revision)
            else:
                latest[event.key] = (event.revision, 0)
        left = sorted(marks + [revision for pair in latest.values() for revision in pair if revision])
        self.all = len(left) == seen
        self._revisions = array("Q", () if self.all else left)

    @property
    def size(self) -> int:
        """The bytes of memory it takes, about."""
        return self._revisions.itemsize * len(self._revisions)

    def __contains__(self, event: Event) -> bool:
        """Whether `event`, one of those that were conflated, stays."""
        if self.all:
            return True
        at = bisect_left(self._revisions, event.revision)
        return at < len(self._revisions) and self._revisions[at] == event.revision
