"""What of the history one client gets to see: what it wants, as far as it may. Pure."""

from __future__ import annotations

from binascii import crc32
from typing import NamedTuple

from kvserver.access.grants import Grants
from kvserver.api.feed_query import OPS, FeedQuery
from kvserver.gateway.feed.events import Event
from kvserver.gateway.feed.selection import Selection
from shards.wire.protocol import Activity


class Filter(NamedTuple):
    """Decides on each event by itself.

    Attributes:
        selection: the keys that are shown.
        ops: of `wishes.OPS`; None: all.
        values: whether they are shown.
        activity: whether it is shown.
        heartbeats: whether those are.
        crc: of what is wanted and granted: a place in a snapshot is worth nothing under another.
        name: the same for filters that show the same.
    """

    selection: Selection
    ops: frozenset[str] | None
    values: bool
    activity: bool
    heartbeats: bool
    crc: int
    name: str

    def shows(self, event: Event) -> bool:
        """Whether an event is shown, as event or, if it is a mark, as activity."""
        if event.op == "mark":
            return self.activity and self.selection.covers_all(event.key)
        if not self.selection.covers(event.key):
            return False
        return self.ops is None or event.op in self.ops

    def shows_line(self, line: Activity) -> bool:
        """Whether a line of activity is shown; of a prefix only if all of it may be seen."""
        if line.kind == "heartbeat":
            return self.heartbeats
        is_of_key = line.kind in ("read", "delete")
        return self.selection.covers(line.subject) if is_of_key else self.selection.covers_all(line.subject)


def filter_of(wish: FeedQuery, grants: Grants) -> Filter:
    """What the bearer of `grants` sees of what it wishes. Raises `Forbidden` if that can never be anything."""
    prefixes = [part for prefix in wish.prefixes for part in grants.prefixes_within("feed", prefix)]
    selection = Selection.of(prefixes, [key for key in wish.keys if grants.may("feed", key)])
    if not selection.prefixes and not selection.keys:
        _forbid(wish, grants)
    heartbeats = wish.activity and grants.may_all("admin", b"")
    ops = None if wish.ops == OPS else wish.ops
    shown = (selection.prefixes, sorted(selection.keys), sorted(ops or ()), wish.values, wish.activity, heartbeats)
    return Filter(selection, ops, wish.values, wish.activity, heartbeats, _crc(wish, grants), repr(shown))


def _forbid(wish: FeedQuery, grants: Grants) -> None:
    """Raise `Forbidden` for the first of what is wanted, none of which is granted."""
    if wish.prefixes:
        grants.require_all("feed", wish.prefixes[0])
    grants.require("feed", wish.keys[0])


def _crc(wish: FeedQuery, grants: Grants) -> int:
    crc = grants.fingerprint()
    wanted = Selection.of(wish.prefixes, wish.keys)
    for prefix in wanted.prefixes:
        crc = crc32(b"%d:%b" % (len(prefix), prefix), crc)
    for key in sorted(wanted.keys):
        crc = crc32(b"=%d:%b" % (len(key), key), crc)
    return crc
