"""The send budget: bytes that were made for clients and that they have not taken yet. Pure.

All clients of a gateway share one budget. Bytes that several clients are given alike count once, however many of them
still have to take them. When three quarters are spent, no new client is admitted and no snapshot continues; when all is
spent, no client is given anything. `transport.monitor.ConnectionMonitor` then ends the connections of clients that take
next to nothing.

Each address has a part of that budget, half as large, with the same rules: so one address alone can never spend so much
that clients of others are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from weakref import WeakValueDictionary

from kvserver.http.proxies import limited_address

MOST_BYTES: Final = 256 << 20
"""Bytes that all clients of a gateway together may leave untaken."""


class SendBudget:
    """A budget: that of a gateway, or of one address within it.

    Attributes:
        bytes: charged to it now.
    """

    def __init__(self, most: int = MOST_BYTES, whole: SendBudget | None = None) -> None:
        """Make a budget of `most` bytes. `whole`: the budget it is a part of, None for that of a gateway."""
        self.bytes = 0
        self._most, self._whole = most, whole
        self._shared: dict[int, int] = {}  # by the object's id: how many clients have not taken it
        self._parts: WeakValueDictionary[str, SendBudget] = WeakValueDictionary()

    def of_address(self, peer: str) -> SendBudget:
        """Return the part of the address in `peer` (`ip:port`), which lives as long as something refers to it.

        Clients of a Unix socket have no address: they share the whole.
        """
        host = peer.rpartition(":")[0].strip("[]")
        if not host:
            return self
        name = limited_address(host)
        part = self._parts.get(name)
        if part is None:
            part = self._parts[name] = SendBudget(self._most // 2, self)
        return part

    @property
    def is_high(self) -> bool:
        """Whether new clients and large answers have to wait."""
        return self.is_high_without(0) or (self._whole is not None and self._whole.is_high)

    def is_high_without(self, size: int) -> bool:
        """Whether this budget itself, not the whole, would still be high with `size` bytes less."""
        return self.bytes - size >= self._most * 3 // 4

    @property
    def is_full(self) -> bool:
        """Whether nothing more may be made for any client."""
        return self.bytes >= self._most or (self._whole is not None and self._whole.is_full)

    def high_parts(self) -> list[SendBudget]:
        """Return the parts of addresses that are high by themselves."""
        return [part for part in list(self._parts.values()) if part.is_high_without(0)]

    def levels(self) -> Iterator[SendBudget]:
        """Yield this budget, then the whole that it is a part of."""
        yield self
        if self._whole is not None:
            yield self._whole

    def add_sharer(self, data: bytes) -> bool:
        """Note that one more client has not taken the object `data`; return whether it is the only one."""
        count = self._shared[id(data)] = self._shared.get(id(data), 0) + 1
        return count == 1

    def remove_sharer(self, data: bytes) -> bool:
        """Note that one client less has not taken the object `data`; return whether it was the last one."""
        count = self._shared[id(data)] = self._shared[id(data)] - 1
        if not count:
            del self._shared[id(data)]
        return not count


class BudgetCharge:
    """The bytes that one client has not taken, in one place: its head, its outbox, what is being written.

    Attributes:
        size: bytes, whether or not other clients share them.
    """

    __slots__ = ("_budget", "_shared", "size")

    def __init__(self, budget: SendBudget) -> None:
        self.size = 0
        self._budget = budget
        self._shared: bytes | None = None  # referred to, so that no other object gets its id

    @property
    def budget(self) -> SendBudget:
        """The budget that this is charged to."""
        return self._budget

    def set_bytes(self, size: int) -> None:
        """Charge `size` bytes of this client's own, instead of what was charged before."""
        if self._shared is not None:
            self._release_shared()
        for budget in self._budget.levels():
            budget.bytes += size - self.size
        self.size = size

    def set_shared(self, data: bytes) -> None:
        """Charge `data`, an object that other clients may be given too, instead of what was charged before."""
        self.set_bytes(0)
        self.size, self._shared = len(data), data
        for budget in self._budget.levels():
            if budget.add_sharer(data):
                budget.bytes += len(data)

    def _release_shared(self) -> None:
        assert self._shared is not None
        for budget in self._budget.levels():
            if budget.remove_sharer(self._shared):
                budget.bytes -= len(self._shared)
        self.size, self._shared = 0, None
