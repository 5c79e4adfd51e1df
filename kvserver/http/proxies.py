"""The client on whose behalf a proxy sends a request. Pure.

A proxy appends the address of its own client to X-Forwarded-For, so the rightmost entry is the peer's. It is believed
only if the settings name the peer (`--trusted-proxies`): anybody can send the header.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

_Network = IPv4Network | IPv6Network

_REMEMBERED: Final = 256
"""Bytes of the longest X-Forwarded-For whose client is remembered: clients repeat theirs."""


class Client(NamedTuple):
    """Whom a proxy sends a request for.

    Attributes:
        address: of the client.
        limited: what limits count it by, in the form of `limited_address`; empty if it is a trusted proxy.
    """

    address: str
    limited: str


def parse_networks(text: str) -> tuple[_Network, ...]:
    """Parse addresses and networks separated by commas. Raises ValueError, which says what is expected."""
    try:
        return tuple(ip_network(part.strip(), strict=False) for part in text.split(",")) if text else ()
    except ValueError:
        raise ValueError(
            "expected IP addresses or networks separated by commas, for instance 127.0.0.1,10.0.0.0/8"
        ) from None


class Proxies:
    """Peers whose X-Forwarded-For is believed."""

    def __init__(self, text: str) -> None:
        """`text`: see `parse_networks`; empty: no peer is believed."""
        self._networks = parse_networks(text)

    def trusts(self, address: str) -> bool:
        """Whether `address` is one of them."""
        parsed = _parse(address) if self._networks else None
        return parsed is not None and any(parsed in network for network in self._networks)

    def find_client(self, peer: str, forwarded: bytes) -> Client:
        """Return the client: the last entry of X-Forwarded-For that is no trusted proxy.

        `peer`: is trusted. `forwarded`: the values of the header, separated by commas. If an entry is not an address,
        the client is the proxy that sent it.
        """
        if len(forwarded) <= _REMEMBERED:
            return _find_repeated(self, peer, forwarded)
        return self.search_client(peer, forwarded)

    def search_client(self, peer: str, forwarded: bytes) -> Client:
        """Do what `find_client` does, without memory."""
        address = peer
        for hop in reversed(forwarded.decode("latin-1").split(",")):
            parsed = _parse(_without_port(hop.strip()))
            if parsed is None:
                break
            address = str(parsed)
            if not self.trusts(address):
                return Client(address, limited_address(address))
        return Client(address, "")


@lru_cache(1024)
def _find_repeated(proxies: Proxies, peer: str, forwarded: bytes) -> Client:
    return proxies.search_client(peer, forwarded)


@lru_cache(1024)
def limited_address(address: str) -> str:
    """Return the form of `address` that limits count by: for IPv6 its network of 64 bits, since any host in one has all
    of its addresses; for IPv4 the address, however it is written."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, 64), strict=False))
    return address if parsed is None else str(parsed)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _without_port(hop: str) -> str:
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
