"""A few batches on their way at a time, none of which has a key of another."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition, Thread

from kvserver.transfer.records import Batch, LineError


class Lanes:
    """Does `work` with batches, at most `width` at a time, each in a thread of its own.

    The order of what concerns one key is kept: a batch waits for those before it with which it has a key in common.
    Threads are daemons: whoever does not wait for `finish` can end.
    """

    def __init__(self, work: Callable[[Batch], None], width: int) -> None:
        self._work, self._width = work, width
        self._changed = Condition()
        self._going: list[Batch] = []
        self._errors: list[Exception] = []

    def submit(self, batch: Batch) -> None:
        """Begin with `batch` once there is room. Raises what `work` raised for an earlier one."""
        with self._changed:
            self._changed.wait_for(lambda: self._errors or self._is_free_for(batch))
            self._raise()
            self._going.append(batch)
        Thread(target=self._run, args=(batch,), daemon=True).start()

    def finish(self, timeout_s: float | None = None) -> None:
        """Wait, for at most `timeout_s` seconds, until nothing is on its way. Raises what `work` raised."""
        with self._changed:
            self._changed.wait_for(lambda: not self._going, timeout_s)
            self._raise()

    def _is_free_for(self, batch: Batch) -> bool:
        return len(self._going) < self._width and all(batch.keys.isdisjoint(other.keys) for other in self._going)

    def _raise(self) -> None:
        """Of several errors, raise that of the first line."""
        if self._errors:
            raise min(self._errors, key=lambda error: error.line if isinstance(error, LineError) else 0)

    def _run(self, batch: Batch) -> None:
        error: Exception | None = None
        try:
            self._work(batch)
        except Exception as raised:
            error = raised
        with self._changed:
            self._going = [other for other in self._going if other is not batch]
            if error is not None:
                self._errors.append(error)
            self._changed.notify_all()
