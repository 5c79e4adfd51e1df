"""Whose turn it is to catch up: by turns between addresses, and between the clients of one. Pure.

All clients of a gateway that read old history or pages of a snapshot share one small budget of time
(`kvserver.gateway.history.catch_up`). However many clients one address has, it gets every second turn at most while
another address waits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Waiting = TypeVar("Waiting", bound=Hashable)


class ClientGone(Exception):
    """Nobody wants any more what is being looked for."""


class Interrupted(Exception):
    """The client gets what there is for it before it waits on; what it looks for goes on from where it is."""


class TurnQueue(Generic[Waiting]):
    """Clients that wait for a turn."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Hashable, OrderedDict[Waiting, None]] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    def add(self, address: Hashable, client: Waiting) -> None:
        """Let `client` wait: behind the others of its address, which waits behind other addresses."""
        self._waiting.setdefault(address, OrderedDict())[client] = None

    def discard(self, address: Hashable, client: Waiting) -> None:
        """`client` waits no longer, if it does."""
        clients = self._waiting.get(address)
        if clients is not None:
            clients.pop(client, None)
            if not clients:
                del self._waiting[address]

    def next(self) -> Waiting:
        """Take out the client whose turn it is. Raises `KeyError` if nobody waits."""
        address, clients = self._waiting.popitem(last=False)
        client, _ = clients.popitem(last=False)
        if clients:
            self._waiting[address] = clients
        return client
