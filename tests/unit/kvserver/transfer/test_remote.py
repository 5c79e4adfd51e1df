"""Retries end without progress."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from kvserver.transfer.remote import Away, Patience, TransferError


def test_patience_ends_and_begins_anew_with_progress() -> None:
    stop = threading.Event()
    patience = Patience(0.2, stop)
    for _ in range(2):
        with pytest.raises(TransferError, match=r"nobody there \(tried for 0\.2 seconds\)"):
            waits(patience)
        patience.note_progress()
        patience.wait(Away("nobody there"))
    patience.note_progress()
    patience.wait(Away("nobody there", retry_after_s=60))  # not longer than there is patience
    with pytest.raises(TransferError):
        patience.wait(Away("nobody there"))


def waits(patience: Patience) -> Any:
    for _ in range(100):
        patience.wait(Away("nobody there"))
