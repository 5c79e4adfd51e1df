"""Loading modules quickly."""

from __future__ import annotations

import gc

import pytest

from kvserver.commands.loading import without_collection


def test_collection_is_as_it_was_afterwards() -> None:
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), without_collection():
        assert not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled()
    gc.disable()
    try:
        with without_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
