"""Disks lose what was not flushed, and nothing else: else tests of a failing power would show nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.disks import Disks, require_disks

WRITE = """
import mmap, os, sys
flags, flushes, path = int(sys.argv[1]), sys.argv[2] == "flush", sys.argv[3]
page = mmap.mmap(-1, 4096)
page.write(sys.argv[4].encode().ljust(4096))
fd = os.open(path, flags | os.O_CREAT | os.O_RDWR)
os.pwritev(fd, [page], 0)
if flushes:
    os.fsync(fd)
"""
COUNT = """
import os, sys
files = [os.open(path + "/count", os.O_CREAT | os.O_RDWR) for path in sys.argv[1:]]
number = 0
while True:
    number += 1
    for fd in files:
        os.pwrite(fd, b"%20d" % number, 0)
        os.fsync(fd)
    print(number, flush=True)
"""
BUFFERED, DIRECT = 0, 0o40000


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Disks]:
    require_disks()
    with Disks(tmp_path / "disks", ("a", "b", "c"), 64 << 20) as made:
        yield made


def write(disks: Disks, file: Path, text: str, flags: int, flushes: str) -> None:
    disks.run_python(WRITE, str(flags), flushes, str(file), text)


def lose_power(disks: Disks) -> None:
    disks.fail()
    disks.come_back()


def test_what_was_flushed_is_left_and_what_was_not_is_lost(disks: Disks) -> None:
    cached, direct, other = (disks.path(name) / "file" for name in "abc")
    for file in (cached, direct, other):
        write(disks, file, "old", BUFFERED, "flush")
    write(disks, cached, "new", BUFFERED, "")
    write(disks, direct, "new", DIRECT, "")  # the disk has it, in its own cache
    write(disks, other, "new", BUFFERED, "flush")
    assert [disks.run("cat", str(file)).strip() for file in (cached, direct, other)] == ["new"] * 3
    lose_power(disks)
    assert [disks.run("cat", str(file)).strip() for file in (cached, direct, other)] == ["old", "old", "new"]
    write(disks, cached, "again", BUFFERED, "flush")
    lose_power(disks)
    assert disks.run("cat", str(cached)).strip() == "again"


def test_all_disks_fail_at_one_moment(disks: Disks) -> None:
    places = [str(disks.path(name)) for name in "abc"]
    for _ in range(3):
        counting = subprocess.Popen(
            disks.command(sys.executable, "-c", COUNT, *places), stdout=subprocess.PIPE, text=True
        )
        assert counting.stdout is not None
        with counting.stdout:
            for line in counting.stdout:
                told = int(line)
                if told >= 200:
                    break
            disks.fail()
            counting.kill()
            counting.wait()
        disks.come_back()
        first, *others = (int(disks.run("cat", f"{place}/count")) for place in places)
        assert first >= told
        assert all(first - 1 <= count <= first for count in others)
        assert others == sorted(others, reverse=True)


def test_a_disk_without_room(disks: Disks) -> None:
    file = disks.path("b") / "file"
    disks.fill("b")
    with pytest.raises(subprocess.CalledProcessError, match="returned non-zero"):
        write(disks, file, "x" * 4000, BUFFERED, "flush")
    write(disks, disks.path("a") / "file", "x" * 4000, BUFFERED, "flush")
    disks.make_room("b")
    write(disks, file, "x" * 4000, BUFFERED, "flush")
