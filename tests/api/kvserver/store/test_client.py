"""The router over real shards: three processes, their log and maps, and a gateway's end for activity."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from kvserver.store.client import PAGE_KEYS, Router
from shards.log.manifest import Manifest
from shards.wire.errors import OutcomeUnknown, Unavailable
from shards.wire.keys import shard_of
from shards.wire.protocol import (
    MESSAGE_BYTES,
    MESSAGE_OPS,
    Activity,
    Delete,
    Done,
    Failed,
    Get,
    Put,
    Touch,
    Value,
    decode_activity,
)
from tests.api.shards.server.tools import shard
from tests.stores import Store, new_store

SHARDS = 3


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    place = Path(tempfile.mkdtemp(prefix="kv-"))  # short: sockets live there
    made = new_store(place, shards=SHARDS, sync="os")
    Manifest.create(made.data_dir).save(made.data_dir)
    with ExitStack() as stack:
        for index in range(SHARDS):
            stack.enter_context(shard(made, index))
        yield made
    made.close()
    shutil.rmtree(place)


@asynccontextmanager
async def routing(store: Store) -> AsyncIterator[Router]:
    """A router that is connected to every shard, and an empty store."""
    router = Router(store.board, store.run_dir, asyncio.get_running_loop())
    router.start()
    try:
        async with asyncio.timeout(20):
            await router.request(Put(b"connected?", b""))
            while not all(link.up for link in router._links):
                await asyncio.sleep(0.005)
            await collect(router.delete_prefix(b""))
        yield router
    finally:
        router.close()


async def collect(pages: AsyncIterator[list[bytes]]) -> list[bytes]:
    return [key async for page in pages for key in page]


async def put(router: Router, *keys: bytes) -> None:
    await asyncio.gather(*(router.request(Put(key, b"v" + key)) for key in keys))


def test_a_write_is_read_as_soon_as_it_is_answered(store: Store) -> None:
    async def main() -> None:
        async with routing(store) as router:
            for n in range(50):
                done = await router.request(Put(b"k%d" % n, b"%d" % n, want_previous=True))
                item = router.get(b"k%d" % n)
                assert item is not None and (item.value, item.revision) == (b"%d" % n, done.revision)
            assert (await router.request(Delete(b"k1", want_previous=True))).previous == b"1"
            assert router.get(b"k1") is None
            assert (router.size(b"k1"), router.size(b"k49"), router.size(b"k4")) == (0, 2, 1)
            await router.request(Put(b"k2", b"", ttl_ms=1))
            await asyncio.sleep(0.002)
            assert router.get(b"k2") is None, "an expired value is never served"
            assert not (await router.request(Touch(b"k2"))).existed

    asyncio.run(main())


def test_gets_of_a_batch_see_what_stands_before_them_and_nothing_behind(store: Store) -> None:
    async def main() -> None:
        async with routing(store) as router:
            await put(router, b"a", b"b")
            operations = [
                Get(b"a", 1),
                Put(b"a", b"new"),
                Get(b"a", 1),
                Get(b"b", 1),
                Delete(b"b"),
                Get(b"b", 1),
                Get(b"c", 1),
            ]
            replies = await router.each(operations)
            values = [reply.value if reply.existed else None for reply in replies if isinstance(reply, Value)]
            assert values == [b"va", b"new", b"vb", None, None]
            assert replies[2] == Value(replies[1].revision, True, b"new")  # type: ignore[union-attr]

    asyncio.run(main())


def test_gets_of_a_batch_go_on_without_their_shard(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with routing(store) as router:
            await put(router, b"a")
            monkeypatch.setattr("kvserver.store.client.Link.enqueue", _refuse)
            got, failed = await router.each([Get(b"a", 1), Put(b"a", b"new")])
            assert isinstance(got, Value) and got.value == b"va"
            assert isinstance(failed, Failed) and failed.code == Unavailable.code
            store.board.shards[shard_of(b"a", SHARDS)].map_generation, generation = (
                0,
                store.board.shards[shard_of(b"a", SHARDS)].map_generation,
            )
            (lost,) = await router.each([Get(b"a", 1)])
            store.board.shards[shard_of(b"a", SHARDS)].map_generation = generation
            assert isinstance(lost, Failed) and lost.code == Unavailable.code

    def _refuse(link: Any, pending: Any) -> None:
        pending.fail(Unavailable("the shard is down"))

    asyncio.run(main())


def test_a_batch_travels_in_messages_that_are_not_too_large(store: Store) -> None:
    async def main() -> None:
        async with routing(store) as router:
            large = [Put(b"{t}%d" % n, bytes(MESSAGE_BYTES // 3)) for n in range(5)]
            many = [Put(b"{t}", b"%d" % n) for n in range(MESSAGE_OPS + 1)]
            before = router.counters()
            replies = await router.each([*large, *many])
            after = router.counters()
            assert all(isinstance(reply, Done) for reply in replies)
            revisions = [reply.revision for reply in replies]  # type: ignore[union-attr]
            assert revisions == sorted(revisions), "one slot, so one order"
            assert after["operations"] - before["operations"] == len(replies)
            assert after["messages"] - before["messages"] == 4

    asyncio.run(main())


def test_a_list_merges_all_shards_in_byte_order_over_pages(store: Store) -> None:
    async def main() -> None:
        async with routing(store) as router:
            many = [b"list/%06d" % n for n in range(SHARDS * PAGE_KEYS + 500)]
            few = [b"li", b"list", b"list0", "lü".encode()]
            await put(router, *many, *few)
            assert {shard_of(key, SHARDS) for key in many} == set(range(SHARDS))
            assert await collect(router.keys(b"")) == sorted(many + few)
            assert await collect(router.keys(b"list/")) == many
            assert await collect(router.keys(b"list/0000")) == many[:100]
            assert await collect(router.keys(b"zzz")) == []

    asyncio.run(main())


def test_one_tag_is_one_shard_and_its_list_is_whole(store: Store) -> None:
    async def main() -> None:
        async with routing(store) as router:
            tagged = [b"{t}%04d" % n for n in range(PAGE_KEYS * 2)]
            await put(router, b"a", b"z", *tagged)
            assert await collect(router.keys(b"")) == sorted([b"a", b"z", *tagged])

    asyncio.run(main())


def test_a_prefix_delete_takes_what_has_the_prefix_and_nothing_else(store: Store) -> None:
    async def main() -> None:
        async with routing(store) as router:
            inside = [b"p", *(b"p/%d" % n for n in range(PAGE_KEYS * SHARDS * 2))]
            outside = [b"o", b"q", b"P", b"o\xff"[:1] + "ÿ".encode()]
            await put(router, *inside, *outside)
            assert sorted(await collect(router.delete_prefix(b"p"))) == sorted(inside), "the prefix is a key, too"
            assert await collect(router.keys(b"")) == sorted(outside)
            assert await collect(router.delete_prefix(b"p")) == []

    asyncio.run(main())


def test_a_prefix_delete_with_a_shard_down_does_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with routing(store) as router:
            await put(router, b"a", b"b", b"c")
            row = store.board.shards[1]
            incarnation = row.incarnation
            row.incarnation = 0  # as a shard that stops leaves it
            try:
                with pytest.raises(Unavailable):
                    await collect(router.delete_prefix(b""))
            finally:
                row.incarnation = incarnation
            assert await collect(router.keys(b"")) == [b"a", b"b", b"c"]

    asyncio.run(main())


def test_activity_goes_to_gateways_only_while_somebody_listens(store: Store) -> None:
    async def main() -> None:
        context: zmq.Context[Any] = zmq.Context()
        subscriber = context.socket(zmq.SUB)
        subscriber.setsockopt(zmq.SUBSCRIBE, b"")
        subscriber.setsockopt(zmq.LINGER, 0)
        index, row = store.board.gateways.claim_row()
        subscriber.bind(f"ipc://{store.run_dir}/gateway-{index}.activity")
        try:
            async with routing(store) as router:
                router.get(b"nobody listens")
                row.listening = 1
                lines: list[Activity] = []
                async with asyncio.timeout(20):
                    while not lines:  # until the subscription has arrived
                        router.get(b"first")
                        await asyncio.sleep(0.01)
                        lines = received(subscriber)
                assert {(line.kind, line.subject) for line in lines} == {("read", b"first")}
                await asyncio.sleep(0)
                done = await router.request(Put(b"here", b""))
                router.get(b"here")
                await collect(router.keys(b""))
                await collect(router.keys(b"he"))
                await router.request(Delete(b"absent"))
                await router.request(Delete(b"here"))
                router.activity("read", b"last")
                async with asyncio.timeout(20):
                    while not lines or lines[-1].subject != b"last":
                        await asyncio.sleep(0.01)
                        lines += received(subscriber)
                told = [(line.kind, line.subject) for line in lines if line.subject != b"first"]
                assert told == [
                    ("read", b"here"),
                    ("list", b""),
                    ("list_prefix", b"he"),
                    ("delete", b"absent"),
                    ("read", b"last"),
                ]
                assert [line.end for line in lines if line.subject == b"here"] == [done.revision]
                assert lines[-1].end == done.revision + 1, "the delete of `here` took a revision, the other did not"
        finally:
            row.listening = 0
            context.destroy(linger=0)

    asyncio.run(main())


def received(subscriber: zmq.Socket[Any]) -> list[Activity]:
    lines: list[Activity] = []
    while subscriber.poll(0):
        lines += decode_activity(subscriber.recv())
    return lines


def test_a_silent_shard_is_asked_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """By who does a request in parts: it would wait as often."""

    async def main() -> None:
        async with routing(store) as router:
            asked = []

            def lose(link: Any, pending: Any) -> None:
                asked.append(link)
                pending.fail(OutcomeUnknown("no answer"))

            monkeypatch.setattr("kvserver.store.client.Link.enqueue", lose)
            silent: set[int] = set()
            (first,) = await router.each([Put(b"a", b"1")], silent)
            (second,) = await router.each([Put(b"a", b"2")], silent)
            assert isinstance(first, Failed) and first.code == OutcomeUnknown.code
            assert isinstance(second, Failed) and second.code == Unavailable.code
            assert silent == {shard_of(b"a", SHARDS)}
            assert len(asked) == 1

    asyncio.run(main())
