"""The two places for a backup: the same names, bytes and checksums; wrong sizes are refused."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.backup.copies import BackupError, DirectoryCopy, StreamCopy

chunks = st.lists(st.binary(max_size=2000), max_size=8)


def quiet(done: int, total: int) -> None:
    pass


@given(st.dictionaries(st.sampled_from(["log/1", "log/2", "snapshots/1/a", "top"]), chunks))
def test_both_hold_the_same(tmp_path_factory: pytest.TempPathFactory, files: dict[str, list[bytes]]) -> None:
    target, stream = tmp_path_factory.mktemp("copy"), io.BytesIO()
    reports: list[tuple[int, int]] = []
    directory, archive = DirectoryCopy(target, 7, quiet), StreamCopy(stream, 7, lambda *sizes: reports.append(sizes))
    total = sum(len(chunk) for content in files.values() for chunk in content)
    archive.expect(total)
    for name, content in files.items():
        size = sum(map(len, content))
        assert directory.write(name, size, iter(content)) == archive.write(name, size, iter(content))
    assert not reports or reports[-1] == (total, total)
    archive._tar.close()
    with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as tar:
        for member in tar.getmembers():
            file = tar.extractfile(member)
            assert (
                (target / member.name).is_dir() if file is None else (target / member.name).read_bytes() == file.read()
            )
        assert {member.name for member in tar.getmembers() if member.isfile()} == set(files)


@pytest.mark.parametrize("size", [0, 4, 6, 3 << 20])
def test_another_size_than_expected_is_refused(tmp_path: Path, size: int) -> None:
    def content() -> Iterator[bytes]:
        yield from (b"abc", b"de")

    for copy in (DirectoryCopy(tmp_path, 7, quiet), StreamCopy(io.BytesIO(), 7, quiet)):
        with pytest.raises(BackupError, match=f"log/1 has 5 bytes, expected {size}"):
            copy.write("log/1", size, content())
