"""The time that catching up may take in a gateway, whoever catches up.

Reading old history, or a page of a snapshot, is work for one client; what happens now is for all of them. So clients
that catch up wait for turns: one of them runs at a time, all together for `TURN_S`, and then the event loop serves
everything else that is ready. Whose turn it is says `kvserver.gateway.feed.turns`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Final

import gevent  # type: ignore[import-untyped]
from gevent.hub import Waiter  # type: ignore[import-untyped]

from kvserver.gateway.feed.turns import ClientGone, Interrupted, TurnQueue

TURN_S: Final = 0.004
"""Seconds of catching up between two turns of the event loop, shared out among all clients that catch up."""
REST_S: Final = 0.001
"""Seconds until catching up goes on, if nothing else takes longer."""


class CatchUpTurn:
    """One client's turns.

    Attributes:
        is_over: whether the client is gone, so that nothing more is to be done for it.
        is_due: there is something that the client gets before it waits for another turn.
    """

    def __init__(self, turns: CatchUpTurns, address: Hashable) -> None:
        self.is_over: Callable[[], bool] = lambda: False
        self.is_due = False
        self.waiter: Waiter | None = None
        self.address, self._turns = address, turns

    def wait(self, may_break: bool = False) -> None:
        """Wait until the client may do one more step of catching up. Raises `ClientGone`, and `Interrupted` if it
        `may_break` off here."""
        self._look(False)
        if not self._turns.lasts(self):
            self._look(may_break)
            self._turns.wait(self)
            self._look(may_break)

    def _look(self, may_break: bool) -> None:
        if self.is_over():
            raise ClientGone
        if may_break and self.is_due:
            raise Interrupted

    def end(self) -> None:
        """Nothing more is to be done for the client."""
        self.is_over = lambda: True


class CatchUpTurns:
    """The turns of all clients of a gateway. While anybody waits, a greenlet gives them."""

    def __init__(self) -> None:
        self._queue: TurnQueue[CatchUpTurn] = TurnQueue()
        self._conductor: gevent.Greenlet | None = None
        self._holder: CatchUpTurn | None = None
        self._until = 0.0

    def of(self, address: Hashable) -> CatchUpTurn:
        """The turns of a client at `address`."""
        return CatchUpTurn(self, address)

    def lasts(self, turn: CatchUpTurn) -> bool:
        """Whether it is the turn of that client, which has not let go of it since."""
        return turn is self._holder and time.monotonic() < self._until

    def wait(self, turn: CatchUpTurn) -> None:
        """Wait until it is the client's turn."""
        turn.waiter = Waiter()
        self._queue.add(turn.address, turn)
        if self._conductor is None:
            self._conductor = gevent.spawn(self._conduct)
        try:
            turn.waiter.get()
        finally:
            turn.waiter = None
            self._queue.discard(turn.address, turn)

    def _conduct(self) -> None:
        """Give turns until nobody waits."""
        loop = gevent.get_hub().loop
        while self._queue:
            self._until = time.monotonic() + TURN_S
            while self._queue and time.monotonic() < self._until:
                self._holder = self._queue.next()
                assert self._holder.waiter is not None
                loop.run_callback(self._holder.waiter.switch, None)
                gevent.sleep(0)  # it goes on, and comes back here as soon as it waits for anything
                self._holder = None
            gevent.sleep(REST_S)
        self._conductor = None
