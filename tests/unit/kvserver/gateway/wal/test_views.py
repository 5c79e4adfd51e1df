"""What clients of `/wal` see by what their token grants."""

from __future__ import annotations

import pytest

from kvserver.access.grants import EVERYTHING, Grants
from kvserver.gateway.history.order import encode_pieces
from kvserver.gateway.wal.formats import activity_line, change_line
from kvserver.gateway.wal.views import Marks, View
from shards.log.records import DATA, HEADER, Record
from shards.wire.protocol import Activity, Change, DeleteEvent, PrefixMarked, PutEvent, TouchEvent, encode_events


def as_it_is(line: bytes) -> bytes:
    return line


def view(*prefixes: bytes, admin: bool = False) -> View:
    return View.of(as_it_is, Grants("t", "id", feed=prefixes, admin=(b"",) if admin else ()))


NARROW = view(b"a/", b"b")


def shown(view: View, *events: Change, marks: Marks | None = None) -> list[bytes]:
    """The lines of a record of `events`, the first of which has revision 100."""
    payload = encode_events(list(events))
    record = Record(DATA, 0, len(events), 0, HEADER + len(payload), 0, 100, 0, payload)
    return [frame.data for _, frames in encode_pieces([record], [view], marks or Marks()) for frame in frames[view]]


def put(key: bytes) -> PutEvent:
    return PutEvent(key, b"v", "", 0)


def test_who_may_see_everything_shares_one_view() -> None:
    assert View.of(as_it_is, EVERYTHING) == View(as_it_is) == view(b"", admin=True)
    assert view(b"a/") == view(b"a/") != NARROW


def test_lines_of_other_keys_are_not_shown() -> None:
    events = [put(b"a/1"), put(b"a"), put(b"c"), put(b"b"), DeleteEvent(b"bc", "request"), DeleteEvent(b"c", "expire")]
    assert shown(NARROW, *events) == [change_line(events[index]) for index in (0, 3, 4)]
    assert shown(NARROW, TouchEvent(b"a/1", 5)) == []
    assert len(shown(view(b""), *events)) == len(events)
    assert shown(view(), *events, PrefixMarked(b"")) == []


@pytest.mark.parametrize(
    ("prefix", "lines"),
    [
        (b"a/x", [b"DeletePrefix { key: a/x }"]),
        (b"a/", [b"DeletePrefix { key: a/ }"]),
        (b"a", [b"Delete { key: a/x1 }"]),
        (b"", [b"Delete { key: a/x1 }"]),
    ],
)
def test_a_prefix_delete_is_told_by_its_line_or_by_its_keys(prefix: bytes, lines: list[bytes]) -> None:
    """A client that may not see the one sees the others: its copy would be wrong for ever."""
    events = [PrefixMarked(prefix), DeleteEvent(b"a/x1", "prefix", 100), DeleteEvent(b"c", "prefix", 100)]
    assert shown(NARROW, *events) == lines
    assert len(shown(view(b""), *events)) == 1


def test_keys_of_a_mark_that_was_not_seen_are_shown() -> None:
    """The mark's line was not, as far as is known."""
    marks = Marks(most=2)
    for revision in (7, 8, 9):
        marks.note(revision, b"a/")
    assert shown(NARROW, DeleteEvent(b"a/1", "prefix", 9), marks=marks) == []
    assert shown(NARROW, DeleteEvent(b"a/1", "prefix", 7), marks=marks) == [b"Delete { key: a/1 }"]


@pytest.mark.parametrize(
    ("kind", "subject", "narrow"),
    [
        ("read", b"a/1", True),
        ("read", b"a", False),
        ("delete", b"b", True),
        ("list", b"", False),
        ("list_prefix", b"a/", True),
        ("list_prefix", b"a", False),
        ("delete_prefix", b"a/b", True),
        ("delete_all", b"", False),
    ],
)
def test_activity_is_shown_where_all_of_it_is_granted(kind: str, subject: bytes, narrow: bool) -> None:
    activity = Activity(1, kind, subject, 0)  # type: ignore[arg-type]
    assert activity_line(activity)
    assert NARROW.shows(activity) == narrow
    assert view(b"").shows(activity)
    assert not view().shows(activity)


def test_heartbeats_show_addresses() -> None:
    """Not to everybody who sees all keys, and to whoever may ask for the status."""
    heartbeat = Activity(1, "heartbeat", b"a/1.2.3.4:5", 0)
    assert not view(b"").shows(heartbeat)
    assert not NARROW.shows(heartbeat)
    assert view(admin=True).shows(heartbeat)
