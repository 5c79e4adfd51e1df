"""Machines that get the same messages, each with its own life, have the same logs and maps and give the same answers.

One of them lives through it all. The other restarts, between messages and within them, and builds its map in all ways
there are; it has another sense of chance, other clocks and no room; it keeps few entries and surveys its keys late.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from shards.host.board import Board
from shards.keys import budget
from shards.keys.budget import Starved
from shards.keys.eviction import Evictor, record_use
from shards.keys.last_use import open_last_use_table
from shards.log.appender import LogAppender
from shards.log.files import LogError, LogFull
from shards.log.manifest import FORMAT, Manifest
from shards.log.records import Record
from shards.maps import outcome_table
from shards.maps.build import open_map
from shards.maps.snapshot import take_snapshot
from shards.maps.storage import MapStorage
from shards.server.writer import Writer
from shards.wire.clock import Now
from shards.wire.outcomes import HELD_MS, KEEP_MS
from shards.wire.protocol import (
    AtomicBatch,
    Condition,
    Delete,
    DeletePrefix,
    Evict,
    Expire,
    Get,
    Incr,
    MarkPrefix,
    OfOneKey,
    Once,
    Operation,
    Patch,
    Put,
    Reply,
    Touch,
)
from tests import effort
from tests.api.maps import entries_of
from tests.api.shards.server.tools import logged
from tests.stores import new_store
from tests.times import at

NOW = 1_700_000_000_000
KEYS = [b"{t}", b"{t}1", b"a/{t}2", b"{t}3", b"{t}4"]
VALUES = [b"", b"7", b'{"a":1}', b"v" * 20, b"v" * 60]
CONDITIONS = [*[None] * 6, Condition("*"), Condition(None, "*"), Condition([3, 5, 9, 12])]
PATCHES = [b'{"a":2}', b'{"b":[1]}', b"[]"]
PASSED_MS = [0, 0, 0, 0, 1, 1, 1, 2, 5, HELD_MS, KEEP_MS // 2]


class Chance(Random):
    """Makes operations, by a seed: many more of them than a strategy would."""

    def of_one_key(self) -> OfOneKey:
        key, condition, ttl_ms = self.choice(KEYS), self.choice(CONDITIONS), self.choice([0, 0, 1, 3, 5, 9])
        match self.randrange(10):
            case 0 | 1:
                return Put(key, self.choice(VALUES), "", ttl_ms, 0, self.random() < 0.5, condition)
            case 2:
                return Put(key, self.choice(VALUES), "a/b", 0, NOW + 10**7 + ttl_ms)
            case 3:
                return Delete(key, self.random() < 0.5, condition)
            case 4 | 5 | 6:
                return Touch(key, ttl_ms, 0, condition)
            case 7:
                return Incr(key, self.randrange(-1, 99), ttl_ms)
            case 8:
                return Patch(key, self.choice(PATCHES))
            case _:
                return Get(key, 1)

    def batch(self) -> AtomicBatch:
        return AtomicBatch([self.of_one_key() for _ in range(self.randrange(1, 4))])

    def once(self) -> Once:
        operation = self.of_one_key() if self.random() < 0.7 else self.batch()
        changes = operation if not isinstance(operation, Get) else Put(operation.key, b"")
        return Once(changes, b"%018d" % self.randrange(9), self.choice([b"f" * 16, b"f" * 16, b"g" * 16]))

    def operation(self) -> Operation:
        match self.randrange(10):
            case 0:
                return self.batch()
            case 1 | 2:
                return self.once()
            case 3:
                prefix = b"{t}"
                return (
                    MarkPrefix(prefix)
                    if self.random() < 0.5
                    else DeletePrefix(prefix, b"", self.randrange(200), self.randrange(3))
                )
            case _:
                return self.of_one_key()


SEEDS = st.integers(0, 2**32)


class Machine:
    """One of the machines: a shard of its own, without a loop."""

    def __init__(self, path: Path, seed: int, **facts: Any) -> None:
        self.store = new_store(path, shards=1, sync="os", **facts)
        store, secret, status = (
            self.store.board.facts.store,
            self.store.board.facts.secret,
            path.joinpath("data").stat(),
        )
        Manifest(format=FORMAT, store=store, secret=secret, device=status.st_dev, inode=status.st_ino).save(
            self.store.data_dir
        )
        self.board = Board.open(self.store.board.path)
        assert self.board.try_claim(self.board.shards[0])
        self.seed = seed
        self.start()

    def start(self) -> None:
        self.map = open_map(self.board, 0, follows_order=True)
        self.log = LogAppender(self.board, 0)
        self.writer = Writer(self.board, 0, self.log, self.map)
        if self.writer.keyspace.evictor is not None:
            stamps = open_last_use_table(self.board)
            assert stamps is not None
            self.writer.keyspace.evictor = Evictor(stamps, Random(self.seed).random, 3)

    def stop(self) -> None:
        self.log.close()
        self.map.close()

    def close(self) -> None:
        self.stop()
        self.board.close()
        self.store.close()
        shutil.rmtree(self.store.data_dir.parent)

    def lose_map(self, back: Path | None = None) -> None:
        """Stop, lose the map, or get an earlier one `back`, and start."""
        self.stop()
        self.board.shards[0].map_generation = 0
        for path in self.maps():
            shutil.rmtree(path)
        if back is not None:
            shutil.copytree(back, self.store.map_dir / back.name)
        self.start()

    def maps(self) -> list[Path]:
        return [path for path in self.store.map_dir.glob("shard-0.*") if path.is_dir()]

    def history(self) -> list[tuple[int, bytes, Now]]:
        return [(record.revision, bytes(record.payload), record.now) for record in logged(self.store)]

    def content(self) -> list[object]:
        """All that the map has, but for places in the log and the clock of each machine."""
        storage = self.map.storage
        with storage.env.begin() as txn:
            tables = storage.data, storage.outcomes, storage.identities
            rows = [list(txn.cursor(table)) for table in tables]
        return [*rows, self.map.totals, self.map.applied[1]]


class Machines(RuleBasedStateMachine):
    """Two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(budget, "FULL_BYTES", 150)  # a message becomes several records
        self.patch.setattr(outcome_table, "KEEP_COUNT", 5)
        self.patch.setattr(outcome_table, "_FEW", 1)
        self.root = Path(tempfile.mkdtemp(prefix="kv-"))
        self.machines: list[Machine] = []
        self.now_ms = NOW
        self.kept: Path | None = None
        self.starved: list[tuple[Operation, int]] = []

    @initialize(limit=st.sampled_from([(0, "reject"), (120, "reject"), (120, "evict"), (90, "evict")]))
    def start(self, limit: tuple[int, str]) -> None:
        max_memory, on_full = limit
        for name in ("steady", "shaky"):
            self.machines.append(Machine(self.root / name, len(name), max_memory=max_memory, on_full=on_full))
        self.steady, self.shaky = self.machines
        self.before = self.shaky.board.watermark()

    def teardown(self) -> None:
        try:
            if self.machines:
                self.compare()
                self.shaky.lose_map()
                self.compare()
                self.compare_due()
        finally:
            for machine in self.machines:
                machine.close()
            shutil.rmtree(self.root)
            self.patch.undo()

    def compare(self) -> None:
        assert self.steady.history() == self.shaky.history()
        assert self.steady.content() == self.shaky.content()
        for machine in self.machines:
            machine.map.check(1, 0)
            machine.writer.keyspace.check(entries_of(machine.map))

    def compare_due(self) -> None:
        """What they would propose, once they know their keys, is the same in the same order."""
        keyspace = self.shaky.writer.keyspace
        while not keyspace.is_surveyed:
            keyspace.survey(2)
        due = [machine.writer.list_due(at(self.now_ms + 10)) for machine in self.machines]
        assert due[0] == due[1]

    def send(self, operations: Sequence[Operation], crash_after: int = 99) -> None:
        """A message. The shaky machine dies after so many records of it."""
        now = at(self.now_ms)
        expected = self.steady.writer.decide(operations, now)
        replies: list[Reply | Starved] = []
        decide_part, log_append = self.shaky.writer._decide_part, self.shaky.log.append
        appended = 0

        def note(*args: Any) -> list[Reply | Starved]:
            parts.append(decide_part(*args))
            return parts[-1]

        def append(*args: Any) -> Record:
            nonlocal appended
            if appended == crash_after:
                raise LogFull("the end")
            appended += 1
            return log_append(*args)

        parts: list[list[Reply | Starved]] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.shaky.writer, "_decide_part", note)
            patch.setattr(self.shaky.log, "append", append)
            patch.setattr(MapStorage, "free_bytes", lambda _: 0)
            try:
                replies = self.shaky.writer.decide(operations, now)
            except LogError:
                replies = [reply for part in parts[:-1] for reply in part]
                self.shaky.lose_map() if crash_after % 2 else self.restart()
        if len(replies) < len(operations):
            replies += self.shaky.writer.decide(operations[len(replies) :], now)
        assert replies == expected
        pairs = zip(operations, expected, strict=True)
        self.starved = [(operation, reply.needed) for operation, reply in pairs if isinstance(reply, Starved)]
        for machine in self.machines:
            machine.writer.announcements.clear()

    @rule(seed=SEEDS, crash_after=st.integers(0, 6))
    def decide(self, seed: int, crash_after: int) -> None:
        chance = Chance(seed)
        for _ in range(10):
            self.now_ms += chance.choice(PASSED_MS)
            self.send([chance.operation() for _ in range(chance.randrange(1, 8))], crash_after)
            crash_after = 99
            if chance.random() < 0.4:
                self.expire(chance.randrange(2), chance.randrange(-2, 2), chance.randrange(1, 9), chance.random() < 0.5)
            if self.starved:
                self.evict(chance.randrange(2))

    @rule(proposer=st.integers(0, 1), late=st.integers(-2, 2), most=st.integers(1, 9), surveyed=st.booleans())
    def expire(self, proposer: int, late: int, most: int, surveyed: bool) -> None:
        """A machine proposes by its own clock, which is not that of the order."""
        while surveyed and not self.shaky.writer.keyspace.is_surveyed:
            self.shaky.writer.keyspace.survey(2)
        due = [machine.writer.list_due(at(self.now_ms + late), most) for machine in self.machines]
        if all(machine.writer.keyspace.is_surveyed for machine in self.machines):
            assert due[0] == due[1]
        if (proposed := due[proposer]) is not None:
            self.send([proposed, proposed])

    @rule(seed=SEEDS, kind=st.sampled_from([Expire, Evict]))
    def propose_any(self, seed: int, kind: type[Expire] | type[Evict]) -> None:
        """What may have changed meanwhile."""
        chance, entries = Chance(seed), entries_of(self.steady.map)
        self.send([kind([(key, entry[0] - chance.randrange(2)) for key, entry in entries.items()])])

    def evict(self, proposer: int) -> None:
        """For what could not be done, which is proposed again."""
        writer = self.machines[proposer].writer
        operation, needed = self.starved[0]
        evict = writer.list_victims([operation], at(self.now_ms), needed)
        self.send([operation] if evict is None else [evict, operation], 1)
        writer.restore_victims()

    @rule(key=st.sampled_from(KEYS))
    def read(self, key: bytes) -> None:
        """On one of them alone."""
        stamps = open_last_use_table(self.shaky.board)
        if stamps is not None:
            record_use(stamps, key, self.now_ms)

    @rule()
    def restart(self) -> None:
        self.shaky.stop()
        self.shaky.start()

    @rule()
    def keep_a_map(self) -> None:
        """A copy of the map as it is now, for later."""
        self.shaky.stop()
        [path] = self.shaky.maps()
        self.kept = self.root / "kept" / path.name
        shutil.rmtree(self.kept.parent, ignore_errors=True)
        shutil.copytree(path, self.kept)
        self.shaky.start()

    @rule(earlier=st.booleans())
    def build_the_map_again(self, earlier: bool) -> None:
        self.shaky.lose_map(self.kept if earlier else None)

    @rule(late=st.booleans())
    def take_a_snapshot(self, late: bool) -> None:
        """`late`: the shard has gone on since it was begun, so part of the log that is replayed is in it."""
        self.shaky.stop()
        now = self.shaky.board.watermark()
        with pytest.MonkeyPatch.context() as patch:
            if late:
                patch.setattr(Board, "watermark", lambda _: self.before)
            take_snapshot(self.shaky.board)
        self.before = now
        self.shaky.start()

    @rule(most=st.integers(0, 3), steps=st.integers(1, 3))
    def leave_entries_to_the_map(self, most: int, steps: int) -> None:
        keyspace = self.shaky.writer.keyspace
        keyspace.forget_oldest(most)
        if not keyspace.is_surveyed:
            keyspace.survey(steps)


TestMachines = Machines.TestCase
TestMachines.settings = settings(max_examples=effort.times(25), stateful_step_count=30, deadline=None)
