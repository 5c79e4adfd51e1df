"""Clients of `/wal`: those that keep up share a tail, those left behind share what they read again."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from kvserver.gateway.feed.walk import ClientGone
from kvserver.gateway.history.catch_up import CatchUpTurns
from kvserver.gateway.history.order import encode_pieces
from kvserver.gateway.history.wal_readers import MOST_TAIL_BYTES, WalReader, WalReaders
from kvserver.gateway.transport.send_budget import BudgetCharge, SendBudget
from kvserver.gateway.wal.tail import TAIL_BYTES, Position
from kvserver.gateway.wal.views import View
from shards.log.files import Trimmed
from shards.log.records import DATA, Record
from shards.wire.protocol import Activity, PutEvent, encode_events

BEGIN = Position(0, 0)


def encode(line: bytes) -> bytes:
    return line + b"\n"


def record(revision: int) -> Record:
    payload = encode_events([PutEvent(b"%d" % revision, b"", "", 0)])
    lsn = 1000 * (revision - 1)
    return Record(DATA, 0, 1, lsn, lsn + 1000, 0, revision, 0, payload)


class FakeLog:
    """A log of records that are 1,000 bytes apart."""

    def __init__(self, count: int) -> None:
        self.records = [record(revision) for revision in range(1, count + 1)]
        self.reads = 0

    def read(self, lsn: int, until: int, limit: int) -> tuple[list[Record], int]:
        self.reads += 1
        found = [each for each in self.records if each.lsn >= lsn and each.end <= until][:4]
        return found, found[-1].end if found else until


class House:
    """Readers of some views, and what is shown to them."""

    def __init__(self, count: int = 12) -> None:
        self.log: Any = FakeLog(count)
        self.readers = WalReaders(self.log, Counter(), CatchUpTurns())
        self.shown = BEGIN
        self.woken: list[str] = []

    def add(self, name: str = "", view: View | None = None, budget: SendBudget | None = None) -> WalReader:
        return self.readers.add(
            view or View(encode), self.shown, self.shown, lambda: self.woken.append(name), budget or SendBudget()
        )

    def show(self, until: int, lines: list[Activity] | None = None) -> None:
        fresh = self.log.records[self.shown.revision : until]
        for end, frames in encode_pieces(fresh, list(self.readers.tails), self.readers.marks):
            self.readers.show(self.shown, end, frames, lines or [])
            self.shown = end


def taken(reader: WalReader) -> list[int]:
    """The keys of what a reader gets."""
    data = b""
    while (piece := reader.next_piece()) is not None:
        data += piece.data
    return [int(line.split(b" key: ")[1].split(b",")[0]) for line in data.splitlines()]


def test_clients_of_a_view_share_a_tail() -> None:
    house = House()
    first, second = house.add("first"), house.add("second")
    house.show(3)
    assert sorted(house.woken) == ["first", "second"] and len(house.readers.tails) == 1
    assert taken(first) == taken(second) == [1, 2, 3] and house.readers.counts["deliveries"] == 6
    house.readers.remove(first)
    assert len(house.readers) == 1 and house.readers.tails
    house.readers.remove(second)
    assert not house.readers.tails and not len(house.readers)


def test_a_view_that_shows_nothing_wakes_nobody() -> None:
    house = House()
    narrow = house.add("narrow", View(encode, (b"1",)))
    house.add("all")
    house.show(1)
    house.woken.clear()
    house.show(2)
    assert house.woken == ["all"] and taken(narrow) == [1]


def test_activity_is_shown_behind_its_revision() -> None:
    house = House()
    reader = house.add()
    house.show(1, [Activity(1, "read", b"9, x", 0)])
    assert taken(reader) == [1, 9]


def test_clients_left_behind_read_the_log_together() -> None:
    house = House()
    readers = [house.add() for _ in range(3)]
    house.readers.tails[View(encode)].most_bytes = 1
    for until in range(1, 13):
        house.show(until)
    assert [taken(reader) for reader in readers] == [list(range(1, 13))] * 3
    assert house.log.reads == house.readers.counts["log_reads"] == 3


def test_a_client_left_behind_that_has_gone_reads_no_log() -> None:
    house = House()
    reader = house.add()
    house.readers.tails[View(encode)].most_bytes = 1
    for until in range(1, 13):
        house.show(until)
    reader.turn.is_over = lambda: True
    with pytest.raises(ClientGone):
        reader.next_piece()
    assert not house.log.reads


def test_nothing_is_given_while_the_budget_is_full() -> None:
    house, budget = House(), SendBudget(100)
    reader = house.add("waits", budget=budget)
    house.show(1)
    charge = BudgetCharge(budget)
    charge.set_bytes(100)
    house.woken.clear()
    assert reader.next_piece() is None and reader.waits
    house.readers.each_second()
    assert house.woken == ["waits"]
    charge.set_bytes(0)
    assert taken(reader) == [1]


def test_what_is_trimmed_ends_the_clients_that_lack_it() -> None:
    house = House()
    reader = house.add("gone")
    house.readers.overtake(Trimmed(5), Position(9000, 9))
    assert house.woken == ["gone"]
    with pytest.raises(Trimmed):
        reader.next_piece()
    assert house.readers.tails[View(encode)].position == Position(9000, 9)


def test_many_views_share_the_memory() -> None:
    house = House()
    readers = [house.add(view=View(encode, (b"%d" % number,))) for number in range(8)]
    assert {tail.most_bytes for tail in house.readers.tails.values()} == {MOST_TAIL_BYTES // 8}
    for reader in readers[2:]:
        house.readers.remove(reader)
    assert {tail.most_bytes for tail in house.readers.tails.values()} == {TAIL_BYTES}
