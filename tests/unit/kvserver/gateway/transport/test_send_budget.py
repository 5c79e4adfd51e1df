"""What clients owe: one budget, in which what several are given alike counts once, and in it one for each address."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvserver.gateway.transport.send_budget import Debt, Debts

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


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 99) | st.sampled_from(MANY)), max_size=40))
def test_each_address_has_the_sum_of_its_own(steps: list[tuple[int, int | bytes]]) -> None:
    """What clients at both are given alike counts once for each, and once in all."""
    whole = Debts(200)
    parts = [whole.of(peer) for peer in ("10.0.0.1:1", "10.0.0.1:2", "10.0.0.2:1", "[fd00::1]:1")]
    assert parts[0] is parts[1] and len({id(part) for part in parts}) == 3
    each = [Debt(part) for part in parts]
    owed: list[int | bytes] = [0] * 4
    for index, what in steps:
        owed[index] = what
        if isinstance(what, bytes):
            each[index].owe_shared(what)
        else:
            each[index].owe(what)
        assert whole.bytes == _sum(owed)
        for part, own in ((parts[0], owed[:2]), (parts[2], owed[2:3]), (parts[3], owed[3:])):
            assert part.bytes == _sum(own)
            assert part.are_high == (_sum(own) >= 75 or _sum(owed) >= 150)
            assert part.are_full == (_sum(own) >= 100 or _sum(owed) >= 200)
            assert (part in whole.high_parts()) == (_sum(own) >= 75)
    for debt in each:
        debt.owe(0)
    assert whole.bytes == 0 and not any(debts._shared for debts in (whole, *parts))


def _sum(owed: list[int | bytes]) -> int:
    shared = {id(data): len(data) for data in owed if isinstance(data, bytes)}
    return sum(size for size in owed if isinstance(size, int)) + sum(shared.values())


def test_what_is_one_address() -> None:
    whole = Debts(100)
    assert whole.of("[fd00::1]:1") is whole.of("[fd00::2]:7")
    part = whole.of("127.0.0.1:1")
    assert whole.of("[::ffff:127.0.0.1]:2") is part and part is not whole
    assert whole.of("unix") is whole
    del part
    assert not whole._parts
