"""Lists of the maps of three real shards."""

from __future__ import annotations

import asyncio

from kvserver.store.maps import PAGE_KEYS
from shards.wire.keys import shard_of
from tests.api.kvserver.store.tools import SHARDS, collect, put, routing
from tests.stores import Store


def test_a_list_merges_all_shards_in_byte_order_over_pages(store: Store) -> None:
    async def main() -> None:
        async with routing(store) as client:
            many = [b"list/%06d" % n for n in range(SHARDS * PAGE_KEYS + 500)]
            few = [b"li", b"list", b"list0", "lü".encode()]
            await put(client, *many, *few)
            assert {shard_of(key, SHARDS) for key in many} == set(range(SHARDS))
            assert await collect(client.list_keys(b"")) == sorted(many + few)
            assert await collect(client.list_keys(b"list/")) == many
            assert await collect(client.list_keys(b"list/0000")) == many[:100]
            assert await collect(client.list_keys(b"zzz")) == []

    asyncio.run(main())


def test_one_tag_is_one_shard_and_its_list_is_whole(store: Store) -> None:
    async def main() -> None:
        async with routing(store) as client:
            tagged = [b"{t}%04d" % n for n in range(PAGE_KEYS * 2)]
            await put(client, b"a", b"z", *tagged)
            assert await collect(client.list_keys(b"")) == sorted([b"a", b"z", *tagged])

    asyncio.run(main())
