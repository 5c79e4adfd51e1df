"""How hard tests try. Each run tries a little, at random; `--hypothesis-profile=long` ten times as much."""

from __future__ import annotations

from typing import Final

from hypothesis import settings

_EXAMPLES: Final = 40
_LONG: Final = 10


def register() -> None:
    """Name the two profiles to Hypothesis; the usual one is in effect until another is chosen."""
    settings.register_profile("usual", max_examples=_EXAMPLES, deadline=None)
    settings.register_profile("long", max_examples=_EXAMPLES * _LONG, deadline=None)
    settings.load_profile("usual")


def times(count: int) -> int:
    """How many examples to try, or rounds to play, where a usual run has `count`."""
    return max(1, count * settings.default.max_examples // _EXAMPLES)
