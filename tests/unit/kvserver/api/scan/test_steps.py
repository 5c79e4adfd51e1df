"""Work in steps that is run at once."""

from __future__ import annotations

import pytest

from kvserver.api.scan.steps import Steps, run_at_once


def count(steps: int, done: list[int]) -> Steps[str]:
    for step in range(steps):
        done.append(step)
        yield
    return "done"


@pytest.mark.parametrize("steps", [0, 1, 1000])
def test_all_steps_are_done_and_the_result_returned(steps: int) -> None:
    done: list[int] = []
    assert run_at_once(count(steps, done)) == "done"
    assert done == list(range(steps))


def test_what_a_step_raises_is_raised() -> None:
    def fail() -> Steps[None]:
        yield
        raise KeyError("second step")

    with pytest.raises(KeyError, match="second step"):
        run_at_once(fail())
