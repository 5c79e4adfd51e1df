"""Segments are prepared, the log is marked and trimmed, and a full disk is reported, by threads on a real store."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from kvserver.access import tickets
from kvserver.serve.watch import housekeeping
from kvserver.serve.watch.housekeeping import Housekeeping
from shards.log.appender import LogAppender
from shards.log.records import MARK
from tests.stores import Store, new_store
from tests.system.harness import wait_for


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = new_store(tmp_path, shards=1, segment=1 << 20)
    yield made
    made.close()


@pytest.fixture
def keeping(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Housekeeping]:
    for name in ("MARK_S", "FULL_S", "TICKETS_S"):
        monkeypatch.setattr(housekeeping, name, 0.01)
    made = Housekeeping(store.board, store.segments, retention=0, replay_lsn=0)
    yield made
    made.stop()


def kinds(store: Store) -> list[int]:
    reader = store.reader()
    records, _ = reader.read(0, store.board.history()[0])
    reader.close()
    return [record.kind for record in records]


def test_a_segment_is_ready_before_it_is_needed(store: Store, keeping: Housekeeping) -> None:
    keeping.start()
    wait_for(lambda: store.board.log.ready > store.segment, "the next segment")
    assert keeping.failure is None


def test_an_idle_log_is_marked_until_that_is_stopped(
    store: Store, keeping: Housekeeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "LogAppender", partial(LogAppender, segment=store.segment))
    keeping.start()
    wait_for(lambda: MARK in kinds(store), "a mark")
    keeping.stop_marking()
    tail = store.board.history()[0]
    wait_for(lambda: not any(each.name == "_write_marks" for each in housekeeping.threading.enumerate()), "its end")
    assert store.board.history()[0] == tail


def test_tickets_that_have_expired_are_swept(
    store: Store, keeping: Housekeeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[object] = []
    monkeypatch.setattr(tickets, "sweep_tickets", swept.append)
    keeping.start()
    wait_for(lambda: len(swept) > 1, "two rounds")
    assert swept[0] is store.board


def test_a_failure_is_kept_for_the_supervisor(
    store: Store, keeping: Housekeeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bool:
        raise ValueError("no such thing")

    monkeypatch.setattr(store.segments, "prepare_next", broken)
    keeping.start()
    wait_for(lambda: keeping.failure is not None, "the failure")
    assert isinstance(keeping.failure, ValueError)


def test_a_full_disk_is_reported_once_each_way(
    store: Store, keeping: Housekeeping, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, housekeeping.__name__)
    passes: list[int] = []
    monkeypatch.setattr(store.segments, "prepare_next", lambda _: passes.append(1))
    store.board.log.full = 1
    keeping.start()
    wait_for(lambda: len(passes) > 3, "some passes")
    store.board.log.full = 0
    seen = len(passes)
    wait_for(lambda: len(passes) > seen + 3, "some more")
    said = [record.getMessage() for record in caplog.records]
    assert [text.startswith("no space left") for text in said] == [True, False]
    assert said[1] == "space for the log is available again"


def test_a_snapshot_moves_the_replay_position(store: Store, keeping: Housekeeping) -> None:
    tail = store.board.history()[0]
    keeping.note_snapshot(tail)
    assert store.board.log.snapshot == tail
