"""Export: writes a server's items as the lines of a file."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import BinaryIO

import msgspec
from msgspec import UNSET

from kvserver.access.grants import show_key
from kvserver.transfer.records import StreamLine, escape_controls, read_streamed, write_item
from kvserver.transfer.remote import Away, Patience, Remote, TransferError
from shards.wire.keys import MAX_KEY


class ItemExporter:
    """Exports all items whose keys begin with a prefix, sorted by key.

    Attributes:
        exported: number of items written.
        size: bytes written.
    """

    def __init__(self, remote: Remote, prefix: str, patience_s: float, report: Callable[[int], object]) -> None:
        """`patience_s`: see `Patience`. `report`: called with the number of bytes written so far."""
        self._remote, self._prefix, self._patience_s, self._report = remote, prefix, patience_s, report
        self._last: str | None = None
        self._to_terminal = False
        self.exported = self.size = 0

    def run(self, target: BinaryIO) -> None:
        """Write all items to `target`. If a stream breaks off, another one continues after the last key.

        Raises `TransferError`, and `OSError` of `target`.
        """
        self._to_terminal = target.isatty()
        patience = Patience(self._patience_s, Event())
        while True:
            before = self.exported
            try:
                self._write_stream(target)
                return
            except Away as away:
                if self.exported > before:
                    patience.note_progress()
                patience.wait(away)

    def _write_stream(self, target: BinaryIO) -> None:
        """Write the items of one stream. Raises `Away` if it breaks off."""
        before = self.exported
        with self._remote.stream_items(self._prefix, self._last) as lines:
            for line in lines:
                item = self._read_item(line)
                if item.end is None:
                    self._check_order(item)
                    self._write_item(target, item)
                    continue
                came = self.exported - before
                if item.end.items != came:
                    raise TransferError(f"the server has sent {item.end.items} items, but {came} have arrived")
                return
        raise Away("the list broke off")

    def _read_item(self, line: bytes) -> StreamLine:
        try:
            item = read_streamed(line)
        except (msgspec.DecodeError, ValueError) as error:
            raise TransferError(f"what answers at {self._remote.url} is no kvserver: {error}") from None
        if item.error is not None:
            raise Away(f"the list broke off: {item.error.title}. {item.error.detail}")
        return item

    def _check_order(self, item: StreamLine) -> None:
        """Raise `TransferError` if `item` is invalid here: a list that repeats keys would never end."""
        key = show_key(item.key.encode())
        if not item.key.startswith(self._prefix):
            why = f"the key {key}, which does not begin with {show_key(self._prefix.encode())}"
        elif self._last is not None and item.key <= self._last:  # code points sort like their UTF-8
            why = f"the key {key} after {show_key(self._last.encode())}: keys must ascend"
        elif not 0 < len(item.key.encode()) <= MAX_KEY:
            why = f"a key of {len(item.key.encode())} bytes: one has 1 to {MAX_KEY}"
        elif (item.value is UNSET) == (item.value_base64 is UNSET):
            why = f"the key {key} with not exactly one of `value` and `value_base64`"
        else:
            return
        raise TransferError(f"the list of the server at {self._remote.url} is invalid, it has {why}")

    def _write_item(self, target: BinaryIO, item: StreamLine) -> None:
        line = write_item(item)
        target.write(escape_controls(line) if self._to_terminal else line)
        self.exported, self.size, self._last = self.exported + 1, self.size + len(line), item.key
        self._report(self.size)
