"""When a new history begins, and with which revision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.log.epoch import MAX_REVISION, first_revision, first_revision_of_run, reason_for_new_epoch
from shards.log.records import Start

NOW_MS = 1_790_000_000_000  # 2026
YEAR_2200_MS = 7_258_118_400_000


def run(sync: str) -> Start:
    return Start(store="s", epoch="e", boot_id="then", sync=sync, version="1")


@pytest.mark.parametrize("sync", ["always", "everysec", "os"])
@pytest.mark.parametrize("boot_id", ["then", "now"])
@pytest.mark.parametrize("clean", [True, False])
def test_a_crash_of_the_machine_ends_a_history_that_was_not_flushed(sync: str, boot_id: str, clean: bool) -> None:
    reason = reason_for_new_epoch(run(sync), boot_id, stopped_clean=clean)
    assert (reason is not None) is (sync != "always" and boot_id == "now" and not clean)


def test_a_new_store_has_a_new_history() -> None:
    assert reason_for_new_epoch(None, "now", stopped_clean=False) == "the store is new"


@pytest.mark.parametrize("cause", ["in_memory", "copied", "repaired"])
def test_causes_that_no_flush_and_no_stop_outweigh(cause: str) -> None:
    assert reason_for_new_epoch(run("always"), "then", stopped_clean=True, **{cause: True})


@given(st.integers(0, 1 << 52), st.integers(0, 1 << 42))
def test_a_new_history_starts_above_all_earlier_ones(last_known: int, now_ms: int) -> None:
    first = first_revision(last_known, now_ms)
    assert last_known + (1 << 28) <= first < MAX_REVISION
    assert first >= now_ms << 10


@given(st.integers(1, 10**10), st.integers(0, 10**7))
def test_a_history_whose_log_is_lost_does_not_return(lived_ms: int, changes_per_s: int) -> None:
    # Up to a million changes a second over a life of the store, a later start's clock is ahead of its revisions.
    last = first_revision(0, NOW_MS) + lived_ms * min(changes_per_s, 1_000_000) // 1000
    assert first_revision(0, NOW_MS + lived_ms) >= last


def test_a_new_store_starts_at_the_clock() -> None:
    assert first_revision(0, NOW_MS) == NOW_MS * 1024


@pytest.mark.parametrize("first", [first_revision, first_revision_of_run])
@given(last_known=st.integers(0, 1 << 52), now_ms=st.integers(0, 1 << 43))
def test_a_wrong_date_uses_up_no_more_than_it_must(
    first: Callable[[int, int], int], last_known: int, now_ms: int
) -> None:
    assert last_known < first(last_known, now_ms) <= max(last_known + (1 << 29), YEAR_2200_MS << 10)


def test_the_end_of_all_revisions_is_told() -> None:
    for first in (first_revision, first_revision_of_run):
        with pytest.raises(OverflowError, match="no revisions are left"):
            first(MAX_REVISION - 2, NOW_MS)


@given(st.integers(0, 1 << 40), st.integers(1, 10**9))
def test_a_run_starts_at_the_clock_as_long_as_that_is_ahead(behind: int, elapsed_ms: int) -> None:
    last = (NOW_MS << 10) - behind
    assert first_revision_of_run(last, NOW_MS + elapsed_ms) == NOW_MS + elapsed_ms << 10


@given(st.integers(0, 1 << 40))
def test_runs_that_the_clock_cannot_tell_apart_start_at_random(ahead: int) -> None:
    last = (NOW_MS << 10) + ahead
    starts = {first_revision_of_run(last, NOW_MS) for _ in range(4)}
    assert min(starts) > last + 1
    assert len(starts) > 1
