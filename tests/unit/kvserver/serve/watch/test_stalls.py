"""How long values have not changed, and who holds a lock; the clock is an argument."""

from __future__ import annotations

from kvserver.serve.watch.stalls import Unchanged, parse_flocks


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
