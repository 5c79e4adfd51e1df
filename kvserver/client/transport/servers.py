"""The servers of one store, in the order of preference, and which of them is used now."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kvserver.client.core.calls import Answer, Lost
from kvserver.client.core.policy import is_answered_better_elsewhere
from kvserver.client.transport.address import (
    DEFAULT_URL,
    ENVIRONMENT,
    URL_VARIABLE,
    Address,
    find_address,
    find_proxy,
)

CONNECT_S: Final = 2.0
"""Most seconds to connect, where another server can be asked instead."""


@dataclass(frozen=True)
class Server:
    """Where a server is, and the URL of the proxy on the way to it."""

    address: Address
    proxy: str | None


class Servers:
    """Servers of the same store. A client uses the first until it fails, then the next, and stays there.

    Threads may share it: each change is one assignment.
    """

    def __init__(self, addresses: Iterable[Address], proxy: str | None = ENVIRONMENT) -> None:
        self.all: Sequence[Server] = [Server(each, find_proxy(each, proxy)) for each in addresses]
        self.current = 0
        """The index of the server that is used now."""

    def __len__(self) -> int:
        return len(self.all)

    @property
    def urls(self) -> str:
        """The URLs of all servers, separated by commas."""
        return ",".join(server.address.url for server in self.all)

    def leave(self, index: int) -> None:
        """Use the server after `index` from now on, unless another thread has left it already."""
        if self.current == index:
            self.current = (index + 1) % len(self.all)

    def note(self, index: int, outcome: Answer | Lost) -> None:
        """Leave the server that gave `outcome`, if another may do better."""
        if is_answered_better_elsewhere(outcome):
            self.leave(index)

    def connect_s(self, timeout: float) -> float:
        """Return the seconds to wait for a connection, for a request that may take `timeout` seconds."""
        return timeout if len(self.all) == 1 else min(timeout, CONNECT_S)


def find_servers(
    url: str | Iterable[str] | None, proxy: str | None = ENVIRONMENT, environ: Mapping[str, str] = os.environ
) -> Servers:
    """Return the servers that `url` names, else the environment. Raises `ValueError`.

    `url`: one URL, several with commas between them, or a list of URLs.
    """
    if url is None:
        url = environ.get(URL_VARIABLE) or DEFAULT_URL
    texts = url.split(",") if isinstance(url, str) else list(url)
    if not texts:
        raise ValueError("a client needs the URL of a server, like http://localhost:8080; the list of URLs is empty")
    addresses = [find_address(text, environ) for text in texts]
    for index, address in enumerate(addresses):
        if address in addresses[:index]:
            raise ValueError(f"each URL names another server of the store, but {address.url} is there twice")
    return Servers(addresses, proxy)
