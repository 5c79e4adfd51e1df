"""How many clients a gateway serves."""

from __future__ import annotations

import pytest

from kvserver.gateway.sessions.quota import ConnectionQuota
from shards.wire.errors import Overloaded


def test_places_are_given_back() -> None:
    places = ConnectionQuota(3, 2)
    back = [places.take_place("10.0.0.1:1"), places.take_place("10.0.0.1:2")]
    with pytest.raises(Overloaded, match="2 feeds"):
        places.take_place("10.0.0.1:3")
    other = places.take_place("[::1]:4")
    with pytest.raises(Overloaded, match="3 clients"):
        places.take_place("10.0.0.2:1")
    for give_back in (*back, other):
        give_back()
    for _ in range(2):
        places.take_place("10.0.0.1:1")


def test_the_last_eighth_of_the_places_is_for_who_has_few() -> None:
    """An IPv6 network of 64 bits is one address."""
    places = ConnectionQuota(32, 0)
    for port in range(28):
        places.take_place(f"[fd00::{port}]:{port}")
    with pytest.raises(Overloaded, match="last eighth"):
        places.take_place("[fd00::1:1]:1")
    for host in ("[fd00:0:0:1::1]", "10.0.0.1"):
        for port in range(2):
            places.take_place(f"{host}:{port}")
        with pytest.raises(Overloaded, match="last eighth" if host != "10.0.0.1" else "32 clients"):
            places.take_place(f"{host}:3")
