"""Whose turn it is to catch up."""

from __future__ import annotations

import pytest

from kvserver.gateway.history.catch_up import TurnQueue


def taken(queue: TurnQueue[str]) -> list[str]:
    """Everybody, in the order of their turns."""
    found = []
    while queue:
        found.append(queue.take())
    return found


def test_addresses_take_turns_whatever_their_clients_are() -> None:
    queue: TurnQueue[str] = TurnQueue()
    for client in ("a1", "a2", "a3", "b1", "a4", "c1", "c2"):
        queue.add(client[0], client)
    assert taken(queue) == ["a1", "b1", "c1", "a2", "c2", "a3", "a4"]


def test_who_comes_back_at_once_waits_for_the_others() -> None:
    queue: TurnQueue[str] = TurnQueue()
    for client in ("a1", "a2", "b1"):
        queue.add(client[0], client)
    order = []
    for _ in range(8):
        client = queue.take()
        order.append(client)
        queue.add(client[0], client)
    assert order == ["a1", "b1", "a2", "b1", "a1", "b1", "a2", "b1"]


def test_who_waits_no_longer_gets_no_turn() -> None:
    queue: TurnQueue[str] = TurnQueue()
    for client in ("a1", "a2", "b1"):
        queue.add(client[0], client)
    for client in ("a1", "b1", "b2", "c1"):
        queue.discard(client[0], client)
    assert taken(queue) == ["a2"]
    with pytest.raises(KeyError):
        queue.take()
