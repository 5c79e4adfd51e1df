"""The client of one connection: its address, and what the connection holds of the address's quota.

A request that has not arrived whole is not in flight yet. It counts towards the quota of its client's address, and so
does what waits behind a request that is being answered.
"""

from __future__ import annotations

from kvserver.http.proxies import Proxies, limited_address
from kvserver.web.limits.address_quotas import Quota
from kvserver.web.limits.load import WorkerLoad


class Peer:
    """One per connection. While a trusted proxy is connected, the client changes from request to request.

    Attributes:
        address: host and port of the client; None on a Unix socket.
        quota: the quota of its address; None: nothing is counted, as for a trusted proxy itself.
        size: bytes of what has not arrived whole, and of what waits behind it.
        is_proxy: a trusted proxy is connected.
    """

    __slots__ = (
        "_connected",
        "_load",
        "_proxies",
        "_socket_address",
        "_unfinished",
        "address",
        "is_proxy",
        "quota",
        "size",
    )

    def __init__(self, load: WorkerLoad, proxies: Proxies) -> None:
        self._load, self._proxies, self.is_proxy = load, proxies, False
        self.address: tuple[str, int] | None = None
        self._socket_address: tuple[str, int] | None = None
        self.quota: Quota | None = None
        self._connected: Quota | None = None  # the quota that counts the connection itself
        self._unfinished = False
        self.size = 0

    def connect(self, peername: tuple[str, int]) -> int:
        """Count the connection; return by how many its address exceeds the limit, 0 or less within it.

        `peername`: what the socket is connected to. A trusted proxy has no limit.
        """
        host, port = str(peername[0]), int(peername[1])
        self.address = self._socket_address = (host, port)
        self.is_proxy = self._proxies.trusts(host)
        if self.is_proxy:
            return 0
        quotas = self._load.quotas
        self.quota = self._connected = quotas.of_address(limited_address(host))
        return quotas.add_connection(self.quota)

    def disconnect(self) -> None:
        """Give back what the connection and its unfinished request held."""
        self.count_pending(False, 0)
        if self._connected is not None:
            self._connected.connections -= 1
            self._connected = None

    def identify(self, forwarded: bytes) -> None:
        """Find the client of the request that arrives, if a trusted proxy is connected.

        `forwarded`: the values of X-Forwarded-For, in their order, separated by commas.
        """
        peer = self._socket_address
        if not self.is_proxy or peer is None:
            return
        client = self._proxies.find_client(peer[0], forwarded)
        self.count_pending(False, 0)  # further bytes count in the quota of the client
        self.quota = self._load.quotas.of_address(client.limited) if client.limited else None
        self.address = (client.address, 0) if client.address != peer[0] else peer

    def forget_client(self) -> None:
        """The client of the last request is not that of the next one, if a trusted proxy is connected."""
        if self.is_proxy:
            self.address = self._socket_address

    def count_pending(self, unfinished: bool, size: int) -> None:
        """Set whether a request has not arrived whole, and how many bytes are held that belong to no whole request."""
        if self.quota is not None:
            self.quota.unfinished += unfinished - self._unfinished
            self.quota.bytes += size - self.size
        self._load.bytes_held += size - self.size
        self._unfinished, self.size = unfinished, size

    def check_quota(self, more: int = 0) -> None:
        """Raise `Overloaded` if the address has too many unfinished requests, or it or the worker would hold too many
        bytes with `more` of them."""
        self._load.check_quota(self.quota, more, True)

    def check_bytes(self, more: int) -> None:
        """Raise `Overloaded` if the address or the worker would hold too many bytes with `more` of them."""
        self._load.check_quota(self.quota, more, False)
