"""Cursors: one text for one place, and what becomes of each."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvserver.gateway.feed.cursors import FeedCursor, find_obstacle, parse

EPOCH = "1f0cafe5"


@settings(deadline=None)
@given(revision=st.integers(0, 1 << 53), last=st.none() | st.binary(max_size=512), crc=st.integers(0, (1 << 32) - 1))
def test_each_place_has_one_text(revision: int, last: bytes | None, crc: int) -> None:
    cursor = FeedCursor(EPOCH, revision, last, 0 if last is None else crc)
    text = cursor.text()
    assert parse(text) == cursor
    assert text.decode("ascii").isprintable() and b" " not in text and b"~" not in text


@settings(deadline=None)
@given(st.binary(max_size=40) | st.text("0123456789abcdef.-_=", max_size=40).map(str.encode))
def test_what_is_no_cursor_is_none(text: bytes) -> None:
    cursor = parse(text)
    assert cursor is None or cursor.text() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "e",
        "e.",
        ".1",
        "e.01",
        "e.-1",
        "e.1.",
        "e.1.a",
        "e.1..",
        "e.1..0",
        "e.1.a.00000000",
        "e.1.YQ==.00000000",
        "e.1.YR.00000000",
        "e.1.YQ.0000000A",
        "e.1.YQ.00000000.",
        "E.1",
        " e.1",
        "e.1\n",
        "e.1~w",
        "e.99999999999999999999",
        "e.1." + "A" * 701 + ".00000000",
    ],
)
def test_what_is_not_canonical_is_no_cursor(text: str) -> None:
    assert parse(text.encode()) is None


@pytest.mark.parametrize(
    ("cursor", "reason"),
    [
        (None, "bad_cursor"),
        (FeedCursor("other", 150), "epoch"),
        (FeedCursor("other", 10**9, b"k", 7), "epoch"),
        (FeedCursor(EPOCH, 98), "trimmed"),
        (FeedCursor(EPOCH, 99), None),  # the first that is kept is the next
        (FeedCursor(EPOCH, 200), None),
        (FeedCursor(EPOCH, 201), "bad_cursor"),
        (FeedCursor(EPOCH, 150, b"k", 7), None),
        (FeedCursor(EPOCH, 150, b"k", 8), "bad_cursor"),
        (FeedCursor(EPOCH, 98, b"k", 7), "trimmed"),
        (FeedCursor(EPOCH, 98, b"", 7), None),  # it has nothing yet
        (FeedCursor(EPOCH, 201, b"", 7), "bad_cursor"),
    ],
)
def test_whether_one_can_go_on(cursor: FeedCursor | None, reason: str | None) -> None:
    assert find_obstacle(cursor, epoch=EPOCH, end=200, oldest=100, crc=7) == reason
