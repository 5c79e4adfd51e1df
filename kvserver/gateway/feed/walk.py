"""One client's walk along the history: its place, and the messages made of what comes next. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from kvserver.gateway.feed.cursors import FeedCursor
from kvserver.gateway.feed.encodings import Encoding, encode_once
from kvserver.gateway.feed.envelopes import EnvelopeBuilder, activity_fields
from kvserver.gateway.feed.events import ActivityLine, Block, Event, Message
from kvserver.gateway.feed.filters import Filter
from kvserver.gateway.feed.selection import Selection
from kvserver.gateway.feed.snapshots import Page
from shards.wire.protocol import Activity

Shows = Callable[[Event], bool]
"""Whether a client gets an event."""


class Overtaken(Exception):
    """The log no longer holds the place where a client wants to continue."""


class ClientGone(Exception):
    """The client that the search is for has left."""


class Interrupted(Exception):
    """The client gets what there is for it before it waits on; its walk continues from where it is."""


AwaitTurn = Callable[[bool], None]
"""Waits until a client may do its next step of catching up. May switch, and raise `ClientGone`.

It is given whether it may raise `Interrupted`, too: whether little would have to be done again.
"""


def never_wait(may_interrupt: bool) -> None:
    """Do nothing: the `AwaitTurn` of a client that is alone."""


class FeedHistory(Protocol):
    """The history and the store, as a gateway knows them. Revisions are places in the history.

    Attributes:
        epoch: the history's name.
    """

    epoch: str

    def shown(self) -> int:
        """Return the revision up to which this gateway has come."""

    def watermark(self) -> int:
        """Return the revision up to which everything is visible."""

    def end(self) -> int:
        """Return the last revision of the history."""

    def oldest(self) -> int:
        """Return the first revision that the log holds."""

    def now_ms(self) -> int:
        """Return the Unix time."""

    def was_given_out(self, revision: int) -> bool:
        """Whether `revision`, held by the log and not above `end`, is a place of this history.

        A run of the store that was lost had others. May take long. Raises `Overtaken`, `LogError`.
        """

    def block_after(self, revision: int) -> Block:
        """Return the block that holds the revision after `revision`, which is below `shown`. Raises `Overtaken`."""

    def is_near(self, revision: int) -> bool:
        """Whether a client at `revision` lacks only what was shown just now."""

    def pass_over(self, revision: int, selection: Selection, ops: frozenset[str] | None) -> int:
        """Return up to where, after `revision`, there are none of these keys and ops (None: all of them).

        It is `revision` where that is not known, and never above `shown`. Does not switch.
        """

    def map_page(self, selection: Selection, after: bytes, values: bool) -> Page:
        """Return what the maps hold of the keys of `selection` above `after`. Raises `Unavailable`."""

    def activity_from(self, number: int) -> tuple[int, ActivityLine | None]:
        """Return the first line of activity that is kept from `number` on, and the number after it.

        Without such a line it is None, and the number is that of the next line to come.
        """


class EventWalk:
    """Makes the messages of one client, and moves its place in the history along.

    Attributes:
        history: what it walks along.
        filter: what the client gets of it.
        encoding: of the messages.
        revision: the client has everything up to it.
        snapshot_key: within a snapshot, the last key the client has, empty if none yet; None: not within one.
        await_turn: called before each step of catching up.
    """

    def __init__(
        self, history: FeedHistory, filter: Filter, encoding: Encoding, await_turn: AwaitTurn = never_wait
    ) -> None:
        """Begin at revision 0, outside of a snapshot."""
        self.history, self.filter, self.encoding, self.await_turn = history, filter, encoding, await_turn
        self.revision = 0
        self.snapshot_key: bytes | None = None
        self._shared_name = f"{filter.name} {encoding.index}"

    def cursor_at(self, revision: int | None = None, snapshot_key: bytes | None = None) -> bytes:
        """Return the cursor of this place; `revision` and `snapshot_key` replace its own."""
        revision = self.revision if revision is None else revision
        last = self.snapshot_key if snapshot_key is None else snapshot_key
        return FeedCursor(self.history.epoch, revision, last, self.filter.crc if last is not None else 0).text()

    def message(self, fields: dict[str, Any]) -> Message:
        """Encode a message of `fields`, one of which is the `cursor`, in bytes."""
        cursor = fields["cursor"]
        return Message(cursor, self.encoding.message(fields | {"cursor": cursor.decode()}))

    def activity_message(self, cursor: bytes, line: Activity) -> Message:
        """Encode a line of activity."""
        return self.message({"type": "activity", "cursor": cursor} | activity_fields(line))

    def next_envelope(self, until: int, shows: Shows | None = None) -> Message | None:
        """Return the next envelope of events up to revision `until`, and move after it; None: there are no more.

        Without `shows` the filter alone decides, and clients at the same place share the envelope. May take long.
        Raises `Overtaken`, `ClientGone`, `Interrupted`; after those two it can be called again.
        """
        while self.revision < until:
            passed = self._pass_over(self.revision, until, self.filter.ops, may_interrupt=True)
            if passed > self.revision:
                self.revision = passed
                continue
            message, self.revision = self._find_envelope(self.history.block_after(passed), until, shows)
            if message is not None:
                return message
        return None

    def _pass_over(self, revision: int, until: int, ops: frozenset[str] | None, *, may_interrupt: bool) -> int:
        """Return how far, up to `until`, nothing after `revision` is known to be for the client.

        Waits for its turn first, unless all it lacks was shown just now: then it looks at that at once.
        """
        if self.history.is_near(revision):
            return revision
        self.await_turn(may_interrupt)
        return min(self.history.pass_over(revision, self.filter.selection, ops), until)

    def _find_envelope(self, block: Block, until: int, shows: Shows | None) -> tuple[Message | None, int]:
        """Return what `block` has for the client, shared if possible, and the revision it reaches.

        The caller must not keep the block: many clients may wait for their turns, each with another one.
        """
        is_shared = shows is None and block.end <= until
        found = block.find_shared(self._shared_name, self.revision) if is_shared else None
        if found is None:
            found = self._build_envelope(block, until, shows or self.filter.shows)
            if is_shared:
                block.share_message(self._shared_name, self.revision, *found)
        return found

    def _build_envelope(self, block: Block, until: int, shows: Shows) -> tuple[Message | None, int]:
        """Return the first envelope of `block` after the client's place, and the revision it reaches.

        The mark of a prefix delete is a message of its own: it ends an envelope, and is the message if it comes first.
        """
        builder = EnvelopeBuilder()
        reached = min(block.end, until)
        values = self.filter.values
        for event in self.filter.selection.events_in(block, self.revision):
            if event.revision > until:
                break
            if not shows(event):
                continue
            if event.op == "mark":
                if not builder.parts:
                    cursor = self.cursor_at(event.revision)
                    kind: Any = "delete_prefix" if event.key else "delete_all"
                    return self.activity_message(cursor, Activity(0, kind, event.key, event.time_ms)), event.revision
                reached = event.revision - 1
                break
            if not builder.add(encode_once(self.encoding, event, values), event.unit):
                reached = builder.unit
                break
        if not builder.parts:
            return None, reached
        cursor = self.cursor_at(reached)
        body = self.encoding.envelope("events", cursor, "events", builder.parts)
        return Message(cursor, body, len(builder.parts)), reached

    def events_until(self, until: int) -> Iterator[Event]:
        """Yield the events after the client's place that may be of its keys, up to `until` and some after it.

        May take long. Raises `Overtaken`, `ClientGone`.
        """
        after = self.revision
        while after < until:
            passed = self._pass_over(after, until, None, may_interrupt=False)
            if passed > after:
                after = passed
                continue
            block = self.history.block_after(after)
            yield from self.filter.selection.events_in(block, after)
            after = block.end
            del block  # lest it is kept while the client waits for its turn
