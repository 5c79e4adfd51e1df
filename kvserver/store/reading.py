"""When a worker of a cluster may show what it read from the maps.

Every machine answers reads from its own maps. What such an answer says is true of the whole cluster if, after the value
was read, every member had applied what it shows, and if no other machine can have counted this one out by then. The
shard says both on the board: the watermark is up to where no member lacks anything, and `lease_until` is until when
this machine may show anything. So a read costs two loads more, and waits only for a key that is being
written.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from shards.host.board import Board
from shards.wire.errors import BadRequest, NotCurrent

WAIT_S: Final = 1.0
"""The longest that a read waits."""
MIN_REVISION: Final = "KV-Min-Revision"
"""Header of a request: what it reads is at least as new as this revision."""

_POLL_S: Final = 0.001


class ReadingRule:
    """One per worker of a cluster, used from its event loop."""

    def __init__(self, board: Board, loop: asyncio.AbstractEventLoop) -> None:
        self._board, self._loop, self._order = board, loop, board.order
        self._is_linear = board.facts.reads == "linear"
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def may_show(self, revision: int = 0) -> bool:
        """Whether an item of `revision` that was read just now may be shown.

        0: that a key is absent, or a list.
        """
        if not self._is_linear:
            return True
        board = self._board
        is_everywhere = board.watermark()[1] >= revision if revision else board.complete_revision() is not None
        return is_everywhere and self._is_current()

    async def settle(self, revision: int = 0) -> None:
        """Wait until what was read may be shown: an item of `revision`; 0: that a key is absent, or a list.

        Raises `NotCurrent` if that takes longer than `WAIT_S`, or this machine may have been counted out.
        """
        if self.may_show(revision):
            return
        await self._wait_for(revision or self._board.last_revision())
        if not self._is_current():
            raise NotCurrent(self._board.read_stop() or "it has not heard of most of the cluster for a second")

    async def reach(self, given: str) -> None:
        """Wait until this machine may show everything up to the revision that a `MIN_REVISION` header has.

        Raises `BadRequest` if it has none; `NotCurrent` if that takes longer than `WAIT_S`.
        """
        if not (given.isascii() and given.isdigit() and len(given) <= 16):
            raise BadRequest(
                f"the header {MIN_REVISION} is {given!r}: expected a revision, as an ETag or KV-Revision has"
            )
        await self._wait_for(int(given))

    def _is_current(self) -> bool:
        """Whether no other machine can have counted this one out by now."""
        order = self._order
        if time.clock_gettime_ns(time.CLOCK_BOOTTIME) >= order.lease_until:
            return False
        return time.time_ns() < order.lease_wall_until

    async def _wait_for(self, revision: int) -> None:
        """Wait until everything up to `revision`, which need not be known here yet, is applied on every member."""
        if self._board.watermark()[1] >= revision:
            return
        reached: asyncio.Future[None] = self._loop.create_future()
        if not self._waiting:
            self._loop.call_later(_POLL_S, self._poll)
        self._waiting.append((revision, reached))
        try:
            await asyncio.wait_for(reached, WAIT_S)
        except TimeoutError:
            known = revision <= self._board.last_revision()
            what = "other machines may not have yet" if known else "this machine does not have yet"
            raise NotCurrent(f"the answer needs revision {revision}, which {what}") from None

    def _poll(self) -> None:
        """End the waiting of those whose revision may be shown, and look again soon if there are others."""
        shown, left = self._board.watermark()[1], []
        for revision, reached in self._waiting:
            if revision > shown and not reached.done():
                left.append((revision, reached))
            elif not reached.done():
                reached.set_result(None)
        self._waiting = left
        if left:
            self._loop.call_later(_POLL_S, self._poll)
