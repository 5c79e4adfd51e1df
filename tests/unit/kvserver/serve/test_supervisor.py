"""The intervals of the supervisor's loop; the clock is an argument."""

from __future__ import annotations

from kvserver.serve.supervisor import Every


def test_an_interval_is_due_once_after_each_time_it_has_passed() -> None:
    every = Every(2.0)
    assert [every.is_due(now) for now in (1.0, 1.5, 2.9, 3.0, 3.1, 9.0, 9.1)] == [
        True,
        False,
        False,
        True,
        False,
        True,
        False,
    ]


def test_the_first_time_may_be_later() -> None:
    every = Every(2.0, due_at=5.0)
    assert [every.is_due(now) for now in (0.0, 4.9, 5.0, 6.9, 7.0)] == [False, False, True, False, True]
