"""A server's items into a file's lines."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import BinaryIO

import msgspec
from msgspec import UNSET

from kvserver.access.grants import shown
from kvserver.transfer.records import Streamed, escaped, read_streamed, write_item
from kvserver.transfer.remote import Away, Patience, Remote, TransferError
from shards.wire.keys import MAX_KEY


class Exporter:
    """Exports all items whose keys begin with a prefix, in the order of keys.

    Attributes:
        exported: items that were written.
        size: their bytes.
    """

    def __init__(self, remote: Remote, prefix: str, patience_s: float, report: Callable[[int], object]) -> None:
        """`report` is told how many bytes were written."""
        self._remote, self._prefix, self._patience_s, self._report = remote, prefix, patience_s, report
        self._last: str | None = None
        self._to_terminal = False
        self.exported = self.size = 0

    def run(self, target: BinaryIO) -> None:
        """Write all of it. Where the stream breaks off, another goes on behind the last key that came.

        Raises `TransferError`, OSError of `target`.
        """
        self._to_terminal = target.isatty()
        patience = Patience(self._patience_s, Event())
        while True:
            before = self.exported
            try:
                self._follow(target)
                return
            except Away as away:
                if self.exported > before:
                    patience.refresh()
                patience.wait(away)

    def _follow(self, target: BinaryIO) -> None:
        """Write one stream. Raises `Away` if it has no end."""
        before = self.exported
        with self._remote.items(self._prefix, self._last) as lines:
            for line in lines:
                item = self._read(line)
                if item.end is None:
                    self._see_that_it_follows(item)
                    self._write(target, item)
                    continue
                came = self.exported - before
                if item.end.items != came:
                    raise TransferError(f"the server has sent {item.end.items} items, but {came} have come")
                return
        raise Away("the list broke off")

    def _read(self, line: bytes) -> Streamed:
        try:
            item = read_streamed(line)
        except (msgspec.DecodeError, ValueError) as error:
            raise TransferError(f"what answers at {self._remote.url} is no kvserver: {error}") from None
        if item.error is not None:
            raise Away(f"the list broke off: {item.error.title}. {item.error.detail}")
        return item

    def _see_that_it_follows(self, item: Streamed) -> None:
        """Raise `TransferError` if `item` cannot come here in a list: what repeats itself never ends."""
        key = shown(item.key.encode())
        if not item.key.startswith(self._prefix):
            why = f"the key {key}, which does not begin with {shown(self._prefix.encode())}"
        elif self._last is not None and item.key <= self._last:  # code points are in the order of their UTF-8
            why = f"the key {key} behind {shown(self._last.encode())}: keys are to ascend"
        elif not 0 < len(item.key.encode()) <= MAX_KEY:
            why = f"a key of {len(item.key.encode())} bytes: one has 1 to {MAX_KEY}"
        elif (item.value is UNSET) == (item.value_base64 is UNSET):
            why = f"the key {key} with not exactly one of `value` and `value_base64`"
        else:
            return
        raise TransferError(f"the list of the server at {self._remote.url} is wrong, it has {why}")

    def _write(self, target: BinaryIO, item: Streamed) -> None:
        line = write_item(item)
        target.write(escaped(line) if self._to_terminal else line)
        self.exported, self.size, self._last = self.exported + 1, self.size + len(line), item.key
        self._report(self.size)
