"""Runs a few batches at a time; no two running batches share a key."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Condition, Thread

from kvserver.transfer.records import ImportBatch, LineError


class Lanes:
    """Runs `work` on batches, at most `width` at a time, in as many threads.

    The order per key is kept: a batch waits for earlier ones that share a key with it. The threads are daemons, so the
    process can exit without `finish`.
    """

    def __init__(self, work: Callable[[ImportBatch], None], width: int) -> None:
        self._work, self._width = work, width
        self._changed = Condition()
        self._going = 0  # batches
        self._keys: set[str] = set()  # of all batches that are going: none has a key of another
        self._threads = 0
        self._submitted: SimpleQueue[ImportBatch | None] = SimpleQueue()  # None ends a thread
        self._errors: list[Exception] = []

    def submit(self, batch: ImportBatch) -> None:
        """Start `batch` when a lane is free. Raises what `work` raised for an earlier batch."""
        with self._changed:
            self._changed.wait_for(lambda: self._errors or self._is_free_for(batch))
            self._raise_first_error()
            self._going += 1
            self._keys |= batch.keys
        if self._threads < self._width:
            self._threads += 1
            Thread(target=self._run_batches, daemon=True).start()
        self._submitted.put(batch)

    def finish(self, timeout_s: float | None = None) -> None:
        """Wait until no batch is running, at most `timeout_s` seconds; end the threads. Raises what `work` raised."""
        for _ in range(self._threads):
            self._submitted.put(None)
        self._threads = 0
        with self._changed:
            self._changed.wait_for(lambda: not self._going, timeout_s)
            self._raise_first_error()

    def _is_free_for(self, batch: ImportBatch) -> bool:
        return self._going < self._width and self._keys.isdisjoint(batch.keys)

    def _raise_first_error(self) -> None:
        """Raise the error of the first line, if there are errors."""
        if self._errors:
            raise min(self._errors, key=lambda error: error.line if isinstance(error, LineError) else 0)

    def _run_batches(self) -> None:
        while (batch := self._submitted.get()) is not None:
            self._run_batch(batch)

    def _run_batch(self, batch: ImportBatch) -> None:
        error: Exception | None = None
        try:
            self._work(batch)
        except Exception as raised:
            error = raised
        with self._changed:
            self._going -= 1
            self._keys -= batch.keys
            if error is not None:
                self._errors.append(error)
            self._changed.notify_all()
