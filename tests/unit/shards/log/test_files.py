"""Segments by number, and their descriptors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.files.disk import Disk
from shards.log.files import SegmentFiles, segment_name, segment_numbers


@given(st.sets(st.integers(0, 10**12 - 1)))
def test_numbers_are_those_of_names_in_order(numbers: set[int]) -> None:
    names = [segment_name(number) for number in numbers]
    assert segment_numbers(names) == sorted(numbers)
    assert sorted(names) == [segment_name(number) for number in sorted(numbers)], "in the order of numbers"


@pytest.mark.parametrize("name", ["1.log", "000000000001.log.new", "000000000001.log.spare", "x00000000001.log", "log"])
def test_what_is_no_segment_has_no_number(name: str) -> None:
    assert segment_numbers([name]) == []


class Counting(Disk):
    """Says what is opened and closed."""

    def __init__(self) -> None:
        self.opened: list[Path] = []
        self.closed: list[int] = []

    def open(self, path: Path) -> int:
        self.opened.append(path)
        return len(self.opened)

    def close(self, fd: int) -> None:  # type: ignore[override]
        self.closed.append(fd)


def test_a_segment_is_opened_once_and_closed_once() -> None:
    disk = Counting()
    files = SegmentFiles(Path("log"), disk)
    assert [files[3], files[4], files[3]] == [1, 2, 1]
    assert disk.opened == [Path("log") / segment_name(3), Path("log") / segment_name(4)]
    files.close(below=4)
    assert disk.closed == [1]
    assert files[3] == 3, "opened anew: it may be another file"
    files.close()
    files.close()
    assert sorted(disk.closed) == [1, 2, 3]
