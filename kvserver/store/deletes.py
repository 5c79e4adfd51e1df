"""Deletes of all keys with a prefix: every shard in steps, so that no shard is busy with one for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from kvserver.store.links import ShardLinks
from kvserver.store.maps import PAGE_KEYS
from shards.wire.errors import KVError, OutcomeUnknown, Unavailable
from shards.wire.keys import shard_of
from shards.wire.protocol import Deleted, DeletePrefix, Done, MarkPrefix


class PrefixDelete:
    """One delete of the values that are not newer than its cut, a revision.

    Attributes:
        unfinished: shards that may have more to delete.
    """

    def __init__(self, links: ShardLinks, prefix: bytes, cut: int, *, marked: bool) -> None:
        """`marked`: the history has a mark of this delete, by which the feed shows it as one."""
        self._links, self._prefix, self._cut, self._marked = links, prefix, cut, marked
        self._after = dict.fromkeys(range(links.count), b"")  # unfinished shards to the last key each has looked at

    @property
    def unfinished(self) -> list[int]:
        return list(self._after)

    async def step_shards(self, shards: Sequence[int], limit: int) -> tuple[list[bytes], KVError | None]:
        """Let `shards` delete at most `limit` keys each, side by side.

        Returns the deleted keys, and the error of a shard that was lost: one whose outcome is unknown before one that
        did nothing.
        """
        steps = [
            self._links.ask_shard(shard, DeletePrefix(self._prefix, self._after[shard], self._cut, limit, self._marked))
            for shard in shards
        ]
        replies = await asyncio.gather(*steps, return_exceptions=True)
        deleted: list[bytes] = []
        lost: KVError | None = None
        for shard, reply in zip(shards, replies, strict=True):
            if isinstance(reply, Deleted):
                deleted += reply.keys
                if reply.next is None:
                    del self._after[shard]
                else:
                    self._after[shard] = reply.next
                continue
            if not isinstance(reply, KVError):
                raise reply if isinstance(reply, BaseException) else TypeError(f"{reply!r} for a prefix delete")
            if lost is None or isinstance(lost, Unavailable):
                lost = type(reply)(f"shard {shard} was lost midway: {reply}")
        return deleted, lost


async def delete_prefix(links: ShardLinks, prefix: bytes) -> AsyncIterator[list[bytes]]:
    """Delete all keys that start with `prefix` and whose value is older than this call; yield them step by step.

    First one shard logs the mark whose revision is the cut, so that the feed can show one line for the request.
    Raises `Unavailable` if a shard is down before anything was done, `OutcomeUnknown` if one is lost midway.
    """
    down = links.find_disconnected()
    if down is not None:
        raise Unavailable(f"shard {down} is down")
    mark = await links.ask_shard(shard_of(prefix, links.count), MarkPrefix(prefix))
    assert isinstance(mark, Done)
    delete = PrefixDelete(links, prefix, mark.revision, marked=True)
    while shards := delete.unfinished:
        deleted, lost = await delete.step_shards(shards, PAGE_KEYS)
        if lost is not None:
            raise OutcomeUnknown(str(lost)) from lost
        if deleted:
            yield deleted


async def delete_range(
    links: ShardLinks, prefix: bytes, cut: int, limit: int
) -> AsyncGenerator[tuple[int, bool], None]:
    """Delete at most `limit` keys that start with `prefix` and whose value is not newer than `cut`.

    Yields for each step the number of deleted keys, and whether the delete is complete. If a shard is lost, raises
    after that: `Unavailable` if it did nothing, else what its outcome is.
    """
    delete = PrefixDelete(links, prefix, cut, marked=False)
    while limit and (shards := delete.unfinished):
        if limit < PAGE_KEYS * len(shards):  # side by side they could exceed the limit together
            shards = shards[:1]
        deleted, lost = await delete.step_shards(shards, min(limit, PAGE_KEYS))
        limit -= len(deleted)
        yield len(deleted), not delete.unfinished
        if lost is not None:
            raise lost
