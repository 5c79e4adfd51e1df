"""The messages that wait in a shard, and the choice of those for the next group. Pure: time is an argument.

There are two lines. Small messages wait in the first, in the order of their arrival; the next group takes all of them.
Messages that may take long wait in the second, and take turns, a group each. Groups of both lines alternate. So
whatever one request asks for, small messages of others wait for one group, and large ones for one group of each other.

Operations on one key in one message keep their order. No other order is kept: a client that needs one waits for the
answer before it sends the next request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from shards.wire.errors import DeadlinePassed, KVError, PatchesTooLarge
from shards.wire.protocol import (
    MESSAGE_OPS,
    PATCHED_BYTES,
    SMALL_BYTES,
    SMALL_OPS,
    AtomicBatch,
    Delete,
    DeletePrefix,
    Evict,
    Expire,
    Once,
    Operation,
    Patch,
    Put,
    Touch,
    bare,
    count_of,
    is_plain,
)

GROUP_BYTES = 4 << 20
"""Bytes of messages at which a group takes no further message."""
COSTLY_BYTES = 64 << 10
"""Bytes of an old value for which an operation that answers it, or writes it again, moves to the line of large
messages."""


_COUNTED: Final = frozenset({AtomicBatch, Once, Expire, Evict})  # operations that may stand for several


@dataclass(slots=True)
class UnreadMessage:
    """A message that is too large to be decoded before its turn: the sender's identity and the frame."""

    identity: bytes
    frame: bytes


@dataclass(slots=True)
class QueuedMessage:
    """The operations that are left to execute of a message.

    Attributes:
        identity, id: the sender, and the message's number there.
        deadline_ns: the latest start, by CLOCK_MONOTONIC.
        operations: at least one.
        size: bytes of the message.
        places: the indexes of the operations in the message; None: nothing of it was executed, split off or refused.
        patched_bytes: bytes that patches of the message have written.
        is_piece: whether the message was split, and its other pieces are in the line, or were.
    """

    identity: bytes
    id: int
    deadline_ns: int
    operations: Sequence[Operation]
    size: int
    places: Sequence[int] | None = None
    patched_bytes: int = 0
    is_piece: bool = False

    @property
    def is_prefix_delete(self) -> bool:
        """Whether it is a single `DeletePrefix`."""
        return type(self.operations[0]) is DeletePrefix

    def slice_operations(self, begin: int, end: int | None = None) -> QueuedMessage:
        """Return the operations from `begin` to before `end`."""
        return replace(self, operations=self.operations[begin:end], places=self._known_places()[begin:end])

    def split_prefix_deletes(self) -> list[QueuedMessage]:
        """Split it into pieces, in order, so that each `DeletePrefix` is alone."""
        cuts = {0, len(self.operations)}
        for at, operation in enumerate(self.operations):
            if type(operation) is DeletePrefix:
                cuts |= {at, at + 1}
        if len(cuts) == 2:
            return [self]
        return [replace(self.slice_operations(begin, end), is_piece=True) for begin, end in pairwise(sorted(cuts))]

    def split_costly(self, is_costly: Callable[[Operation], bool]) -> tuple[QueuedMessage, QueuedMessage]:
        """Split it into the cheap operations and the costly ones. Those on the keys of costly ones go with them, in
        order."""
        keys = {getattr(operation, "key", b"") for operation in self.operations if is_costly(operation)}
        return self._split_by([getattr(operation, "key", None) not in keys for operation in self.operations])

    def split_patches(self) -> tuple[QueuedMessage, QueuedMessage]:
        """Split it into the other operations and the patches."""
        return self._split_by([type(bare(operation)) is not Patch for operation in self.operations])

    def split_refused(self, is_refused: Sequence[bool]) -> tuple[QueuedMessage, QueuedMessage]:
        """Split it into the operations that are not refused, and those that are; either may have none."""
        return self._split_by([not refused for refused in is_refused])

    def _split_by(self, first: Sequence[bool]) -> tuple[QueuedMessage, QueuedMessage]:
        """Split it into the operations for which `first` is true, and the others."""
        places = self._known_places()
        lines: tuple[list[int], list[int]] = ([], [])
        for at, is_first in enumerate(first):
            lines[not is_first].append(at)
        one, other = (
            replace(self, operations=[self.operations[at] for at in line], places=[places[at] for at in line])
            for line in lines
        )
        return one, other

    def _known_places(self) -> Sequence[int]:
        return range(len(self.operations)) if self.places is None else self.places


def count_operations(operations: Sequence[Operation]) -> int:
    """Return the number of operations, those of atomic batches counted singly."""
    if _COUNTED.isdisjoint(map(type, operations)):
        return len(operations)
    return sum(map(count_of, operations))


def is_small(operations: Sequence[Operation], size: int) -> bool:
    """Whether a message of `size` bytes with `operations` goes into the line of small ones."""
    return (
        size <= SMALL_BYTES
        and len(operations) <= SMALL_OPS
        and is_plain(operations)
        and count_operations(operations) <= SMALL_OPS
    )


class RequestQueue:
    """The two lines.

    Args:
        decode: decodes a message in its turn; returns None after refusing it.
        refuse: called with operations that will not be executed, and why: their deadline has passed, or patches of the
            message have written too much.
        stored_size: returns the bytes of the stored value of a key; 0: it has none.
    """

    def __init__(
        self,
        decode: Callable[[UnreadMessage], QueuedMessage | None],
        refuse: Callable[[QueuedMessage, KVError], None],
        stored_size: Callable[[bytes], int],
    ) -> None:
        self._decode, self._refuse, self._stored_size = decode, refuse, stored_size
        self._small: deque[QueuedMessage | UnreadMessage] = deque()
        self._large: deque[QueuedMessage | UnreadMessage] = deque()

    def __len__(self) -> int:
        return len(self._small) + len(self._large)

    def add(self, message: QueuedMessage | UnreadMessage) -> None:
        """Append a message to its line."""
        if isinstance(message, UnreadMessage):
            self._large.append(message)
        elif is_small(message.operations, message.size):
            self._small.append(message)
        else:
            self._large.extend(message.split_prefix_deletes())

    def take_group(self, now_ns: int, *, small: bool) -> list[QueuedMessage]:
        """Remove and return the next group of one of the lines; it may be empty. A `DeletePrefix` is always alone.

        Messages whose deadline is before `now_ns` (CLOCK_MONOTONIC), and patches beyond their limit, are refused.
        """
        line = self._small if small else self._large
        group: list[QueuedMessage] = []
        operations = size = 0
        while line and operations < MESSAGE_OPS and size < GROUP_BYTES:
            message = line.popleft()
            if isinstance(message, UnreadMessage):
                decoded = self._decode(message)
                line.extendleft(reversed(decoded.split_prefix_deletes()) if decoded is not None else ())
                continue
            if message.deadline_ns < now_ns:
                self._refuse(message, DeadlinePassed("the request had not begun at its deadline"))
                continue
            if message.patched_bytes >= PATCHED_BYTES:
                message, patches = message.split_patches()
                if patches.operations:
                    self._refuse(patches, PatchesTooLarge())
                if not message.operations:
                    continue
            if message.is_prefix_delete:
                if group:
                    line.appendleft(message)
                else:
                    group.append(message)
                break
            group.append(message)
            operations += count_operations(message.operations)
            size += message.size
        return group

    def refuse_late(self, now_ns: int) -> None:
        """Refuse the messages whose deadline is before `now_ns`: for a time in which no group is taken."""
        for line in (self._small, self._large):
            late = [message for message in line if isinstance(message, QueuedMessage) and message.deadline_ns < now_ns]
            for message in late:
                line.remove(message)
                self._refuse(message, DeadlinePassed("the request had not begun at its deadline"))

    def return_rest(self, group: Sequence[QueuedMessage], done: Sequence[int], *, small: bool) -> None:
        """Put back the operations of `group`, which `take_group` returned, that were not executed.

        `done`: how many were, for each message. In the first line, operations that will take long move to the second.
        In the second, a message that has had its turn goes after all others.
        """
        line = self._small if small else self._large
        slow: list[QueuedMessage] = []
        for message, number in zip(reversed(group), reversed(done), strict=True):
            if number == len(message.operations):
                continue
            rest = message.slice_operations(number) if number else message
            if small:
                if any(map(self._is_costly, rest.operations)):
                    rest, costly = rest.split_costly(self._is_costly)
                    slow.append(costly)
                line.extendleft([rest] if rest.operations else ())
            elif number and not message.is_piece:
                line.append(rest)
            else:  # pieces of a message keep their order
                line.appendleft(rest)
        self._large.extend(reversed(slow))

    def drain(self) -> Iterator[QueuedMessage]:
        """Remove and yield everything."""
        for line in (self._small, self._large):
            while line:
                message = line.popleft()
                decoded = self._decode(message) if isinstance(message, UnreadMessage) else message
                if decoded is not None:
                    yield decoded

    def _is_costly(self, operation: Operation) -> bool:
        """Whether `operation` answers a large old value, or writes it again, which its message did not show."""
        operation = bare(operation)
        if type(operation) is not Touch and not (isinstance(operation, Put | Delete) and operation.want_previous):
            return False
        return self._stored_size(operation.key) > COSTLY_BYTES
