"""Which cuts of deletes were told to whom, so that a client without `read` may go on with its own and try no other.

A delete spares what is newer than its cut, so whoever may choose cuts finds out revisions. The cut that an answer tells
is needed to go on with that delete, on whatever worker. All workers of a run share a table of `SLOTS` words in the run
directory: a keyed hash of token, prefix and cut, in the slot that it names. There is no lock: a word is written by one
aligned store. One that another has overwritten is as good as never told, and its client begins again.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
from pathlib import Path
from typing import Final

from kvserver.access.grants import Grants
from shards.host.board import Board

log = logging.getLogger(__name__)

FILE: Final = "cuts"
SLOTS: Final = 1 << 12
_WORD: Final = 8


class Cuts:
    """The table, in one process."""

    def __init__(self, board: Board) -> None:
        """Make the table if no other process has. Where there is no room for it, this process has one of its own."""
        self._key = board.facts.secret.to_bytes(16, "big")
        try:
            self._words = _shared_words(board.path.with_name(FILE))
        except OSError as error:
            log.warning("deletes go on only where they began: %s: %s", error.filename or FILE, error.strerror)
            self._words = memoryview(bytearray(SLOTS * _WORD)).cast("Q")

    def disclose(self, grants: Grants, prefix: bytes, cut: int) -> None:
        """Note that an answer to the bearer of `grants` tells `cut`, of a delete of `prefix`."""
        slot, word = self._locate(grants, prefix, cut)
        self._words[slot] = word

    def was_disclosed(self, grants: Grants, prefix: bytes, cut: int) -> bool:
        """Whether `disclose` was called with the same, by any process of this run."""
        slot, word = self._locate(grants, prefix, cut)
        return self._words[slot] == word

    def _locate(self, grants: Grants, prefix: bytes, cut: int) -> tuple[int, int]:
        text = b"%b %d %b" % (grants.id.encode(), cut, prefix)
        digest = hashlib.blake2b(text, digest_size=16, key=self._key).digest()
        return int.from_bytes(digest[8:], "big") % SLOTS, int.from_bytes(digest[:8], "big")


def _shared_words(path: Path) -> memoryview[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(fd, 0, SLOTS * _WORD)  # a full file system must not be met at a store into the mapping
        return memoryview(mmap.mmap(fd, SLOTS * _WORD)).cast("Q")
    finally:
        os.close(fd)
