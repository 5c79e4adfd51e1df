"""Cursors: where a client of `/v1/feed` is in the history, and whether it can continue from there. Pure.

    <epoch>.<revision>                          after `revision`
    <epoch>.<revision>.<last key>.<crc>         the same, inside a snapshot

Inside a snapshot, the client's copy is the store as of `revision`, but only up to the last key (base64url without
padding; empty: nothing was sent yet). The CRC is that of the prefixes and grants of the snapshot: continued under
others, it would have holes.

To clients a cursor is opaque. It is unsigned, and grants nothing. One place has one text: anything that
`FeedCursor.text` would write differently is no cursor.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from shards.log.records import Record

_TEXT: Final = re.compile(rb"([0-9a-f]{1,32})\.(0|[1-9][0-9]{0,18})(?:\.([A-Za-z0-9_-]{0,700})\.([0-9a-f]{8}))?")

Reason = Literal["trimmed", "epoch", "bad_cursor"]
"""Why a client cannot continue from where it was."""


class FeedCursor(NamedTuple):
    """A place in the history.

    Attributes:
        last: inside a snapshot, the last key sent, empty if none was; None: not inside one.
        crc: inside a snapshot, of its prefixes and grants.
    """

    epoch: str
    revision: int
    last: bytes | None = None
    crc: int = 0

    def text(self) -> bytes:
        """Return the text that clients get."""
        if self.last is None:
            return b"%b.%d" % (self.epoch.encode(), self.revision)
        return b"%b.%d.%b.%08x" % (self.epoch.encode(), self.revision, _encode_key(self.last), self.crc)


def parse(text: bytes) -> FeedCursor | None:
    """Parse a cursor; None: `text` is no cursor."""
    found = _TEXT.fullmatch(text)
    if found is None:
        return None
    epoch, revision, last, crc = found.groups()
    if last is None:
        return FeedCursor(epoch.decode(), int(revision))
    try:
        key = base64.b64decode(last + b"=" * (-len(last) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        return None
    cursor = FeedCursor(epoch.decode(), int(revision), key, int(crc, 16))
    return cursor if cursor.text() == text else None


def find_obstacle(cursor: FeedCursor | None, *, epoch: str, end: int, oldest: int, crc: int) -> Reason | None:
    """Return why a client cannot continue at `cursor`; None: it can, at once or when the feed has come that far.

    Args:
        cursor: None for a text that is no cursor.
        epoch: the history's name.
        end: its last revision, which the feed may not have reached.
        oldest: the first revision that can still be read.
        crc: of the prefixes and grants of the client now.
    """
    if cursor is None:
        return "bad_cursor"
    if cursor.epoch != epoch:
        return "epoch"
    if cursor.revision > end or (cursor.last is not None and cursor.crc != crc):
        return "bad_cursor"
    if cursor.revision < oldest - 1 and cursor.last != b"":  # a client that has nothing yet lacks nothing
        return "trimmed"
    return None


def is_place(revision: int, records: Iterable[Record], reached: int) -> bool | None:
    """Whether this history was ever at `revision`: after a change, or where a run of the store began.

    The revisions of each run begin above what the clock had reached before. So revisions of a run that was lost,
    because the data directory was replaced by an older copy, are in a gap before the start of a later run.

    Args:
        records: of the log, in order; the first one follows revision `reached`, which is not above `revision`.

    Returns None if the records end too early to know.
    """
    for record in records:
        if reached >= revision or record.revision > revision + 1:
            break
        reached = max(reached, record.next_revision - 1)
    else:
        return True if reached >= revision else None
    return reached >= revision


def _encode_key(key: bytes) -> bytes:
    return base64.urlsafe_b64encode(key).rstrip(b"=")
