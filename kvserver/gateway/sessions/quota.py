"""How many clients a gateway serves, in all and from one address."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from kvserver.http.proxies import limited_address
from shards.wire.errors import Overloaded


class ConnectionQuota:
    """Counts clients, in all and by address.

    The last eighth of the places is for addresses that have less than a sixteenth of all: so no address alone keeps
    others out.
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        """Allow `most` clients, and `most_of_one` from one address; 0: as many as in all."""
        self._most, self._most_of_one = most, most_of_one or most
        self._taken: Counter[str] = Counter()
        self._count = 0

    def take_place(self, peer: str) -> Callable[[], None]:
        """Take a place for a client at `peer` (`ip:port`); call the result to give it back. Raises `Overloaded`."""
        address = limited_address(peer.rpartition(":")[0].strip("[]") or peer)
        if self._count >= self._most:
            raise Overloaded(f"this gateway has its {self._most} clients")
        if self._taken[address] >= self._most_of_one:
            raise Overloaded(f"{self._most_of_one} feeds are open from this address")
        if self._count >= self._most - self._most // 8 and self._taken[address] >= max(1, self._most // 16):
            raise Overloaded(
                f"{self._count} feeds are open, {self._taken[address]} of them from this address: the last eighth of "
                f"the {self._most} places is for those who have few"
            )
        self._count += 1
        self._taken[address] += 1

        def give_back() -> None:
            self._count -= 1
            self._taken[address] -= 1
            if not self._taken[address]:
                del self._taken[address]

        return give_back
