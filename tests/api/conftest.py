"""Fixtures of tests in process."""

from __future__ import annotations

import pytest

from kvserver.web import handover


@pytest.fixture
def no_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none, and it is not waited for as long as if one might come."""
    monkeypatch.setattr(handover, "COME_S", 0.2)
