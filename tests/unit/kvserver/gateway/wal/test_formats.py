"""Lines as MemoryKV prints them."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode

from kvserver.gateway.wal.formats import activity_line, binary_frame, change_line, text_frame
from shards.wire.protocol import Activity, Change, DeleteEvent, PrefixMarked, PutEvent, TouchEvent


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (PutEvent(b"k", b"v", "text/plain", 0), "Insert { key: k, value: v }"),
        (PutEvent(b"e", b"", "", 0), "Insert { key: e, value:  }"),
        (PutEvent("unié".encode(), "é".encode(), "", 5), "Insert { key: unié, value: é }"),
        (PutEvent(b"n\nl", b"a\0b", "", 0), "Insert { key: n\nl, value: a\0b }"),
        (DeleteEvent(b"k", "request"), "Delete { key: k }"),
        (DeleteEvent(b"k", "expire"), "Delete { key: k }"),
        (DeleteEvent(b"k", "evict"), "Delete { key: k }"),
        (DeleteEvent(b"k", "prefix", 0), "Delete { key: k }"),
        (PrefixMarked(b"p"), "DeletePrefix { key: p }"),
        (PrefixMarked(b""), "DeleteAll"),
    ],
)
def test_a_change_is_one_line(change: Change, line: str) -> None:
    """Spaces as MemoryKV has them."""
    assert change_line(change) == line.encode()


@pytest.mark.parametrize("change", [TouchEvent(b"k", 5), DeleteEvent(b"k", "prefix", 7)])
def test_what_is_not_shown(change: Change) -> None:
    """A touch, and what the line of a prefix delete already says."""
    assert change_line(change) is None


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("read", "Read { key: ké}"),
        ("list", "List"),
        ("list_prefix", "ListPrefix { prefix: ké}"),
        ("delete", "Delete { key: ké }"),
        ("delete_prefix", "DeletePrefix { key: ké }"),
        ("delete_all", "DeleteAll"),
        ("heartbeat", "Heartbeat from ké"),
    ],
)
def test_an_activity_is_one_line(kind: str, line: str) -> None:
    """Spaces as MemoryKV has them."""
    assert activity_line(Activity(9, kind, "ké".encode(), 0)) == line.encode()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"\xff", "\ufffd"),
        (b"\x1f\x8b\x08", "\x1f\ufffd\x08"),
        (b"\xf0\x9f\x98", "\ufffd"),  # a truncated character is one part
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),  # a surrogate is three
        (b"\xe2\x82a\xc0\xaf", "\ufffda\ufffd\ufffd"),
    ],
)
def test_what_is_not_utf8_is_replaced_part_by_part(raw: bytes, shown: str) -> None:
    """As Rust's `from_utf8_lossy` does it."""
    assert change_line(PutEvent(b"k", raw, "", 0)) == f"Insert {{ key: k, value: {shown} }}".encode()


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_frames_are_unmasked_and_whole(size: int) -> None:
    """Of every form of length."""
    line = b"x" * size
    header = {0: b"\x00", 125: b"\x7d", 126: b"\x7e\x00\x7e", 65535: b"\x7e\xff\xff"}.get(
        size, b"\x7f" + size.to_bytes(8, "big")
    )
    assert text_frame(line) == b"\x81" + header + line
    assert binary_frame(line) == b"\x82" + header + line == Frame(Opcode.BINARY, line).serialize(mask=False)
