"""The execution of batches over three real shards."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shards.wire.errors import OutcomeUnknown, Unavailable
from shards.wire.keys import shard_of
from shards.wire.protocol import (
    MESSAGE_BYTES,
    MESSAGE_OPS,
    Delete,
    Done,
    Failed,
    Get,
    Put,
    Value,
)
from tests.api.kvserver.store.tools import SHARDS, put, routing
from tests.stores import Store


def test_gets_of_a_batch_see_what_stands_before_them_and_nothing_behind(store: Store) -> None:
    async def main() -> None:
        async with routing(store) as client:
            await put(client, b"a", b"b")
            operations = [
                Get(b"a", 1),
                Put(b"a", b"new"),
                Get(b"a", 1),
                Get(b"b", 1),
                Delete(b"b"),
                Get(b"b", 1),
                Get(b"c", 1),
            ]
            replies = await client.execute(operations)
            values = [reply.value if reply.existed else None for reply in replies if isinstance(reply, Value)]
            assert values == [b"va", b"new", b"vb", None, None]
            assert replies[2] == Value(replies[1].revision, True, b"new")  # type: ignore[union-attr]

    asyncio.run(main())


def test_gets_of_a_batch_go_on_without_their_shard(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with routing(store) as client:
            await put(client, b"a")
            monkeypatch.setattr("kvserver.store.link.Link.enqueue", _refuse)
            got, failed = await client.execute([Get(b"a", 1), Put(b"a", b"new")])
            assert isinstance(got, Value) and got.value == b"va"
            assert isinstance(failed, Failed) and failed.code == Unavailable.code
            store.board.shards[shard_of(b"a", SHARDS)].map_generation, generation = (
                0,
                store.board.shards[shard_of(b"a", SHARDS)].map_generation,
            )
            (lost,) = await client.execute([Get(b"a", 1)])
            store.board.shards[shard_of(b"a", SHARDS)].map_generation = generation
            assert isinstance(lost, Failed) and lost.code == Unavailable.code

    def _refuse(link: Any, pending: Any) -> None:
        pending.fail(Unavailable("the shard is down"))

    asyncio.run(main())


def test_a_batch_travels_in_messages_that_are_not_too_large(store: Store) -> None:
    async def main() -> None:
        async with routing(store) as client:
            large = [Put(b"{t}%d" % n, bytes(MESSAGE_BYTES // 3)) for n in range(5)]
            many = [Put(b"{t}", b"%d" % n) for n in range(MESSAGE_OPS + 1)]
            before = client.links.read_counters()
            replies = await client.execute([*large, *many])
            after = client.links.read_counters()
            assert all(isinstance(reply, Done) for reply in replies)
            revisions = [reply.revision for reply in replies]  # type: ignore[union-attr]
            assert revisions == sorted(revisions), "one slot, so one order"
            assert after["operations"] - before["operations"] == len(replies)
            assert after["messages"] - before["messages"] == 4

    asyncio.run(main())


def test_an_unresponsive_shard_is_asked_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """By who does a request in parts: it would wait as often."""

    async def main() -> None:
        async with routing(store) as client:
            asked = []

            def lose(link: Any, pending: Any) -> None:
                asked.append(link)
                pending.fail(OutcomeUnknown("no answer"))

            monkeypatch.setattr("kvserver.store.link.Link.enqueue", lose)
            unresponsive: set[int] = set()
            (first,) = await client.execute([Put(b"a", b"1")], unresponsive)
            (second,) = await client.execute([Put(b"a", b"2")], unresponsive)
            assert isinstance(first, Failed) and first.code == OutcomeUnknown.code
            assert isinstance(second, Failed) and second.code == Unavailable.code
            assert unresponsive == {shard_of(b"a", SHARDS)}
            assert len(asked) == 1

    asyncio.run(main())
