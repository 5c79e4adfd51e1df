"""What waits for its turn in a shard, and what comes into the next group. Pure: time is an argument.

Two lines. Small messages stand in the first, in the order of their arrival: all of it goes into the next group. What
may take long stands in the second, whose messages take turns, a group each. Groups of both alternate. So whatever one
request asks for, the small ones of others wait for one group, and the large ones for a group of each other.

Operations on one key that came in one message keep their order. Nothing else has one: who wants it waits for an answer
before he sends the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from shards.wire.errors import DeadlinePassed, KVError, PatchesTooLarge
from shards.wire.protocol import (
    MESSAGE_OPS,
    PATCHED_BYTES,
    SMALL_BYTES,
    SMALL_OPS,
    AtomicBatch,
    Delete,
    DeletePrefix,
    Operation,
    Patch,
    Put,
    count_of,
    is_plain,
)

GROUP_BYTES = 4 << 20
"""Bytes of messages at which a group takes no further one."""
COSTLY_BYTES = 64 << 10
"""Bytes of an old value with which an operation that wants it leaves the line of small messages."""


@dataclass(slots=True)
class Unread:
    """A frame that is too large to be read before its turn, and who sent it."""

    identity: bytes
    frame: bytes


@dataclass(slots=True)
class Unit:
    """What is left to do of a message.

    Attributes:
        identity, id: whom to answer.
        deadline_ns: until when it may begin, by CLOCK_MONOTONIC.
        size: bytes of the message.
        places: where the operations stood in the message; None: they are all there were.
        patched: bytes that patches of the message have written.
        is_piece: other pieces of the message follow it in the line, or stood before it.
    """

    identity: bytes
    id: int
    deadline_ns: int
    operations: Sequence[Operation]
    size: int
    places: Sequence[int] | None = None
    patched: int = 0
    is_piece: bool = False

    @property
    def is_prefix_delete(self) -> bool:
        """Whether it is a `DeletePrefix` and nothing else."""
        return type(self.operations[0]) is DeletePrefix

    def part(self, begin: int, end: int | None = None) -> Unit:
        """The operations from `begin` to before `end`."""
        return replace(self, operations=self.operations[begin:end], places=self._places()[begin:end])

    def pieces(self) -> list[Unit]:
        """All of it, each `DeletePrefix` for itself."""
        cuts = {0, len(self.operations)}
        for at, operation in enumerate(self.operations):
            if type(operation) is DeletePrefix:
                cuts |= {at, at + 1}
        if len(cuts) == 2:
            return [self]
        return [replace(self.part(begin, end), is_piece=True) for begin, end in pairwise(sorted(cuts))]

    def sift(self, leaves: Callable[[Operation], bool]) -> tuple[Unit, Unit]:
        """What stays, and what `leaves`, with all else on the same keys, whose order it is that counts."""
        keys = {getattr(operation, "key", b"") for operation in self.operations if leaves(operation)}
        return self._divide([getattr(operation, "key", None) not in keys for operation in self.operations])

    def without_patches(self) -> tuple[Unit, Unit]:
        """What stays without them, and the patches."""
        return self._divide([type(operation) is not Patch for operation in self.operations])

    def _divide(self, first: Sequence[bool]) -> tuple[Unit, Unit]:
        """Those that belong to the first, and the others."""
        places = self._places()
        lines: tuple[list[int], list[int]] = ([], [])
        for at, is_first in enumerate(first):
            lines[not is_first].append(at)
        one, other = (
            replace(self, operations=[self.operations[at] for at in line], places=[places[at] for at in line])
            for line in lines
        )
        return one, other

    def _places(self) -> Sequence[int]:
        return range(len(self.operations)) if self.places is None else self.places


def count(operations: Sequence[Operation]) -> int:
    """How many operations there are, those of atomic batches singly."""
    return sum(map(count_of, operations)) if AtomicBatch in map(type, operations) else len(operations)


def is_small(operations: Sequence[Operation], size: int) -> bool:
    """Whether a message with these operations, of so many bytes, need not wait for large ones."""
    return (
        size <= SMALL_BYTES and len(operations) <= SMALL_OPS and is_plain(operations) and count(operations) <= SMALL_OPS
    )


class Waiting:
    """The two lines.

    Args:
        read: what becomes of an unread message in its turn: the unit, or None if it is refused.
        refuse: is given what is not done, and why: its deadline has passed, or its patches have written too much.
        stored: bytes of the value that a key has, 0 if none.
    """

    def __init__(
        self,
        read: Callable[[Unread], Unit | None],
        refuse: Callable[[Unit, KVError], None],
        stored: Callable[[bytes], int],
    ) -> None:
        self._read, self._refuse, self._stored = read, refuse, stored
        self._small: deque[Unit | Unread] = deque()
        self._large: deque[Unit | Unread] = deque()

    def __len__(self) -> int:
        return len(self._small) + len(self._large)

    def add(self, message: Unit | Unread) -> None:
        """Put a message that has arrived into its line."""
        if isinstance(message, Unread):
            self._large.append(message)
        elif is_small(message.operations, message.size):
            self._small.append(message)
        else:
            self._large.extend(message.pieces())

    def take(self, now_ns: int, *, small: bool) -> list[Unit]:
        """The next group of one of the lines; it may be empty. A `DeletePrefix` is always alone."""
        line = self._small if small else self._large
        group: list[Unit] = []
        operations = size = 0
        while line and operations < MESSAGE_OPS and size < GROUP_BYTES:
            unit = line.popleft()
            if isinstance(unit, Unread):
                read = self._read(unit)
                line.extendleft(reversed(read.pieces()) if read is not None else ())
                continue
            if unit.deadline_ns < now_ns:
                self._refuse(unit, DeadlinePassed("the request had not begun at its deadline"))
                continue
            if unit.patched >= PATCHED_BYTES:
                unit, patches = unit.without_patches()
                if patches.operations:
                    self._refuse(patches, PatchesTooLarge())
                if not unit.operations:
                    continue
            if unit.is_prefix_delete and group:
                line.appendleft(unit)
                break
            group.append(unit)
            if unit.is_prefix_delete:
                break
            operations += count(unit.operations)
            size += unit.size
        return group

    def take_back(self, group: Sequence[Unit], done: Sequence[int], *, small: bool) -> None:
        """Let wait again what is left of `group`, of whose units so many operations are `done`. Of the first line,
        what will take long goes into the second; of the second, what has had a turn goes behind all others."""
        line = self._small if small else self._large
        for unit, number in zip(reversed(group), reversed(done), strict=True):
            if number == len(unit.operations):
                continue
            rest = unit.part(number) if number else unit
            if number and small:
                rest, leaving = rest.sift(self._is_costly)
                self._large.extend([leaving] if leaving.operations else ())
                line.extendleft([rest] if rest.operations else ())
            elif number and not unit.is_piece:
                line.append(rest)
            else:
                line.appendleft(rest)

    def everything(self) -> Iterator[Unit]:
        """Take out all that waits."""
        for line in (self._small, self._large):
            while line:
                message = line.popleft()
                unit = self._read(message) if isinstance(message, Unread) else message
                if unit is not None:
                    yield unit

    def _is_costly(self, operation: Operation) -> bool:
        if not isinstance(operation, Put | Delete) or not operation.want_previous:
            return False
        return self._stored(operation.key) > COSTLY_BYTES
