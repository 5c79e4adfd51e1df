"""Polls of `/v1/feed`: clients that get one answer, which may wait for something to show."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import gevent  # type: ignore[import-untyped]

from kvserver.access.grants import Grants
from kvserver.api.feed_query import FeedQuery
from kvserver.gateway.feed import encodings
from kvserver.gateway.feed.encodings import JSON
from kvserver.gateway.feed.follow import PollAnswer, collect_answer
from kvserver.gateway.feed.walk import ClientGone
from kvserver.gateway.history.source import LogFollower
from kvserver.gateway.sessions.clients import REVOKED, FeedSession
from kvserver.gateway.transport.frames import Ending
from kvserver.gateway.transport.send_budget import BudgetCharge, SendBudget
from kvserver.gateway.transport.stream import Stream
from shards.wire.errors import KVError, Overloaded

SNAPSHOT_WAIT_S: Final = 5.0
"""How long a poll waits for the next page of a snapshot, even if it asked for less."""

CATCH_UP_S: Final = 2.0
"""How long a poll that does not want to wait does so until the gateway has shown what was visible when it came."""


class PollFeed(FeedSession):
    """A client that gets one answer, which may wait for something to show."""

    head = b""

    def __init__(
        self,
        follower: LogFollower,
        budget: SendBudget,
        query: FeedQuery,
        grants: Grants,
        answer: Callable[[bytes], bytes],
        refuse: Callable[[KVError], bytes],
    ) -> None:
        """Follow `follower` until there is an answer. `answer` makes it of its body, `refuse` of an error."""
        self._answer, self._refuse = answer, refuse
        self._stream: Stream | None = None
        self._wants_cursor_only = query.since is None and not query.snapshot
        super().__init__(follower, budget, query, grants, JSON, encodings.ndjson_line)
        wait_s = max(query.wait_s, SNAPSHOT_WAIT_S if self.state.in_snapshot else 0)
        self._until = time.monotonic() + wait_s
        self._visible_at_start = follower.history.watermark()
        self._catch_up_until = time.monotonic() + CATCH_UP_S
        self._timer = gevent.spawn_later(wait_s, self.wake)

    def carry(self, stream: Stream) -> None:
        """Write to `stream`, which is about to run."""
        self._stream = stream
        self._wake = stream.wake
        self._turn.is_over = lambda: stream.is_gone  # if only the server ends, the client still gets what it can
        stream.source = self._whole_answer
        stream.farewell = self._empty_answer
        if self._is_revoked:
            self.close_revoked()

    def end(self) -> None:
        """Stop following: the client has its answer, or is gone."""
        self._timer.kill(block=False)
        self._stream = None
        super().end()

    def each_second(self) -> None:
        """Wake up a client that waits for a page. It gets no bookmarks, so none interrupts it."""
        has_some = self._turn.is_due
        super().each_second()
        self._turn.is_due = has_some

    def close_revoked(self) -> None:
        """Answer with what the client could see until now: nothing new."""
        if self._stream is not None:
            self._stream.close_with_farewell(REVOKED, "", "revoked")

    def _whole_answer(self) -> bytes | None:
        """Return the answer and end the stream with it; None: not yet."""
        assert self._stream is not None
        if self._is_behind() and not self._wants_cursor_only:
            return None
        if self._is_refused():
            return self._end_with_refusal()
        gaps = self.state.gaps
        try:
            found = PollAnswer(self.state.cursor, False, []) if self._wants_cursor_only else self._collect_messages()
        except ClientGone:
            return None
        self._follower.counts["gaps"] += self.state.gaps - gaps
        if not found.messages and self._is_refused():  # much was made for others while it waited for its turn
            return self._end_with_refusal()
        if not found.messages and not self._wants_cursor_only and time.monotonic() < self._until:
            return None
        self._follower.counts["deliveries"] += sum(message.events for message in found.messages)
        self.state.discard()
        return self._end_with(self._answer(encodings.poll_answer(*found)))

    def _collect_messages(self) -> PollAnswer:
        """Collect what there is. May switch.

        The budget is charged with the largest answer in the meantime, or many polls would find it unspent. A page of a
        snapshot is charged when it is read, and waits for the budget itself.
        """
        self._turn.is_due = False
        if self.state.in_snapshot:
            return collect_answer(self.state, self._note_found)
        coming = BudgetCharge(self._budget)
        coming.set_bytes(self._follower.largest_answer)
        try:
            return collect_answer(self.state, self._note_found)
        finally:
            coming.set_bytes(0)

    def _note_found(self) -> None:
        """Have the client wait for no further turns: what was found is held for it alone."""
        self._turn.is_due = True

    def _is_refused(self) -> bool:
        return self._budget.is_high and not (self._wants_cursor_only or self.state.has_everything)

    def _end_with_refusal(self) -> bytes:
        return self._end_with(self._refuse(Overloaded("too many answers wait for clients to read them")))

    def _end_with(self, answer: bytes) -> bytes:
        assert self._stream is not None
        self._stream.farewell = lambda why: b""
        self._stream.end()
        return answer

    def _is_behind(self) -> bool:
        """Whether the gateway has not shown yet what was visible when the poll came, and is given time to."""
        history = self._follower.history
        return history.shown() < self._visible_at_start and time.monotonic() < self._catch_up_until

    def _empty_answer(self, why: Ending) -> bytes:
        return self._answer(encodings.poll_answer(self.state.cursor, False, []))
