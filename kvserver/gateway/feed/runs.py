"""The two ways in which a client gets on: `SnapshotRun` through the keys, `LiveRun` along the changes. Pure.

Within a snapshot, a client has, besides the revision, the last key it got: its copy is the store as of that revision,
up to that key. A page is read from the maps, each of which has applied the history up to some revision of its own. Once
the gateway has shown what the furthest map had applied, events up to there of the keys that the client has are sent,
and those in the page's range are folded into the page: then the page, too, is the store as of that very revision.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from kvserver.gateway.feed.conflation import LatestEvents
from kvserver.gateway.feed.envelopes import EnvelopeBuilder
from kvserver.gateway.feed.events import ActivityLine, Event, Message
from kvserver.gateway.feed.snapshots import FoldedPage, Page
from kvserver.gateway.feed.walk import EventWalk
from kvserver.gateway.transport.send_budget import BudgetCharge
from shards.wire.errors import Unavailable

_NEAR: Final = 4096  # how many revisions behind a client of a snapshot may be when its next page is read
_COPIES: Final = 3  # of a page: as it was read, encoded, and in messages
_AROUND: Final = 400  # bytes of memory that an item takes besides key and value


class MessageQueue(deque[Message]):
    """Messages that were made together, until the client takes them one by one.

    A deque, since every client is asked at every change whether its queue is empty.

    Attributes:
        cursor: where the client is with the last message it took.
    """

    def __init__(self, charge: BudgetCharge) -> None:
        """Charge `charge` with the messages of a page."""
        super().__init__()
        self.cursor = b""
        self._charge = charge

    def add_notice(self, message: Message) -> None:
        """Add a message that is made of nothing but the client's place, and is not charged."""
        self.append(message)
        self.cursor = message.cursor

    def add_page(self, messages: list[Message], cursor: bytes) -> None:
        """Add the messages of a page, and charge them. `cursor`: where the client is until it takes the first one."""
        self.extend(messages)
        self.cursor = cursor
        self._charge.set_bytes(sum(len(message.body) for message in self))

    def take(self) -> Message:
        """Remove the first message, which the client then has."""
        message = self.popleft()
        if self._charge.size:
            self._charge.set_bytes(max(0, self._charge.size - len(message.body)) if self else 0)
        self.cursor = message.cursor
        return message


class LiveRun:
    """Changes as they come, and the activity between them."""

    def __init__(self, walk: EventWalk, charge: BudgetCharge, conflates: bool) -> None:
        """Continue where `walk` is. `conflates`: of what the client is behind with, it gets the latest of each key."""
        self._walk, self._charge, self._conflates = walk, charge, conflates
        self._wants_activity = walk.filter.activity
        self._latest: LatestEvents | None = None
        self._line_number = 0
        self.skip_activity()

    def skip_activity(self) -> None:
        """Leave out the lines of activity that are kept now."""
        self._line_number, _ = self._walk.history.activity_from(1 << 62)

    def discard_latest(self) -> None:
        """Forget what was found out for conflation; its charge stays."""
        self._latest = None

    def next_message(self) -> Message | None:
        """Return the next message; None: nothing now. May take long.

        Raises `Overtaken`, `ClientGone`, `Interrupted`.
        """
        walk = self._walk
        until = walk.history.shown()
        if self._wants_activity and (line := self._find_line()) is not None:
            if line.place <= walk.revision:
                self._line_number += 1
                return walk.activity_message(walk.cursor_at(), line.activity)
            until = min(until, line.place)  # changes before it come first
        if self._conflates and walk.revision < until:
            return self._conflated_envelope(until)
        return walk.next_envelope(until)

    def _find_line(self) -> ActivityLine | None:
        """Move to the next line of activity that the client may see, and return it."""
        while True:
            following, line = self._walk.history.activity_from(self._line_number)
            if line is None:
                return None
            self._line_number = following - 1
            if self._walk.filter.shows_line(line.activity):
                return line
            self._line_number = following

    def _conflated_envelope(self, until: int) -> Message | None:
        walk = self._walk
        while walk.revision < until:
            latest = self._latest
            if latest is None or latest.end <= walk.revision:
                latest = self._latest = LatestEvents(walk.events_until(until), until, walk.filter.shows)
                self._charge.set_bytes(latest.size)
            message = walk.next_envelope(latest.end, None if latest.all else self._is_latest)
            if message is not None:
                return message
        self._latest = None
        self._charge.set_bytes(0)
        return None

    def _is_latest(self, event: Event) -> bool:
        return self._latest is not None and event in self._latest and self._walk.filter.shows(event)


class SnapshotRun:
    """The keys of the store in pages, each brought to one revision with all that the client has already."""

    def __init__(self, walk: EventWalk, charge: BudgetCharge, queue: MessageQueue) -> None:
        """Put the messages of pages into `queue`, and charge pages to `charge`."""
        self._walk, self._charge, self._queue = walk, charge, queue
        self._page: Page | None = None
        self._fold: FoldedPage | None = None

    def begin(self) -> None:
        """Begin a snapshot, at what the gateway has shown."""
        self.discard_page()
        self._walk.snapshot_key, self._walk.revision = b"", self._walk.history.shown()

    def discard_page(self) -> None:
        """Forget the page that was read; its charge stays."""
        self._page = self._fold = None

    def next_message(self) -> Message | None:
        """Return the next envelope of events that the snapshot needs, or fill the queue with the messages of a page.

        None with an empty queue: the next page cannot be read or brought up to date now. May take long. Raises
        `Overtaken`, `ClientGone`, `Interrupted`.
        """
        walk = self._walk
        while walk.snapshot_key is not None and not self._queue:
            if self._fold is None and not self._begin_page():
                if self._page is not None or not self._must_catch_up():
                    return None
                if (message := walk.next_envelope(walk.history.shown(), self._is_of_copy)) is not None:
                    return message
                continue  # the revisions to catch up with had no event for this client
            assert self._fold is not None
            if walk.snapshot_key:
                message = walk.next_envelope(self._fold.revision, self._is_of_copy)
                if message is not None:
                    return message
            self._end_page(self._fold)
        return None

    def _begin_page(self) -> bool:
        """Read the next page and bring it to what the gateway has shown; False if that is not possible now."""
        if self._page is None and (self._must_catch_up() or not self._read_page()):
            return False
        assert self._page is not None
        shown = self._walk.history.shown()
        if shown < self._page.applied:
            return False
        fold = FoldedPage(self._page, shown)
        fold.add_events(self._walk.events_until(shown), self._walk.filter.selection, self._walk.snapshot_key or b"")
        self._page, self._fold = None, fold
        return True

    def _must_catch_up(self) -> bool:
        """Whether the client is too far behind for a page: then events of the keys it has come first.

        A client that has no key yet simply begins at what is shown now.
        """
        walk = self._walk
        if not walk.snapshot_key:
            walk.revision = walk.history.shown()
        return walk.history.shown() - walk.revision > _NEAR

    def _read_page(self) -> bool:
        """Read the next page and charge it; False if that is not possible now."""
        walk = self._walk
        assert walk.snapshot_key is not None
        if walk.history.shown() < walk.revision:  # the client was at a gateway that is further
            return False
        if self._charge.budget.is_high:
            return False
        walk.await_turn(True)
        if self._must_catch_up() or self._charge.budget.is_high:  # it may have waited for long
            return False
        try:
            self._page = walk.history.map_page(walk.filter.selection, walk.snapshot_key, walk.filter.values)
        except Unavailable:
            return False
        self._charge.set_bytes(_COPIES * sum(_AROUND + len(item.key) + len(item.value) for item in self._page.items))
        return True

    def _is_of_copy(self, event: Event) -> bool:
        """Whether the client's copy reaches as far as the event's key."""
        return event.key <= (self._walk.snapshot_key or b"") and event.op != "mark" and self._walk.filter.shows(event)

    def _end_page(self, fold: FoldedPage) -> None:
        """Queue the messages of the page: the client's copy and the page are as of the same revision now."""
        walk = self._walk
        before = walk.cursor_at()
        self._fold = None
        walk.revision = fold.revision
        messages = self._item_messages(fold)
        walk.snapshot_key = fold.last
        if fold.last is None:
            messages.append(walk.message({"type": "snapshot_end", "cursor": walk.cursor_at()}))
        self._queue.add_page(messages, before)

    def _item_messages(self, fold: FoldedPage) -> list[Message]:
        """Encode the items of a page in as many envelopes as they need.

        The last one's cursor has the page's last key, which may be above its last item.
        """
        messages: list[Message] = []
        builder, key, is_first = EnvelopeBuilder(), b"", not self._walk.snapshot_key
        for item in fold.items():
            data = self._walk.encoding.item(item, self._walk.filter.values)
            if not builder.add(data, item.revision):
                messages.append(self._items_message(builder.parts, key, is_first))
                builder, is_first = EnvelopeBuilder(), False
                builder.add(data, item.revision)
            key = item.key
        last = fold.last
        if builder.parts or (is_first and last is not None):  # an empty first one shows that the snapshot has begun
            messages.append(self._items_message(builder.parts, key if last is None else last, is_first))
        return messages

    def _items_message(self, parts: list[bytes], last_key: bytes, is_first: bool) -> Message:
        cursor = self._walk.cursor_at(snapshot_key=last_key)
        body = self._walk.encoding.envelope("snapshot", cursor, "items", parts, is_first)
        return Message(cursor, body, len(parts))
