"""Fixtures of the Rust client's tests."""

from __future__ import annotations

import pytest

from tests.client.sdks import DRIVERS


@pytest.fixture(autouse=True)
def _tools() -> None:
    DRIVERS["rust"].require_tools()
