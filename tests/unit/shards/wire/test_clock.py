"""Two clocks: when what expires is over, what people are told of it, and how steady time goes on over restarts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.wire.clock import FIRST_MS, LAST_MS, Now, counted_ms, is_live, lifetime, overdue_ms, resumed, unix_ms

T = 1_795_000_000_000
STEPS = st.integers(-(10**12), 10**12)


@pytest.mark.parametrize(("expiry", "live"), [(0, True), (6, True), (5, False), (4, False)])
def test_the_time_of_expiry_itself_is_too_late(expiry: int, live: bool) -> None:
    assert is_live(expiry, Now(5, 0)) is live
    assert is_live(-expiry, Now(0, 5)) is live


@given(ttl_ms=st.integers(1, 10**12), elapsed_ms=st.integers(0, 10**12), step_ms=STEPS)
def test_a_lifetime_lasts_as_long_however_the_clock_is_set(ttl_ms: int, elapsed_ms: int, step_ms: int) -> None:
    begun = Now(T, 7)
    expiry = lifetime(ttl_ms, begun)
    later = Now(begun.wall_ms + elapsed_ms + step_ms, begun.steady_ms + elapsed_ms)
    assert is_live(expiry, later) is (elapsed_ms < ttl_ms)
    assert overdue_ms(expiry, later) == elapsed_ms - ttl_ms


@given(expires_ms=st.integers(1, 1 << 53), elapsed_ms=st.integers(0, 10**12), step_ms=STEPS)
def test_a_time_is_what_the_clock_says_now(expires_ms: int, elapsed_ms: int, step_ms: int) -> None:
    later = Now(max(0, T + elapsed_ms + step_ms), 7 + elapsed_ms)
    assert is_live(expires_ms, later) is (expires_ms > later.wall_ms)
    assert unix_ms(expires_ms, later) == expires_ms


@given(ttl_ms=st.integers(1, 10**12), elapsed_ms=st.integers(0, 10**12), step_ms=STEPS)
def test_what_is_there_is_never_told_to_be_over(ttl_ms: int, elapsed_ms: int, step_ms: int) -> None:
    expiry = lifetime(ttl_ms, Now(T, 7))
    later = Now(max(0, T + elapsed_ms + step_ms), 7 + elapsed_ms)
    assert unix_ms(expiry, later) > 0
    if is_live(expiry, later):
        assert unix_ms(expiry, later) > later.wall_ms


def test_never_is_never() -> None:
    assert is_live(0, Now(1 << 60, 1 << 60))
    assert unix_ms(0, Now(5, 9)) == 0


class TestResumed:
    def test_a_new_store_begins_at_the_clock(self) -> None:
        assert 900 + resumed(Now(0, 0), T, 900, None) == T

    @given(down_ms=st.integers(0, 10**12), step_ms=STEPS)
    def test_within_a_boot_no_step_counts(self, down_ms: int, step_ms: int) -> None:
        last, offset_ms = Now(T, 5_000), 4_000
        boottime_ms = 1_000 + down_ms
        now_ms = boottime_ms + resumed(last, T + down_ms + step_ms, boottime_ms, offset_ms)
        assert now_ms == last.steady_ms + down_ms

    @given(down_ms=st.integers(0, 10**12))
    def test_over_a_boot_the_clock_tells(self, down_ms: int) -> None:
        assert 30 + resumed(Now(T, 5_000), T + down_ms, 30, None) == 5_000 + down_ms

    @given(behind_ms=st.integers(0, 10**12))
    def test_set_back_over_a_boot_it_stands_still_and_never_goes_back(self, behind_ms: int) -> None:
        assert 30 + resumed(Now(T, 5_000), T - behind_ms, 30, None) == 5_000

    def test_an_offset_that_would_lead_back_is_not_taken(self) -> None:
        assert 30 + resumed(Now(T, 5_000), T + 7, 30, 100) == 5_007

    @given(wall_ms=st.integers(FIRST_MS, LAST_MS), last_ms=st.integers(FIRST_MS, LAST_MS))
    def test_a_clock_that_is_set_to_and_fro_leads_no_further_than_times_go(self, wall_ms: int, last_ms: int) -> None:
        assert 30 + resumed(Now(last_ms, LAST_MS - 5), wall_ms, 30, None) <= LAST_MS
        assert 30 + resumed(Now(last_ms, LAST_MS + 5), wall_ms, 30, None) == LAST_MS + 5


@pytest.mark.parametrize(
    ("clock_ms", "counted"),
    [
        (-1, FIRST_MS),
        (0, FIRST_MS),
        (FIRST_MS, FIRST_MS),
        (T, T),
        (LAST_MS, LAST_MS),
        (LAST_MS + 1, LAST_MS),
        (-(1 << 62), FIRST_MS),
        (1 << 62, LAST_MS),
    ],
)
def test_what_no_clock_should_say_counts_as_the_nearest_time(clock_ms: int, counted: int) -> None:
    assert counted_ms(clock_ms) == counted
