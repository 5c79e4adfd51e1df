"""Imports into a server that answers wrongly end, and count nothing."""

from __future__ import annotations

import io

import msgspec
import pytest

from kvserver.transfer.importer import ItemImporter
from kvserver.transfer.records import LineError
from kvserver.transfer.remote import TransferError
from tests.api.kvserver.transfer.answers import Answer, answering, for_ever, line, once


def results(*statuses: int) -> Answer:
    return once(msgspec.msgpack.encode({"results": [{"status": status} for status in statuses]}))


RESULTS: dict[str, tuple[Answer, str]] = {
    "too few": (results(), "0 results for 1 records"),
    "too many": (results(201, 201), "2 results for 1 records"),
    "moved": (results(302), "answers 302"),
    "no status": (results(0), "answers 0"),
    "below all": (results(-5), "answers -5"),
    "no results": (once(b"hello"), "its answer to a batch is malformed"),
    "an answer without an end": (for_ever(b"x" * 65536), "its answer has more than"),
}


@pytest.mark.parametrize("what", RESULTS)
def test_an_import_ends_and_counts_nothing(what: str) -> None:
    answer, says = RESULTS[what]
    with answering(answer) as server:
        importer = ItemImporter(server, 60.0, lambda _: None)
        with pytest.raises((TransferError, LineError), match=says):
            importer.run(io.BytesIO(line("a")))
        assert importer.imported == 0
