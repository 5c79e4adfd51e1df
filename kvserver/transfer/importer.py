"""Import: stores the lines of a file in a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from http import HTTPStatus
from threading import Event, Lock
from typing import BinaryIO, Final

from kvserver.transfer.lanes import Lanes
from kvserver.transfer.records import (
    LINE_BYTES,
    ImportBatch,
    ImportRecord,
    LineError,
    body_of,
    group_into_batches,
    read_record,
)
from kvserver.transfer.remote import Away, Patience, Remote, Result, Stopped, TooMuch, TransferError
from shards.wire.json_text import strip_byte_order_mark

LANES: Final = 8
"""Batches in flight: enough to keep shards and workers busy while the next batch is prepared."""

_END_S: Final = 10.0
_OK: Final = 200
_FIRST_REFUSAL: Final = 300


class ItemImporter:
    """Imports lines; the order of the lines of each key is kept.

    Every operation is a put, so it can be repeated if its outcome is unknown, and a file can be imported again.

    Attributes:
        imported: number of records that the server has stored.
        expired: number of records that the server refused because they have expired by its clock.
    """

    def __init__(self, remote: Remote, patience_s: float, report: Callable[[int], object]) -> None:
        """`patience_s`: see `Patience`. `report`: called by any thread with the bytes of lines done so far."""
        self._remote, self._patience_s, self._report = remote, patience_s, report
        self._stop = Event()
        self._lock = Lock()
        self._lanes = Lanes(self._store_batch, LANES)
        self._done_bytes = 0
        self.imported = self.expired = 0

    def run(self, source: BinaryIO) -> None:
        """Import all of `source`. Raises `LineError`, `TransferError`, and `OSError` of `source`.

        Before it raises, also on a signal, it waits up to 10 s for the batches in flight.
        """
        try:
            for batch in group_into_batches(_read_records(source)):
                self._lanes.submit(batch)
            self._lanes.finish()
        except LineError:
            self._lanes.finish()  # raises the error of an earlier line, if any
            raise
        except BaseException:
            self._stop.set()
            with suppress(TransferError, LineError, Stopped):
                self._lanes.finish(_END_S)
            raise

    def _store_batch(self, batch: ImportBatch) -> None:
        self._store_all(batch.records)
        with self._lock:
            self._done_bytes += batch.size
            self._report(self._done_bytes)

    def _store_all(self, records: list[ImportRecord]) -> None:
        """Store `records`, retrying as needed. Raises `LineError`, `TransferError`, `Stopped`."""
        patience = Patience(self._patience_s, self._stop)
        while records:
            try:
                left, away = self._sort_results(records, self._send_batch(records))
            except TooMuch:
                middle = len(records) // 2
                self._store_all(records[:middle])
                records = records[middle:]
                continue
            except Away as error:
                left, away = records, error
            if len(left) < len(records):
                patience.note_progress()
            if away is not None:
                patience.wait(away)
            records = left

    def _send_batch(self, records: list[ImportRecord]) -> list[Result]:
        """Send a batch and return the result of each record. Raises `Away`; `TooMuch` if a smaller one may fit."""
        try:
            results = self._remote.send_batch(body_of(records))
        except TooMuch:
            if len(records) > 1:
                raise
            return [self._send_one(records[0])]
        if len(results) != len(records):
            raise TransferError(f"the server answered {len(results)} results for {len(records)} records")
        return results

    def _send_one(self, record: ImportRecord) -> Result:
        try:
            return self._remote.send_put(record.put)
        except TooMuch as error:
            raise LineError(record.line, str(error)) from None

    def _sort_results(
        self, records: list[ImportRecord], results: list[Result]
    ) -> tuple[list[ImportRecord], Away | None]:
        """Count the finished records; return those to send again, and why. Raises `LineError` for the first refused."""
        left: list[ImportRecord] = []
        away: Away | None = None
        refused: LineError | None = None
        imported = expired = 0
        for record, result in zip(records, results, strict=True):
            if _OK <= result.status < _FIRST_REFUSAL:
                imported += 1
            elif result.status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT):
                left.append(record)
                away = Away(f"a shard of the server at {self._remote.url} does not answer: {result.detail}")
            elif result.status == HTTPStatus.BAD_REQUEST and record.expires:
                expired += 1  # the only possible reason: everything else was checked when the line was read
            elif refused is None:
                refused = LineError(record.line, f"the server answers {result.status}: {result.detail or result.code}")
        with self._lock:
            self.imported += imported
            self.expired += expired
        if refused is not None:
            raise refused
        return left, away


def _read_records(source: BinaryIO) -> Iterator[ImportRecord]:
    """Yield the records in the lines of `source`; skip blank lines. Raises `LineError`."""
    number = 0
    while line := source.readline(LINE_BYTES):
        number += 1
        if len(line) == LINE_BYTES and not line.endswith(b"\n"):
            raise LineError(number, f"longer than {LINE_BYTES >> 20} MiB")
        if line.startswith(b"{") or strip_byte_order_mark(line).strip():
            yield read_record(number, line)
