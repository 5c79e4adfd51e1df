"""The send budget: shared bytes count once, and each address has a part of its own."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvserver.gateway.transport.send_budget import BudgetCharge, SendBudget

MANY = [bytes(size) for size in (0, 1, 50, 200)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 99) | st.sampled_from(MANY)), max_size=40))
def test_the_sum_is_that_of_the_charges(steps: list[tuple[int, int | bytes]]) -> None:
    budget = SendBudget(100)
    each = [BudgetCharge(budget) for _ in range(4)]
    owed: list[int | bytes] = [0] * 4
    for index, what in steps:
        owed[index] = what
        if isinstance(what, bytes):
            each[index].set_shared(what)
        else:
            each[index].set_bytes(what)
        shared = {id(data): len(data) for data in owed if isinstance(data, bytes)}
        wanted = sum(size for size in owed if isinstance(size, int)) + sum(shared.values())
        assert budget.bytes == wanted
        assert [charge.size for charge in each] == [len(what) if isinstance(what, bytes) else what for what in owed]
        assert (budget.is_high, budget.is_full) == (wanted >= 75, wanted >= 100)
    for charge in each:
        charge.set_bytes(0)
    assert budget.bytes == 0 and not budget._shared


def test_the_edges() -> None:
    budget = SendBudget(100)
    charge = BudgetCharge(budget)
    for size, high, full in ((74, False, False), (75, True, False), (99, True, False), (100, True, True)):
        charge.set_bytes(size)
        assert (budget.is_high, budget.is_full) == (high, full)
    assert budget.is_high_without(25) and not budget.is_high_without(26)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 99) | st.sampled_from(MANY)), max_size=40))
def test_each_address_has_the_sum_of_its_own(steps: list[tuple[int, int | bytes]]) -> None:
    """What clients at both are given alike counts once for each, and once in all."""
    whole = SendBudget(200)
    parts = [whole.of_address(peer) for peer in ("10.0.0.1:1", "10.0.0.1:2", "10.0.0.2:1", "[fd00::1]:1")]
    assert parts[0] is parts[1] and len({id(part) for part in parts}) == 3
    each = [BudgetCharge(part) for part in parts]
    owed: list[int | bytes] = [0] * 4
    for index, what in steps:
        owed[index] = what
        if isinstance(what, bytes):
            each[index].set_shared(what)
        else:
            each[index].set_bytes(what)
        assert whole.bytes == _sum(owed)
        for part, own in ((parts[0], owed[:2]), (parts[2], owed[2:3]), (parts[3], owed[3:])):
            assert part.bytes == _sum(own)
            assert part.is_high == (_sum(own) >= 75 or _sum(owed) >= 150)
            assert part.is_full == (_sum(own) >= 100 or _sum(owed) >= 200)
            assert (part in whole.high_parts()) == (_sum(own) >= 75)
    for charge in each:
        charge.set_bytes(0)
    assert whole.bytes == 0 and not any(budget._shared for budget in (whole, *parts))


def _sum(owed: list[int | bytes]) -> int:
    shared = {id(data): len(data) for data in owed if isinstance(data, bytes)}
    return sum(size for size in owed if isinstance(size, int)) + sum(shared.values())


def test_what_is_one_address() -> None:
    whole = SendBudget(100)
    assert whole.of_address("[fd00::1]:1") is whole.of_address("[fd00::2]:7")
    part = whole.of_address("127.0.0.1:1")
    assert whole.of_address("[::ffff:127.0.0.1]:2") is part and part is not whole
    assert whole.of_address("unix") is whole
    del part
    assert not whole._parts
