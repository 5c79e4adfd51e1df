"""Long work in steps, so that other work can run in between. Pure.

Work is a generator that yields after each step of well under a millisecond, and returns its result. A thread would not
do: it keeps the interpreter for 5 ms at a time, and for a call in C as long as the call takes.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

Result = TypeVar("Result")
Steps = Generator[None, None, Result]


def run_at_once(steps: Steps[Result]) -> Result:
    """Run `steps` to their end, however long that takes, and return their result. Raises what they raise."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: Result = done.value
            return result
