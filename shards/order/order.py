"""What a cluster needs of an order of messages, and what can go wrong with one. Pure.

An order takes messages from several machines and gives all of them back to each, in one sequence without gaps. It may
lose a message, take it late, or take it twice: sessions (`replica`) see to that. It must not lose what it has given
back, nor give two machines different messages for one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol


class Message(NamedTuple):
    """A message in its place.

    Attributes:
        sequence: its place, from 1, without gaps.
        time_ms: the order's own stamp, Unix time in milliseconds. May go back from one message to the next.
        payload: what was proposed.
    """

    sequence: int
    time_ms: int
    payload: bytes


class Identity(NamedTuple):
    """Names one order for ever: an order of the same name that was made anew has another time of creation.

    Attributes:
        name: of the order.
        created_ns: when it was made, Unix time in nanoseconds.
    """

    name: str
    created_ns: int


class Reach(NamedTuple):
    """How far the order reaches, as far as is known.

    Attributes:
        first: the oldest sequence that can still be read; 1 in an order that was never trimmed, even an empty one.
        last: the newest sequence; 0: there is none.
    """

    first: int
    last: int


class OrderError(Exception):
    """Base of the errors of an order; the message says what is wrong and what can be done."""


class OrderTrimmed(OrderError):
    """The order no longer has the messages that this machine needs next. It needs the state of a peer.

    Attributes:
        after: what this machine has.
        first: the oldest sequence that the order has.
    """

    def __init__(self, after: int, first: int) -> None:
        super().__init__(
            f"the order begins at message {first}, but this machine has only those up to {after}: "
            "it must begin with a backup of a peer"
        )
        self.after, self.first = after, first


WHAT_HELPS: Final = (
    "run `kvserver cluster reset --from-this-machine` on the machine that has come furthest; where that was done, "
    "remove everything but `engine` from this machine's data directory, and start it again"
)
"""The end of what is said about an order that is lost."""


class OrderLost(OrderError):
    """The order is not the one that this machine has followed, or ends before what this machine has got from it."""


class NotDurable(OrderError):
    """The engine may lose messages that it has given back, or does not say that it keeps them."""


class OrderUnreachable(OrderError):
    """The order cannot be reached now; trying again may help."""


class NameTaken(OrderError):
    """Another process works under the name of this node."""

    def __init__(self, node: str) -> None:
        super().__init__(
            f"another process has begun as node {node!r}: two machines have one name, or a copy of this one runs; "
            "give each machine its own --node"
        )


class NotTaken(OrderError):
    """A message was surely not taken, and never will be."""


class Order(Protocol):
    """One order of messages that the machines of a cluster share, durable when it is seen.

    For one thread. Nothing blocks.
    """

    def open(self, after: int, known: Identity | None) -> None:
        """Begin to follow behind sequence `after`: `opened` says when it has come to that. May be called again.

        Args:
            after: the sequence up to which this machine has the messages; 0: none.
            known: the order that they came from; None: whichever there is.
        """
        ...

    def opened(self) -> Identity | None:
        """Go on opening, and return which order this is; None: it is not open yet, and `obstacle` says why.

        Raises, and then it does not go on:
            OrderTrimmed: the order no longer has message `after` + 1.
            OrderLost: it is another one than `known`, or ends before `after`.
            NotDurable: the engine does not keep what it gives back through a loss of power.
            OrderError: another machine works under this one's name.
        """
        ...

    def obstacle(self) -> str:
        """Return why the order is not open, as far as is known; empty: it is."""
        ...

    def propose(self, payload: bytes) -> int:
        """Send a message, and return the number of this sending, from 1. It may be lost, or taken late.

        Raises NotTaken if it was surely not sent.
        """
        ...

    def not_taken(self) -> Sequence[int]:
        """Return, once, the numbers of sendings of which it is known by now that they were not taken, nor will be."""
        ...

    def take(self) -> Sequence[Message]:
        """Return the messages that come next, without a gap; empty: there are none yet.

        Raises OrderTrimmed and OrderLost, from then on each time: following must end.
        """
        ...

    def fileno(self) -> int:
        """Return a descriptor that is readable when `take`, `told` or `not_taken` may have something. It stays the
        same until `close`."""
        ...

    def tell(self, payload: bytes) -> None:
        """Send to all other machines beside the order: best effort, in no order with the messages."""
        ...

    def told(self) -> Sequence[tuple[str, bytes]]:
        """Return, once, what other machines have told all or this one: names of nodes and payloads."""
        ...

    def ask(self, node: str, payload: bytes) -> None:
        """Send to one machine beside the order: it comes out of `told` there, and so does its answer here."""
        ...

    def hint(self, last: int) -> None:
        """Say that the order has message `last`, as a peer has told: if it does not come, it is to be fetched."""
        ...

    def reach(self) -> Reach:
        """Return how far the order reaches, as far as is known: never less than what `take` has returned."""
        ...

    def trim(self, below: int) -> None:
        """Let the order forget the messages below sequence `below`: best effort."""
        ...

    def close(self) -> None:
        """Stop following. What was proposed may still be taken."""
        ...
