"""The order of the feed: whatever comes when, no client misses an event, gets one twice or in another order."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from kvserver.gateway.history import order
from kvserver.gateway.history.order import (
    MOST_WAITING,
    FeedBroken,
    Merger,
    PendingActivity,
    activity_frames,
    chunks_from_log,
    encode_pieces,
    merge_frames,
)
from kvserver.gateway.wal import tail
from kvserver.gateway.wal.tail import IDLE_S, Behind, LargeFrameCache, PlacedFrame, Position, Tail, WalCursor
from kvserver.gateway.wal.views import Marks, View
from shards.log.records import DATA, HEADER, MARK, NO_SHARD, Record
from shards.wire.protocol import Activity, Atomic, Event, PrefixMarked, PutEvent, TouchEvent, encode_events
from tests import effort

SHARDS = 3
BEGIN = Position(1000, 500)


def line_end(line: bytes) -> bytes:
    """The format of these tests: the line and a newline."""
    return line + b"\n"


VIEW = View(line_end)


def record_of(shard: int, position: Position, events: list[Event], gap: int = 0) -> Record:
    """The record that comes next at `position`, behind `gap` bytes of filler."""
    payload = encode_events(events)
    lsn = position.lsn + gap
    count = sum(len(event.changes) if isinstance(event, Atomic) else 1 for event in events)
    return Record(DATA, shard, count, lsn, lsn + HEADER + len(payload), 0, position.revision + 1, 0, payload)


def events_from(revision: int, kinds: list[int]) -> list[Event]:
    """An event for each of `kinds`, whose line, if it has one, names its revision."""
    made: list[Event] = []
    for kind in kinds:
        put = PutEvent(b"r%d" % revision, b"x" * (50 * (revision % 3)), "", 0)
        events: list[Event] = [put, TouchEvent(b"t", 0), PrefixMarked(b"r%d" % revision), Atomic([put])]
        made.append(events[kind])
        revision += 1
    return made


def records_from(position: Position, count: int) -> tuple[list[Record], Position]:
    """Records of one event each, and where they end."""
    made = []
    for _ in range(count):
        made.append(record_of(0, position, events_from(position.revision + 1, [0])))
        position = Position(made[-1].end, position.revision + 1)
    return made, position


def revisions_in(data: bytes) -> list[int]:
    """The revisions of the changes that `data` shows."""
    return [int(revision) for revision in re.findall(rb"^(?:Insert|DeletePrefix) { key: r(\d+)", data, re.MULTILINE)]


@dataclass(eq=False)
class Client:
    """A client of the feed and what it got."""

    cursor: WalCursor
    tail: Tail
    joined_at: int
    got: bytearray = field(default_factory=bytearray)


class Feed(RuleBasedStateMachine):
    """Three shards append, apply and publish; a gateway receives some of it; clients come, stall and go on."""

    clients: Bundle[Client] = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Record] = []
        self.tail_of_log = BEGIN
        self.shown_revisions: list[int] = []  # every revision that has a line
        self.open: dict[int, Record] = {}
        self.unpublished: dict[int, deque[Record]] = {shard: deque() for shard in range(SHARDS)}
        self.on_the_way: dict[int, deque[Record]] = {shard: deque() for shard in range(SHARDS)}
        self.merger = Merger(BEGIN)
        self.small = pytest.MonkeyPatch()
        self.small.setattr(tail, "CHUNK_BYTES", 60)  # some lines have more
        self.tail = Tail(BEGIN, most_bytes=2500)
        self.held = LargeFrameCache(most_idle=200, most=2000)
        self.now = 0.0
        self.marks = Marks()
        self.waiting = PendingActivity()
        self.shown = BEGIN
        self.here: list[Client] = []

    def watermark(self) -> Position:
        """As the board computes it."""
        opened = [Position(record.lsn, record.revision - 1) for record in self.open.values()]
        return min([self.tail_of_log, *opened])

    # The store

    @rule(
        shard=st.integers(0, SHARDS - 1),
        kinds=st.lists(st.integers(0, 3), min_size=1, max_size=5),
        gap=st.sampled_from([0, 0, 100]),
    )
    def append(self, shard: int, kinds: list[int], gap: int) -> None:
        """A shard that has nothing open appends."""
        if shard in self.open:
            return
        first = self.tail_of_log.revision + 1
        record = record_of(shard, self.tail_of_log, events_from(first, kinds), gap)
        self.shown_revisions += [first + i for i, kind in enumerate(kinds) if kind != 1]
        self.open[shard] = record
        self.log.append(record)
        self.tail_of_log = Position(record.end, record.next_revision - 1)

    @precondition(lambda self: not self.open)
    @rule()
    def mark(self) -> None:
        """The supervisor's records take no revision."""
        lsn, revision = self.tail_of_log
        self.log.append(Record(MARK, NO_SHARD, 0, lsn, lsn + HEADER, 0, revision + 1, 0, b""))
        self.tail_of_log = Position(lsn + HEADER, revision)

    @rule(shard=st.integers(0, SHARDS - 1))
    def apply(self, shard: int) -> None:
        """What was appended becomes visible."""
        record = self.open.pop(shard, None)
        if record is not None:
            self.unpublished[shard].append(record)

    @rule(shard=st.integers(0, SHARDS - 1), how=st.sampled_from(["whole", "whole", "announced", "lost"]))
    def publish(self, shard: int, how: str) -> None:
        """PUB may drop anything; large records are announced only."""
        if not self.unpublished[shard]:
            return
        record = self.unpublished[shard].popleft()
        if how != "lost":
            self.on_the_way[shard].append(record if how == "whole" else record._replace(payload=b""))

    @rule(
        shard=st.integers(0, SHARDS - 1),
        count=st.integers(1, 6),
        kinds=st.lists(st.integers(0, 3), min_size=1, max_size=5),
    )
    def go_smoothly(self, shard: int, count: int, kinds: list[int]) -> None:
        """Everything goes as it mostly does: a shard commits, the gateway shows, somebody reads."""
        for _ in range(count):
            self.apply(shard)
            self.append(shard, kinds, 0)
            self.apply(shard)
            while self.unpublished[shard]:
                self.publish(shard, "whole")
            self.receive(shard, 1000)
            self.somebody_reads()
            self.show_what_continues()

    # The gateway

    @rule(shard=st.integers(0, SHARDS - 1), count=st.integers(1, 4))
    def receive(self, shard: int, count: int) -> None:
        """Messages of one shard come in their order."""
        for _ in range(min(count, len(self.on_the_way[shard]))):
            self.merger.offer(self.on_the_way[shard].popleft())

    @rule()
    def show_what_continues(self) -> None:
        """A turn without reading."""
        self.show(self.merger.continuing(self.watermark()))

    @rule(most=st.integers(1, 5))
    def read_log(self, most: int) -> None:
        """A turn that reads a piece of the log."""
        watermark = self.watermark()
        found = self.read(self.merger.position.lsn, watermark.lsn, most)
        following = found[-1].end if found else watermark.lsn
        self.show(self.merger.read(found, following))

    def read(self, lsn: int, until: int, most: int) -> list[Record]:
        """As `LogReader` does."""
        return [record for record in self.log if record.lsn >= lsn and record.end <= until][:most]

    def show(self, fresh: list[Record]) -> None:
        """As `LogFollower` does."""
        assert all(record.next_revision - 1 <= self.watermark().revision for record in fresh)
        for end, frames in encode_pieces(fresh, [VIEW], self.marks, piece_bytes=100):
            self.show_piece(end, frames[VIEW])
        self.show_piece(self.shown, [])

    def show_piece(self, end: Position, frames: list[PlacedFrame]) -> None:
        """As `LogFollower` does."""
        lines = self.waiting.take(end.revision)
        if end == self.shown and not lines:
            return
        activity = activity_frames(lines, self.shown.revision, line_end)
        self.tail.append(end, merge_frames(frames, activity))
        self.shown = end

    @rule()
    def somebody_reads(self) -> None:
        """Activity, seen with the history's end at that moment."""
        end = self.tail_of_log.revision
        self.waiting.add([Activity(end, "read", b"%d" % end, 0)])

    @precondition(lambda self: not self.here)
    @rule()
    def nobody_looks(self) -> None:
        """Without clients nothing is decoded."""
        self.waiting.clear()
        self.merger.jump(self.watermark())
        self.shown = self.merger.position
        self.tail = Tail(self.shown, most_bytes=2500)

    # Clients

    @rule(target=clients)
    def join(self) -> Client:
        """From now on."""
        client = Client(self.tail.join(self.tail_of_log), self.tail, self.tail_of_log.revision)
        self.here.append(client)
        return client

    @rule(client=clients, times=st.integers(1, 8), most=st.integers(1, 3))
    def take(self, client: Client, times: int, most: int) -> None:
        """A client that can take something does."""
        for _ in range(times):
            self.take_once(client, most)

    def take_once(self, client: Client, most: int) -> None:
        """As `WalReader` does."""
        cursor = client.cursor
        begun = cursor.begun
        try:
            data = cursor.give(cursor.large) if cursor.large is not None else client.tail.next(cursor)
        except Behind:
            data = b""
            if not client.tail.rejoin(cursor):
                position = cursor.position
                found = self.read(position.lsn, client.tail.position.lsn, most)
                following = found[-1].end if found else client.tail.position.lsn
                chunks = chunks_from_log(found, following, position, VIEW, self.marks)
                chunk = next((chunk for chunk in chunks if chunk.end.revision > position.revision), chunks[-1])
                data = cursor.give(chunk)
                client.tail.rejoin(cursor)
        assert data is None or len(data) <= tail.CHUNK_BYTES
        assert cursor.begun == 0 or cursor.begun == begun + len(data or b"")
        assert data is not None or not cursor.begun
        self.held.note(cursor, self.now)
        client.got += data or b""

    @rule()
    def time_passes(self) -> None:
        """Who is within a frame, and got nothing meanwhile, may have to look for it again."""
        self.now += 2 * IDLE_S
        self.held.evict(self.now)

    @rule(client=clients)
    def settle(self, client: Client) -> None:
        """As `LogFollower` does now and then."""
        client.tail.settle(client.cursor)

    @rule(client=consumes(clients))
    def leave(self, client: Client) -> None:
        """A client goes."""
        self.here.remove(client)
        client.cursor.large = None
        self.held.note(client.cursor, self.now)

    # What holds

    @invariant()
    def everybody_has_a_beginning_of_what_is_due(self) -> None:
        """In order, each once, nothing that is not visible."""
        visible = self.watermark().revision
        for client in self.here:
            due = [revision for revision in self.shown_revisions if revision > client.joined_at]
            lines = bytes(client.got) if client.cursor.begun == 0 else client.got[: -client.cursor.begun]
            assert not lines or lines.endswith(b"\n")
            got = revisions_in(lines)
            assert got == due[: len(got)]
            assert not got or got[-1] <= visible
            self.check_reads(client)

    def check_reads(self, client: Client) -> None:
        """A line of activity never stands before a change that was made before it."""
        last = client.joined_at
        whole, _, _ = client.got.rpartition(b"\n")
        for line in whole.split(b"\n"):
            if line.startswith(b"Read"):
                seen = int(line.split(b": ")[1].rstrip(b"}"))
                assert not [r for r in self.shown_revisions if last < r <= seen], line
            elif line:
                (last,) = revisions_in(line)

    def teardown(self) -> None:
        """Everything settles: everybody has everything."""
        try:
            self.settle_all()
        finally:
            self.small.undo()

    def settle_all(self) -> None:
        for shard in range(SHARDS):
            self.apply(shard)
        self.read_log(len(self.log) + 1)
        for client in self.here:
            times = 9 * (len(self.log) + self.tail.position.revision - BEGIN.revision) + 100
            self.take(client, times, 2)
            due = [revision for revision in self.shown_revisions if revision > client.joined_at]
            assert revisions_in(client.got) == due
            assert client.cursor.begun == 0 and client.cursor.large is None


TestFeed = Feed.TestCase
TestFeed.settings = settings(max_examples=effort.times(30), stateful_step_count=60, deadline=None)


@pytest.mark.parametrize("marks", range(8))
def test_marks_before_the_record_a_client_is_within(marks: int) -> None:
    """Where only they are read, it still gets on."""
    feed = Feed()
    client = feed.join()
    for _ in range(marks):
        feed.mark()
    feed.go_smoothly(count=3, kinds=[0, 1, 1, 0], shard=0)
    feed.take(client, 5, 3)
    feed.teardown()


def test_a_skipped_revision_in_the_log_is_an_error() -> None:
    """Rather than a feed with a hole."""
    merger = Merger(BEGIN)
    record = record_of(0, Position(BEGIN.lsn, BEGIN.revision + 1), events_from(502, [0]))
    with pytest.raises(FeedBroken):
        merger.read([record], record.end)


def test_an_announced_record_is_read_as_soon_as_it_is_visible() -> None:
    """Not before, since it may not be durable, and not only when a while has passed."""
    merger = Merger(BEGIN)
    record = record_of(0, BEGIN, events_from(501, [0]))
    merger.offer(record._replace(payload=b""))
    assert not merger.must_read(BEGIN)
    behind = Position(record.end, 501)
    assert merger.must_read(behind) and merger.continuing(behind) == []
    assert merger.read([record], record.end) == [record]
    assert not merger.must_read(behind) and not merger.is_behind(behind)


def test_records_that_come_early_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first of them waits for may never come."""
    monkeypatch.setattr(order, "EARLY_BYTES", 1000)
    merger = Merger(BEGIN)
    records, end = records_from(BEGIN, 100)
    for record in records[1:]:
        merger.offer(record)
    assert len(merger) < 20
    assert merger.read(records, end.lsn) == records
    assert len(merger) == 0


def test_what_is_known_already_is_dropped() -> None:
    """From PUB, which may be behind, and from the log."""
    merger = Merger(BEGIN)
    records, end = records_from(BEGIN, 4)
    assert merger.read(records[:2], records[1].end) == records[:2]
    for record in records:
        merger.offer(record)
    assert len(merger) == 2
    assert merger.read(records, end.lsn) == records[2:]
    assert merger.position == end


def test_nothing_above_the_watermark_is_shown() -> None:
    """Even if it came, and goes on from what was shown."""
    merger = Merger(BEGIN)
    records, end = records_from(BEGIN, 3)
    for record in records:
        merger.offer(record)
    assert merger.continuing(Position(records[1].end, 502)) == records[:2]
    assert merger.continuing(end) == records[2:]


def test_activity_waits_for_its_place_and_is_bounded() -> None:
    """Lines behind what is shown wait; of too many the newest are dropped."""
    waiting = PendingActivity()
    waiting.add(Activity(end, "read", b"", 0) for end in (7, 5, 6))
    assert [line.end for line in waiting.take(6)] == [5, 6]
    waiting.add(Activity(9, "read", b"", 0) for _ in range(MOST_WAITING + 5))
    assert len(waiting) == MOST_WAITING


def test_a_client_left_behind_within_a_record_goes_on_within_it() -> None:
    """A large record is shown in pieces; the log is read from records' beginnings."""
    kept = Tail(BEGIN, most_bytes=700)
    cursor, marks = kept.join(BEGIN), Marks()
    record = record_of(0, BEGIN, events_from(501, [0] * 9))
    shown = [(end, frames[VIEW]) for end, frames in encode_pieces([record], [VIEW], marks, piece_bytes=60)]
    assert len(shown) > 2
    kept.append(*shown[0])
    got = bytearray(kept.next(cursor) or b"")
    for end, frames in shown[1:]:
        kept.append(end, frames)
    with pytest.raises(Behind):
        kept.next(cursor)
    assert cursor.position.lsn == record.lsn
    (chunk,) = chunks_from_log([record], record.end, cursor.position, VIEW, marks)
    got += cursor.give(chunk)
    assert kept.rejoin(cursor)
    assert kept.next(cursor) is None
    assert revisions_in(got) == list(range(501, 510))
    assert cursor.position == Position(record.end, 509)


def absent(key: bytes, end: int) -> Activity:
    return Activity(end, "delete", key, 0)


def test_a_line_that_comes_too_late_never_takes_away_what_was_put() -> None:
    puts = order.LatestPuts(10)
    puts.note(b"k", 12)
    assert puts.contradict(absent(b"k", 11), 13), "the put is shown already"
    assert not puts.contradict(absent(b"k", 12), 13), "it was put before"
    assert not puts.contradict(absent(b"k", 11), 11), "the line stands before the put"
    assert not puts.contradict(absent(b"other", 11), 13)
    assert not puts.contradict(Activity(11, "read", b"k", 0), 13), "other lines take nothing away"


def test_what_is_not_known_to_be_harmless_is_not_shown() -> None:
    puts = order.LatestPuts(10, most=2)
    assert puts.contradict(absent(b"k", 9), 11), "from before the gateway looked"
    for revision, key in enumerate([b"a", b"b", b"a", b"c"], start=11):
        puts.note(key, revision)  # `b` at 12 is forgotten
    assert puts.contradict(absent(b"x", 11), 14)
    assert not puts.contradict(absent(b"x", 12), 14)
    assert puts.contradict(absent(b"a", 12), 14)
    puts.forget(20)
    assert puts.contradict(absent(b"x", 19), 21)
    assert not puts.contradict(absent(b"x", 20), 21)
