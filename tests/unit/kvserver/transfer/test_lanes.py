"""Lanes keep the order per key, and report the error of the first line."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvserver.transfer.lanes import Lanes
from kvserver.transfer.records import (
    ImportBatch,
    LineError,
)
from tests import effort
from tests.unit.kvserver.transfer.test_records import record


@settings(max_examples=effort.times(10), deadline=None)  # threads have their turn when the machine likes
@given(st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3, unique=True), max_size=12))
def test_lanes_keep_the_order_of_each_key(batched: list[list[str]]) -> None:
    done: list[tuple[str, int]] = []
    going: list[int] = []

    def work(batch: ImportBatch) -> None:
        going.append(len(done))
        done.extend((each.key, each.line) for each in batch.records)

    lanes = Lanes(work, 3)
    for number, keys in enumerate(batched):
        batch = ImportBatch()
        for key in keys:
            batch.add(record(number, key))
        lanes.submit(batch)
    lanes.finish()
    assert len(going) == len(batched)
    for key in "abcdef":
        assert [line for name, line in done if name == key] == [n for n, keys in enumerate(batched) if key in keys]


def test_lanes_tell_the_error_of_the_first_line() -> None:
    first_may_fail = threading.Event()

    def work(batch: ImportBatch) -> None:
        line = batch.records[0].line
        if line == 1:
            first_may_fail.wait(20)
        raise LineError(line, "refused")

    lanes = Lanes(work, 2)
    for line in (1, 2):
        batch = ImportBatch()
        batch.add(record(line, str(line)))
        lanes.submit(batch)
    with pytest.raises(LineError) as raised:
        lanes.submit(ImportBatch())  # there is no room until one of them has failed
    assert raised.value.line == 2
    first_may_fail.set()
    with pytest.raises(LineError) as raised:
        lanes.finish()
    assert raised.value.line == 1
