"""One client of `/v1/feed`: from its place in the history to the message it gets next. Pure.

A client is a revision, and a filter. Its carrier asks for the next message when the one before was written, so a slow
client has nothing queued, and a client that returns with any cursor it ever got continues from there, at whichever
gateway. See `kvserver.gateway.feed.runs` for snapshots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from kvserver.api.feed_query import FeedQuery
from kvserver.api.times import rfc3339
from kvserver.gateway.feed import cursors
from kvserver.gateway.feed.cursors import FeedCursor, Reason
from kvserver.gateway.feed.encodings import Encoding
from kvserver.gateway.feed.envelopes import MOST_BYTES, MOST_EVENTS
from kvserver.gateway.feed.events import Message
from kvserver.gateway.feed.filters import Filter
from kvserver.gateway.feed.runs import LiveRun, MessageQueue, SnapshotRun
from kvserver.gateway.feed.walk import AwaitTurn, EventWalk, FeedHistory, Interrupted, Overtaken, never_wait
from kvserver.gateway.transport.frames import Ending
from kvserver.gateway.transport.send_budget import BudgetCharge, SendBudget

RETRY_MS: Final = 1500
"""After how many milliseconds a client whose connection the server ended should return."""


class FeedState:
    """The state of one client.

    Attributes:
        filter: what it gets of the history.
        gaps: how often it could not continue where it was.
    """

    def __init__(
        self,
        history: FeedHistory,
        filter: Filter,
        encoding: Encoding,
        query: FeedQuery,
        charge: BudgetCharge | None = None,
        await_turn: AwaitTurn = never_wait,
    ) -> None:
        """Begin after `query.since` if that is possible; else with a snapshot, or at the watermark, as the query says.

        Args:
            charge: of what is kept for the client; None: one of its own.
            await_turn: called before each step of catching up.
        """
        self._charge = charge or BudgetCharge(SendBudget())
        self.filter, self.gaps = filter, 0
        self._history, self._wants_snapshot = history, query.snapshot
        self._walk = EventWalk(history, filter, encoding, await_turn)
        self._queue = MessageQueue(self._charge)
        self._live = LiveRun(self._walk, self._charge, query.conflate)
        self._snapshot = SnapshotRun(self._walk, self._charge, self._queue)
        if query.since is not None:
            self._resume_at(query.since)
        elif query.snapshot:
            self._snapshot.begin()
        else:
            self._walk.revision = history.watermark()
            self._queue.add_notice(self.bookmark())

    @property
    def cursor(self) -> bytes:
        """The cursor of the client, with the messages it got so far."""
        return self._queue.cursor if self._queue else self._walk.cursor_at()

    @property
    def in_snapshot(self) -> bool:
        """Whether a snapshot is under way."""
        return self._walk.snapshot_key is not None

    @property
    def has_everything(self) -> bool:
        """Whether `next_message` certainly has nothing now: a quick check, made for every client at every change."""
        walk = self._walk
        is_plain = walk.snapshot_key is None and not self._queue and not walk.filter.activity
        return is_plain and walk.revision >= self._history.shown()

    def next_message(self) -> Message | None:
        """Return what the client gets next; None: nothing now. May take long, and switch to other clients.

        Raises `ClientGone`, `Interrupted`; it can be called again all the same.
        """
        if not self._queue:
            try:
                run = self._live if self._walk.snapshot_key is None else self._snapshot
                message = run.next_message()
            except Overtaken:
                self.discard()
                self._begin_gap("trimmed")
            else:
                if message is not None or not self._queue:
                    return message
                if self._walk.snapshot_key is None:  # it has just ended: activity that is older is none of the client's
                    self._live.skip_activity()
        return self._queue.take()

    def discard(self) -> None:
        """Release what is kept for the client, and its charge."""
        self._queue.clear()
        self._snapshot.discard_page()
        self._live.discard_latest()
        self._charge.set_bytes(0)

    def bookmark(self) -> Message:
        """Make the message that says where the client is."""
        return self._walk.message({"type": "bookmark", "cursor": self.cursor, "time": rfc3339(self._history.now_ms())})

    def closing_message(self, reason: Ending) -> Message:
        """Make the message that says why the connection ends, and where to continue."""
        fields = {"type": "closing", "cursor": self.cursor, "reason": reason, "retry_ms": RETRY_MS}
        return self._walk.message(fields)

    def _resume_at(self, text: bytes) -> None:
        """Continue after the cursor in `text`, or begin with a gap that says why not."""
        cursor, history = cursors.parse(text), self._history
        if cursor is not None and cursor.last is not None:
            self._wants_snapshot = True  # a client in the middle of one wants one
        reason = cursors.find_obstacle(
            cursor, epoch=history.epoch, end=history.end(), oldest=history.oldest(), crc=self.filter.crc
        )
        if reason is None and cursor is not None and cursor.last != b"":  # a client without a key yet lacks nothing
            reason = self._find_obstacle_in_log(cursor.revision)
        if reason is not None:
            self._begin_gap(reason)
        else:
            assert cursor is not None
            self._walk.revision, self._walk.snapshot_key = cursor.revision, cursor.last

    def _find_obstacle_in_log(self, revision: int) -> Reason | None:
        try:
            return None if self._history.was_given_out(revision) else "bad_cursor"
        except Overtaken:
            return "trimmed"

    def _begin_gap(self, reason: Reason) -> None:
        """Start over, since the client cannot continue: with a snapshot if it wants one, else with the oldest change.

        Puts the message that says so into the queue.
        """
        history, walk = self._history, self._walk
        oldest = history.oldest() - 1
        self._live.discard_latest()
        self.gaps += 1
        if self._wants_snapshot:
            self._snapshot.begin()
        else:
            walk.revision = oldest
        self._queue.add_notice(
            walk.message(
                {
                    "type": "gap",
                    "cursor": walk.cursor_at(),
                    "reason": reason,
                    "oldest": FeedCursor(history.epoch, oldest).text().decode(),
                    "snapshot": self._wants_snapshot,
                }
            )
        )


class PollAnswer(NamedTuple):
    """The messages for one poll. `more`: the next poll need not wait."""

    cursor: bytes
    more: bool
    messages: list[Message]


def collect_answer(state: FeedState, note_found: Callable[[], None] = lambda: None) -> PollAnswer:
    """Take as many messages as one answer may hold. May take long, and switch to other clients.

    Where the client is interrupted, the answer is what it has. Raises `ClientGone`.

    Args:
        note_found: called once there is a message: from then on, `state` is to be interrupted rather than to wait.
    """
    messages: list[Message] = []
    count = size = 0
    while True:
        cursor = state.cursor
        try:
            message = state.next_message()
        except Interrupted:
            return PollAnswer(state.cursor, True, messages)
        if message is None:
            return PollAnswer(state.cursor, state.in_snapshot, messages)
        count += message.events or 1
        size += len(message.body) + 1
        if messages and (count > MOST_EVENTS or size > MOST_BYTES):
            return PollAnswer(cursor, True, messages)
        messages.append(message)
        note_found()
