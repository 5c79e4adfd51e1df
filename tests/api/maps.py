"""What tests of maps share: a store whose shards are played by this process, further runs of it, an oracle."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from shards.host.board import Board, Facts
from shards.keys.entries import Entry
from shards.log.appender import LogAppender
from shards.log.manifest import FORMAT, Manifest
from shards.log.records import DATA, Record
from shards.log.segments import Segments
from shards.maps.build import discard_maps, open_map
from shards.maps.layout import Item
from shards.maps.owner import MapOwner, Old
from shards.maps.snapshot import take_snapshot
from shards.wire.clock import BEGINNING
from shards.wire.keys import shard_of
from shards.wire.protocol import DeleteEvent, Event, PrefixMarked, PutEvent, TouchEvent, changes, encode_events
from tests.stores import Store, new_store
from tests.times import at


class Oracle:
    """What a store must hold: a fold over events that shares nothing with the maps."""

    def __init__(self) -> None:
        self.items: dict[bytes, Item] = {}

    def apply(self, events: Sequence[Event], revision: int, time_ms: int) -> None:
        for number, change in changes(events, revision):
            if isinstance(change, PrefixMarked):
                continue
            old = self.items.get(change.key)
            if isinstance(change, DeleteEvent):
                self.items.pop(change.key, None)
            elif isinstance(change, TouchEvent):
                if old is not None:
                    self.items[change.key] = old._replace(revision=number, expires_ms=change.expires_ms)
            else:
                live = old is not None and (old.expires_ms == 0 or old.expires_ms > time_ms)
                self.items[change.key] = Item(
                    number,
                    number,
                    change.expires_ms,
                    old.created_ms if old and live else time_ms,
                    time_ms,
                    change.content_type,
                    change.value,
                    len(change.value),
                )


def entries_of(map: MapOwner) -> dict[bytes, Entry]:
    """All that `map` has, in key order."""
    return dict(map.list_entries(b"", None, 1 << 30))


class Run:
    """One run of a store: its board, a log handle and a map for each shard."""

    def __init__(self, store: Store, oracle: Oracle | None = None) -> None:
        self.store, self.board, self.oracle = store, store.board, oracle or Oracle()
        self.shards = self.board.facts.shards
        self.logs = [LogAppender(self.board, shard, segment=store.segment) for shard in range(self.shards)]
        self.maps: list[MapOwner] = []

    def open(self) -> Run:
        """Open all maps, as starting shards do."""
        self.maps = [open_map(self.board, shard) for shard in range(self.shards)]
        return self

    def log(self, *events: Event, now_ms: int | None = None) -> Record:
        """Append one record, flushed; it stays open. All keys must belong to one shard."""
        [shard] = {
            shard_of(change.key, self.shards)
            for _, change in changes(events, 1)
            if not isinstance(change, PrefixMarked)
        }
        count = sum(1 for _ in changes(events, 1))
        record = self.logs[shard].append(encode_events(events), count, at(now_ms) if now_ms else self.board.now())
        self.logs[shard].flush(record.end)
        self.oracle.apply(events, record.revision, record.time_ms)
        return record

    def write(self, *events: Event, previous: Collection[int] = (), now_ms: int | None = None) -> dict[int, Old]:
        """Append, apply, clear: what a shard does with a group."""
        record = self.log(*events, now_ms=now_ms)
        replaced = self.maps[record.shard].apply_changes(events, record, previous)
        self.board.shards[record.shard].clear_open()
        return replaced

    def check(self) -> None:
        """The maps hold what the oracle says, each its own keys."""
        found: dict[bytes, Item] = {}
        for shard, each in enumerate(self.maps):
            each.check(self.shards, shard)
            for key in entries_of(each):
                item = each.get(key, BEGINNING)
                assert item is not None
                found[key] = item
        assert found == self.oracle.items

    def snapshot(self) -> Manifest:
        """Take a snapshot in this process, whose own maps are closed meanwhile."""
        self.close_maps()
        manifest = take_snapshot(self.board)
        self.open()
        return manifest

    def close_maps(self) -> None:
        """What is left when all shards have died."""
        for each in self.maps:
            each.close()
        self.maps = []

    def next(self, **facts: Any) -> Run:
        """Another run of the server on the same log, with other `facts`; its maps are not open yet, what it cannot keep
        is gone."""
        self.close_maps()
        old = self.board
        tail, following = old.history()
        board = Board.create(self.store.run_dir / "board", msgspec.structs.replace(old.facts, **facts))
        segments = Segments(board, segment=self.store.segment)
        segments.adopt_history(tail, following)
        discard_maps(board)
        board.install()
        store = Store(
            board,
            self.store.data_dir,
            self.store.run_dir,
            self.store.map_dir,
            self.store.log_dir,
            segments,
            self.store.segment,
        )
        return Run(store, self.oracle)


def first_run(tmp_path: Path, shards: int = 2, **options: Any) -> Run:
    """The first run of a new store, with a manifest; its maps are not open yet."""
    store = new_store(tmp_path, shards, **options)
    facts: Facts = store.board.facts
    status = store.data_dir.stat()
    Manifest(format=FORMAT, store=facts.store, secret=facts.secret, device=status.st_dev, inode=status.st_ino).save(
        store.data_dir
    )
    return Run(store)


def put(key: bytes, value: bytes = b"v", content_type: str = "", expires_ms: int = 0) -> PutEvent:
    """A put."""
    return PutEvent(key, value, content_type, expires_ms)


def delete(key: bytes) -> DeleteEvent:
    """A delete on request."""
    return DeleteEvent(key, "request")


def record_of(events: Sequence[Event], revision: int = 1, lsn: int = 0, time_ms: int = 1000) -> Record:
    """A record that carries `events`, of no log."""
    payload = encode_events(events)
    count = sum(1 for _ in changes(events, 1))
    return Record(DATA, 0, count, lsn, lsn + 64 + len(payload), lsn, revision, time_ms, payload)


def keys_of(shard: int, shards: int, count: int) -> list[bytes]:
    """Some keys of one shard."""
    found: Iterable[bytes] = (b"key-%d" % i for i in range(100 * count * shards))
    return [key for key in found if shard_of(key, shards) == shard][:count]


@contextmanager
def process(target: Callable[..., None], *args: Any) -> Iterator[tuple[Any, Connection]]:
    """Run `target(connection, *args)` in a process of its own, which is killed at the end; the process and the
    connection's other end."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=target, args=(theirs, *args), daemon=True)
    child.start()
    theirs.close()
    try:
        yield child, ours
    finally:
        child.kill()
        child.join()
        child.close()
        ours.close()
