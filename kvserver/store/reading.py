"""When a worker of a cluster may show what it read from the maps.

Every machine answers reads from its own maps. What such an answer says is true of the whole cluster if, after the value
was read, every member had applied what it shows, and if no other machine can have counted this one out by then. The
shard says both on the board: the watermark is up to where no member lacks anything, and `lease_until` is until when
this machine may show anything. So a read costs three loads more, and waits for a key that is being written.

A lease lapses for some tenths of a second where processes get no processor time. That is waited out. What was read
before is still true afterwards if this machine has been the same member all the while (`entered`): one that was put out
and came back may have read what the others had replaced by then.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, NamedTuple

from shards.host.board import Board
from shards.wire.errors import BadRequest, NotCurrent

WAIT_S: Final = 2.5
"""The longest that a read waits for all members to have what it shows: a second longer than it takes to put out one
that is silent."""
LAPSE_S: Final = 1.0
"""From the end of the lease: until then reads wait for the next one, later ones are refused at once."""
MOST_WAITING: Final = 1024
"""Reads of one worker that wait; further ones are refused."""
MIN_REVISION: Final = "KV-Min-Revision"
"""Header of a request: what it reads is at least as new as this revision."""

_POLL_S: Final = 0.001


class _Waiting(NamedTuple):
    """A read that waits.

    Attributes:
        revision: up to which every member must have applied everything.
        is_read: whether there must be a lease, too.
        settled: gets the result, or `NotCurrent`.
    """

    revision: int
    is_read: bool
    settled: asyncio.Future[None]


class ReadingRule:
    """One per worker of a cluster, used from its event loop. `refresh` is to be called in each of its turns, or so.

    Attributes:
        membership: which membership of this machine what is read now belongs to.
    """

    def __init__(self, board: Board, loop: asyncio.AbstractEventLoop) -> None:
        self._board, self._loop, self._order = board, loop, board.order
        self._is_linear = board.facts.reads == "linear"
        self._waiting: list[_Waiting] = []
        self.membership = board.order.entered

    def refresh(self) -> None:
        """Note which membership this machine is in. Not to be called between a read and what shows it."""
        self.membership = self._order.entered

    def may_show(self, revision: int = 0) -> bool:
        """Whether an item of `revision` that was read just now may be shown.

        0: that a key is absent, or a list.
        """
        if not self._is_linear:
            return True
        board = self._board
        is_everywhere = board.watermark()[1] >= revision if revision else board.complete_revision() is not None
        return is_everywhere and self._order.entered == self.membership and self._order.has_lease()

    async def settle(self, revision: int = 0, membership: int | None = None) -> None:
        """Wait until what was read may be shown: an item of `revision`; 0: that a key is absent, or a list.

        `membership`: what that was when reading began, if that was not just now.

        Raises `NotCurrent` if every member does not have it within `WAIT_S`, if the lease ended `LAPSE_S` ago, or if
        this machine may have been counted out since it was read.
        """
        if membership is None:
            membership = self.membership
        if membership == self.membership and self.may_show(revision):
            return
        if self._is_linear:
            await self._wait_for(revision or self._board.last_revision(), is_read=True)
            if self._order.entered != membership:
                raise NotCurrent("it was put out of its cluster for a moment, and has just come back")

    async def reach(self, given: str) -> None:
        """Wait until this machine may show everything up to the revision that a `MIN_REVISION` header has.

        Raises `BadRequest` if it has none; `NotCurrent` if that takes longer than `WAIT_S`.
        """
        if not (given.isascii() and given.isdigit() and len(given) <= 16):
            raise BadRequest(
                f"the header {MIN_REVISION} is {given!r}: expected a revision, as an ETag or KV-Revision has"
            )
        await self._wait_for(int(given), is_read=False)

    def _is_over(self) -> bool:
        """Whether the lease ended so long ago that it is not worth waiting for the next one."""
        order, ns = self._order, int(LAPSE_S * 1e9)
        boot_ns, wall_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns()
        return boot_ns >= order.lease_until + ns or wall_ns >= order.lease_wall_until + ns

    async def _wait_for(self, revision: int, *, is_read: bool) -> None:
        """Wait until everything up to `revision`, which need not be known here yet, is applied on every member, and for
        a read until there is a lease."""
        waiting = _Waiting(revision, is_read, self._loop.create_future())
        if self._is_settled(waiting, self._board.watermark()[1]):
            waiting.settled.exception()  # it is raised here
            return waiting.settled.result()
        if len(self._waiting) >= MOST_WAITING:
            raise NotCurrent(f"{MOST_WAITING} reads wait already until it is")
        if not self._waiting:
            self._loop.call_later(_POLL_S, self._poll)
        self._waiting.append(waiting)
        try:
            await asyncio.wait_for(waiting.settled, WAIT_S)
        except TimeoutError:
            known = revision <= self._board.last_revision()
            what = "other machines may not have yet" if known else "this machine does not have yet"
            raise NotCurrent(f"the answer needs revision {revision}, which {what}") from None

    def _poll(self) -> None:
        """End the waiting of those for whom it is over, and look again soon if there are others."""
        self.refresh()
        shown = self._board.watermark()[1]
        self._waiting = [
            waiting for waiting in self._waiting if not (waiting.settled.done() or self._is_settled(waiting, shown))
        ]
        if self._waiting:
            self._loop.call_later(_POLL_S, self._poll)

    def _is_settled(self, waiting: _Waiting, shown: int) -> bool:
        """Give a read its result, if it has one by now; return whether it has."""
        if waiting.is_read and not self._order.has_lease():
            if not self._is_over():
                return False
            why = self._board.read_stop() or "it has not heard of most of the cluster for two seconds"
            waiting.settled.set_exception(NotCurrent(why))
        elif shown >= waiting.revision:
            waiting.settled.set_result(None)
        return waiting.settled.done()
