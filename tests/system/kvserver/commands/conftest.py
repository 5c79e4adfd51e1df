"""Fixtures of tests of commands."""

from __future__ import annotations

import importlib

import pytest

from kvserver.commands import export


@pytest.fixture(autouse=True)
def signals_of_this_process_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (importlib.import_module("kvserver.commands.import_"), export):
        monkeypatch.setattr(module, "interruptible", lambda: None)
