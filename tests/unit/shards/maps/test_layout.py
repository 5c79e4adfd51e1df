"""The bytes of a map, against what the docstring of `layout` writes down."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.maps import layout
from shards.maps.layout import HEADER, Item, check_record, is_whole, map_path, parse_record, parse_without_value

SPEC = Item(259, 258, 65_536, 1_000, 1_000, "text/plain", b"hi", 2)
"""The example of the docstring."""
WORDS = st.integers(0, (1 << 64) - 1)


def golden() -> bytes:
    lines = re.findall(r"^ +((?:[0-9a-f]{2} +)*[0-9a-f]{2})$", layout.__doc__ or "", re.MULTILINE)
    return bytes.fromhex("".join(lines))


def record(item: Item) -> bytes:
    content_type = item.content_type.encode()
    return HEADER.pack(*item[:5], len(content_type)) + content_type + item.value


def test_the_golden_record() -> None:
    assert len(golden()) == 54
    assert parse_record(memoryview(golden())) == SPEC
    assert record(SPEC) == golden()


@given(
    st.builds(
        Item,
        WORDS,
        WORDS,
        st.integers(-1 << 63, (1 << 63) - 1),
        WORDS,
        WORDS,
        st.text(max_size=80),
        st.binary(max_size=200),
        st.just(0),
    )
)
def test_a_record_says_what_was_put_in(item: Item) -> None:
    item = item._replace(size=len(item.value))
    bytes_ = record(item)
    parsed = parse_record(memoryview(bytes_))
    assert parsed == item
    assert type(parsed.value) is bytes
    assert parse_without_value(memoryview(bytes_)) == item._replace(value=b"")


@pytest.mark.parametrize(
    "bad",
    [
        golden()[:41],
        golden()[:50],
        record(SPEC._replace(revision=0, value_revision=0)),
        record(SPEC._replace(value_revision=260)),
        record(SPEC._replace(revision=1 << 53)),
        record(SPEC._replace(created_ms=1_001)),
    ],
    ids=["cut header", "cut type", "no revision", "value is newer", "revision too high", "modified before created"],
)
def test_records_that_cannot_be_are_found(bad: bytes) -> None:
    with pytest.raises(AssertionError, match="b'k'"):
        check_record(b"k", memoryview(bad))


def test_a_good_record_gives_its_entry() -> None:
    assert check_record(b"k", memoryview(golden())) == (259, 258, 65_536, 2)


def test_names_of_maps(tmp_path: Path) -> None:
    assert map_path(Path("/m"), 3, 0xABC) == Path("/m/shard-3.abc")


def meta_page(roots: tuple[int, int], transaction: int, page: int = 4096) -> bytes:
    tree = struct.Struct("<IHHQQQQQ")
    free, main = (tree.pack(page, 0, 0, 0, 0, 0, 0, root) for root in roots)
    body = bytes(16) + struct.pack("<IIQQ", 0xBEEFC0DE, 1, 0, 1 << 30) + free + main
    return (body + struct.pack("<QQ", 99, transaction)).ljust(page, b"\0")


NONE = (1 << 64) - 1


@pytest.mark.parametrize(
    ("head", "size", "whole"),
    [
        (meta_page((NONE, NONE), 0) + meta_page((NONE, NONE), 1), 8192, True),
        (meta_page((NONE, 2), 2) + meta_page((NONE, 9), 1), 3 * 4096, True),
        (meta_page((NONE, 2), 1) + meta_page((NONE, 9), 2), 3 * 4096, False),
        (meta_page((9, 2), 2) + meta_page((3, 2), 1), 10 * 4096 - 1, False),
        (meta_page((9, 2), 2) + meta_page((3, 2), 1), 10 * 4096, True),
        (meta_page((NONE, NONE), 0), 4096, False),
        (b"", 0, False),
        (bytes(8192), 8192, False),
        (b"\xff" * 8192, 8192, False),
    ],
)
def test_files_that_end_before_their_roots_are_not_whole(head: bytes, size: int, whole: bool) -> None:
    assert is_whole(head, size) is whole
