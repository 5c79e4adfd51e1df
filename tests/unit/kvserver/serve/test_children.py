"""When a child that died is started again, and who is seen to stand still; the clock is an argument."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvserver.serve.children import Backoff
from kvserver.serve.watch.stalls import Unchanged, parse_flocks


def test_at_once_then_ever_longer_up_to_five_seconds() -> None:
    backoff = Backoff()
    waits = [backoff.after_life_of(0.1) for _ in range(10)]
    assert waits == [0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]


def test_a_long_life_makes_it_all_forgotten() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.after_life_of(1)
    assert [backoff.after_life_of(lived) for lived in (10, 9.9, 9.9)] == [0, 0.05, 0.1]


@given(st.lists(st.floats(0, 100), max_size=2000))
def test_it_never_waits_longer_nor_less_than_nothing(lives: list[float]) -> None:
    backoff = Backoff()
    assert all(0 <= backoff.after_life_of(lived) <= Backoff.MOST_S for lived in lives)


def test_unchanged_counts_from_the_first_look() -> None:
    unchanged = Unchanged()
    assert [unchanged.unchanged_s("a", 1, now) for now in (5, 6, 8)] == [0, 1, 3]


def test_a_change_and_a_pause_start_the_count_again() -> None:
    unchanged = Unchanged()
    assert [unchanged.unchanged_s("a", value, now) for now, value in ((0, 1), (2, 2), (3, 2))] == [0, 0, 1]
    assert [unchanged.unchanged_s("a", value, now) for now, value in ((4, None), (5, 2), (6, 2))] == [0, 0, 1]


def test_names_are_counted_apart() -> None:
    unchanged = Unchanged()
    unchanged.unchanged_s("a", 1, 0)
    assert [unchanged.unchanged_s("b", 1, 2), unchanged.unchanged_s("a", 1, 2)] == [0, 2]


LOCKS = """\
1: FLOCK  ADVISORY  WRITE 4242 08:01:131 0 EOF
2: OFDLCK ADVISORY  WRITE -1 08:01:131 0 0
2: -> FLOCK  ADVISORY  WRITE 17 08:01:131 0 EOF
3: POSIX  ADVISORY  WRITE 55 08:01:131 0 EOF
4: FLOCK  ADVISORY  WRITE 0 08:01:131 0 EOF
5: FLOCK  ADVISORY  WRITE 77 08:01:1131 0 EOF
6: FLOCK  ADVISORY  WRITE 78 fd:00:132 0 EOF
7: LEASE  ACTIVE    READ 9 08:01:131 0 EOF
"""


def test_holders_of_a_flock_are_told_from_those_who_wait_and_from_other_locks() -> None:
    assert parse_flocks(LOCKS, 131) == ([4242], {17})  # 0: the holder is outside of this PID namespace
    assert parse_flocks(LOCKS, 132) == ([78], set())
    assert parse_flocks(LOCKS, 31) == parse_flocks("", 131) == ([], set())
