"""The links of a client to three real shards."""

from __future__ import annotations

import asyncio

import pytest

from shards.wire.errors import NotAnInteger
from shards.wire.keys import shard_of
from shards.wire.protocol import Done, Incr, Put
from tests.api.kvserver.store.tools import SHARDS, routing
from tests.stores import Store


def test_a_key_has_the_link_of_its_shard(store: Store) -> None:
    async def main() -> None:
        async with routing(store) as client:
            for key in (b"a", b"b", b"{tag}x", b""):
                assert client.links.of_key(key) is client.links.of_shard(shard_of(key, SHARDS))

    asyncio.run(main())


def test_a_shard_without_a_serving_process_is_found(store: Store) -> None:
    async def main() -> None:
        async with routing(store) as client:
            assert client.links.find_disconnected() is None
            row = store.board.shards[1]
            incarnation, row.incarnation = row.incarnation, 0
            try:
                assert client.links.find_disconnected() == 1
            finally:
                row.incarnation = incarnation

    asyncio.run(main())


def test_a_reply_or_an_error_of_the_shard_ends_the_future(store: Store) -> None:
    async def main() -> None:
        async with routing(store) as client:
            shard = shard_of(b"n", SHARDS)
            assert isinstance(await client.links.ask_shard(shard, Put(b"n", b"x")), Done)
            with pytest.raises(NotAnInteger):
                await client.links.ask_shard(shard, Incr(b"n", 1))

    asyncio.run(main())


def test_a_caller_that_was_cancelled_is_not_answered(store: Store) -> None:
    faults: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        async with routing(store) as client:
            future = client.links.ask_shard(shard_of(b"k", SHARDS), Put(b"k", b"1"))
            future.cancel()
            await client.request(Put(b"k", b"2"))  # of the same link, so answered after the first
            item = client.get(b"k")
            assert item is not None and item.value == b"2"

    asyncio.run(main())
    assert not faults


def test_counters_count_what_was_sent(store: Store) -> None:
    async def main() -> None:
        async with routing(store) as client:
            before = client.links.read_counters()
            await asyncio.gather(*(client.request(Put(b"{t}%d" % n, b"")) for n in range(10)))
            after = client.links.read_counters()
            assert {name: after[name] - before[name] for name in after} == {
                "messages": 1,
                "operations": 10,
                "unknown_outcomes": 0,
            }

    asyncio.run(main())
