"""A file's lines into a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from http import HTTPStatus
from threading import Event, Lock
from typing import BinaryIO, Final

from kvserver.transfer.lanes import Lanes
from kvserver.transfer.records import LINE_BYTES, Batch, LineError, Record, batches, body_of, put_of, read_record
from kvserver.transfer.remote import Away, Patience, Remote, Result, Stopped, TooMuch, TransferError
from shards.wire.json_text import strip_byte_order_mark

LANES: Final = 4
"""Batches on their way at a time: enough for shards and workers to be busy while another is made."""

_END_S: Final = 10.0


class Importer:
    """Imports lines, in their order for each key.

    Everything is a put, so that whatever is uncertain is sent again, and the same file can be imported again.

    Attributes:
        imported: records that the server has answered for.
        expired: records whose expiry has passed, by the server's clock: it takes them no more.
    """

    def __init__(self, remote: Remote, patience_s: float, report: Callable[[int], object]) -> None:
        """`report` is told how many bytes of lines are done, by any thread."""
        self._remote, self._patience_s, self._report = remote, patience_s, report
        self._stop = Event()
        self._lock = Lock()
        self._lanes = Lanes(self._store, LANES)
        self._done_bytes = 0
        self.imported = self.expired = 0

    def run(self, source: BinaryIO) -> None:
        """Import all of `source`. Raises `LineError`, `TransferError`, OSError of `source`.

        When it raises, also for a signal, what was on its way has ended, or could not within some seconds.
        """
        try:
            for batch in batches(_records(source)):
                self._lanes.submit(batch)
            self._lanes.finish()
        except LineError:
            self._lanes.finish()  # raises what is wrong with an earlier line
            raise
        except BaseException:
            self._stop.set()
            with suppress(TransferError, LineError, Stopped):
                self._lanes.finish(_END_S)
            raise

    def _store(self, batch: Batch) -> None:
        self._store_all(batch.records)
        with self._lock:
            self._done_bytes += sum(record.length for record in batch.records)
            self._report(self._done_bytes)

    def _store_all(self, records: list[Record]) -> None:
        """Store `records`, however often that has to be tried. Raises `LineError`, `TransferError`, `Stopped`."""
        patience = Patience(self._patience_s, self._stop)
        while records:
            try:
                left, away = self._take(records, self._ask(records))
            except TooMuch:
                middle = len(records) // 2
                self._store_all(records[:middle])
                records = records[middle:]
                continue
            except Away as error:
                left, away = records, error
            if len(left) < len(records):
                patience.refresh()
            if away is not None:
                patience.wait(away)
            records = left

    def _ask(self, records: list[Record]) -> list[Result]:
        """What became of each. Raises `Away`; `TooMuch` if there are several, and fewer of them might do."""
        try:
            results = self._remote.batch(body_of(records))
        except TooMuch:
            if len(records) > 1:
                raise
            return [self._ask_for_one(records[0])]
        if len(results) != len(records):
            raise TransferError(f"the server answered {len(results)} results for {len(records)} records")
        return results

    def _ask_for_one(self, record: Record) -> Result:
        try:
            return self._remote.put(put_of(record))
        except TooMuch as error:
            raise LineError(record.line, str(error)) from None

    def _take(self, records: list[Record], results: list[Result]) -> tuple[list[Record], Away | None]:
        """Count what is done. The records to be sent again, and why. Raises `LineError` for the first refused one."""
        left: list[Record] = []
        away: Away | None = None
        refused: LineError | None = None
        imported = expired = 0
        for record, result in zip(records, results, strict=True):
            if HTTPStatus.OK <= result.status < HTTPStatus.MULTIPLE_CHOICES:
                imported += 1
            elif result.status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT):
                left.append(record)
                away = Away(f"a shard of the server at {self._remote.url} does not answer: {result.detail}")
            elif result.status == HTTPStatus.BAD_REQUEST and record.expires:
                expired += 1  # all else that could be wrong with it was looked at when it was read
            elif refused is None:
                refused = LineError(record.line, f"the server answers {result.status}: {result.detail or result.code}")
        with self._lock:
            self.imported += imported
            self.expired += expired
        if refused is not None:
            raise refused
        return left, away


def _records(source: BinaryIO) -> Iterator[Record]:
    """The records of the lines of `source`; blank lines are none. Raises `LineError`."""
    number = 0
    while line := source.readline(LINE_BYTES):
        number += 1
        if len(line) == LINE_BYTES and not line.endswith(b"\n"):
            raise LineError(number, f"longer than {LINE_BYTES >> 20} MiB")
        if strip_byte_order_mark(line).strip():
            yield read_record(number, line)
