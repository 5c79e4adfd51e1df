"""What one address holds of a worker: connections, requests that are incomplete, bytes of requests and answers,
places among the requests in flight. Tokens hold places, too."""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakValueDictionary

from kvserver.settings import ServerSettings
from shards.wire.errors import Overloaded


class QuotaLimits(NamedTuple):
    """Settings of these names; `upload_rate` is `--min-upload-rate`, `spare` is `--spare-places`. 0: no limit."""

    connections: int
    unfinished: int
    unfinished_bytes: int
    upload_rate: int
    spare: int

    @classmethod
    def of(cls, settings: ServerSettings) -> QuotaLimits:
        """The limits in `settings`."""
        return cls(
            settings.connections_per_address,
            settings.unfinished_per_address,
            settings.unfinished_bytes_per_address,
            settings.min_upload_rate,
            settings.spare_places,
        )


class Quota:
    """What one address, or one token, holds of a worker.

    Attributes:
        holder: "this address" or "this token", for messages.
        connections: open connections.
        unfinished: requests that are incomplete.
        bytes: of such requests, and of bodies until they are answered.
        in_flight: requests in flight.
        owed: bytes of answers that the client has not taken yet.
    """

    __slots__ = ("__weakref__", "bytes", "connections", "holder", "in_flight", "owed", "unfinished")

    def __init__(self, holder: str) -> None:
        self.holder = holder
        self.connections = self.unfinished = self.bytes = self.in_flight = self.owed = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held."""
        return not (self.connections or self.unfinished or self.bytes or self.in_flight or self.owed)


class Quotas:
    """The quotas of a worker. One lives as long as something refers to it."""

    def __init__(self, limits: QuotaLimits) -> None:
        self._limits = limits
        self._by_name: WeakValueDictionary[str, Quota] = WeakValueDictionary()

    def of_address(self, address: str) -> Quota:
        """The quota of an address, in the form of `proxies.limited_address`."""
        return self._find_or_add(address, "this address")

    def of_token(self, id: str) -> Quota:
        """The quota of the token `id`, as `Grants` have it."""
        return self._find_or_add(f"token {id}", "this token")

    def _find_or_add(self, name: str, holder: str) -> Quota:
        quota = self._by_name.get(name)
        if quota is None:
            quota = self._by_name[name] = Quota(holder)
        return quota

    def add_connection(self, quota: Quota) -> int:
        """Count a connection in; return the excess over the limit, 0 or less within it."""
        quota.connections += 1
        return quota.connections - self._limits.connections if self._limits.connections else 0

    def check_unfinished(self, quota: Quota, more: int = 0) -> None:
        """Raise `Overloaded` if the address has too many unfinished requests, or too many bytes with `more` of them."""
        most = self._limits.unfinished
        if most and quota.unfinished > most:
            raise Overloaded(f"more than {most} requests from this address are incomplete")
        self.check_bytes(quota, more)

    def check_bytes(self, quota: Quota, more: int) -> None:
        """Raise `Overloaded` if the address would hold too many bytes of requests with `more` of them."""
        most = self._limits.unfinished_bytes
        if most and quota.bytes + more > most:
            raise Overloaded(f"more than {most} bytes from this address belong to incomplete or unanswered requests")

    @property
    def is_empty(self) -> bool:
        """Whether no quota is used."""
        return all(quota.is_empty for quota in self._by_name.values())
