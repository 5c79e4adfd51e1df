"""Blocks of the log for clients that are behind."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from kvserver.gateway.feed.walk import Overtaken
from kvserver.gateway.history import log_blocks
from kvserver.gateway.history.log_blocks import LogBlocks
from kvserver.gateway.wal.tail import Position
from shards.log.files import Trimmed
from shards.log.records import DATA, Record
from shards.wire.protocol import PutEvent, encode_events

SIZE = 1000
FIRST = 101
"""The first revision of this run; those from 91 on are of an earlier one, whose next revisions nobody was given."""


class Log:
    """A log of records of one put each; five are read at a time. A segment has ten."""

    def __init__(self, revisions: list[int]) -> None:
        self.records = []
        for number, revision in enumerate(revisions):
            payload = encode_events([PutEvent(b"k", b"", "", 0)])
            lsn = number * SIZE
            self.records.append(Record(DATA, 0, 1, lsn, lsn + SIZE, 0, revision, 0, payload))
        self.oldest, self.oldest_revision = 0, revisions[0]
        self.reads: list[int] = []

    def trim(self, count: int) -> None:
        self.oldest, self.oldest_revision = self.records[count].lsn, self.records[count].revision

    def read(self, lsn: int, until: int, limit: int = 0) -> tuple[list[Record], int]:
        if lsn < self.oldest:
            raise Trimmed(self.oldest)
        self.reads.append(lsn)
        found = [each for each in self.records if each.lsn >= lsn and each.end <= until][:5]
        return found, found[-1].end if found else until


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    monkeypatch.setattr(log_blocks, "breathe", lambda: None)
    monkeypatch.setattr(log_blocks, "SEGMENT", 10 * SIZE)
    return Log([*range(91, 95), *range(FIRST, FIRST + 30)])


@pytest.fixture
def blocks(log: Log) -> LogBlocks:
    board: Any = SimpleNamespace(log=log, facts=SimpleNamespace(first_revision=FIRST, node=""))
    reader: Any = log
    end = Position(log.records[-1].end, log.records[-1].revision)
    return LogBlocks(board, reader, Counter(), lambda: end)


def test_a_block_is_found_by_any_of_its_revisions(log: Log, blocks: LogBlocks) -> None:
    """The first look notes where segments begin, and reads from the nearest."""
    assert blocks.find(110) is None
    block = blocks.read(110)
    assert block.begin < 111 <= block.end and log.reads[-1] >= 10 * SIZE
    assert [each.revision for each in block.events] == list(range(block.begin + 1, block.end + 1))
    for revision in range(block.begin, block.end):
        assert blocks.find(revision) is block
    assert blocks.find(block.end) is None


def test_what_was_trimmed_is_overtaken(log: Log, blocks: LogBlocks) -> None:
    assert blocks.read(91).begin < 92
    log.trim(12)
    for revision in (91, log.oldest_revision - 2):
        with pytest.raises(Overtaken):
            blocks.read(revision)
    block = blocks.read(log.oldest_revision + 10)
    assert block.end > log.oldest_revision + 10


def test_which_revisions_were_given_out(log: Log, blocks: LogBlocks) -> None:
    """Those of this run without a look; of an earlier one, those that the log has. It looks once for each."""
    assert blocks.was_given_out(FIRST + 5) and blocks.was_given_out(FIRST - 1) and not log.reads
    assert blocks.was_given_out(92) and blocks.was_given_out(94)
    assert not blocks.was_given_out(95) and not blocks.was_given_out(99)
    reads = len(log.reads)
    assert blocks.was_given_out(92) and not blocks.was_given_out(99)
    assert len(log.reads) == reads
    log.trim(12)
    with pytest.raises(Overtaken):
        blocks.was_given_out(93)


def test_in_a_cluster_all_are_places_whatever_this_machine_may_show_yet(log: Log) -> None:
    """A machine that starts again may not show the end of its own log before the others have told that they have it."""
    board: Any = SimpleNamespace(log=log, facts=SimpleNamespace(first_revision=FIRST + 30, node="a"))
    reader: Any = log
    blocks = LogBlocks(board, reader, Counter(), lambda: Position(log.records[5].end, log.records[5].revision))
    assert all(blocks.was_given_out(revision) for revision in (FIRST, FIRST + 20, FIRST + 40)) and not log.reads


def test_answers_are_bounded(monkeypatch: pytest.MonkeyPatch, blocks: LogBlocks) -> None:
    monkeypatch.setattr(log_blocks, "MOST_ANSWERS", 2)
    for revision in (91, 92, 93, 95):
        blocks.was_given_out(revision)
        assert len(blocks._given_out) <= 2
