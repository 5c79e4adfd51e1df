"""The client of the API against a server that answers wrongly."""

from __future__ import annotations

import io

import pytest

from kvserver.transfer import remote
from kvserver.transfer.exporter import ItemExporter
from kvserver.transfer.remote import TransferError
from tests.api.kvserver.transfer.answers import answering, for_ever


def test_an_error_without_an_end_is_not_read_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_ANSWER_BYTES", 1 << 20)
    with answering(for_ever(b"x" * 65536), 500) as server, pytest.raises(TransferError, match="more than 1 MiB"):
        ItemExporter(server, "", 60.0, lambda _: None).run(io.BytesIO())
