"""The cuts of deletes disclosed to each token, so that clients without `read` can continue only their own deletes.

A delete spares values newer than its cut, so a client that can choose cuts can find out revisions. The cut in an answer
is needed to continue that delete, on any worker. All workers of a run share a table of `SLOTS` words in the run
directory: a keyed hash of token, prefix and cut, in the slot that it names. There is no lock: a word is written by one
aligned store. A cut that another has overwritten counts as not disclosed, and its client begins again.
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
        """Create the table if no other process has. If the run directory is full, use a private table."""
        self._key = board.facts.secret.to_bytes(16, "big")
        try:
            self._words = _shared_words(board.path.with_name(FILE))
        except OSError as error:
            log.warning(
                "prefix deletes continue only on the worker that began them: %s: %s",
                error.filename or FILE,
                error.strerror,
            )
            self._words = memoryview(bytearray(SLOTS * _WORD)).cast("Q")

    def disclose(self, grants: Grants, prefix: bytes, cut: int) -> None:
        """Record that an answer discloses `cut`, of a delete of `prefix`, to the bearer of `grants`."""
        slot, word = self._locate(grants, prefix, cut)
        self._words[slot] = word

    def was_disclosed(self, grants: Grants, prefix: bytes, cut: int) -> bool:
        """Whether any process of this run called `disclose` with the same arguments."""
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
