"""The log's rules under a model: the product's own code on a machine that kills, loses power and fails.

A world is a store over several runs of its server. In each, shards append, flush, apply and acknowledge; a supervisor
makes, trims and reuses segments; a follower reads what the watermark covers. Whatever ends the run, recovery must find
every acknowledged record once and in order, nothing that was refused, and never call a torn tail damage, nor damage a
torn tail. A long run tries more worlds: see `tests.effort`.
"""

from __future__ import annotations

import functools
import random
from pathlib import Path

import pytest

from shards.host.board import NONE, Facts, ShardRow
from shards.log import records
from shards.log.appender import LogAppender
from shards.log.epoch import first_revision, new_epoch, reason_for_new_epoch
from shards.log.files import LogBroken, LogError, LogFull, Trimmed, segment_name, segment_numbers
from shards.log.reader import LogReader
from shards.log.records import DATA, HEADER, START, Record, Start
from shards.log.recovery import Damaged, Recovered, begin_history, recover_log
from shards.log.segments import Segments, trim_limit
from tests import effort
from tests.times import at
from tests.unit.machine import MACHINE_WORDS, PAGE, Inode, Machine, MachineBoard, MachineDisk, Process, Words, new_words

WORLDS = effort.times(60)
SEGMENT = 16 * 2 * PAGE
SECRET = 0x1234_5678_9ABC_DEF0
LOG_DIR = Path("/log")
SHARDS = 3
MAPS_AT = -MACHINE_WORDS  # a word for each map: the revision behind the last that it shows
START_BYTES = HEADER + len(Start(store="s", epoch=new_epoch(), boot_id="0", sync="always", version="v").encode())


class RunEnded(Exception):
    """The supervisor ended the run: a flush failed, or a disk error."""


def facts_of(sync: str, epoch: str, boot_id: str) -> Facts:
    """What the board of a run says."""
    return Facts(
        version="v",
        store="s",
        epoch=epoch,
        boot_id=boot_id,
        secret=SECRET,
        shards=SHARDS,
        sync=sync,
        in_memory=False,
        data_dir="/",
        lock_dir="/locks",
        log_dir=str(LOG_DIR),
        map_dir="/",
        max_value=1,
        clock_offset_ms=0,
        supervisor_pid=1,
        started_ms=1,
    )


class World:
    """A store, and what its clients and readers were told."""

    def __init__(self, seed: int, *, is_weak: bool = False) -> None:
        self.random = random.Random(seed)
        self.machine = Machine(self.random, is_weak=is_weak)
        self.sync = self.random.choice(["always", "always", "always", "everysec", "os"])
        self.boots = 0
        self.words: list[int] | None = None  # the last run's board, while the machine is up
        self.facts = self._facts("", "")
        self.replay = (0, 0)
        self.end_lsn = 0  # of the manifest, as the two above and below
        self.last_start: Start | None = None
        self.applied: set[bytes] = set()
        self.applied_lsn = [0] * SHARDS  # the maps' `applied`, while the machine is up
        self.acknowledged: dict[bytes, Record] = {}
        self.refused: set[bytes] = set()
        self.possible: set[bytes] = set()  # what the log held after the last recovery, or may have been given since
        # Records of one size stand where others of a cut tail stood: old ones must not continue the new.
        self.sizes = self.random.choice([(0, 3, 40, 150), (START_BYTES - HEADER,)])
        self.meaning: dict[int, bytes] = {}  # revision to what an acknowledged record said it was
        self.count = 0
        self.stopping = False
        self.stopped = False  # the last run ended in order
        self.tries = 0  # to recover from it
        self.cache_survives = False  # the page cache still has what the last run wrote

    def _facts(self, epoch: str, boot_id: str) -> Facts:
        return facts_of(self.sync, epoch, boot_id)

    def board(self, process: Process) -> MachineBoard:
        assert self.words is not None
        return MachineBoard(Words(process, self.words), self.facts, process)

    @property
    def view(self) -> MachineBoard:
        """The board, looked at without a step."""
        assert self.words is not None
        return MachineBoard(self.words, self.facts)

    # -- between runs --------------------------------------------------------------------------------------------

    def recovered(self, disk: MachineDisk) -> Recovered:
        """The product's recovery, with what this boot's memory still says."""
        return recover_log(
            LOG_DIR,
            SECRET,
            *self.replay,
            last_start=self.last_start,
            end_lsn=self.end_lsn,
            old_board=self.view if self.words is not None else None,
            applied=self.applied_lsn,
            segment=SEGMENT,
            disk=disk,
        )

    def start(self) -> None:
        """Recover and begin a run; killed, failing or without power on the way any number of times."""
        self.tries = 0
        while True:
            self.tries += 1
            self.machine.failing_flushes = 0.1 if self.tries < 4 else 0.0
            outcome: list[tuple[Recovered, Facts, int, int]] = []
            process = self.machine.spawn("recovery", functools.partial(self._recovery, outcome=outcome))
            end_at = self.random.randrange(400) if self.tries < 4 and self.machine.chance(0.5) else -1
            try:
                while self.machine.processes and end_at != 0:
                    self.machine.turn()
                    end_at -= 1
            except OSError:
                continue
            if outcome:
                break
            if self.machine.chance(0.5):
                self.power_off()
            self.machine.kill(process)
        self._new_board(*outcome[0])

    def _recovery(self, process: Process, outcome: list[tuple[Recovered, Facts, int, int]]) -> None:
        disk = MachineDisk(process)
        found = self.recovered(disk)
        boot = str(self.boots)
        reason = reason_for_new_epoch(found.last_start, boot, stopped_clean=found.stopped_clean)
        epoch, revision = found.last_start.epoch if found.last_start else "", found.next_revision
        if reason is not None:
            epoch, revision = new_epoch(), first_revision(found.next_revision - 1, 1)
        start = Start(store="s", epoch=epoch, boot_id=boot, sync=self.sync, version="v")
        tail, revision = begin_history(LOG_DIR, SECRET, start, found.tail, revision, at(1), segment=SEGMENT, disk=disk)
        self.last_start, self.end_lsn = start, tail  # as the manifest is told
        outcome.append((found, self._facts(epoch, boot), tail, revision))

    def _new_board(self, found: Recovered, facts: Facts, tail: int, revision: int) -> None:
        self.facts, self.words = facts, new_words(facts)
        self.words[MAPS_AT : MAPS_AT + SHARDS] = [revision] * SHARDS
        process = self.machine.observer()
        self.check_recovered(found, process)
        Segments(self.view, segment=SEGMENT, disk=MachineDisk(process)).adopt_history(tail, revision)

    def check_recovered(self, found: Recovered, process: Process) -> None:
        """The log holds what was acknowledged, once, in order, and nothing that was refused."""
        reader = LogReader(LOG_DIR, SECRET, segment=SEGMENT, disk=MachineDisk(process))
        lsn, got = self.replay[0], list[Record]()
        while lsn < found.tail:
            some, lsn = reader.read(lsn, found.tail, self.random.choice([1, 100, 1000]))
            got += some
        payloads = [record.payload for record in got if record.kind == DATA]
        assert len(set(payloads)) == len(payloads)
        assert not self.refused.intersection(payloads)
        assert self.possible.issuperset(payloads), "what was cut has returned"
        self.possible = set(payloads)
        following = self.replay[1] + 1
        for record in got:
            assert record.revision == following or (record.kind == START and record.revision > following)
            following = record.revision + record.events
        assert following == found.next_revision
        lost = {
            payload: record for payload, record in self.acknowledged.items() if record.lsn >= self.replay[0]
        }.keys() - set(payloads)
        assert found.stopped_clean or not self.stopped or self.tries > 1
        if self.facts.sync == "always" or self.cache_survives or self.stopped:
            assert not lost, f"{len(lost)} acknowledged records are lost"
        for payload in lost:
            del self.acknowledged[payload]
        by_payload = {record.payload: record for record in got}
        for payload, record in self.acknowledged.items():
            if record.lsn >= self.replay[0]:
                assert by_payload[payload]._replace(synced=0) == record._replace(synced=0)
        self.applied = set(payloads)
        self.applied_lsn = [found.tail] * SHARDS

    def power_off(self) -> None:
        """The machine loses power: memory is gone."""
        self.machine.lose_power()
        self.boots += 1
        self.words, self.applied_lsn, self.cache_survives = None, [0] * SHARDS, False

    # -- a run ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Let the processes run until something ends it."""
        self.stopping, self.stopped, self.cache_survives = False, False, True
        self.machine.failing_flushes = self.random.choice([0, 0, 0.01, 0.05])
        self.machine.short_writes = self.random.choice([0, 0.02])
        self.machine.write_backs = self.random.choice([0.02, 0.1, 0.6])
        kills = self.random.choice([0.002, 0.004, 0.03])
        supervisor = self.machine.spawn("supervisor", self.supervise)
        for shard in range(SHARDS):
            self.spawn_shard(shard)
        self.machine.spawn("follower", self.follow)
        turns = self.random.choice([self.random.randrange(300), self.random.randrange(5000)])
        clean = self.machine.chance(0.2)
        synced_when_broken: int | None = None
        try:
            while self.machine.processes:
                self.machine.turn()
                if self.view.log.broken:
                    synced_when_broken = synced_when_broken or self.view.log.synced
                    assert self.view.log.synced == synced_when_broken, "flushed after a failed flush"
                turns -= 1
                if turns < 0 and clean:
                    self.stopping = True
                elif turns < 0:
                    break
                if self.machine.processes and self.machine.chance(kills):
                    self.kill_one(supervisor)
                if self.machine.chance(0.001):
                    self.machine.full = not self.machine.full
        except RunEnded:
            pass
        self.machine.kill_all()
        self.machine.full = False
        if self.machine.chance(0.5):
            self.power_off()

    def kill_one(self, supervisor: Process) -> None:
        """Kill one process; it is started again at once. With the supervisor all die."""
        process = self.random.choice(self.machine.processes)
        if process is supervisor and not self.machine.chance(0.1):
            return
        self.machine.kill(process)
        if process is supervisor:
            raise RunEnded
        if process.name == "follower":
            self.machine.spawn("follower", self.follow)
        elif not self.stopping:
            self.spawn_shard(int(process.name))

    def spawn_shard(self, shard: int) -> None:
        self.machine.spawn(str(shard), lambda process: self.serve(process, shard))

    def serve(self, process: Process, shard: int) -> None:
        """A shard: apply what a predecessor left open, then group after group."""
        board, disk = self.board(process), MachineDisk(process)
        log, row = LogAppender(board, shard, segment=SEGMENT, disk=disk), board.shards[shard]
        try:
            if row.open != NONE:
                self.replay_open(board, log, LogReader(LOG_DIR, SECRET, segment=SEGMENT, disk=disk), shard)
            row.clear_open()
            while not self.stopping:
                self.group(log, row, shard)
        except LogBroken:
            return

    def replay_open(self, board: MachineBoard, log: LogAppender, reader: LogReader, shard: int) -> None:
        """What the predecessor appended and may not have applied."""
        lsn, (tail, _) = board.shards[shard].open, board.history()
        log.flush(tail)
        while lsn < tail:
            some, lsn = reader.read(lsn, tail)
            for record in some:
                if record.shard == shard:
                    self.apply(record, board.shards[shard])

    def group(self, log: LogAppender, row: ShardRow, shard: int) -> None:
        """Append, flush, apply, acknowledge."""
        self.count += 1
        payload = (b"%d" % self.count).ljust(self.random.choice(self.sizes), b"\0")
        self.possible.add(payload)
        before = max((record.revision for record in self.acknowledged.values()), default=0)
        try:
            record = log.append(payload, self.random.randint(1, 3), at(1))
        except LogBroken:
            raise
        except LogError as error:
            self.refused.add(payload)
            assert isinstance(error, LogFull) or self.machine.short_writes, f"nothing was wrong: {error}"
            assert row.open == NONE
            return
        assert record.revision > before, "a write that was answered before this one began stands behind it"
        if self.sync == "always":
            log.flush(record.end)
        self.apply(record, row)
        row.clear_open()
        for revision in range(record.revision, record.next_revision):
            assert self.meaning.setdefault(revision, payload) == payload, "a revision returned"
        self.acknowledged[payload] = record

    def apply(self, record: Record, row: ShardRow) -> None:
        """Commit to the map, whose revision readers see."""
        self.applied.add(record.payload)
        self.applied_lsn[record.shard] = max(self.applied_lsn[record.shard], record.end)
        row.words[MAPS_AT + record.shard] = max(row.words[MAPS_AT + record.shard], record.next_revision)

    def supervise(self, process: Process) -> None:
        """The supervisor's part: segments ahead, marks, snapshots and trimming; at a stop, STOP."""
        board, disk = self.board(process), MachineDisk(process)
        log, segments = (
            LogAppender(board, None, segment=SEGMENT, disk=disk),
            Segments(board, segment=SEGMENT, disk=disk),
        )
        try:
            while len(self.machine.processes) > 1:
                if self.view.log.broken:
                    raise RunEnded
                if self.machine.chance(0.2):  # often too late: appenders wait
                    segments.prepare_next()
                if self.machine.chance(0.02):
                    log.append_mark(at(1))
                if self.machine.chance(0.01):
                    self.snapshot(board, log)
                    segments.trim(trim_limit(board.history()[0], self.replay[0], SEGMENT))
                process.step()
            self.end_lsn = log.append_stop(at(1)).end
            self.stopped = True
        except (OSError, LogError):
            raise RunEnded from None

    def snapshot(self, board: MachineBoard, log: LogAppender) -> None:
        """What the watermark covers is in the snapshot, whose manifest is durable."""
        position, end = board.watermark(), board.history()[0]
        log.flush(end)
        self.replay, self.end_lsn = max(self.replay, position), max(self.end_lsn, end)

    def follow(self, process: Process) -> None:
        """A reader of the feed: what the watermark covers, as it comes, is flushed and applied, once, in order."""
        board, disk = self.board(process), MachineDisk(process)
        reader, revision = LogReader(LOG_DIR, SECRET, segment=SEGMENT, disk=disk), 0
        lsn = self.view.log.oldest
        while not (self.stopping and len(self.machine.processes) <= 2):
            until, shown = board.watermark()
            try:
                some, lsn = reader.read(lsn, max(lsn, until), 300)
            except Trimmed as trimmed:
                assert trimmed.oldest > lsn
                lsn, revision = trimmed.oldest, 0
                continue
            for record in some:
                assert record.revision == revision or not revision or record.kind == START
                revision = record.next_revision
                assert revision <= shown + 1
                if record.kind == DATA and record.lsn >= self.replay[0]:
                    assert record.payload in self.applied
                    assert board.words[MAPS_AT + record.shard] >= record.next_revision, "a map shows less than the feed"
                if self.sync == "always" and record.kind == DATA:  # nobody is shown the others
                    self.assert_on_disk(record)
            assert lsn != until or not revision or revision == shown + 1, "not the revision that belongs to the LSN"

    def assert_on_disk(self, record: Record) -> None:
        inode = self.machine.names.get(segment_name(record.lsn // SEGMENT))
        if inode is not None:  # else it was trimmed meanwhile
            at = record.lsn % SEGMENT
            on_disk = bytes(inode.disk[at : at + record.end - record.lsn])
            assert on_disk == records.encode(record, SECRET), "shown before it was durable"

    # -- damage --------------------------------------------------------------------------------------------------

    def damage(self) -> None:
        """Change a byte that had been flushed, as something else says: recovery must name it and touch nothing."""
        disk = MachineDisk(self.machine.observer())
        victims = self.victims()
        if not victims:
            return
        victim = self.random.choice(victims)
        inode = self.machine.names[segment_name(victim.lsn // SEGMENT)]
        at = victim.lsn % SEGMENT + self.random.randrange(victim.end - victim.lsn)
        for content in (inode.cache, inode.disk):
            content[at] ^= 0x40
        before = self.contents()
        with pytest.raises(Damaged) as raised:
            self.recovered(disk)
        assert raised.value.lsn == victim.lsn
        assert self.contents() == before
        for content in (inode.cache, inode.disk):
            content[at] ^= 0x40

    def lose(self) -> None:
        """Take away what the manifest knows of, or what others stand behind: recovery must miss it."""
        names = self.machine.names
        numbers = segment_numbers(list(names))
        must = [n for n in numbers if n < numbers[-1] or self.replay[0] <= n * SEGMENT < self.end_lsn]
        if not must:
            return
        number = self.random.choice(must)
        lost = names.pop(segment_name(number))
        if number != numbers[0] or (number + 1) * SEGMENT > self.replay[0]:
            before = self.contents()
            with pytest.raises(Damaged) as raised:
                self.recovered(MachineDisk(self.machine.observer()))
            assert raised.value.lsn == number * SEGMENT
            assert self.contents() == before
        names[segment_name(number)] = lost

    def victims(self) -> list[Record]:
        """Records that the log was flushed behind, as a later record, the board or a map says."""
        found = list[Record]()
        lsn, following = self.replay[0], self.replay[1] + 1
        while (inode := self.machine.names.get(segment_name(lsn // SEGMENT))) is not None:
            base = lsn - lsn % SEGMENT
            for record in records.walk(bytes(inode.cache), base, SECRET, lsn - base):
                if not records.follows(record, following):
                    break
                found.append(record)
                lsn, following = record.end, max(following, record.next_revision)
            if SEGMENT - lsn % SEGMENT < HEADER:
                lsn += SEGMENT - lsn % SEGMENT
            if lsn // SEGMENT == base // SEGMENT:
                break
        known = max([*self.applied_lsn, self.view.log.synced if self.words is not None else 0])
        return [
            record
            for i, record in enumerate(found)
            if record.kind == DATA and max([known, *(later.synced for later in found[i + 1 :])]) > record.lsn
        ]

    def contents(self) -> dict[str, tuple[bytes, bytes]]:
        def both(inode: Inode) -> tuple[bytes, bytes]:
            return bytes(inode.cache), bytes(inode.disk)

        return {name: both(inode) for name, inode in self.machine.names.items()}


def live_through(world: World) -> None:
    """Start and end runs of `world`; fails where a rule is broken."""
    world.start()
    for _ in range(world.random.randint(2, 8)):
        world.run()
        world.damage()
        world.lose()
        world.start()


@pytest.mark.parametrize("seed", range(WORLDS))
def test_every_acknowledged_record_is_found_once_and_in_order(seed: int) -> None:
    live_through(World(seed))


@pytest.mark.parametrize("seed", range(WORLDS // 2))
def test_the_same_where_memory_keeps_no_order(seed: int) -> None:
    live_through(World(seed, is_weak=True))
