"""What one client sees of the history: what it asks for, within its grants. Pure."""

from __future__ import annotations

from binascii import crc32
from typing import NamedTuple

from kvserver.access.grants import Grants
from kvserver.api.feed_query import OPS, FeedQuery
from kvserver.gateway.feed.events import Event
from kvserver.gateway.feed.selection import Selection
from shards.wire.protocol import Activity


class Filter(NamedTuple):
    """Decides on each event separately.

    Attributes:
        selection: the keys that are shown.
        ops: the kinds of event that are shown, of `feed_query.OPS`; None: all.
        values: whether values are shown, or else their sizes.
        activity: whether activity is shown.
        heartbeats: whether heartbeats are, with the addresses of clients.
        crc: of what is asked for and granted: a place in a snapshot is only valid under the same.
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
        """Whether an event is shown: as an event or, if it is a mark, as activity."""
        if event.op == "mark":
            return self.activity and self.selection.covers_all(event.key)
        if not self.selection.covers(event.key):
            return False
        return self.ops is None or event.op in self.ops

    def shows_line(self, line: Activity) -> bool:
        """Whether a line of activity is shown; that of a prefix only if all of its keys are."""
        if line.kind == "heartbeat":
            return self.heartbeats
        is_of_key = line.kind in ("read", "delete")
        return self.selection.covers(line.subject) if is_of_key else self.selection.covers_all(line.subject)


def filter_of(query: FeedQuery, grants: Grants) -> Filter:
    """Make the filter of a client that asks for `query` and has `grants`.

    Raises `Forbidden` if it could never see anything.
    """
    prefixes = [part for prefix in query.prefixes for part in grants.prefixes_within("feed", prefix)]
    selection = Selection.of(prefixes, [key for key in query.keys if grants.may("feed", key)])
    if not selection.prefixes and not selection.keys:
        _raise_forbidden(query, grants)
    heartbeats = query.activity and grants.may_all("admin", b"")
    ops = None if query.ops == OPS else query.ops
    shown = (selection.prefixes, sorted(selection.keys), sorted(ops or ()), query.values, query.activity, heartbeats)
    return Filter(selection, ops, query.values, query.activity, heartbeats, _crc_of(query, grants), repr(shown))


def _raise_forbidden(query: FeedQuery, grants: Grants) -> None:
    """Raise `Forbidden` for the first prefix or key of a query of which nothing is granted."""
    if query.prefixes:
        grants.require_all("feed", query.prefixes[0])
    grants.require("feed", query.keys[0])


def _crc_of(query: FeedQuery, grants: Grants) -> int:
    crc = grants.fingerprint()
    wanted = Selection.of(query.prefixes, query.keys)
    for prefix in wanted.prefixes:
        crc = crc32(b"%d:%b" % (len(prefix), prefix), crc)
    for key in sorted(wanted.keys):
        crc = crc32(b"=%d:%b" % (len(key), key), crc)
    return crc
