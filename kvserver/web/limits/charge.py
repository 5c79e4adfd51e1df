"""What one request adds to the load of its worker, until it has its answer."""

from __future__ import annotations

from kvserver.web.limits.address_quotas import Quota
from kvserver.web.limits.load import WorkerLoad


class Charge:
    """The account of one request. Everything is given back by `release`.

    Attributes:
        quota: that of the client's address, which is charged as well; None: only the worker is.
        bytes_held: of its body, while that is in memory for the request's sake.
        bytes_owed: of its answer, and of a body that is in memory for the answer's sake.
        places: the quotas in which it is in flight; None while it is not in flight.
    """

    __slots__ = ("_load", "bytes_held", "bytes_owed", "places", "quota")

    def __init__(self, load: WorkerLoad, quota: Quota | None = None) -> None:
        self._load, self.quota = load, quota
        self.bytes_held = self.bytes_owed = 0
        self.places: tuple[Quota, ...] | None = None

    def hold_bytes(self, size: int) -> None:
        """Charge bytes of a body; negative: give them back."""
        self.bytes_held += size
        self._load.bytes_held += size
        if self.quota is not None:
            self.quota.bytes += size

    def owe_bytes(self, size: int) -> None:
        """Charge bytes that wait for the client to read; negative: give them back."""
        self.bytes_owed += size
        self._load.owe_bytes(self.quota, size)

    def begin(self, places: tuple[Quota, ...]) -> None:
        """Count the request as in flight in the quotas `places`."""
        self.places = places
        self._load.begin_request(places)

    def end(self) -> None:
        """Count the request as no longer in flight, if it was."""
        if self.places is not None:
            self._load.end_request(self.places)
            self.places = None

    def release(self) -> None:
        """Give everything back."""
        if self.places is not None:
            self._load.end_request(self.places)
            self.places = None
        if self.bytes_held:
            self.hold_bytes(-self.bytes_held)
        if self.bytes_owed:
            self.owe_bytes(-self.bytes_owed)
