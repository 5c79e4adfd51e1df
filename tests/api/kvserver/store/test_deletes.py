"""Prefix deletes over three real shards."""

from __future__ import annotations

import asyncio

import pytest

from kvserver.store.maps import PAGE_KEYS
from shards.wire.errors import Unavailable
from tests.api.kvserver.store.tools import SHARDS, collect, put, routing
from tests.stores import Store


def test_a_prefix_delete_takes_what_has_the_prefix_and_nothing_else(store: Store) -> None:
    async def main() -> None:
        async with routing(store) as client:
            inside = [b"p", *(b"p/%d" % n for n in range(PAGE_KEYS * SHARDS * 2))]
            outside = [b"o", b"q", b"P", b"o\xff"[:1] + "ÿ".encode()]
            await put(client, *inside, *outside)
            assert sorted(await collect(client.delete_prefix(b"p"))) == sorted(inside), "the prefix is a key, too"
            assert await collect(client.list_keys(b"")) == sorted(outside)
            assert await collect(client.delete_prefix(b"p")) == []

    asyncio.run(main())


def test_a_prefix_delete_with_a_shard_down_does_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with routing(store) as client:
            await put(client, b"a", b"b", b"c")
            row = store.board.shards[1]
            incarnation = row.incarnation
            row.incarnation = 0  # as a shard that stops leaves it
            try:
                with pytest.raises(Unavailable):
                    await collect(client.delete_prefix(b""))
            finally:
                row.incarnation = incarnation
            assert await collect(client.list_keys(b"")) == [b"a", b"b", b"c"]

    asyncio.run(main())
