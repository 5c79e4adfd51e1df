"""What the methods take and return."""

from __future__ import annotations

import pytest

from kvserver.client import Client
from kvserver.client.core import scripts
from kvserver.client.model import Options, Ticket


@pytest.mark.parametrize("timeout", [-1, 0, float("nan"), float("inf")])
def test_a_timeout_is_above_zero(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout is a number of seconds above 0"):
        Options(timeout=timeout)
    with pytest.raises(ValueError, match="timeout"):
        Client("localhost", timeout=timeout)


@pytest.mark.parametrize("patience", [-1, float("nan")])
def test_patience_is_not_below_zero(patience: float) -> None:
    assert Options(patience=0).patience == 0
    with pytest.raises(ValueError, match="patience is a number of seconds, 0 or more"):
        Options(patience=patience)


def test_a_client_needs_a_connection_and_a_url() -> None:
    with pytest.raises(ValueError, match="connections is 1 or more"):
        Client("localhost", connections=0)
    with pytest.raises(ValueError, match="not empty"):
        Client("")


def test_a_ticket_is_not_shown() -> None:
    assert "secret" not in repr(Ticket("secret", None))


def test_one_text_is_not_many_keys() -> None:
    with pytest.raises(TypeError, match="get takes one"):
        next(scripts.get_many("", "abc"))
