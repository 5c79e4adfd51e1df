"""When a child that died is restarted; the clock is an argument."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvserver.serve.children import Backoff


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
