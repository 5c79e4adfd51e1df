"""What clients owe: one budget, in which what several are given alike counts once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvserver.gateway.debts import Debt, Debts

MANY = [bytes(size) for size in (0, 1, 50, 200)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 99) | st.sampled_from(MANY)), max_size=40))
def test_the_sum_is_that_of_the_debts(steps: list[tuple[int, int | bytes]]) -> None:
    debts = Debts(100)
    each = [Debt(debts) for _ in range(4)]
    owed: list[int | bytes] = [0] * 4
    for index, what in steps:
        owed[index] = what
        if isinstance(what, bytes):
            each[index].owe_shared(what)
        else:
            each[index].owe(what)
        shared = {id(data): len(data) for data in owed if isinstance(data, bytes)}
        wanted = sum(size for size in owed if isinstance(size, int)) + sum(shared.values())
        assert debts.bytes == wanted
        assert [debt.size for debt in each] == [len(what) if isinstance(what, bytes) else what for what in owed]
        assert (debts.are_high, debts.are_full) == (wanted >= 75, wanted >= 100)
    for debt in each:
        debt.owe(0)
    assert debts.bytes == 0 and not debts._shared


def test_the_edges() -> None:
    debts = Debts(100)
    debt = Debt(debts)
    for size, high, full in ((74, False, False), (75, True, False), (99, True, False), (100, True, True)):
        debt.owe(size)
        assert (debts.are_high, debts.are_full) == (high, full)
    assert debts.are_high_without(25) and not debts.are_high_without(26)
