"""The cache of what was read from the log again."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvserver.gateway.history.reread import RereadCache

STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 60)), max_size=40)


@settings(deadline=None)
@given(STEPS)
def test_the_least_recently_used_go_first(steps: list[tuple[bool, int, int]]) -> None:
    """As a list does it; the last value always stays, however large it is."""
    cache: RereadCache[int, int] = RereadCache(100)
    model: list[tuple[int, int]] = []
    for is_put, key, size in steps:
        at = next((i for i, (known, _) in enumerate(model) if known == key), None)
        if is_put:
            cache.put(key, size, size)
            if at is None:
                model.append((key, size))
            else:
                model[at] = (key, size)
            while len(model) > 1 and sum(size for _, size in model) > 100:
                del model[0]
        else:
            assert cache.get(key) == (None if at is None else model[at][1])
            if at is not None:
                model.append(model.pop(at))
        assert list(cache.items()) == model and len(cache) == len(model)


def test_the_newest_stays() -> None:
    cache: RereadCache[str, str] = RereadCache(10)
    cache.put("a", "x", 5)
    cache.put("b", "y", 1000)
    assert list(cache.items()) == [("b", "y")]
