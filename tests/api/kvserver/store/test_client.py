"""The client over real shards: three processes, their log and maps, and a gateway's end for activity."""

from __future__ import annotations

import asyncio

from shards.wire.protocol import (
    Delete,
    Put,
    Touch,
)
from tests.api.kvserver.store.tools import routing
from tests.stores import Store


def test_a_write_is_read_as_soon_as_it_is_answered(store: Store) -> None:
    async def main() -> None:
        async with routing(store) as client:
            for n in range(50):
                done = await client.request(Put(b"k%d" % n, b"%d" % n, want_previous=True))
                item = client.get(b"k%d" % n)
                assert item is not None and (item.value, item.revision) == (b"%d" % n, done.revision)
            assert (await client.request(Delete(b"k1", want_previous=True))).previous == b"1"
            assert client.get(b"k1") is None
            assert [item and item.size for item in map(client.describe, (b"k1", b"k49", b"k4"))] == [None, 2, 1]
            await client.request(Put(b"k2", b"", ttl_ms=1))
            await asyncio.sleep(0.002)
            assert client.get(b"k2") is None, "an expired value is never served"
            assert not (await client.request(Touch(b"k2"))).existed

    asyncio.run(main())
