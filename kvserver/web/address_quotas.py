"""What one address may hold of a worker: connections, requests that are not whole, bytes of requests and of answers,
places among the requests in flight. Places are held by tokens, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

from kvserver.settings import ServerSettings
from shards.wire.errors import Overloaded

if TYPE_CHECKING:
    from kvserver.web.traffic import Traffic


class Limits(NamedTuple):
    """Settings of those names; `upload_rate` is `--min-upload-rate`, `spare` is `--spare-places`. 0: no limit."""

    connections: int
    unfinished: int
    unfinished_bytes: int
    upload_rate: int
    spare: int

    @classmethod
    def of(cls, settings: ServerSettings) -> Limits:
        """Those of `settings`."""
        return cls(
            settings.connections_per_address,
            settings.unfinished_per_address,
            settings.unfinished_bytes_per_address,
            settings.min_upload_rate,
            settings.spare_places,
        )


class Share:
    """What one address, or one token, holds of a worker.

    Attributes:
        whose: of which kind it is, in words.
        connections: that are open.
        unfinished: requests that have not arrived whole.
        bytes: of such, and of bodies until they are answered.
        in_flight: requests that have a place among those in flight.
        owed: bytes of answers that were not taken yet.
    """

    __slots__ = ("__weakref__", "bytes", "connections", "in_flight", "owed", "unfinished", "whose")

    def __init__(self, whose: str) -> None:
        self.whose = whose
        self.connections = self.unfinished = self.bytes = self.in_flight = self.owed = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held."""
        return not (self.connections or self.unfinished or self.bytes or self.in_flight or self.owed)


class Shares:
    """The shares of a worker, as long as somebody refers to them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._of: WeakValueDictionary[str, Share] = WeakValueDictionary()

    def of_address(self, address: str) -> Share:
        """The share of an address, in the form of `proxies.group`."""
        return self._find(address, "this address")

    def of_token(self, id: str) -> Share:
        """The share of the token `id`, as `Grants` have it."""
        return self._find(f"token {id}", "this token")

    def _find(self, name: str, whose: str) -> Share:
        share = self._of.get(name)
        if share is None:
            share = self._of[name] = Share(whose)
        return share

    def connect(self, share: Share) -> int:
        """Count a connection in; returns how many more there are now than may be, 0 or less if it has a place."""
        share.connections += 1
        return share.connections - self._limits.connections if self._limits.connections else 0

    def check(self, share: Share, more: int = 0) -> None:
        """Raise `Overloaded` if the address holds more than its share, or would with `more` bytes."""
        most = self._limits.unfinished
        if most and share.unfinished > most:
            raise Overloaded(f"more than {most} requests from this address have not arrived whole")
        self.check_bytes(share, more)

    def check_bytes(self, share: Share, more: int) -> None:
        """Raise `Overloaded` if the address would hold more than its share of bytes with `more` of them."""
        most = self._limits.unfinished_bytes
        if most and share.bytes + more > most:
            raise Overloaded(
                f"more than {most} bytes from this address belong to requests that are not whole, or not answered"
            )

    @property
    def is_empty(self) -> bool:
        """Whether nobody holds anything."""
        return all(share.is_empty for share in self._of.values())


class Stake:
    """What one connection adds to the share of an address, and to the bytes that its worker holds.

    Attributes:
        share: that of the address; None: it is in nobody's.
        size: bytes of what has not arrived whole, and of what waits behind it.
    """

    __slots__ = ("_place", "_traffic", "_unfinished", "share", "size")

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self.share: Share | None = None
        self._place: Share | None = None
        self._unfinished = False
        self.size = 0

    def connect(self, address: str) -> int:
        """Count the connection in the share of `address`; returns by how many it is exceeded, 0 or less if by none."""
        self.share = self._place = share = self._traffic.shares.of_address(address)
        return self._traffic.shares.connect(share)

    def disconnect(self) -> None:
        """The connection is gone, and what had not arrived whole was given up."""
        self.count(False, 0)
        if self._place is not None:
            self._place.connections -= 1
            self._place = None

    def move(self, address: str) -> None:
        """What arrives from now on is in the share of `address`; empty: in nobody's."""
        self.count(False, 0)
        self.share = self._traffic.shares.of_address(address) if address else None

    def count(self, unfinished: bool, size: int) -> None:
        """There is a request that has not arrived whole, or none, and so many bytes are held for what is none yet."""
        if self.share is not None:
            self.share.unfinished += unfinished - self._unfinished
            self.share.bytes += size - self.size
        self._traffic.bytes_held += size - self.size
        self._unfinished, self.size = unfinished, size

    def check(self, more: int = 0) -> None:
        """Raise `Overloaded` if the address holds more than its share, or it or the worker would with `more` bytes."""
        self._check(more, self._traffic.shares.check)

    def check_bytes(self, more: int) -> None:
        """The same, but for requests that are not whole."""
        self._check(more, self._traffic.shares.check_bytes)

    def _check(self, more: int, check: Callable[[Share, int], None]) -> None:
        traffic = self._traffic
        traffic.check_bytes(more)
        try:
            if self.share is not None:
                check(self.share, more)
        except Overloaded:
            traffic.counts.overloads += 1
            raise
