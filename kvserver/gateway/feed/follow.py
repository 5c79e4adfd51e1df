"""One client of `/v1/feed`: from where it is in the history to what it gets next. Pure.

A client is a revision, and what it wants. Whoever carries it asks for the next message when the one before has left,
so a slow client holds no memory, and a client that comes back with any cursor it ever got goes on from there, at
whichever gateway.

A client of a snapshot has, beside the revision, the last key it got: its copy is the store as it was at that revision,
as far as that key. A page is read from the maps; when the feed has come to where none of the maps had been further,
events up to there of the keys it has are sent, those of the page's range are folded into the page, and the page is the
store at that very revision, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, Protocol

from kvserver.api.feed_query import FeedQuery
from kvserver.api.times import rfc3339
from kvserver.gateway.feed import cursors
from kvserver.gateway.feed.conflation import Survivors
from kvserver.gateway.feed.cursors import Cursor, Reason
from kvserver.gateway.feed.encodings import Encoding, encoded
from kvserver.gateway.feed.envelopes import MOST_BYTES, MOST_EVENTS, Room, activity_fields
from kvserver.gateway.feed.events import Block, Event, Line, Message
from kvserver.gateway.feed.filters import Filter
from kvserver.gateway.feed.selection import Selection
from kvserver.gateway.feed.snapshots import Fold, Page
from kvserver.gateway.transport.frames import Ending
from kvserver.gateway.transport.send_budget import Debt, Debts
from shards.wire.errors import Unavailable
from shards.wire.protocol import Activity

RETRY_MS: Final = 1500
"""When a client that was told to go shall come back."""

_NEAR: Final = 4096  # how far behind a client of a snapshot may be when its next page is read
_COPIES: Final = 3  # of a page: as it was read, encoded, and in messages
_AROUND: Final = 400  # bytes of memory that an item takes beside key and value

Shows = Callable[[Event], bool]


class Overtaken(Exception):
    """The history is not kept any more where a client wants to go on."""


class History(Protocol):
    """What a gateway knows of the history, and of the store.

    Attributes:
        epoch: the history's name.
    """

    epoch: str

    def shown(self) -> int:
        """Revision up to which this gateway has come."""

    def watermark(self) -> int:
        """Revision up to which everything may be shown."""

    def end(self) -> int:
        """The last revision there is."""

    def oldest(self) -> int:
        """The first revision that is kept."""

    def now_ms(self) -> int:
        """Unix time."""

    def gave_out(self, revision: int) -> bool:
        """Whether a place in the history that is kept is behind `revision`, not above `end`: runs that were lost had
        others. May take long. Raises `Overtaken`, `LogError`."""

    def after(self, revision: int) -> Block:
        """The block that holds the revision after `revision`, which is below `shown`. Raises `Overtaken`."""

    def page(self, selection: Selection, after: bytes, values: bool) -> Page:
        """What the maps have of the keys of `selection` above `after`. Raises `Unavailable`."""

    def lines(self, number: int) -> tuple[int, Line | None]:
        """The first line of activity that is kept from `number` on, and the number after it; None: there is none."""


class Follow:
    """One client.

    Attributes:
        filter: what it gets to see.
        gaps: how often it could not go on where it was.
    """

    def __init__(
        self, history: History, filter: Filter, encoding: Encoding, wish: FeedQuery, debt: Debt | None = None
    ) -> None:
        """`wish.since` is where it goes on, if it can; what is kept for it is its `debt`."""
        self._debt = debt or Debt(Debts())
        self.filter, self.gaps = filter, 0
        self._history, self._encoding = history, encoding
        self._snapshot, self._conflate = wish.snapshot, wish.conflate
        self._shared_name = f"{filter.name} {encoding.index}"
        self._queue: deque[Message] = deque()
        self._given = b""  # the cursor behind the last message taken from the queue
        self._last: bytes | None = None
        self._page: Page | None = None
        self._fold: Fold | None = None
        self._survivors: Survivors | None = None
        self._line, _ = history.lines(1 << 62)
        self._revision = 0
        if wish.since is not None:
            self._resume(wish.since)
        elif wish.snapshot:
            self._begin_snapshot()
        else:
            self._revision = history.watermark()
            self._post(self.bookmark())

    @property
    def cursor(self) -> bytes:
        """Where the client is, with what it was given so far."""
        return self._given if self._queue else self._at()

    @property
    def in_snapshot(self) -> bool:
        """Whether a snapshot is under way."""
        return self._last is not None

    @property
    def has_everything(self) -> bool:
        """Whether `next` has nothing to give now, for sure: a quick look, for it is asked for every client again and
        again."""
        is_plain = self._last is None and not self._queue and not self.filter.activity
        return is_plain and self._revision >= self._history.shown()

    def next(self) -> Message | None:
        """What the client gets next; None if there is nothing now. May take long, and switch to other clients."""
        if not self._queue:
            try:
                message = self._snapshot_message() if self._last is not None else self._live_message()
            except Overtaken:
                self.drop()
                self._gap("trimmed")
            else:
                if message is not None or not self._queue:
                    return message
        message = self._queue.popleft()
        if self._debt.size:
            self._debt.owe(max(0, self._debt.size - len(message.body)) if self._queue else 0)
        self._given = message.cursor
        return message

    def drop(self) -> None:
        """Let go of what is kept for the client, which gets nothing more."""
        self._queue.clear()
        self._page = self._fold = self._survivors = None
        self._debt.owe(0)

    def bookmark(self) -> Message:
        """Tells where the client is."""
        return self._message({"type": "bookmark", "cursor": self.cursor, "time": rfc3339(self._history.now_ms())})

    def closing(self, reason: Ending) -> Message:
        """Tells that the connection ends, and where to go on."""
        return self._message({"type": "closing", "cursor": self.cursor, "reason": reason, "retry_ms": RETRY_MS})

    # Where it is

    def _at(self, revision: int | None = None, last: bytes | None = None) -> bytes:
        revision = self._revision if revision is None else revision
        last = self._last if last is None else last
        return Cursor(self._history.epoch, revision, last, self.filter.crc if last is not None else 0).text()

    def _resume(self, text: bytes) -> None:
        cursor, history = cursors.parse(text), self._history
        if cursor is not None and cursor.last is not None:
            self._snapshot = True  # who is in the middle of one wants one
        reason = cursors.obstacle(
            cursor, epoch=history.epoch, end=history.end(), oldest=history.oldest(), crc=self.filter.crc
        )
        if reason is None and cursor is not None and cursor.last != b"":  # who has got nothing yet lacks nothing
            reason = self._obstacle_in_the_log(cursor.revision)
        if reason is not None:
            self._gap(reason)
        else:
            assert cursor is not None
            self._revision, self._last = cursor.revision, cursor.last

    def _obstacle_in_the_log(self, revision: int) -> Reason | None:
        try:
            return None if self._history.gave_out(revision) else "bad_cursor"
        except Overtaken:
            return "trimmed"

    def _gap(self, reason: Reason) -> None:
        """It cannot go on: a snapshot, if it wants one, else what is kept."""
        history = self._history
        oldest = history.oldest() - 1
        self._survivors = None
        self.gaps += 1
        if self._snapshot:
            self._begin_snapshot()
        else:
            self._revision = oldest
        self._post(
            self._message(
                {
                    "type": "gap",
                    "cursor": self._at(),
                    "reason": reason,
                    "oldest": Cursor(history.epoch, oldest).text().decode(),
                    "snapshot": self._snapshot,
                }
            )
        )

    def _post(self, message: Message) -> None:
        self._queue.append(message)
        self._given = message.cursor

    def _message(self, fields: dict[str, Any]) -> Message:
        cursor = fields["cursor"]
        return Message(cursor, self._encoding.message(fields | {"cursor": cursor.decode()}))

    # Changes as they come

    def _live_message(self) -> Message | None:
        until = self._history.shown()
        if self.filter.activity and (line := self._next_line()) is not None:
            if line.place <= self._revision:
                self._line += 1
                return self._activity(self._at(), line.activity)
            until = min(until, line.place)
        if self._conflate and self._revision < until:
            return self._conflated(until)
        return self._events(until)

    def _next_line(self) -> Line | None:
        while True:
            following, line = self._history.lines(self._line)
            if line is None:
                return None
            self._line = following - 1
            if self.filter.shows_line(line.activity):
                return line
            self._line = following

    def _conflated(self, until: int) -> Message | None:
        while self._revision < until:
            left = self._survivors
            if left is None or left.end <= self._revision:
                left = self._survivors = Survivors(self._among(until), until, self.filter.shows)
                self._debt.owe(left.size)
            message = self._events(left.end, None if left.all else self._survives)
            if message is not None:
                return message
        self._survivors = None
        self._debt.owe(0)
        return None

    def _survives(self, event: Event) -> bool:
        return self._survivors is not None and event in self._survivors and self.filter.shows(event)

    def _events(self, until: int, shows: Shows | None = None) -> Message | None:
        """The next envelope of events up to `until`; None: there is none, and the client is there.

        Without `shows` the filter alone decides, and the envelope is shared.
        """
        while self._revision < until:
            block = self._history.after(self._revision)
            is_shared = shows is None and block.end <= until
            found = block.find(self._shared_name, self._revision) if is_shared else None
            if found is None:
                found = self._envelope(block, until, shows or self.filter.shows)
                if is_shared:
                    block.share(self._shared_name, self._revision, *found)
            message, self._revision = found
            if message is not None:
                return message
        return None

    def _envelope(self, block: Block, until: int, shows: Shows) -> tuple[Message | None, int]:
        """The first envelope of `block` behind the client's place, and how far it reaches."""
        room = Room()
        reached = min(block.end, until)
        values = self.filter.values
        for event in self.filter.selection.among(block, self._revision):
            if event.revision > until:
                break
            if not shows(event):
                continue
            if event.op == "mark":
                if not room.parts:
                    cursor = self._at(event.revision)
                    kind: Any = "delete_prefix" if event.key else "delete_all"
                    return self._activity(cursor, Activity(0, kind, event.key, event.time_ms)), event.revision
                reached = event.revision - 1
                break
            if not room.add(encoded(self._encoding, event, values), event.unit):
                reached = room.unit
                break
        if not room.parts:
            return None, reached
        cursor = self._at(reached)
        body = self._encoding.envelope("events", cursor, "events", room.parts)
        return Message(cursor, body, len(room.parts)), reached

    def _activity(self, cursor: bytes, line: Activity) -> Message:
        return self._message({"type": "activity", "cursor": cursor} | activity_fields(line))

    def _among(self, until: int) -> Iterator[Event]:
        """The events behind the client's place up to `until` that it may get to see; some behind `until`, too."""
        after = self._revision
        while after < until:
            block = self._history.after(after)
            yield from self.filter.selection.among(block, after)
            after = block.end

    # A snapshot

    def _begin_snapshot(self) -> None:
        self._last, self._page, self._fold = b"", None, None
        self._revision = self._history.shown()

    def _snapshot_message(self) -> Message | None:
        """The next message of the snapshot, if it is not put into the queue."""
        while self._last is not None and not self._queue:
            if self._fold is None and not self._begin_page():
                if self._page is not None or not self._must_catch_up():
                    return None
                if (message := self._events(self._history.shown(), self._covers)) is not None:
                    return message
                continue  # it had only revisions to catch up with that nobody was given
            assert self._fold is not None
            if self._last and (message := self._events(self._fold.revision, self._covers)) is not None:
                return message
            self._end_page(self._fold)
        return None

    def _begin_page(self) -> bool:
        """Read the next page and bring it to where the feed is; False if that is not possible now."""
        if self._page is None and (self._must_catch_up() or not self._read_page()):
            return False
        assert self._page is not None
        shown = self._history.shown()
        if shown < self._page.applied:
            return False
        fold = Fold(self._page, shown)
        fold.add(self._among(shown), self.filter.selection, self._last or b"")
        self._page, self._fold = None, fold
        return True

    def _must_catch_up(self) -> bool:
        """Whether the client is too far behind for a page: events of what it has come first."""
        if not self._last:
            self._revision = self._history.shown()
        return self._history.shown() - self._revision > _NEAR

    def _read_page(self) -> bool:
        """Read the next page; False if that is not possible now."""
        assert self._last is not None
        if self._history.shown() < self._revision:  # another gateway was further
            return False
        if self._debt.debts.are_high:
            return False
        try:
            self._page = self._history.page(self.filter.selection, self._last, self.filter.values)
        except Unavailable:
            return False
        self._debt.owe(_COPIES * sum(_AROUND + len(item.key) + len(item.value) for item in self._page.items))
        return True

    def _covers(self, event: Event) -> bool:
        """Whether the client has the event's key."""
        return event.key <= (self._last or b"") and event.op != "mark" and self.filter.shows(event)

    def _end_page(self, fold: Fold) -> None:
        """The client's copy is as of where the page is: show that."""
        before = self._at()
        self._fold = None
        self._revision = fold.revision
        self._show_items(fold)
        self._last = fold.last
        if fold.last is None:
            self._line, _ = self._history.lines(1 << 62)
            self._queue.append(self._message({"type": "snapshot_end", "cursor": self._at()}))
        self._given = before
        self._debt.owe(sum(len(message.body) for message in self._queue))

    def _show_items(self, fold: Fold) -> None:
        room, key, is_first = Room(), b"", not self._last
        for item in fold.items():
            data = self._encoding.item(item, self.filter.values)
            if not room.add(data, item.revision):
                self._post_items(room.parts, key, is_first)
                room, is_first = Room(), False
                room.add(data, item.revision)
            key = item.key
        last = fold.last
        if room.parts or (is_first and last is not None):  # who goes on behind it knows that the snapshot has begun
            self._post_items(room.parts, key if last is None else last, is_first)

    def _post_items(self, parts: list[bytes], last: bytes, is_first: bool) -> None:
        cursor = self._at(last=last)
        body = self._encoding.envelope("snapshot", cursor, "items", parts, is_first)
        self._queue.append(Message(cursor, body, len(parts)))


class Answer(NamedTuple):
    """What a poll gets."""

    cursor: bytes
    more: bool
    messages: list[Message]


def poll(follow: Follow) -> Answer:
    """As many messages as one answer may hold."""
    messages: list[Message] = []
    count = size = 0
    while True:
        cursor = follow.cursor
        message = follow.next()
        if message is None:
            return Answer(follow.cursor, follow.in_snapshot, messages)
        count += message.events or 1
        size += len(message.body) + 1
        if messages and (count > MOST_EVENTS or size > MOST_BYTES):
            return Answer(cursor, True, messages)
        messages.append(message)
