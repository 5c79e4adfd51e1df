"""The schedule of the long form: a seed repeats it, and nothing is left out."""

from __future__ import annotations

import inspect
from itertools import islice

from tests.cluster import nemeses
from tests.cluster.storm import schedule


def first(seed: int, count: int) -> list[tuple[nemeses.Fault, float]]:
    return [(fault, chance.random()) for fault, chance in islice(schedule(seed), count)]


def test_a_seed_repeats_the_schedule() -> None:
    assert first(1, 100) == first(1, 100) != first(2, 100)


def test_each_fault_comes_in_every_round() -> None:
    count = len(nemeses.ALL)
    faults = [fault for fault, _ in first(3, 3 * count)]
    for at in range(3):
        assert set(faults[at * count :][:count]) == set(nemeses.ALL)


def test_all_faults_are_in_the_schedule() -> None:
    wanted = ["machines", "crowd", "chance"]
    found = [each for each in vars(nemeses).values() if inspect.isfunction(each) and parameters(each) == wanted]
    assert sorted(nemeses.ALL, key=str) == sorted(found, key=str)


def parameters(function: object) -> list[str]:
    assert callable(function)
    return list(inspect.signature(function).parameters)
