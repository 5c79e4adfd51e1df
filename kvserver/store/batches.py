"""A batch on its way through the store: gets from the maps, the rest in messages to the shards, side by side."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from kvserver.store.links import ShardLinks, deadline_from_now
from kvserver.store.maps import StoreMaps
from kvserver.store.pending import Portion
from shards.host.board import Board
from shards.wire.errors import AnswerTooLarge, KVError, OutcomeUnknown, Unavailable
from shards.wire.keys import shard_of
from shards.wire.protocol import (
    ANSWER_BYTES,
    MESSAGE_BYTES,
    MESSAGE_OPS,
    Failed,
    Get,
    OfOneKey,
    Once,
    Reply,
    Value,
    size_of,
)

_LOOK_UP_BYTES: Final = 1 << 20  # of values that are looked up before other tasks run
_INTERNAL: Final = Failed("internal")
_TOO_LARGE: Final = Failed.of(AnswerTooLarge())


def ignore_bytes(size: int) -> None:
    """Default for `on_bytes`: ignore the count."""


class BatchRun:
    """The operations of one batch, and their replies in the same order.

    Gets are answered from the maps, but for those of keys that are changed before them. A shard is sent one message
    after the other, each when the one before is answered: so operations of one key are executed in their order.

    Nothing here refers to itself: the values of the replies would take memory until the collector of cycles comes.

    Args:
        unresponsive: shards to skip. Shards that time out are added, so a caller that splits a request waits for a
            dead shard only once.
        on_bytes: called with the size of newly read values whenever other tasks are about to run. If it raises before
            anything was sent, the exception propagates.
    """

    def __init__(
        self,
        board: Board,
        links: ShardLinks,
        maps: StoreMaps,
        operations: Sequence[OfOneKey | Once],
        unresponsive: set[int] | None = None,
        on_bytes: Callable[[int], None] = ignore_bytes,
    ) -> None:
        self._board, self._links, self._maps = board, links, maps
        self._operations, self._on_bytes = operations, on_bytes
        self._unresponsive = set() if unresponsive is None else unresponsive
        self._replies: list[Reply] = [_INTERNAL] * len(operations)
        self._unsent: dict[int, deque[tuple[Sequence[int], int]]] = {}  # by shard: portions, with their bytes
        self._busy = 0  # shards that have portions unanswered
        self._finish: Callable[[], None]

    async def execute(self) -> list[Reply]:
        """Execute the operations, and return their replies; an error is a `Failed`. Raises what `on_bytes` raises."""
        unanswered: Sequence[int] = range(len(self._operations))
        if Get in map(type, self._operations):
            unanswered = await self._answer_gets()
        if unanswered:
            finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._send(unanswered, partial(_settle, finished))
            await finished
        return self._replies

    def start(self, deliver: Callable[[list[Reply]], None]) -> None:
        """Do what `execute` does with at least one operation, none of them a get, and call `deliver` with the replies.

        For small batches: a task that waits costs more than all else.
        """
        self._send(range(len(self._operations)), partial(deliver, self._replies))

    def _send(self, indices: Sequence[int], finish: Callable[[], None]) -> None:
        """Send the operations at `indices` to their shards; call `finish` when all are answered."""
        for shard, own, size in divide_into_messages(self._operations, indices, self._links.count):
            self._unsent.setdefault(shard, deque()).append((own, size))
        self._busy, self._finish = len(self._unsent), finish
        for shard in list(self._unsent):
            self._send_next(shard)

    async def _answer_gets(self) -> list[int]:
        """Answer the gets that the maps can answer; return the indices of all other operations.

        Other tasks run where values are large.
        """
        unanswered: list[int] = []
        changed: set[bytes] = set()
        now = self._board.now()
        left = ANSWER_BYTES  # below 0: a value did not fit, and no get after it is answered
        pause_at = left - _LOOK_UP_BYTES
        for index, operation in enumerate(self._operations):
            key = operation.key
            if type(operation) is not Get:
                changed.add(key)
                unanswered.append(index)
            elif key in changed:  # the shard alone knows what the change makes of it
                unanswered.append(index)
            else:
                reply = self._maps.look_up(key, now, operation.condition) if left >= 0 else _TOO_LARGE
                if type(reply) is Value:
                    left -= len(reply.value)
                self._replies[index] = reply if left >= 0 else _TOO_LARGE
                if left < pause_at:
                    self._on_bytes(pause_at + _LOOK_UP_BYTES - left)
                    pause_at = left - _LOOK_UP_BYTES
                    await asyncio.sleep(0)
                    now = self._board.now()
        return unanswered

    def _send_next(self, shard: int) -> None:
        """Send the shard its next portion; after the last one of all shards the run is finished."""
        unsent = self._unsent[shard]
        if not unsent:
            self._busy -= 1
            if not self._busy:
                self._finish()
            return
        indices, size = unsent.popleft()
        operations = [self._operations[index] for index in indices]
        pending = Portion(operations, size, deadline_from_now(), partial(self._deliver_portion, shard, indices))
        if shard in self._unresponsive:
            pending.fail(Unavailable(f"shard {shard} did not answer before"))
        else:
            self._links.enqueue(shard, pending)

    def _deliver_portion(self, shard: int, indices: Sequence[int], answers: Sequence[Reply] | KVError) -> None:
        if isinstance(answers, KVError):
            if isinstance(answers, Unavailable | OutcomeUnknown):
                self._unresponsive.add(shard)
            answers = [Failed.of(answers)] * len(indices)
        for index, reply in zip(indices, answers, strict=True):
            self._replies[index] = reply
        self._send_next(shard)


def _settle(finished: asyncio.Future[None]) -> None:
    if not finished.done():  # else the caller was cancelled
        finished.set_result(None)


def divide_into_messages(
    operations: Sequence[OfOneKey | Once], indices: Sequence[int], shards: int
) -> Iterator[tuple[int, Sequence[int], int]]:
    """Divide the operations at `indices` into portions that fit into one message each.

    Yields the shard, the indices of the portion, in order, and the bytes of its keys and values. Pure.
    """
    by_shard: Mapping[int, Sequence[int]] = {0: indices}
    if shards > 1:
        by_shard = lists = defaultdict[int, list[int]](list)
        for index in indices:
            lists[shard_of(operations[index].key, shards)].append(index)
    for shard, own in by_shard.items():
        sizes = [size_of(operations[index]) for index in own]
        if len(own) <= MESSAGE_OPS and (total := sum(sizes)) <= MESSAGE_BYTES:
            if own:
                yield shard, own, total
            continue
        begin = size = 0
        for at, more in enumerate(sizes):
            if at > begin and (at - begin >= MESSAGE_OPS or size + more > MESSAGE_BYTES):
                yield shard, own[begin:at], size
                begin, size = at, 0
            size += more
        if begin < len(own):
            yield shard, own[begin:], size
