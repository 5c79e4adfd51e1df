"""One range of bytes, by examples and against the slices that Python makes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.api.ranges import Unsatisfiable, content_range, parse_range

TEN = b"0123456789"


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-0", b"0"),
        ("bytes=2-4", b"234"),
        ("bytes=7-", b"789"),
        ("bytes=7-99", b"789"),
        ("bytes=-3", b"789"),
        ("bytes=-99", TEN),
        ("Bytes=0-1", b"01"),
        (" bytes= 0-1 ", b"01"),
        ("bytes=0-9999999999999999999", TEN),
        ("bytes=2-" + "9" * 100, b"23456789"),
        ("bytes=-" + "9" * 100, TEN),
    ],
)
def test_ranges(header: str, part: bytes) -> None:
    span = parse_range(header, 10)
    assert span is not None
    assert TEN[slice(*span)] == part
    assert content_range(span, 10) == f"bytes {TEN.index(part)}-{TEN.index(part) + len(part) - 1}/10"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=4-2",
        "bytes=0-1,3-4",
        "bytes=0-1,",
        "lines=0-1",
        "bytes=0-1;x",
        "bytes=+1-2",
        "bytes=0x1-2",
        "bytes=0-1 2",
        "bytes 0-1/10",
        "bytes=1--2",
        "bytes=\u0661-",
        "bytes=" + "9" * 5000 + "-",
    ],
)
def test_what_is_not_one_range_of_bytes_gives_everything(header: str | None) -> None:
    assert parse_range(header, 10) is None
    assert parse_range(header, 0) is None


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=10-12", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_behind_the_end(header: str, size: int) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(header, size)


def test_the_last_bytes_of_nothing_are_everything() -> None:
    assert parse_range("bytes=-5", 0) is None


@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60))
def test_as_python_slices(size: int, first: int, length: int) -> None:
    value = bytes(range(size))
    if first < size:
        last = first + length
        assert parse_range(f"bytes={first}-{last}", size) == (first, min(last + 1, size))
        assert parse_range(f"bytes={first}-", size) == (first, size)
    if length and size:
        span = parse_range(f"bytes=-{length}", size)
        assert span is not None and value[slice(*span)] == value[-length:]


@given(st.text() | st.from_regex(r"bytes=[0-9, -]{0,12}", fullmatch=True), st.integers(0, 20))
def test_no_header_is_a_fault_and_no_part_is_empty(header: str, size: int) -> None:
    try:
        span = parse_range(header, size)
    except Unsatisfiable:
        return
    assert span is None or 0 <= span[0] < span[1] <= size
