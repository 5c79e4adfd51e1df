"""What travels to a shard and waits for its answer: single operations, portions of a batch, messages in flight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice

from shards.wire.errors import KVError
from shards.wire.protocol import SMALL_BYTES, SMALL_OPS, OfOneKey, Once, Operation, Reply, count_of, is_plain, size_of

PACKED_BYTES = SMALL_BYTES // 2
"""Bytes of keys and values in a small message: types, conditions and the like come on top."""


class Pending(ABC):
    """A request to a shard whose answer is due. Either `answer` or `fail` is called, once.

    Attributes:
        operations: what the shard is to do, in this order.
        count: number of operations, those of atomic batches counted singly.
        size: bytes of their keys and values.
        deadline_ns: until when the shard may begin with it, by CLOCK_MONOTONIC.
        place: its place among all requests of the link, which sets it.
    """

    __slots__ = ("count", "deadline_ns", "operations", "place", "size")

    operations: Sequence[Operation]
    count: int
    size: int
    deadline_ns: int
    place: int

    @abstractmethod
    def answer(self, replies: Iterator[Reply]) -> None:
        """Take this request's own replies from the front of `replies`."""

    @abstractmethod
    def fail(self, error: KVError) -> None:
        """End without replies: the link could not deliver the request, or lost its answer."""


class Single(Pending):
    """One operation. `deliver` is called with its reply or an error."""

    __slots__ = ("_deliver",)

    def __init__(self, operation: Operation, deadline_ns: int, deliver: Callable[[Reply | KVError], None]) -> None:
        self.operations, self.deadline_ns, self._deliver = (operation,), deadline_ns, deliver
        self.size, self.count = size_of(operation), count_of(operation)

    def answer(self, replies: Iterator[Reply]) -> None:
        self._deliver(next(replies))

    def fail(self, error: KVError) -> None:
        self._deliver(error)


class Portion(Pending):
    """Operations of one key each that travel in one message, and must fit into it; they wait as one request.

    `deliver` is called with all replies or an error. `size`: bytes of keys and values.
    """

    __slots__ = ("_deliver",)

    def __init__(
        self,
        operations: Sequence[OfOneKey | Once],
        size: int,
        deadline_ns: int,
        deliver: Callable[[Sequence[Reply] | KVError], None],
    ) -> None:
        self.operations, self.deadline_ns, self._deliver = operations, deadline_ns, deliver
        self.size, self.count = size, len(operations)

    def answer(self, replies: Iterator[Reply]) -> None:
        self._deliver(list(islice(replies, self.count)))

    def fail(self, error: KVError) -> None:
        self._deliver(error)


def is_small(pending: Pending) -> bool:
    """Whether `pending` may travel with others: it takes the shard little time."""
    return pending.count <= SMALL_OPS and pending.size <= PACKED_BYTES and is_plain(pending.operations)


class InFlight:
    """A message that ZeroMQ accepted and that is not answered in full.

    Attributes:
        deadline_ns: until when the shard may begin with it.
        unanswered: its requests that have no answer, in order.
        count: number of operations of the whole message.
    """

    __slots__ = ("_places", "_replies", "count", "deadline_ns", "unanswered")

    def __init__(self, deadline_ns: int, requests: list[Pending], count: int) -> None:
        self.deadline_ns, self.unanswered, self.count = deadline_ns, requests, count
        self._replies: dict[int, Reply] = {}
        self._places: list[range] = []  # of the operations of each unanswered request; made when a part arrives

    def add_part(self, places: Sequence[int], replies: Sequence[Reply]) -> list[tuple[Pending, Iterator[Reply]]]:
        """Add the replies to the operations at `places`; return the requests that are complete now, with their replies.

        These are unanswered no more.
        """
        if not self._places:
            ends = list(accumulate(len(pending.operations) for pending in self.unanswered))
            self._places = [range(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
        kept = self._replies
        kept.update(zip(places, replies, strict=True))
        complete: list[tuple[Pending, Iterator[Reply]]] = []
        incomplete: list[tuple[Pending, range]] = []
        for pending, own in zip(self.unanswered, self._places, strict=True):
            if own[0] in kept and all(place in kept for place in own):
                complete.append((pending, iter([kept.pop(place) for place in own])))
            else:
                incomplete.append((pending, own))
        self.unanswered, self._places = [pending for pending, _ in incomplete], [own for _, own in incomplete]
        return complete
