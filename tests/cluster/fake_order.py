"""An order in this process that loses, doubles, holds up and reorders what is proposed, as a seed or a test says.

`FakeStream` is the engine, `FakeOrder` what one machine has of it. What is given back is never lost or changed: that is
what an order promises.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from shards.order.order import Identity, Message, NotTaken, OrderLost, OrderTrimmed, Reach


class Faults(NamedTuple):
    """Chances from 0 to 1.

    Attributes:
        lose, double: of a proposal.
        refuse: that it is not taken, and its sender told so.
        hold: that what is held is held up once more: others may overtake it.
        lag: that a machine gets nothing now, though there is something.
        deaf: of a machine's tidings to another, that they are lost.
    """

    lose: float = 0.0
    double: float = 0.0
    refuse: float = 0.0
    hold: float = 0.0
    lag: float = 0.0
    deaf: float = 0.0


HARSH = Faults(lose=0.1, double=0.1, refuse=0.05, hold=0.5, lag=0.3, deaf=0.2)


class Held(NamedTuple):
    """A proposal on its way."""

    order: FakeOrder
    number: int
    payload: bytes


class FakeStream:
    """The engine.

    Args:
        seed: of all chances.
        faults: what goes wrong by itself.
        now_ms: the clock of the stamps.
        by_itself: whether what is proposed is taken by itself, when a machine takes; else a test calls `accept`,
            `drop` and `refuse`.

    Attributes:
        messages: those in the order.
        held: proposals that are on their way.
        first: the oldest sequence that can be read.
        closed_because: why nobody can open it now; empty: one can.
    """

    def __init__(
        self,
        seed: int = 0,
        faults: Faults | None = None,
        now_ms: Callable[[], int] | None = None,
        *,
        by_itself: bool = True,
    ) -> None:
        self.random = random.Random(seed)
        self.faults = faults or Faults()
        self.by_itself = by_itself
        self.identity = Identity("KV", 1)
        self.messages: list[Message] = []
        self.held: list[Held] = []
        self.first = 1
        self.stalled = False
        self.lost_because: OrderLost | None = None
        self.closed_because = ""
        self._now_ms = now_ms or (lambda: 1_700_000_000_000 + len(self.messages))
        self._orders: list[FakeOrder] = []

    def join(self, node: str) -> FakeOrder:
        """Make what a process of `node` has of this order."""
        order = FakeOrder(self, node)
        self._orders.append(order)
        return order

    def append(self, payload: bytes) -> None:
        """Put a message at the end of the order."""
        self.messages.append(Message(len(self.messages) + 1, self._now_ms(), payload))
        for order in self._orders:
            order.wake()

    def accept(self, index: int, *, double: bool = False) -> None:
        """Take a held proposal; with `double` hold it, too."""
        held = self.held[index] if double else self.held.pop(index)
        self.append(held.payload)

    def drop(self, index: int) -> None:
        """Lose a held proposal."""
        self.held.pop(index)

    def refuse(self, index: int) -> None:
        """Do not take a held proposal, and say so."""
        held = self.held.pop(index)
        held.order.refused.append(held.number)
        held.order.wake()

    def turn(self) -> None:
        """Take, lose, double and refuse what is held, as chance will have it."""
        if not self.by_itself or self.stalled:
            return
        chance, faults = self.random.random, self.faults
        held, self.held = self.held, []
        for item in held:
            if chance() < faults.hold:
                self.held.append(item)
            elif chance() < faults.refuse:
                item.order.refused.append(item.number)
                item.order.wake()
            elif chance() >= faults.lose:
                self.append(item.payload)
                if chance() < faults.double:
                    self.held.append(item)

    def spread(self, sender: str, payload: bytes, to: str | None = None) -> None:
        """Give tidings to all other machines, or to one."""
        for order in self._orders:
            wanted = order.node == to if to else order.node != sender
            if wanted and order.is_open and self.random.random() >= self.faults.deaf:
                order.heard.append((sender, payload))
                order.wake()

    def leave(self, order: FakeOrder) -> None:
        """Forget what one machine has of this order."""
        with contextlib.suppress(ValueError):
            self._orders.remove(order)


class FakeOrder:
    """An `Order` of one machine.

    Attributes:
        refused, heard: what `not_taken` and `told` return next.
    """

    def __init__(self, stream: FakeStream, node: str) -> None:
        self.stream, self.node = stream, node
        self.is_open = False
        self.refused: list[int] = []
        self.heard: list[tuple[str, bytes]] = []
        self._after = self._number = 0
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def open(self, after: int, known: Identity | None) -> None:
        stream = self.stream
        if (known is not None and known != stream.identity) or after > len(stream.messages):
            raise OrderLost("the order is another one")
        if after + 1 < stream.first:
            raise OrderTrimmed(after, stream.first)
        self._after, self.is_open = after, not stream.closed_because
        self.wake()

    def opened(self) -> Identity | None:
        self.is_open = not self.stream.closed_because
        return self.stream.identity if self.is_open else None

    def obstacle(self) -> str:
        return self.stream.closed_because

    def propose(self, payload: bytes) -> int:
        if not self.is_open:
            raise NotTaken("the order is not open")
        self._number += 1
        self.stream.held.append(Held(self, self._number, payload))
        self.wake()
        return self._number

    def not_taken(self) -> Sequence[int]:
        refused, self.refused = self.refused, []
        return refused

    def take(self, most: int | None = None) -> Sequence[Message]:
        """Return what comes next; `most`: so many at most."""
        self.stream.turn()
        if self.stream.lost_because:
            raise self.stream.lost_because
        if self._after + 1 < self.stream.first:
            raise OrderTrimmed(self._after, self.stream.first)
        if most is None and self.stream.random.random() < self.stream.faults.lag:
            return []
        end = len(self.stream.messages) if most is None else self._after + most
        taken = self.stream.messages[self._after : end]
        self._after += len(taken)
        if not self.stream.held and not self.heard and self._after == len(self.stream.messages):
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        return taken

    def fileno(self) -> int:
        return self._wake

    def wake(self) -> None:
        """Make `fileno` readable."""
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def tell(self, payload: bytes) -> None:
        self.stream.spread(self.node, payload)

    def told(self) -> Sequence[tuple[str, bytes]]:
        heard, self.heard = self.heard, []
        return heard

    def ask(self, node: str, payload: bytes) -> None:
        self.stream.spread(self.node, payload, to=node)

    def hint(self, last: int) -> None:
        assert last <= len(self.stream.messages)

    def reach(self) -> Reach:
        return Reach(self.stream.first, len(self.stream.messages))

    def trim(self, below: int) -> None:
        self.stream.first = max(self.stream.first, below)

    def close(self) -> None:
        if self._wake >= 0:
            self.is_open = False
            self.stream.leave(self)
            os.close(self._wake)
            self._wake = -1
