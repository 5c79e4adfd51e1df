"""A client of a store of three shards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kvserver.store.client import StoreClient
from shards.wire.protocol import (
    Put,
)
from tests.stores import Store

SHARDS = 3


@asynccontextmanager
async def routing(store: Store) -> AsyncIterator[StoreClient]:
    """A client that is connected to every shard, and an empty store."""
    client = StoreClient(store.board, store.run_dir, asyncio.get_running_loop())
    client.start()
    try:
        async with asyncio.timeout(20):
            await client.request(Put(b"connected?", b""))
            while client.links.find_disconnected() is not None:
                await asyncio.sleep(0.005)
            await collect(client.delete_prefix(b""))
        yield client
    finally:
        client.close()


async def collect(pages: AsyncIterator[list[bytes]]) -> list[bytes]:
    return [key async for page in pages for key in page]


async def put(client: StoreClient, *keys: bytes) -> None:
    await asyncio.gather(*(client.request(Put(key, b"v" + key)) for key in keys))
