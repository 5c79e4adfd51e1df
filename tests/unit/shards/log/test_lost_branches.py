"""Whatever the data directory is put back to, and whenever: no revision is given out twice, who comes with a cursor of
what was lost is told, and who comes with any other is not.

A store runs, stops, is copied, is put back to any copy, is trimmed; its clock goes on, now and then stands still or is
set back while none of its revisions was given out by it. What a revision means is a number that is never used again.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvserver.gateway.feed.cursors import FeedCursor, find_obstacle, is_place
from shards.log.epoch import first_revision, first_revision_of_run
from shards.log.records import DATA, HEADER, NO_SHARD, START, Record
from tests import effort

EPOCH = "e"
NOW = 1_795_000_000_000


@dataclass(frozen=True)
class Data:
    """What is in a data directory: the log's records, the first of them that is kept, and what each change means."""

    records: tuple[Record, ...] = ()
    trimmed: int = 0
    meanings: tuple[tuple[int, int], ...] = ()

    @property
    def end(self) -> int:
        return self.records[-1].next_revision - 1 if self.records else 0

    @property
    def oldest(self) -> int:
        return self.records[self.trimmed].revision

    def appended(self, kind: int, revision: int, meanings: tuple[int, ...] = ()) -> Data:
        lsn = self.records[-1].end if self.records else 0
        record = Record(kind, NO_SHARD, len(meanings), lsn, lsn + HEADER, 0, revision, 0, b"")
        return Data((*self.records, record), self.trimmed, (*self.meanings, *enumerate(meanings, revision)))


class LostBranches(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_ms = NOW
        self.meaning = 0
        self.given: dict[int, int] = {}
        self.data = Data()
        self.data = self.data.appended(START, first_revision(0, self.now_ms))
        self.copies = [self.data]
        self.cursors: dict[tuple[int, tuple[tuple[int, int], ...]], None] = {}
        self.block = 1

    @rule(changes=st.lists(st.integers(1, 4), min_size=1, max_size=4))
    def write(self, changes: list[int]) -> None:
        for count in changes:
            meanings = tuple(range(self.meaning, self.meaning + count))
            self.meaning += count
            revision = self.data.end + 1
            for number, meaning in enumerate(meanings, revision):
                assert self.given.setdefault(number, meaning) == meaning, "a revision was given out twice"
            self.data = self.data.appended(DATA, revision, meanings)

    @rule()
    def give_a_cursor(self) -> None:
        self.cursors[self.data.end, self.data.meanings] = None

    @rule()
    def copy(self) -> None:
        self.copies.append(self.data)

    @rule(elapsed_ms=st.sampled_from([1, 2, 1000, 86_400_000]))
    def restart(self, elapsed_ms: int) -> None:
        self.now_ms += elapsed_ms
        self.data = self.data.appended(START, first_revision_of_run(self.data.end, self.now_ms))

    @rule(data=st.data(), elapsed_ms=st.sampled_from([1, 2, 1000]))
    def put_back(self, data: st.DataObject, elapsed_ms: int) -> None:
        """The run that is lost has not been as fast as 1,024 changes a millisecond: no test can be."""
        self.data = data.draw(st.sampled_from(self.copies))
        self.restart(elapsed_ms)

    @rule(count=st.integers(1, 4))
    def trim(self, count: int) -> None:
        data = self.data
        self.data = Data(data.records, min(data.trimmed + count, len(data.records) - 1), data.meanings)

    @rule(records=st.integers(1, 5))
    def read_in_other_steps(self, records: int) -> None:
        self.block = records

    def why_not(self, revision: int) -> str | None:
        """As a gateway finds out."""
        data = self.data
        reason = find_obstacle(FeedCursor(EPOCH, revision), epoch=EPOCH, end=data.end, oldest=data.oldest, crc=0)
        if reason is not None:
            return reason
        reached = data.oldest - 1
        for at in range(data.trimmed, len(data.records), self.block):
            found = is_place(revision, data.records[at : at + self.block], reached)
            if found is not None:
                return None if found else "bad_cursor"
            reached = data.records[min(at + self.block, len(data.records)) - 1].next_revision - 1
        return None if reached == revision else "bad_cursor"

    @invariant()
    def each_is_told_what_is_true(self) -> None:
        for revision, meanings in self.cursors:
            why_not = self.why_not(revision)
            held = tuple(change for change in self.data.meanings if change[0] <= revision)
            if why_not is None:
                assert held == meanings, "it would miss changes, or keep what was lost"
            elif held == meanings and any(
                record.revision - 1 == revision if record.kind == START else record.next_revision - 1 == revision
                for record in self.data.records
            ):
                assert why_not == "trimmed" and revision < self.data.oldest - 1


TestLostBranches = LostBranches.TestCase
TestLostBranches.settings = settings(max_examples=effort.times(30), stateful_step_count=40, deadline=None)
