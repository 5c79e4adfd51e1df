"""What the clients of a gateway owe: bytes that were made for them, and that they have not taken. Pure.

All of them have one budget together. What several clients are given alike counts once, however many still have to take
it. When most of the budget is spent, nobody new is let in and no snapshot goes on; when all of it is, nobody is
given anything. `transport.websocket.Keeper` then ends the connections of those who take next to nothing.

Each address has a budget of its own within that, half as large, to which the same applies: so one alone can never spend
so much that others are not let in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from weakref import WeakValueDictionary

from kvserver.http.proxies import limited_address

MOST_BYTES: Final = 256 << 20
"""Bytes that all clients of a gateway may owe together."""


class Debts:
    """A budget: that of a gateway, or of one address within it.

    Attributes:
        bytes: that are owed.
    """

    def __init__(self, most: int = MOST_BYTES, whole: Debts | None = None) -> None:
        """`whole`: of which it is a part, None if it is none."""
        self.bytes = 0
        self._most, self._whole = most, whole
        self._shared: dict[int, int] = {}  # by the object's id: how many owe it
        self._parts: WeakValueDictionary[str, Debts] = WeakValueDictionary()

    def of(self, peer: str) -> Debts:
        """The part of the address of `peer` (`ip:port`), as long as somebody refers to it; a Unix socket has none, and
        is given the whole."""
        host = peer.rpartition(":")[0].strip("[]")
        if not host:
            return self
        name = limited_address(host)
        part = self._parts.get(name)
        if part is None:
            part = self._parts[name] = Debts(self._most // 2, self)
        return part

    @property
    def are_high(self) -> bool:
        """Whether there is no room for anybody new, nor for what is large."""
        return self.are_high_without(0) or (self._whole is not None and self._whole.are_high)

    def are_high_without(self, size: int) -> bool:
        """Whether this budget itself, not the whole, would be high if `size` bytes less were owed."""
        return self.bytes - size >= self._most * 3 // 4

    @property
    def are_full(self) -> bool:
        """Whether there is no room for anything."""
        return self.bytes >= self._most or (self._whole is not None and self._whole.are_full)

    def high_parts(self) -> list[Debts]:
        """Those of addresses that owe so much that they are high by themselves."""
        return [part for part in list(self._parts.values()) if part.are_high_without(0)]

    def levels(self) -> Iterator[Debts]:
        """It, and the whole that it is part of."""
        yield self
        if self._whole is not None:
            yield self._whole

    def share(self, data: bytes) -> bool:
        """Somebody owes `data`, an object that others may owe, too; whether nobody else does."""
        count = self._shared[id(data)] = self._shared.get(id(data), 0) + 1
        return count == 1

    def unshare(self, data: bytes) -> bool:
        """Somebody who owed `data` does not any more; whether nobody does."""
        count = self._shared[id(data)] = self._shared[id(data)] - 1
        if not count:
            del self._shared[id(data)]
        return not count


class Debt:
    """What one client owes in one place.

    Attributes:
        size: bytes, whether or not others owe the same.
    """

    __slots__ = ("_debts", "_shared", "size")

    def __init__(self, debts: Debts) -> None:
        self.size = 0
        self._debts = debts
        self._shared: bytes | None = None  # held, so that no other object gets its id

    @property
    def debts(self) -> Debts:
        """The budget that it is part of."""
        return self._debts

    def owe(self, size: int) -> None:
        """It owes `size` bytes of its own now, and nothing else."""
        if self._shared is not None:
            self._let_go()
        for debts in self._debts.levels():
            debts.bytes += size - self.size
        self.size = size

    def owe_shared(self, data: bytes) -> None:
        """It owes `data` now, an object that others may owe, too, and nothing else."""
        self.owe(0)
        self.size, self._shared = len(data), data
        for debts in self._debts.levels():
            if debts.share(data):
                debts.bytes += len(data)

    def _let_go(self) -> None:
        assert self._shared is not None
        for debts in self._debts.levels():
            if debts.unshare(self._shared):
                debts.bytes -= len(self._shared)
        self.size, self._shared = 0, None
