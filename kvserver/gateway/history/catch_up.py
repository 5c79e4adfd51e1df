"""The time that catching up may take in a gateway, whoever catches up.

Reading old history, or a page of a snapshot, is work for one client; what happens now is for all of them. So clients
that catch up wait for turns: one of them runs at a time, all together for `TURN_S`, and then the event loop serves
everything else that is ready.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

import gevent  # type: ignore[import-untyped]
from gevent.hub import Waiter  # type: ignore[import-untyped]

from kvserver.gateway.feed.walk import ClientGone, Interrupted

TURN_S: Final = 0.004
"""Seconds of catching up between two turns of the event loop, shared out among all clients that catch up."""
REST_S: Final = 0.001
"""Seconds until catching up continues, if nothing else takes longer."""

Waiting = TypeVar("Waiting", bound=Hashable)


class TurnQueue(Generic[Waiting]):
    """Clients that wait for a turn: by turns between addresses, and between the clients of one.

    However many clients one address has, it gets every second turn at most while another address waits.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[Hashable, OrderedDict[Waiting, None]] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    def add(self, address: Hashable, client: Waiting) -> None:
        """Let `client` wait: behind the others of its address, which waits behind other addresses."""
        self._waiting.setdefault(address, OrderedDict())[client] = None

    def discard(self, address: Hashable, client: Waiting) -> None:
        """Let `client` wait no longer, if it does."""
        clients = self._waiting.get(address)
        if clients is not None:
            clients.pop(client, None)
            if not clients:
                del self._waiting[address]

    def take(self) -> Waiting:
        """Take out the client whose turn it is. Raises `KeyError` if no client waits."""
        address, clients = self._waiting.popitem(last=False)
        client, _ = clients.popitem(last=False)
        if clients:
            self._waiting[address] = clients
        return client


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

    def wait(self, may_interrupt: bool = False) -> None:
        """Wait until the client may do one more step of catching up. Raises `ClientGone`.

        Raises `Interrupted`, too, if it `may_interrupt`, and there is something that the client gets first.
        """
        self._check(False)
        if not self._turns.lasts(self):
            self._check(may_interrupt)
            self._turns.wait(self)
            self._check(may_interrupt)

    def _check(self, may_interrupt: bool) -> None:
        if self.is_over():
            raise ClientGone
        if may_interrupt and self.is_due:
            raise Interrupted

    def end(self) -> None:
        """Do nothing more for the client."""
        self.is_over = lambda: True


class CatchUpTurns:
    """The turns of all clients of a gateway. While anybody waits, a greenlet gives them."""

    def __init__(self) -> None:
        self._queue: TurnQueue[CatchUpTurn] = TurnQueue()
        self._conductor: gevent.Greenlet | None = None
        self._holder: CatchUpTurn | None = None
        self._until = 0.0

    def of(self, address: Hashable) -> CatchUpTurn:
        """Return the turns of a client at `address`."""
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
        """Give turns until no client waits."""
        loop = gevent.get_hub().loop
        while self._queue:
            self._until = time.monotonic() + TURN_S
            while self._queue and time.monotonic() < self._until:
                self._holder = self._queue.take()
                assert self._holder.waiter is not None
                loop.run_callback(self._holder.waiter.switch, None)
                gevent.sleep(0)  # it continues, and comes back here as soon as it waits for anything
                self._holder = None
            gevent.sleep(REST_S)
        self._conductor = None
