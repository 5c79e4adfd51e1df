"""The memory limit of shards with a real log, map and board: what is logged for it, what others see, restarts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from shards.keys.eviction import EVICT_KEYS, record_use
from shards.keys.last_use import open_last_use_table
from shards.log.manifest import Manifest
from shards.server.loop import ShardServer
from shards.wire.keys import shard_of
from shards.wire.protocol import Delete, DeleteEvent, Done, Failed, Incr, Put, Reply, encode_request
from tests.api.maps import entries_of
from tests.api.shards.server.tools import Client, changes, check, client, folded, serving, value
from tests.stores import Store, new_store


@contextmanager
def limited(place: Path, shards: int, max_memory: int, on_full: str) -> Iterator[Store]:
    made = new_store(place, shards=shards, max_memory=max_memory, on_full=on_full)
    Manifest.create(made.data_dir).save(made.data_dir)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def asking(store: Store, shard: int = 0) -> Iterator[tuple[ShardServer, Client]]:
    with serving(store, shard) as server, client(store, shard, lambda: server.run_turn(0.005)) as made:
        yield server, made


def codes(replies: list[Reply]) -> list[str]:
    return [reply.code if isinstance(reply, Failed) else "" for reply in replies]


def check_agreement(server: ShardServer, store: Store) -> None:
    """Keyspace, map and log say the same."""
    check(server)
    entries = entries_of(server.map)
    logged = folded(store)
    assert {key: (entry[0], entry[3]) for key, entry in entries.items()} == {
        key: (revision, len(found)) for key, (revision, _, found) in logged.items()
    }


def evictions(store: Store) -> list[bytes]:
    return [change.key for _, change in changes(store) if isinstance(change, DeleteEvent) and change.cause == "evict"]


def test_the_limit_is_exact_and_refuses_growth_alone(place: Path) -> None:
    with limited(place, 1, 100, "reject") as store, asking(store) as (server, shard):
        assert codes(shard.ask(Put(b"a", b"v" * 49), Put(b"b", b"v" * 49))) == ["", ""]
        assert store.board.shards[0].bytes_now == 100
        [refused] = shard.ask(Put(b"c", b""))
        assert isinstance(refused, Failed) and refused.members == {"limit": 100, "used": 100, "needed": 1}
        assert codes(shard.ask(Put(b"a", b"w" * 49), Put(b"a", b"w" * 50), Delete(b"b"), Put(b"c", b"v" * 49))) == [
            "",
            "memory_limit",
            "",
            "",
        ]
        assert (store.board.shards[0].bytes_now, server.writer.figures["refused"]) == (100, 2)
        check_agreement(server, store)


def test_puts_behind_a_result_that_grew_are_looked_at(place: Path) -> None:
    """Those before it need not be: their sizes say that they fit."""
    with limited(place, 1, 72, "reject") as store, asking(store) as (_, shard):
        operations = [Incr(b"%d" % n, -(2**62)) for n in range(3)]
        together = [*operations, Put(b"k", b"v" * 9)]
        assert len(encode_request(1, 1, 1, together)) - 32 <= 72
        assert codes(shard.ask(*together)) == ["", "", "", "memory_limit"]
        assert codes(shard.ask(Put(b"k", b"v" * 8))) == [""]


def test_shards_see_what_the_others_hold(place: Path) -> None:
    names = {shard_of(key, 2): key for key in (b"a", b"b", b"c", b"d")}
    with limited(place, 2, 100, "reject") as store, ExitStack() as stack:
        asks = [stack.enter_context(asking(store, shard))[1] for shard in range(2)]
        assert codes(asks[0].ask(Put(names[0], b"v" * 59))) == [""]
        assert codes(asks[1].ask(Put(names[1], b"v" * 40))) == ["memory_limit"]
        assert codes(asks[1].ask(Put(names[1], b"v" * 39))) == [""]
        assert codes(asks[0].ask(Put(names[0], b"v" * 60), Put(names[0], b""))) == ["memory_limit", ""]
        assert codes(asks[1].ask(Put(names[1], b"v" * 98))) == [""]


def test_what_is_evicted_is_logged_before_what_it_is_for(place: Path) -> None:
    with limited(place, 1, 100, "evict") as store, asking(store) as (server, shard):
        shard.ask(*(Put(b"%d" % n, b"v" * 9) for n in range(10)))
        stamps = open_last_use_table(store.board)
        assert stamps is not None
        for n in range(10):
            record_use(stamps, b"%d" % n, store.board.steady_ms() - (1000 if n == 7 else 0))
        assert shard.do(Put(b"k", b"v" * 9)) == Done(12, False)
        assert [change for _, change in changes(store)][10:11] == [DeleteEvent(b"7", "evict")]
        assert value(server, b"7") is None and value(server, b"k") == b"v" * 9
        assert (server.writer.figures["evicted"], server.writer.figures["deletes"]) == (1, 0)
        check_agreement(server, store)


def test_more_than_a_group_may_evict_goes_in_several(place: Path) -> None:
    with limited(place, 1, 20 * EVICT_KEYS, "evict") as store, asking(store) as (server, shard):
        keys = [b"%05d" % n for n in range(4 * EVICT_KEYS)]
        for begin in range(0, len(keys), EVICT_KEYS):
            shard.ask(*(Put(key, b"") for key in keys[begin : begin + EVICT_KEYS]))
        assert codes(shard.ask(Put(b"big", b"v" * (20 * EVICT_KEYS - 3)), Put(b"a", b""))) == ["", ""]
        assert set(evictions(store)) == {*keys, b"big"}
        assert server.writer.figures["refused"] == 0
        check_agreement(server, store)


def test_a_restarted_shard_counts_what_it_has(place: Path) -> None:
    for on_full in ("reject", "evict"):
        with limited(place / on_full, 1, 100, on_full) as store:
            with asking(store) as (_, shard):
                shard.ask(Put(b"a", b"v" * 49), Put(b"b", b"v" * 49))
            store.board.shards[0].bytes_now = 7
            with asking(store) as (_, shard):
                assert store.board.shards[0].bytes_now == 100
                assert codes(shard.ask(Put(b"c", b""))) == (["memory_limit"] if on_full == "reject" else [""])
                assert len(evictions(store)) == (on_full == "evict")
